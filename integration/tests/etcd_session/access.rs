//! Who may talk to the server, and what happens when nobody is there.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use integration::{Etcd, EtcdOptions, Mode, PATIENCE, Port, Proxy, Tls, eventually};
use lock_core::Error;
use lock_core::backend::{Change, Dequeued, Kind, Written};
use tokio::time::{Instant, timeout};

use crate::{Attempt, OWNER, dequeue, enqueue, enqueue_kind, queue, read, renew, try_open, watch, watch_queue, write};

async fn with_auth() -> Etcd {
    Etcd::start(EtcdOptions { auth: true, ..EtcdOptions::default() }).await.unwrap()
}

fn url(etcd: &Etcd, login: &str, namespace: &str) -> String {
    format!("etcd://{login}{}/{namespace}?ttl=60s&connect_timeout=3s", etcd.endpoint(0))
}

fn texts(error: &Error) -> String {
    format!("{error}: {} {error:?}", error.source().map(ToString::to_string).unwrap_or_default())
}

#[tokio::test]
async fn a_user_with_rights_on_the_prefix_suffices() {
    let etcd = with_auth().await;
    for namespace in ["locks", "/locks", "locks/team"] {
        let session = try_open(&url(&etcd, "app:apppw@", namespace)).await.unwrap();
        renew(&session).await;
        let queue = queue();
        let entry = enqueue(&session, &queue).await.entry;
        let removal = watch(&session, &entry).await;
        assert_eq!(session.entries(&queue, usize::MAX).await.unwrap().len(), 1);
        let record = session.record(&queue);
        assert_eq!(write(&session, &record, 0, b"x").await, Written::Done);
        assert_eq!(read(&session, &record).await.unwrap().value, b"x");
        assert_eq!(session.owner(&session.id()).await.unwrap().as_deref(), Some(OWNER));
        let stir = watch_queue(&session, &queue).await;
        let writer = enqueue_kind(&session, &queue, Kind::Write).await.entry;
        timeout(PATIENCE, stir).await.unwrap();
        assert_eq!(session.downgrade(&writer).await.unwrap(), Some(writer));
        assert_eq!(dequeue(&session, &entry).await, Dequeued::Removed);
        assert_eq!(timeout(PATIENCE, removal).await.unwrap(), Change::Removed);
        session.close().await.unwrap();
    }
    assert!(etcd.lease_list().await.unwrap().is_empty());
}

#[tokio::test]
async fn who_was_refused_what_is_told_at_once_and_no_lease_is_left() {
    let etcd = with_auth().await;
    for (login, namespace, who) in [
        ("app:wrongpw@", "locks", "user \"app\""),
        ("nobody:apppw@", "locks", "user \"nobody\""),
        ("app:apppw@", "other", "user \"app\""),
        ("app:apppw@", "", "user \"app\""),
        ("", "locks", "without a login"),
    ] {
        let began = Instant::now();
        let error = try_open(&url(&etcd, login, namespace)).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(2), "{login}{namespace}: took {:?}", began.elapsed());
        let text = texts(&error);
        assert!(matches!(error, Error::AccessDenied { .. }), "{text}");
        assert!(text.contains(who) && !text.contains("wrongpw") && !text.contains("apppw"), "{text}");
        assert!(!error.is_retryable());
    }
    let none = || async { etcd.lease_list().await.ok()?.is_empty().then_some(()) };
    eventually("no lease to be left", PATIENCE, none).await.unwrap();
}

