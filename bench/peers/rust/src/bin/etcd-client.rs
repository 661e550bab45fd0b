//! Peer: the crate etcd-client, with its `lock` and `unlock`, which are calls to the server's own lock service.
//!
//! The service takes a lease for one owner, so each contender has a lease of its own, all over one connection.

use std::time::Duration;

use etcd_client::{Client, LockOptions};
use lock_peers::{Args, Contender, Peer, Result, etcd, workload};

struct Locks {
    client: Client,
    ttl: Duration,
}

struct Owner {
    client: Client,
    lease: i64,
}

impl Contender for Owner {
    type Guard = Vec<u8>;

    async fn acquire(&mut self, name: &str) -> Result<Vec<u8>> {
        let options = LockOptions::new().with_lease(self.lease);
        Ok(self.client.lock(name, Some(options)).await?.key().to_vec())
    }

    async fn release(&mut self, key: Vec<u8>) -> Result<()> {
        self.client.unlock(key).await?;
        Ok(())
    }
}

impl Peer for Locks {
    type Contender = Owner;

    async fn contender(&self) -> Result<Owner> {
        Ok(Owner { client: self.client.clone(), lease: etcd::lease(&self.client, self.ttl).await? })
    }

    async fn queued(&self, name: &str) -> Result<u64> {
        etcd::count(&self.client, name).await
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let client = etcd::connect(&args).await?;
    workload::run(&args, &Locks { client, ttl: args.ttl }).await
}
