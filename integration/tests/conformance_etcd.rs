//! The conformance suite on a real etcd.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use integration::{Etcd, Proxy, ProxyLink};
use lock_core::backend::{Entry, QueueEntry};
use lock_core::conformance::{Contender, World};
use lock_core::{Client, Name};
use tokio::sync::OnceCell;

const TTL: Duration = Duration::from_secs(3);

struct EtcdWorld {
    etcd: Etcd,
    /// What stands behind the ttl in the URLs.
    parameters: &'static str,
    observer: Client,
}

/// One server for all tests of one kind; it ends with this program.
async fn world(of: &'static OnceCell<EtcdWorld>, parameters: &'static str) -> &'static EtcdWorld {
    of.get_or_init(|| async {
        let etcd = Etcd::single().await.unwrap_or_else(|error| panic!("{error}"));
        let observer = connect(&etcd.endpoint(0), parameters).await;
        EtcdWorld { etcd, parameters, observer }
    })
    .await
}

async fn connect(endpoint: &str, parameters: &str) -> Client {
    let url = format!("etcd://{endpoint}/conformance?ttl={}s{parameters}", TTL.as_secs());
    let backend = lock_etcd::Etcd::from_url(&url).expect("a valid URL");
    Client::connect(backend).await.expect("etcd can be reached")
}

#[async_trait]
impl World for &'static EtcdWorld {
    fn ttl(&self) -> Duration {
        TTL
    }

    async fn contender(&self) -> Contender {
        let proxy = Proxy::start(self.etcd.addr(0)).await.unwrap_or_else(|error| panic!("{error}"));
        let client = connect(&proxy.endpoint(), self.parameters).await;
        Contender { client, link: Arc::new(ProxyLink::new(proxy)) }
    }

    async fn entries(&self, queue: &Name) -> Vec<QueueEntry> {
        self.observer.entries(queue).await.expect("etcd lists the queue")
    }

    async fn remove(&self, entry: &Entry) {
        let deleted = self.etcd.ctl(&["del", &entry.key]).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(deleted.trim(), "1", "no entry {entry:?}");
    }

    async fn expire(&self, session: &str) {
        let lease = i64::from_str_radix(session, 16).unwrap_or_else(|error| panic!("lease {session:?}: {error}"));
        self.etcd.lease_revoke(lease).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// With views of the queues, which are short here.
mod viewing {
    use super::*;

    static WORLD: OnceCell<EtcdWorld> = OnceCell::const_new();
    lock_core::conformance!(tokio::test(flavor = "multi_thread", worker_threads = 2), world(&WORLD, ""));
}

/// As everybody waits in queues in which others have the greater share.
mod reading {
    use super::*;

    static WORLD: OnceCell<EtcdWorld> = OnceCell::const_new();
    lock_core::conformance!(tokio::test(flavor = "multi_thread", worker_threads = 2), world(&WORLD, "&views=off"));
}
