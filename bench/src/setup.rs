//! From the command line to a client and the names of its locks.

use std::time::Duration;

use lock_any::{Settings, Store};
use lock_core::{Client, Mutex};
use tokio::runtime::Handle;

use crate::{Cli, Failure};

pub(crate) struct Setup {
    store: Store,
    /// The lock, or what the names of many begin with.
    name: String,
    many: bool,
    shared_runtime: bool,
    locks: usize,
}

impl Setup {
    pub(crate) fn new(cli: &Cli, many: bool) -> Result<Self, Failure> {
        let prefix = cli.prefix.trim_matches('/');
        // Many locks get a directory of their own.
        let (path, name) = if many { (prefix, "l") } else { prefix.rsplit_once('/').unwrap_or(("", prefix)) };
        let url = url(&cli.backend, cli.endpoint.as_deref(), path);
        let settings = Settings { ttl: Some(Duration::from_secs(cli.ttl)), ..Settings::default() };
        Ok(Self {
            store: Store::new(&url, &settings)?,
            name: name.to_owned(),
            many,
            shared_runtime: cli.shared_runtime,
            locks: cli.locks as usize,
        })
    }

    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let mut builder = Client::builder(self.store.clone()).label("lock-bench");
        if self.shared_runtime {
            builder = builder.runtime(Handle::current());
        }
        Ok(builder.connect().await?)
    }

    pub(crate) fn name(&self, lock: usize) -> String {
        if self.many { format!("{}{lock:05}", self.name) } else { self.name.clone() }
    }

    pub(crate) fn mutex(&self, client: &Client) -> Result<Mutex, Failure> {
        Ok(client.mutex(self.name(0))?)
    }

    pub(crate) fn mutexes(&self, client: &Client) -> Result<Vec<Mutex>, Failure> {
        (0..self.locks).map(|lock| Ok(client.mutex(self.name(lock))?)).collect()
    }
}

/// `backend` with these hosts in place of its own, and with `path` behind its own.
fn url(backend: &str, hosts: Option<&str>, path: &str) -> String {
    let Some((scheme, rest)) = backend.split_once("://") else { return backend.to_owned() };
    let (rest, query) = rest.split_once('?').map_or((rest, String::new()), |(rest, query)| (rest, format!("?{query}")));
    let (authority, own) = rest.split_once('/').unwrap_or((rest, ""));
    let path = [own, path].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    let authority = hosts.unwrap_or(authority);
    if path.is_empty() {
        format!("{scheme}://{authority}{query}")
    } else {
        format!("{scheme}://{authority}/{path}{query}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_takes_hosts_and_a_path() {
        assert_eq!(url("memory", Some("h:1"), "bench"), "memory");
        assert_eq!(url("etcd://", Some("h:1,h:2"), "bench"), "etcd://h:1,h:2/bench");
        assert_eq!(url("zk://h/own?timeout=5s", None, "bench/w3"), "zk://h/own/bench/w3?timeout=5s");
        assert_eq!(url("zk://h/own", None, ""), "zk://h/own");
        assert_eq!(url("file:///tmp/locks", None, "bench"), "file:///tmp/locks/bench");
    }
}
