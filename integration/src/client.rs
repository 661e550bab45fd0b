//! Clients of the library by URL, for tests that treat the stores alike.

use lock_core::{Client, Error, Result};

/// Connects to `etcd://…` or `zk://…`.
///
/// # Errors
///
/// As [`Client::connect`].
pub async fn connect(url: &str) -> Result<Client> {
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("etcd" | "etcds") => Client::connect(lock_etcd::Etcd::from_url(url)?).await,
        Some("zk" | "zks") => Client::connect(lock_zk::ZooKeeper::from_url(url)?).await,
        _ => Err(Error::InvalidConfig {
            setting: "backend URL".into(),
            value: url.into(),
            expected: "etcd:// or zk://".into(),
        }),
    }
}
