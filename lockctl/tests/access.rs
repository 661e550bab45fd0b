//! The way into servers that ask who comes: by options, by the environment, and what is said when it is closed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;

use common::{lockctl, stderr, stdout};
use integration::{Certs, Etcd, EtcdOptions, Tls, ZooKeeper, ZooKeeperOptions};

/// A shell script that shows all that a command could see of its secrets.
const LOOK: &str = r#"
    for pid in $$ $PPID $(cut -d' ' -f4 /proc/$PPID/stat); do tr '\0' ' ' < /proc/$pid/cmdline; echo; done
    tr '\0' '\n' < /proc/$$/environ"#;

/// What is set, and how: each variable has an option.
fn run(url: &str, set: &[(&str, &Path)], by_option: bool, arguments: &[&str]) -> Output {
    let mut command = lockctl(url);
    command.env("LOCKCTL_CONNECT_TIMEOUT", "4s");
    for (what, value) in set {
        match what.strip_prefix("--").filter(|_| by_option) {
            Some(_) => command.arg(what).arg(value),
            None => {
                command.env(format!("LOCKCTL_{}", what.trim_start_matches('-').replace('-', "_").to_uppercase()), value)
            }
        };
    }
    command.args(arguments).output().unwrap()
}

/// Everything that does not get in ends with this code and says all of these.
fn refused(output: &Output, code: i32, says: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    for part in says {
        assert!(stderr(output).contains(part), "{part}: {output:?}");
    }
    assert!(stdout(output).is_empty(), "{output:?}");
}

/// A server that wants a certificate, whatever its kind.
fn certificates_are_asked_for(url: &str, certs: &Certs) {
    let (ca, cert, key, other) = (certs.ca(), certs.client_cert(), certs.client_key(), certs.other_ca());
    let all: [(&str, &Path); 3] = [("--ca", &ca), ("--cert", &cert), ("--key", &key)];
    for by_option in [true, false] {
        let output = run(url, &all, by_option, &["run", "lock", "--", "echo", "in"]);
        assert_eq!((output.status.code(), &*stdout(&output)), (Some(0), "in\n"), "{output:?}");
    }
    let ls = |set: &[(&str, &Path)]| run(url, set, true, &["ls"]);
    refused(&ls(&[("--ca", &other), all[1], all[2]]), 69, &["--ca"]);
    // ZooKeeper's is never signed by the authorities of the system, so that one does without.
    let code = if url.starts_with("zks") { 78 } else { 69 };
    refused(&ls(&[all[1], all[2]]), code, &["--ca"]);
    refused(&ls(&all[..1]), 69, &["--cert"]);
    refused(&ls(&all[..2]), 78, &["--key"]);
    refused(&ls(&[("--ca", Path::new("/nowhere/ca.pem"))]), 78, &["/nowhere/ca.pem"]);
    let plain = url.replacen("s://", "://", 1);
    refused(&run(&plain, &[], true, &["ls"]), 69, &["s://"]);
}

/// A server that knows `app` with `apppw`; what is said to those who come with another password.
fn passwords_are_asked_for(url: &str, ca: Option<&Path>) {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let (right, wrong) = (file("right", "apppw\nof app\n"), file("wrong", "geheim\n"));
    let app = ("--user", Path::new("app"));
    let ca = ca.map(|ca| ("--ca", ca));
    let run = |set: &[(&str, &Path)], by_option, arguments: &[&str]| {
        run(url, &ca.into_iter().chain(set.iter().copied()).collect::<Vec<_>>(), by_option, arguments)
    };
    for (password, by_option) in [
        (("--password-file", &*right), true),
        (("--password-file", &*right), false),
        (("PASSWORD", Path::new("apppw")), true),
    ] {
        let output = run(&[app, password], by_option, &["run", "lock", "--", "sh", "-c", LOOK]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(stdout(&output).contains("LOCK_TOKEN="), "{output:?}");
        for secret in ["apppw", "LOCKCTL_PASSWORD"] {
            assert!(!format!("{output:?}").contains(secret), "{secret}: {output:?}");
        }
    }
    for password in [("--password-file", &*wrong), ("PASSWORD", Path::new("geheim"))] {
        for arguments in [&["ls"][..], &["run", "lock", "--", "true"]] {
            let output = run(&[app, password], true, arguments);
            refused(&output, 77, &["user \"app\"", "password"]);
            assert!(!format!("{output:?}").contains("geheim"), "{output:?}");
        }
    }
    // With SASL, a login is part of the settings.
    let code = if url.contains("auth=sasl") { 78 } else { 77 };
    refused(&run(&[], true, &["ls"]), code, &["--user", "LOCKCTL_PASSWORD"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_asks_for_certificates() {
    let etcd = Etcd::start(EtcdOptions { tls: Tls::Mutual, ..EtcdOptions::default() }).await.unwrap();
    certificates_are_asked_for(&format!("etcds://{}/locks", etcd.endpoint(0)), etcd.certs().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_asks_for_passwords() {
    let etcd = Etcd::start(EtcdOptions { tls: Tls::Server, auth: true, ..EtcdOptions::default() }).await.unwrap();
    passwords_are_asked_for(&format!("etcds://{}/locks", etcd.endpoint(0)), Some(&etcd.certs().unwrap().ca()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zookeeper_asks_for_certificates() {
    let options = ZooKeeperOptions { tls: Tls::Mutual, ..ZooKeeperOptions::default() };
    let zookeeper = ZooKeeper::start(options).await.unwrap();
    certificates_are_asked_for(&format!("zks://{}/locks", zookeeper.secure_endpoint(0)), zookeeper.certs().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zookeeper_asks_for_passwords() {
    let options = ZooKeeperOptions { tls: Tls::Server, sasl: true, ..ZooKeeperOptions::default() };
    let zookeeper = ZooKeeper::start(options).await.unwrap();
    let url = format!("zks://{}/locks?auth=sasl&acl=creator", zookeeper.secure_endpoint(0));
    passwords_are_asked_for(&url, Some(&zookeeper.certs().unwrap().ca()));
}
