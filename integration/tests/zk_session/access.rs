//! Opening: who is let in, what an error says, and how long it takes.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use integration::{Cut, Direction, Mode, Proxy, Tls, ZooKeeper, ZooKeeperOptions};
use lock_core::Error;
use lock_core::backend::Backend;

use crate::{OWNER, enqueue, mutex, open_with, queue, retried};

/// What an `open` that fails says, with its source, and how long it takes.
async fn refused(url: &str) -> (Error, String, Duration) {
    let backend = lock_zk::ZooKeeper::from_url(url).unwrap();
    let began = Instant::now();
    let error = backend.open(OWNER).await.map(|session| session.id()).unwrap_err();
    let text = format!("{error}: {}", error.source().map(ToString::to_string).unwrap_or_default());
    (error, text, began.elapsed())
}

#[tokio::test]
async fn a_wrong_sasl_password_is_denied_and_the_user_named() {
    let zookeeper = ZooKeeper::start(ZooKeeperOptions { sasl: true, ..ZooKeeperOptions::default() }).await.unwrap();
    let host = zookeeper.endpoint(0);
    let (error, text, _) = refused(&format!("zk://app:wrongpw@{host}?auth=sasl")).await;
    assert!(matches!(error, Error::AccessDenied { .. }), "{error:?}");
    assert!(text.contains("user \"app\"") && text.contains(&host) && !text.contains("wrongpw"), "{text}");

    let session = open_with(&format!("app:apppw@{host}"), "auth=sasl&acl=creator").await;
    enqueue(&session, &queue()).await;
    // What a creator keeps for itself is closed to others.
    let (error, text, _) = refused(&format!("zk://{host}")).await;
    assert!(matches!(error, Error::AccessDenied { .. }), "{error:?}");
    assert!(text.contains("a client without credentials") && text.contains("/locks/%session"), "{text}");
}

#[tokio::test]
async fn a_digest_user_without_permission_is_denied_with_user_and_path() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let host = zookeeper.endpoint(0);
    let session = open_with(&format!("app:right@{host}/team"), "acl=creator").await;
    let (error, text, _) = refused(&format!("zk://app:wrongpw@{host}/team?acl=creator")).await;
    assert!(matches!(error, Error::AccessDenied { .. }), "{error:?}");
    assert!(text.contains("user \"app\"") && text.contains("/team/%session") && !text.contains("wrongpw"), "{text}");

    let other = open_with(&format!("app:right@{host}/team"), "acl=creator").await;
    let queue = queue();
    let (first, second) = (enqueue(&session, &queue).await, enqueue(&other, &queue).await);
    assert_eq!(second.ahead.unwrap().nearest, [mutex(&first.entry)]);
}

#[tokio::test]
async fn credentials_outlive_a_reconnect() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
    let session = open_with(&format!("app:right@{}", proxy.endpoint()), "acl=creator&timeout=6s").await;
    let queue = queue();
    for cut in [Cut::Fin, Cut::Rst] {
        proxy.cut(cut).await.unwrap();
        retried("renew", || session.renew()).await;
        retried("entries", || session.entries(&queue, usize::MAX)).await;
    }
}

#[tokio::test]
async fn tls_with_the_right_authority_works_and_outlives_a_reconnect() {
    let zookeeper =
        ZooKeeper::start(ZooKeeperOptions { tls: Tls::Server, ..ZooKeeperOptions::default() }).await.unwrap();
    let ca = zookeeper.certs().unwrap().ca().display().to_string();
    let proxy = Proxy::start(zookeeper.secure_endpoint(0).parse().unwrap()).await.unwrap();
    for login in ["", "app:secret@"] {
        let url = format!("zks://{login}{}?timeout=6s&ca={ca}", proxy.endpoint());
        let session = lock_zk::ZooKeeper::from_url(&url).unwrap().open(OWNER).await.unwrap();
        let queue = queue();
        let mine = enqueue(&session, &queue).await;
        proxy.cut(Cut::Rst).await.unwrap();
        retried("renew", || session.renew()).await;
        let entries = retried("entries", || session.entries(&queue, usize::MAX)).await;
        assert_eq!(entries[0].entry, mine.entry);
    }
}

