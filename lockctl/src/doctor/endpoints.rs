//! The servers that a URL names, one by one.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Finding;
use crate::connect::Store;
use crate::exit::Exit;
use crate::output::time::measured;

/// How long a server may take to tell its version.
const PATIENCE: Duration = Duration::from_secs(2);

/// As much of an answer as is read to find the version.
const ANSWER: u64 = 8192;

/// One server, and the URL that names no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    scheme: String,
    /// With its port, where the URL has it; nothing for a store without servers.
    host: String,
    url: String,
    one_of_several: bool,
}

impl Endpoint {
    /// The servers of a URL.
    pub(super) fn all(url: &str) -> Vec<Self> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return vec![Self {
                scheme: url.to_owned(),
                host: String::new(),
                url: url.to_owned(),
                one_of_several: false,
            }];
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (login, hosts) =
            authority.rsplit_once('@').map_or((None, authority), |(login, hosts)| (Some(login), hosts));
        let login = login.map(|login| format!("{login}@")).unwrap_or_default();
        let endpoint = |host: &str| Self {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            url: format!("{scheme}://{login}{host}{path}"),
            one_of_several: hosts.contains(','),
        };
        hosts.split(',').map(endpoint).collect()
    }

    /// Opens a session on this server alone.
    pub(super) async fn check(&self, store: &Store) -> Finding {
        let name = if self.host.is_empty() { "store".to_owned() } else { format!("server {}", self.host) };
        let began = Instant::now();
        match store.connect_to(&self.url, Some("lockctl doctor")).await {
            Ok(client) => {
                let took = measured(began.elapsed());
                let version = self.version().await.map(|version| format!("; {version}")).unwrap_or_default();
                client.close().await;
                Finding::ok(name, format!("a session in {took}{version}"))
            }
            Err(failure) => {
                let remedy = remedy(failure.exit(), self.one_of_several);
                Finding::bad(name, &failure, remedy)
            }
        }
    }

    /// What the server calls itself, where it tells strangers.
    async fn version(&self) -> Option<String> {
        match &*self.scheme {
            "etcd" => {
                let answer = self.ask(2379, "GET /version HTTP/1.0\r\n\r\n").await?;
                let version = between(&answer, "\"etcdserver\":\"", "\"")?;
                Some(format!("etcd {version}"))
            }
            "zk" => {
                let answer = self.ask(2181, "srvr").await?;
                let version = between(&answer, "Zookeeper version: ", "-")?;
                let mode = between(&answer, "Mode: ", "\n").map(|mode| format!(", {mode}")).unwrap_or_default();
                Some(format!("ZooKeeper {version}{mode}"))
            }
            _ => None,
        }
    }

    async fn ask(&self, port: u16, question: &str) -> Option<String> {
        let has_port = self.host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { self.host.clone() } else { format!("{}:{port}", self.host) };
        let asking = async {
            let mut stream = TcpStream::connect(&address).await.ok()?;
            stream.write_all(question.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            stream.take(ANSWER).read_to_end(&mut answer).await.ok()?;
            Some(String::from_utf8_lossy(&answer).into_owned())
        };
        timeout(PATIENCE, asking).await.ok()?
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

/// What an operator can do about it, besides what the error says.
pub(super) fn remedy(exit: Exit, one_of_several: bool) -> Option<String> {
    let remedy = match exit {
        Exit::UNREACHABLE if one_of_several => "if it is gone for good, take it out of --backend",
        Exit::UNREACHABLE => "are most of the servers running, and do they reach each other?",
        Exit::ACCESS_DENIED => "check --user and the password, and what the user may do below the backend's path",
        _ => return None,
    };
    Some(remedy.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_a_url() {
        let urls =
            |url| Endpoint::all(url).into_iter().map(|endpoint| (endpoint.host, endpoint.url)).collect::<Vec<_>>();
        assert_eq!(
            urls("etcd://u:p@a:1,b/ns?ttl=5s"),
            [("a:1".into(), "etcd://u:p@a:1/ns?ttl=5s".into()), ("b".into(), "etcd://u:p@b/ns?ttl=5s".into())]
        );
        assert_eq!(urls("zk://a,b"), [("a".into(), "zk://a".into()), ("b".into(), "zk://b".into())]);
        assert_eq!(urls("file:///var/lock"), [(String::new(), "file:///var/lock".into())]);
        assert_eq!(urls("memory"), [(String::new(), "memory".into())]);
    }

    #[test]
    fn versions_are_found_in_what_servers_say() {
        let etcd = "HTTP/1.0 200 OK\r\n\r\n{\"etcdserver\":\"3.4.23\",\"etcdcluster\":\"3.4.0\"}";
        assert_eq!(between(etcd, "\"etcdserver\":\"", "\""), Some("3.4.23"));
        let zookeeper =
            "Zookeeper version: 3.8.0-${mvngit.commit.id}, built on 2022\nMode: standalone\nNode count: 5\n";
        assert_eq!(between(zookeeper, "Zookeeper version: ", "-"), Some("3.8.0"));
        assert_eq!(between("srvr is not executed because it is not in the whitelist.\n", "Mode: ", "\n"), None);
    }
}
