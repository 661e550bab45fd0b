//! An operator's hand on znodes.

use std::time::Duration;

use zookeeper_client::{Acls, Client, CreateMode};

use super::ZooKeeper;
use crate::{Error, Result};

/// A session of the super user, past every ACL; closed when dropped.
#[derive(Debug)]
pub struct Admin {
    client: Client,
}

impl ZooKeeper {
    /// Opens an operator's session on the plain ports of the ensemble.
    ///
    /// # Errors
    ///
    /// [`Error::ZooKeeper`] when no node takes it within ten seconds.
    pub async fn admin(&self) -> Result<Admin> {
        let connector = Client::connector()
            .with_session_timeout(Duration::from_secs(10))
            .with_connection_timeout(Duration::from_secs(10));
        let client = connector.connect(&self.connect_string()).await.map_err(failed("connect"))?;
        // Not while connecting: with TLS on, ZooKeeper 3.8.0 may answer the authentication before the connect request,
        // which costs the client the connection.
        client.auth("digest", b"super:superpw").await.map_err(failed("authenticate"))?;
        Ok(Admin { client })
    }
}

impl Admin {
    /// The names of a znode's children, sorted; none when it does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::ZooKeeper`] when the servers refuse or the session is lost.
    pub async fn children(&self, path: &str) -> Result<Vec<String>> {
        match self.client.list_children(path).await {
            Ok(mut names) => {
                names.sort();
                Ok(names)
            }
            Err(zookeeper_client::Error::NoNode) => Ok(Vec::new()),
            Err(source) => Err(failed(format!("list the children of {path}"))(source)),
        }
    }

    /// Creates a persistent znode that anyone may change.
    ///
    /// # Errors
    ///
    /// [`Error::ZooKeeper`] when it exists, its parent does not, or the session is lost.
    pub async fn create(&self, path: &str, data: &[u8]) -> Result<()> {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        self.client.create(path, data, &options).await.map(drop).map_err(failed(format!("create {path}")))
    }

    /// The data of a znode, or `None` when it does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::ZooKeeper`] when the servers refuse or the session is lost.
    pub async fn data(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match self.client.get_data(path).await {
            Ok((data, _)) => Ok(Some(data)),
            Err(zookeeper_client::Error::NoNode) => Ok(None),
            Err(source) => Err(failed(format!("read {path}"))(source)),
        }
    }

    /// Deletes a znode without children, whoever owns it.
    ///
    /// # Errors
    ///
    /// [`Error::ZooKeeper`] when it does not exist, has children, or the session is lost.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.client.delete(path, None).await.map_err(failed(format!("delete {path}")))
    }

    /// The session itself, for what the other methods do not do.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

fn failed(action: impl Into<String>) -> impl FnOnce(zookeeper_client::Error) -> Error {
    let action = action.into();
    move |source| Error::ZooKeeper { action, source }
}
