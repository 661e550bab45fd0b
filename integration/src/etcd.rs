//! Real etcd servers.

mod config;
mod operator;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::config::{node_args, program, scheme, skips_fsync};
use crate::server::Server;
use crate::{Certs, Error, PATIENCE, Port, Result, Tls};

/// How to start etcd.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// How many servers; 1 by default.
    pub nodes: usize,
    /// TLS between servers and clients, and among the servers; off by default.
    pub tls: Tls,
    /// Whether authentication is on, with the users `root` (`rootpw`) and `app` (`apppw`), where `app` reads and writes
    /// only keys that start with `locks/` or `/locks/`; off by default.
    pub auth: bool,
    /// The leader's heartbeat, 100 ms by default; too long for the election timeout, and followers vote for no reason.
    pub heartbeat: Duration,
    /// How long followers wait for a heartbeat before they vote, 1 s by default; too short, and a busy machine loses
    /// its leader for no reason; too long, and every test of a lost leader waits. Also the floor of lease TTLs, rounded
    /// up to whole seconds.
    pub election: Duration,
    /// Where each server keeps its write-ahead log; in its data directory by default.
    pub wal_dirs: Vec<PathBuf>,
    /// More command-line arguments for every server; none by default.
    pub extra_args: Vec<String>,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            nodes: 1,
            tls: Tls::Off,
            auth: false,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_secs(1),
            wal_dirs: Vec::new(),
            extra_args: Vec::new(),
        }
    }
}

/// A cluster of etcd servers, ended when dropped. Nodes are numbered from 0.
///
/// # Panics
///
/// Every method that takes a node's number panics when there is no such node.
#[derive(Debug)]
pub struct Etcd {
    // Servers end before the directory with their data goes.
    nodes: Vec<Node>,
    options: EtcdOptions,
    certs: Option<Certs>,
    auth_on: bool,
    _dir: TempDir,
}

#[derive(Debug)]
struct Node {
    server: Server,
    client: Port,
    _peer: Port,
    metrics: Port,
}

