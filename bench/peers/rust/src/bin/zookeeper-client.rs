//! Peer: the crate zookeeper-client, with its `Client::lock`. All contenders share one session.
//!
//! The crate releases a lock when its guard is dropped, in the background: there is nothing to wait for.

use lock_peers::{Args, Contender, Peer, Result, workload};
use zookeeper_client::{Acls, Client, CreateMode, LockOptions, LockPrefix, OwnedLockClient};

#[derive(Clone)]
struct Session(Client);

impl Contender for Session {
    type Guard = OwnedLockClient;

    async fn acquire(&mut self, name: &str) -> Result<OwnedLockClient> {
        let ancestors = CreateMode::Persistent.with_acls(Acls::anyone_all());
        let options = LockOptions::new(Acls::anyone_all()).with_ancestor_options(ancestors)?;
        let prefix = LockPrefix::new_curator(name, "lock-")?;
        Ok(self.0.lock(prefix, b"", options).await?.into_owned())
    }

    async fn release(&mut self, guard: OwnedLockClient) -> Result<()> {
        drop(guard);
        Ok(())
    }
}

impl Peer for Session {
    type Contender = Self;

    async fn contender(&self) -> Result<Self> {
        Ok(self.clone())
    }

    async fn queued(&self, name: &str) -> Result<u64> {
        Ok(self.0.check_stat(name).await?.map_or(0, |stat| stat.num_children as u64))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let client = Client::connector().with_session_timeout(args.ttl).connect(&args.endpoints.join(",")).await?;
    workload::run(&args, &Session(client)).await
}