#[tokio::test]
async fn tls_failures_are_told_with_their_reason() {
    let zookeeper =
        ZooKeeper::start(ZooKeeperOptions { tls: Tls::Mutual, ..ZooKeeperOptions::default() }).await.unwrap();
    let (host, certs) = (zookeeper.secure_endpoint(0), zookeeper.certs().unwrap());
    let path = |path: std::path::PathBuf| path.display().to_string();
    let identity = format!("cert={}&key={}", path(certs.client_cert()), path(certs.client_key()));

    let known = format!("zks://{host}?ca={}&{identity}", path(certs.ca()));
    lock_zk::ZooKeeper::from_url(&known).unwrap().open(OWNER).await.unwrap();

    for (url, want) in [
        (format!("zks://{host}?ca={}&{identity}", path(certs.other_ca())), "certificate"),
        (format!("zks://{host}?ca={}", path(certs.ca())), "TLS"),
        (format!("zks://{}?ca={}&{identity}&connect_timeout=2s", zookeeper.endpoint(0), path(certs.ca())), "TLS"),
        (format!("zk://{host}?connect_timeout=2s"), "zks://"),
    ] {
        let (error, text, took) = refused(&url).await;
        assert!(matches!(error, Error::Unreachable { .. }) && text.contains(want), "{url}: {text}");
        assert!(took < Duration::from_secs(6), "{url}: {took:?}");
    }
    let missing = lock_zk::ZooKeeper::from_url(&format!("zks://{host}?ca=/nowhere/ca.pem")).unwrap_err();
    assert!(missing.to_string().contains("/nowhere/ca.pem"), "{missing}");
}

#[tokio::test]
async fn nobody_there_is_told_within_the_connect_timeout() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let refusing = Proxy::start(zookeeper.addr(0)).await.unwrap();
    refusing.refuse(true).await.unwrap();
    let silent = Proxy::start(zookeeper.addr(0)).await.unwrap();
    silent.blackhole_new(true);
    for (hosts, want) in [
        (refusing.endpoint(), "refused"),
        (silent.endpoint(), "opens no session"),
        (format!("{},{}", refusing.endpoint(), silent.endpoint()), ""),
    ] {
        let (error, text, took) = refused(&format!("zk://{hosts}?timeout=2s&connect_timeout=1500ms")).await;
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(text.contains(&hosts) && text.contains("1.5s") && text.contains(want), "{text}");
        assert!(took < Duration::from_millis(2000), "{hosts}: {took:?}");
    }
    // One server that answers is enough.
    let hosts = format!("{},{},{}", refusing.endpoint(), silent.endpoint(), zookeeper.endpoint(0));
    for _ in 0..5 {
        let began = Instant::now();
        let session = open_with(&hosts, "timeout=10s&connect_timeout=5s").await;
        assert!(began.elapsed() < Duration::from_secs(5));
        session.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_comes_back_in_time_is_found() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Proxy::start(zookeeper.addr(0)).await.unwrap();
    proxy.refuse(true).await.unwrap();
    let opening = tokio::spawn({
        let endpoint = proxy.endpoint();
        async move { open_with(&endpoint, "connect_timeout=20s").await.id() }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!opening.is_finished());
    proxy.refuse(false).await.unwrap();
    opening.await.unwrap();
}

/// Each of its answers takes longer than a server gets at first, as after a start, or when its disk is slow.
#[tokio::test]
async fn a_slow_server_opens_a_session_all_the_same() {
    let zookeeper = ZooKeeper::single().await.unwrap();
    let proxy = Arc::new(Proxy::start(zookeeper.addr(0)).await.unwrap());
    let slow = tokio::spawn({
        let proxy = proxy.clone();
        async move {
            loop {
                proxy.set(Direction::ToClient, Mode::Hold);
                let _ = proxy.wait_for_held(Direction::ToClient, 1).await;
                tokio::time::sleep(Duration::from_millis(170)).await;
                proxy.set(Direction::ToClient, Mode::Pass);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let session = open_with(&proxy.endpoint(), "timeout=1s").await;
    retried("renew", || session.renew()).await;
    slow.abort();
    proxy.heal().await.unwrap();
    session.close().await.unwrap();
}

#[tokio::test]
async fn the_timeout_is_the_one_granted() {
    let options = ZooKeeperOptions { max_session_timeout: Duration::from_secs(3), ..ZooKeeperOptions::default() };
    let zookeeper = ZooKeeper::start(options).await.unwrap();
    let session = open_with(&zookeeper.endpoint(0), "timeout=40s").await;
    assert_eq!(session.ttl(), Duration::from_secs(3));
    let valid = session.renew().await.unwrap();
    assert!(valid > Duration::from_secs(1) && valid < Duration::from_secs(2), "{valid:?}");
}