impl Etcd {
    /// Starts one server without TLS and authentication.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn single() -> Result<Self> {
        Self::start(EtcdOptions::default()).await
    }

    /// Starts `nodes` servers without TLS and authentication.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn cluster(nodes: usize) -> Result<Self> {
        Self::start(EtcdOptions { nodes, ..EtcdOptions::default() }).await
    }

    /// Starts servers and waits until all of them serve.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; one that concerns a server shows the end of its log.
    pub async fn start(options: EtcdOptions) -> Result<Self> {
        match Self::start_once(options.clone()).await {
            Err(error) if error.is_port_taken() => Self::start_once(options).await,
            result => result,
        }
    }

    async fn start_once(options: EtcdOptions) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lock-etcd-").tempdir();
        let dir = dir.map_err(Error::io("make a directory for etcd"))?;
        let certs = if options.tls == Tls::Off { None } else { Some(Certs::generate().await?) };
        let ports = (0..options.nodes).map(|_| Ok([Port::claim()?, Port::claim()?, Port::claim()?]));
        let ports = ports.collect::<Result<Vec<_>>>()?;
        let scheme = scheme(options.tls);
        let cluster: Vec<String> =
            ports.iter().enumerate().map(|(i, [_, peer, _])| format!("n{i}={scheme}://{}", peer.addr())).collect();
        let fsync = if skips_fsync().await { &["--unsafe-no-fsync"][..] } else { &[] };

        let mut nodes = Vec::new();
        for (i, [client, peer, metrics]) in ports.into_iter().enumerate() {
            let mut args = node_args(i, &options, certs.as_ref(), dir.path(), [&client, &peer, &metrics]);
            args.extend(["--initial-cluster", &cluster.join(",")].map(OsString::from));
            args.extend(fsync.iter().chain(&[]).map(OsString::from));
            if let Some(wal) = options.wal_dirs.get(i) {
                args.extend([OsString::from("--wal-dir"), wal.join("wal").into()]);
            }
            args.extend(options.extra_args.iter().map(OsString::from));
            let server =
                Server::new(format!("etcd n{i}"), program("ETCD", "etcd"), args, dir.path().join(format!("n{i}.log")));
            server.launch()?;
            nodes.push(Node { server, client, _peer: peer, metrics });
        }
        let mut etcd = Self { nodes, options, certs, auth_on: false, _dir: dir };
        for i in 0..etcd.nodes.len() {
            etcd.wait_ready(i).await?;
        }
        if etcd.options.auth {
            etcd.enable_auth().await?;
        }
        Ok(etcd)
    }

    /// The number of nodes, running or not.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The address on which node `i` serves clients.
    pub fn addr(&self, i: usize) -> SocketAddr {
        self.nodes[i].client.addr()
    }

    /// The `host:port` on which node `i` serves clients.
    pub fn endpoint(&self, i: usize) -> String {
        self.addr(i).to_string()
    }

    /// The URL on which node `i` serves clients.
    pub fn url(&self, i: usize) -> String {
        format!("{}://{}", scheme(self.options.tls), self.endpoint(i))
    }

    /// The URLs of all nodes, separated by commas.
    pub fn urls(&self) -> String {
        (0..self.nodes.len()).map(|i| self.url(i)).collect::<Vec<_>>().join(",")
    }

    /// The certificates, when TLS is on.
    pub fn certs(&self) -> Option<&Certs> {
        self.certs.as_ref()
    }

    /// The process id of node `i`, while it runs.
    pub fn pid(&self, i: usize) -> Option<u32> {
        self.nodes[i].server.pid()
    }

    /// Kills node `i` with SIGKILL.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the operating system refuses.
    pub fn kill(&self, i: usize) -> Result<()> {
        self.nodes[i].server.kill()
    }

    /// Stops node `i` in order, with SIGTERM.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the operating system refuses.
    pub async fn stop(&self, i: usize) -> Result<()> {
        self.nodes[i].server.stop().await
    }

    /// Starts node `i` again with the same data and ports, and waits until it serves; kills it first when it runs.
    ///
    /// # Errors
    ///
    /// As [`wait_ready`](Self::wait_ready).
    pub async fn restart(&self, i: usize) -> Result<()> {
        self.launch(i)?;
        self.wait_ready(i).await
    }

    /// Starts node `i` again and returns at once, for a node that cannot serve before others are started too.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] or [`Error::Io`].
    pub fn launch(&self, i: usize) -> Result<()> {
        self.nodes[i].server.launch()
    }

    /// Waits until node `i` says that it is healthy, which it is only with a quorum, for at most [`PATIENCE`].
    ///
    /// # Errors
    ///
    /// [`Error::Exited`] or [`Error::Timeout`] with the end of the log.
    pub async fn wait_ready(&self, i: usize) -> Result<()> {
        let healthy = || async { self.get(i, "/health").await.is_ok_and(|body| body.contains(r#""health":"true""#)) };
        self.nodes[i].server.wait_ready(PATIENCE, healthy).await
    }

    /// Freezes node `i` with SIGSTOP: its connections stay open and silent.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] or [`Error::Io`].
    pub fn pause(&self, i: usize) -> Result<()> {
        self.nodes[i].server.pause()
    }

    /// Lets a frozen node go on.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] or [`Error::Io`].
    pub fn resume(&self, i: usize) -> Result<()> {
        self.nodes[i].server.resume()
    }

    /// The metrics of node `i` by name, labels included, as in `etcd_server_is_leader`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the node does not answer within two seconds.
    pub async fn metrics(&self, i: usize) -> Result<BTreeMap<String, f64>> {
        let text = self.get(i, "/metrics").await?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.rsplit_once(' '));
        Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    async fn get(&self, i: usize, path: &str) -> Result<String> {
        let addr = self.nodes[i].metrics.addr();
        let exchange = async {
            let mut stream = TcpStream::connect(addr).await?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
        };
        let answer = timeout(Duration::from_secs(2), exchange).await.unwrap_or_else(|late| Err(late.into()));
        answer.map_err(Error::io(format!("get {path} from etcd n{i}")))
    }
}
