//! What every program on etcd does.

use std::time::Duration;

use etcd_client::{Client, GetOptions};

use crate::{Args, Result};

pub async fn connect(args: &Args) -> Result<Client> {
    let urls: Vec<_> = args.endpoints.iter().map(|endpoint| format!("http://{endpoint}")).collect();
    Ok(Client::connect(urls, None).await?)
}

/// A lease that a task of its own renews, three times per ttl: the crate leaves that to its user.
pub async fn lease(client: &Client, ttl: Duration) -> Result<i64> {
    let mut client = client.clone();
    let id = client.lease_grant(ttl.as_secs() as i64, None).await?.id();
    let (mut keeper, mut answers) = client.lease_keep_alive(id).await?;
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(ttl / 3).await;
            if keeper.keep_alive().await.is_err() || !matches!(answers.message().await, Ok(Some(_))) {
                return;
            }
        }
    });
    Ok(id)
}

/// How many keys there are under this name.
pub async fn count(client: &Client, name: &str) -> Result<u64> {
    let options = GetOptions::new().with_prefix().with_count_only();
    Ok(client.clone().get(format!("{name}/"), Some(options)).await?.count() as u64)
}
