//! Why does no server open a session? The client crate does not tell, so ask each server again.

use std::io;
use std::net::TcpStream as Blocking;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::NoSession;
use crate::tls::Pem;

/// What one server gets.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Probed {
    pub(crate) reason: NoSession,
    /// Every server was reached, and TLS failed: trying again will not help.
    pub(crate) hopeless: bool,
}

enum Failure {
    Network(String),
    Tls(String),
}

/// Asks all servers at the same time.
pub(crate) async fn servers(hosts: &[String], pem: Option<&Pem>) -> Probed {
    let config = pem.and_then(|pem| pem.client_config().ok()).map(Arc::new);
    let probes: Vec<_> = hosts
        .iter()
        .map(|host| {
            let (host, config) = (host.clone(), config.clone());
            (host.clone(), tokio::spawn(async move { server(&host, config).await }))
        })
        .collect();
    let mut hopeless = true;
    let mut reasons = Vec::new();
    for (host, probe) in probes {
        let (reason, tls) = match probe.await {
            Ok(Failure::Tls(reason)) => (format!("TLS: {reason}"), true),
            Ok(Failure::Network(reason)) => (reason, false),
            Err(_) => ("not known".into(), false),
        };
        hopeless &= tls;
        reasons.push(format!("{host}: {reason}"));
    }
    Probed { reason: NoSession(reasons.join("; ")), hopeless }
}

async fn server(host: &str, config: Option<Arc<ClientConfig>>) -> Failure {
    let stream = match timeout(PATIENCE, TcpStream::connect(host)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Failure::Network(error.to_string()),
        Err(_) => return Failure::Network("no answer to the opening of a connection".into()),
    };
    if let Some(config) = config {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']).to_owned();
        let handshake = tokio::task::spawn_blocking(move || handshake(stream.into_std()?, name, config));
        match handshake.await {
            Ok(Err(error)) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                return Failure::Tls(error.to_string());
            }
            Ok(Err(error)) => return Failure::Network(error.to_string()),
            Ok(Ok(())) | Err(_) => {}
        }
    }
    Failure::Network(
        "accepts connections but opens no session; is it a ZooKeeper client port, with TLS if and only if zks:// is used, \
         and does the server have a quorum?"
            .into(),
    )
}

fn handshake(mut stream: Blocking, name: String, config: Arc<ClientConfig>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    // With TLS 1.3 a server refuses the client's certificate only afterwards; one that is content says nothing.
    stream.set_read_timeout(Some(PATIENCE / 4))?;
    match tls.complete_io(&mut stream) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error),
        _ => Ok(()),
    }
}