#[tokio::test]
async fn rights_that_are_taken_away_are_told() {
    let etcd = with_auth().await;
    let session = try_open(&url(&etcd, "app:apppw@", "locks")).await.unwrap();
    let queue = queue();
    let entry = enqueue(&session, &queue).await.entry;
    etcd.ctl(&["role", "revoke-permission", "locks", "--prefix=true", "locks/"]).await.unwrap();
    let error = Attempt::new(&queue).enqueue(&session).await.unwrap_err();
    assert!(matches!(error, Error::AccessDenied { .. }) && error.to_string().contains("\"locks/\""), "{error}");
    assert!(matches!(session.watch(&entry).await, Err(Error::AccessDenied { .. })));
    assert!(matches!(session.watch_queue(&queue).await, Err(Error::AccessDenied { .. })));
    assert!(matches!(session.read(&entry).await, Err(Error::AccessDenied { .. })));
    assert!(matches!(session.write(&session.record(&queue), 0, b"x").await, Err(Error::AccessDenied { .. })));
    // Nobody knows what became of it, and nobody may look.
    let attempt = Attempt::new(&queue);
    assert!(matches!(session.adopt(&attempt.request()).await, Err(Error::Unavailable { .. })));
    etcd.ctl(&["role", "grant-permission", "locks", "--prefix=true", "readwrite", "locks/"]).await.unwrap();
    assert_eq!(dequeue(&session, &entry).await, Dequeued::Removed);
}

/// A server forgets the tokens it gave out: when it restarts, and when authentication is switched off and on.
#[tokio::test]
async fn forgotten_tokens_are_replaced() {
    let etcd = with_auth().await;
    let session = try_open(&url(&etcd, "app:apppw@", "locks")).await.unwrap();
    let queue = queue();
    let entry = enqueue(&session, &queue).await.entry;
    let removal = watch(&session, &entry).await;
    renew(&session).await;
    // The connection and its streams live on, with a token that is worth nothing.
    etcd.ctl(&["auth", "disable"]).await.unwrap();
    etcd.ctl(&["--user", "", "auth", "enable"]).await.unwrap();
    let second = watch(&session, &entry).await;
    drop(removal);
    renew(&session).await;
    etcd.restart(0).await.unwrap();
    assert_eq!(timeout(PATIENCE, second).await.unwrap(), Change::Unknown);
    renew(&session).await;
    let removal = watch(&session, &entry).await;
    assert_eq!(dequeue(&session, &entry).await, Dequeued::Removed);
    assert_eq!(timeout(PATIENCE, removal).await.unwrap(), Change::Removed);
}

