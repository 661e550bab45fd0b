//! The conformance suite on a real ZooKeeper.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use integration::{Mode, PATIENCE, Proxy, ProxyLink, ZooKeeper, eventually};
use lock_core::backend::{Entry, QueueEntry};
use lock_core::conformance::{Contender, World};
use lock_core::{Client, Name};
use tokio::sync::OnceCell;

const TIMEOUT: Duration = Duration::from_secs(4);

struct ZooKeeperWorld {
    zookeeper: ZooKeeper,
    /// Of the URL.
    parameters: &'static str,
    observer: Client,
    links: Mutex<HashMap<String, ProxyLink>>,
}

/// One server for all tests of a module; it ends with this program.
async fn world(cell: &'static OnceCell<ZooKeeperWorld>, parameters: &'static str) -> &'static ZooKeeperWorld {
    cell.get_or_init(|| async {
        let zookeeper = ZooKeeper::single().await.unwrap_or_else(|error| panic!("{error}"));
        let observer = connect(&zookeeper.endpoint(0), parameters).await;
        ZooKeeperWorld { zookeeper, parameters, observer, links: Mutex::default() }
    })
    .await
}

async fn connect(endpoint: &str, parameters: &str) -> Client {
    let url = format!("zk://{endpoint}/conformance?timeout={}s{parameters}", TIMEOUT.as_secs());
    let backend = lock_zk::ZooKeeper::from_url(&url).expect("a valid URL");
    Client::connect(backend).await.expect("ZooKeeper can be reached")
}

#[async_trait]
impl World for &'static ZooKeeperWorld {
    fn ttl(&self) -> Duration {
        TIMEOUT
    }

    async fn contender(&self) -> Contender {
        let proxy = Proxy::start(self.zookeeper.addr(0)).await.unwrap_or_else(|error| panic!("{error}"));
        let client = connect(&proxy.endpoint(), self.parameters).await;
        let link = ProxyLink::new(proxy);
        let session = client.session_id().await.expect("a session");
        self.links.lock().unwrap_or_else(PoisonError::into_inner).insert(session, link.clone());
        Contender { client, link: Arc::new(link) }
    }

    async fn entries(&self, queue: &Name) -> Vec<QueueEntry> {
        self.observer.entries(queue).await.expect("ZooKeeper lists the queue")
    }

    async fn remove(&self, entry: &Entry) {
        // A session of the operator's own lives on the runtime of the test that opened it.
        let admin = self.zookeeper.admin().await.unwrap_or_else(|error| panic!("{error}"));
        admin.delete(&entry.key).await.unwrap_or_else(|error| panic!("{entry:?}: {error}"));
    }

    /// Only its owner can close a session by hand, so the server is left without a sign of life until it does.
    async fn expire(&self, session: &str) {
        let link = self.links.lock().unwrap_or_else(PoisonError::into_inner).get(session).cloned();
        let link = link.unwrap_or_else(|| panic!("no contender has session {session}"));
        link.proxy().set_both(Mode::Hold);
        eventually(format!("session {session} to expire"), PATIENCE, || async {
            let dump = self.zookeeper.dump().await.unwrap_or_else(|error| panic!("{error}"));
            (!dump.contains(session)).then_some(())
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
        link.proxy().set_both(Mode::Pass);
    }
}

/// With views of the queues, which are short here.
mod viewing {
    use super::*;

    static WORLD: OnceCell<ZooKeeperWorld> = OnceCell::const_new();
    lock_core::conformance!(tokio::test(flavor = "multi_thread", worker_threads = 2), world(&WORLD, ""));
}

/// As everybody waits in queues in which others have the greater share.
mod reading {
    use super::*;

    static WORLD: OnceCell<ZooKeeperWorld> = OnceCell::const_new();
    lock_core::conformance!(tokio::test(flavor = "multi_thread", worker_threads = 2), world(&WORLD, "&views=off"));
}
