//! Real ZooKeeper servers.

mod admin;
mod config;
mod curator;

use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use self::admin::Admin;
pub use self::curator::Curator;
use crate::server::Server;
use crate::wait::eventually;
use crate::{Certs, Error, PATIENCE, Port, Result, Tls};

/// How to start ZooKeeper.
#[derive(Clone, Debug)]
pub struct ZooKeeperOptions {
    /// How many servers; 1 by default.
    pub nodes: usize,
    /// The tick, 200 ms by default: sessions end on a tick, and 20 ticks bound the sync of a new follower, 10 its lag.
    /// Too short, and a busy machine loses its leader for no reason; too long, and sessions end late.
    pub tick: Duration,
    /// The shortest session timeout that a client gets; two ticks by default.
    pub min_session_timeout: Option<Duration>,
    /// The longest session timeout that a client gets; 60 s by default.
    pub max_session_timeout: Duration,
    /// TLS on the secure port, which is there only then; the plain port stays. Off by default.
    pub tls: Tls,
    /// Whether clients may authenticate with SASL DIGEST-MD5, as `app` with the password `apppw`; off by default.
    pub sasl: bool,
    /// More lines for every server's `zoo.cfg`; none by default.
    pub extra_config: Vec<String>,
    /// More arguments for every server's JVM; none by default.
    pub extra_jvm_args: Vec<String>,
}

impl Default for ZooKeeperOptions {
    fn default() -> Self {
        Self {
            nodes: 1,
            tick: Duration::from_millis(200),
            min_session_timeout: None,
            max_session_timeout: Duration::from_secs(60),
            tls: Tls::Off,
            sasl: false,
            extra_config: Vec::new(),
            extra_jvm_args: Vec::new(),
        }
    }
}

/// An ensemble of ZooKeeper servers, ended when dropped. Nodes are numbered from 0; node 0 has the server id 1.
///
/// Digest authentication always works, and `super` with the password `superpw` passes every ACL.
///
/// # Panics
///
/// Every method that takes a node's number panics when there is no such node.
#[derive(Debug)]
pub struct ZooKeeper {
    // Servers end before the directory with their data goes.
    nodes: Vec<Node>,
    certs: Option<Certs>,
    _dir: TempDir,
}

#[derive(Debug)]
struct Node {
    server: Server,
    ports: Ports,
}

#[derive(Debug)]
struct Ports {
    client: Port,
    secure: Port,
    quorum: Port,
    election: Port,
}