/// Tokens that are worth nothing after two seconds without use.
#[tokio::test]
async fn expired_tokens_are_replaced() {
    let etcd = with_auth().await;
    let (session, other) = (
        try_open(&url(&etcd, "app:apppw@", "locks")).await.unwrap(),
        try_open(&url(&etcd, "app:apppw@", "locks")).await.unwrap(),
    );
    let queue = queue();
    let entry = enqueue(&other, &queue).await.entry;
    let removal = watch(&session, &entry).await;
    // A new password makes every token of the user worthless; the old one again, so that it can log in.
    for password in ["another", "apppw"] {
        let change = format!("echo {password} | etcdctl user passwd app --interactive=false");
        let endpoint = etcd.url(0);
        let done = tokio::process::Command::new("sh")
            .args(["-c", &change])
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", endpoint)
            .env("ETCDCTL_USER", "root:rootpw")
            .output()
            .await
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let mine = enqueue(&session, &queue).await.entry;
    let own = watch(&session, &mine).await;
    renew(&session).await;
    dequeue(&other, &entry).await;
    // The watch opened before, on whatever stream, has not missed it.
    assert!(matches!(timeout(PATIENCE, removal).await.unwrap(), Change::Removed | Change::Unknown));
    dequeue(&session, &mine).await;
    assert_eq!(timeout(PATIENCE, own).await.unwrap(), Change::Removed);
}

fn tls_url(etcd: &Etcd, parameters: &[(&str, &Path)]) -> String {
    let mut url = format!("etcds://{}/locks?connect_timeout=2s", etcd.endpoint(0));
    for (name, path) in parameters {
        url.push_str(&format!("&{name}={}", path.display()));
    }
    url
}

async fn refused(url: &str, why: &[&str]) {
    let error = try_open(url).await.unwrap_err();
    let text = texts(&error);
    assert!(matches!(error, Error::Unreachable { .. }), "{url}: {text}");
    let source = error.source().unwrap().to_string();
    assert!(why.iter().any(|why| source.contains(why)), "{url}: {source}");
}

#[tokio::test]
async fn tls_is_spoken_with_servers_that_can_be_trusted() {
    let etcd = Etcd::start(EtcdOptions { tls: Tls::Server, ..EtcdOptions::default() }).await.unwrap();
    let certs = etcd.certs().unwrap();
    let session = try_open(&tls_url(&etcd, &[("ca", &certs.ca())])).await.unwrap();
    let queue = queue();
    let entry = enqueue(&session, &queue).await.entry;
    renew(&session).await;
    let removal = watch(&session, &entry).await;
    session.close().await.unwrap();
    drop(removal);
    let named = tls_url(&etcd, &[("ca", &certs.ca()), ("server_name", Path::new("localhost"))]);
    try_open(&named).await.unwrap().close().await.unwrap();

    refused(&tls_url(&etcd, &[("ca", &certs.other_ca())]), &["UnknownIssuer", "BadSignature"]).await;
    refused(&tls_url(&etcd, &[]), &["UnknownIssuer", "certificate"]).await;
    let misnamed = tls_url(&etcd, &[("ca", &certs.ca()), ("server_name", Path::new("elsewhere.example"))]);
    refused(&misnamed, &["elsewhere.example"]).await;
    // Plain text to a server that speaks TLS.
    let plain = format!("etcd://{}/locks?connect_timeout=1s", etcd.endpoint(0));
    assert!(matches!(try_open(&plain).await, Err(Error::Unreachable { .. })));
    let missing = tls_url(&etcd, &[("ca", Path::new("/nowhere/ca.pem"))]);
    let error = try_open(&missing).await.unwrap_err();
    assert!(matches!(&error, Error::InvalidConfig { value, .. } if value == "/nowhere/ca.pem"), "{error}");
    assert!(etcd.lease_list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_gets_it() {
    let etcd = Etcd::start(EtcdOptions { tls: Tls::Mutual, ..EtcdOptions::default() }).await.unwrap();
    let certs = etcd.certs().unwrap();
    let (ca, cert, key) = (certs.ca(), certs.client_cert(), certs.client_key());
    let session = try_open(&tls_url(&etcd, &[("ca", &ca), ("cert", &cert), ("key", &key)])).await.unwrap();
    renew(&session).await;
    let shown = format!("{session:?}");
    assert!(!shown.contains("PRIVATE KEY") && shown.len() < 5000, "{shown}");
    session.close().await.unwrap();
    let error = try_open(&tls_url(&etcd, &[("ca", &ca)])).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{}", texts(&error));
}

#[tokio::test]
async fn nobody_there_is_told_within_the_connect_timeout() {
    let etcd = Etcd::single().await.unwrap();
    let closed = Port::claim().unwrap();
    let proxy = Proxy::start(etcd.addr(0)).await.unwrap();
    let silent = Proxy::start(etcd.addr(0)).await.unwrap();
    proxy.blackhole_new(true);
    silent.set_both(Mode::Hold);
    for (hosts, why) in [
        (closed.addr().to_string(), "refused"),
        (proxy.endpoint(), "within"),
        (silent.endpoint(), "within"),
        (format!("{},{},{}", proxy.endpoint(), silent.endpoint(), proxy.endpoint()), "within"),
        ("does-not-exist.invalid:2379".to_owned(), "dns"),
    ] {
        for timeout in [Duration::from_millis(400), Duration::from_secs(2)] {
            let began = Instant::now();
            let url = format!("etcd://{hosts}/locks?connect_timeout={}ms", timeout.as_millis());
            let error = try_open(&url).await.unwrap_err();
            let took = began.elapsed();
            assert!(took < timeout + Duration::from_millis(500), "{hosts}: took {took:?} instead of {timeout:?}");
            let Error::Unreachable { endpoints, within, source } = &error else { panic!("{}", texts(&error)) };
            assert_eq!((endpoints, *within), (&hosts, timeout));
            let said = source.to_string().to_lowercase();
            assert!(said.contains(why), "{hosts}: {said}");
        }
    }
    // One that answers among others that do not.
    let hosts = format!("{},{},{}", proxy.endpoint(), closed.addr(), etcd.endpoint(0));
    for _ in 0..4 {
        try_open(&format!("etcd://{hosts}/locks?connect_timeout=3s")).await.unwrap().close().await.unwrap();
    }
}