impl ZooKeeper {
    /// Starts one server without TLS.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn single() -> Result<Self> {
        Self::start(ZooKeeperOptions::default()).await
    }

    /// Starts `nodes` servers without TLS.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn cluster(nodes: usize) -> Result<Self> {
        Self::start(ZooKeeperOptions { nodes, ..ZooKeeperOptions::default() }).await
    }

    /// Starts servers and waits until all of them serve.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; one that concerns a server shows the end of its log.
    pub async fn start(options: ZooKeeperOptions) -> Result<Self> {
        match Self::start_once(&options).await {
            Err(error) if error.is_port_taken() => Self::start_once(&options).await,
            result => result,
        }
    }

    async fn start_once(options: &ZooKeeperOptions) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lock-zk-").tempdir();
        let dir = dir.map_err(Error::io("make a directory for ZooKeeper"))?;
        let certs = if options.tls == Tls::Off { None } else { Some(Certs::generate().await?) };
        let claim = |_| -> Result<Ports> {
            let [client, secure, quorum, election] = [Port::claim()?, Port::claim()?, Port::claim()?, Port::claim()?];
            Ok(Ports { client, secure, quorum, election })
        };
        let ports = (0..options.nodes).map(claim).collect::<Result<Vec<_>>>()?;
        let ensemble = if ports.len() > 1 { config::ensemble(&ports) } else { String::new() };

        let mut nodes = Vec::new();
        for (i, ports) in ports.into_iter().enumerate() {
            let home = dir.path().join(format!("n{i}"));
            let config = config::zoo_cfg(options, certs.as_ref(), &home, &ports) + &ensemble;
            config::write(&home, i + 1, &config)
                .map_err(Error::io(format!("write the configuration of zookeeper n{i}")))?;
            let args = config::jvm_args(options, &home);
            let java = std::env::var_os("JAVA").unwrap_or_else(|| "java".into());
            let server = Server::new(format!("zookeeper n{i}"), java, args, home.join("log"));
            server.launch()?;
            nodes.push(Node { server, ports });
        }
        let zookeeper = Self { nodes, certs, _dir: dir };
        for i in 0..zookeeper.nodes.len() {
            zookeeper.wait_ready(i).await?;
        }
        Ok(zookeeper)
    }

    /// The number of nodes, running or not.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The address on which node `i` serves clients without TLS.
    pub fn addr(&self, i: usize) -> SocketAddr {
        self.nodes[i].ports.client.addr()
    }

    /// The `host:port` on which node `i` serves clients without TLS.
    pub fn endpoint(&self, i: usize) -> String {
        self.addr(i).to_string()
    }

    /// The `host:port` on which node `i` serves clients with TLS, when that is on.
    pub fn secure_endpoint(&self, i: usize) -> String {
        self.nodes[i].ports.secure.addr().to_string()
    }

    /// The plain endpoints of all nodes, separated by commas.
    pub fn connect_string(&self) -> String {
        (0..self.nodes.len()).map(|i| self.endpoint(i)).collect::<Vec<_>>().join(",")
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

    /// Waits until node `i` serves, which it does only with a quorum, for at most twice [`PATIENCE`].
    ///
    /// # Errors
    ///
    /// [`Error::Exited`] or [`Error::Timeout`] with the end of the log.
    pub async fn wait_ready(&self, i: usize) -> Result<()> {
        // The secure port opens a moment after the plain one.
        let secure =
            async || self.certs.is_none() || TcpStream::connect(self.nodes[i].ports.secure.addr()).await.is_ok();
        let serves = || async { self.role(i).await.is_some() && secure().await };
        self.nodes[i].server.wait_ready(2 * PATIENCE, serves).await
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

    /// The only active node that says it leads or stands alone; waits up to [`PATIENCE`] for it.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when there is none in time, for example without a quorum.
    pub async fn leader(&self) -> Result<usize> {
        let leader = || async {
            let mut leaders = Vec::new();
            for i in (0..self.nodes.len()).filter(|&i| self.nodes[i].server.is_active()) {
                if matches!(self.role(i).await.as_deref(), Some("leader" | "standalone")) {
                    leaders.push(i);
                }
            }
            if let [only] = leaders[..] { Some(only) } else { None }
        };
        eventually("one ZooKeeper leader", PATIENCE, leader).await
    }

    /// What node `i` answers to a four-letter command, such as `mntr`, `srvr`, `cons` or `wchp`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it does not answer within two seconds.
    pub async fn four_letter(&self, i: usize, command: &str) -> Result<String> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.nodes[i].ports.client.addr()).await?;
            stream.write_all(command.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        let answer = timeout(Duration::from_secs(2), exchange).await.unwrap_or_else(|late| Err(late.into()));
        answer.map_err(Error::io(format!("ask zookeeper n{i} for {command}")))
    }

    /// The number of watches on node `i`, by connections and paths.
    ///
    /// # Errors
    ///
    /// As [`four_letter`](Self::four_letter).
    pub async fn wchs(&self, i: usize) -> Result<String> {
        self.four_letter(i, "wchs").await
    }

    /// The sessions and ephemeral znodes that the leader knows.
    ///
    /// # Errors
    ///
    /// As [`leader`](Self::leader) and [`four_letter`](Self::four_letter).
    pub async fn dump(&self) -> Result<String> {
        self.four_letter(self.leader().await?, "dump").await
    }

    /// What a serving node is: `leader`, `follower` or `standalone`.
    async fn role(&self, i: usize) -> Option<String> {
        let answer = self.four_letter(i, "srvr").await.ok()?;
        answer.lines().find_map(|line| line.strip_prefix("Mode: ")).map(str::to_owned)
    }
}
