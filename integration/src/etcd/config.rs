//! The command line of an etcd server.

use std::ffi::OsString;
use std::path::Path;

use tokio::process::Command;
use tokio::sync::OnceCell;

use super::EtcdOptions;
use crate::{Certs, Port, Tls};

pub(super) fn scheme(tls: Tls) -> &'static str {
    if tls == Tls::Off { "http" } else { "https" }
}

/// The program to run: what the variable names, or the default from `PATH`.
pub(super) fn program(variable: &str, default: &str) -> OsString {
    std::env::var_os(variable).unwrap_or_else(|| default.into())
}

/// The command line of one server, without what concerns all of them.
pub(super) fn node_args(
    i: usize,
    options: &EtcdOptions,
    certs: Option<&Certs>,
    dir: &Path,
    ports: [&Port; 3],
) -> Vec<OsString> {
    let [client, peer, metrics] = ports.map(Port::addr);
    let scheme = scheme(options.tls);
    let mut args: Vec<OsString> = Vec::new();
    let mut flag = |name: &str, value: OsString| args.extend([name.into(), value]);
    flag("--name", format!("n{i}").into());
    flag("--data-dir", dir.join(format!("n{i}")).into());
    flag("--listen-client-urls", format!("{scheme}://{client}").into());
    flag("--advertise-client-urls", format!("{scheme}://{client}").into());
    flag("--listen-peer-urls", format!("{scheme}://{peer}").into());
    flag("--initial-advertise-peer-urls", format!("{scheme}://{peer}").into());
    flag("--listen-metrics-urls", format!("http://{metrics}").into());
    flag("--heartbeat-interval", options.heartbeat.as_millis().to_string().into());
    flag("--election-timeout", options.election.as_millis().to_string().into());
    let Some(certs) = certs else { return args };
    flag("--cert-file", certs.server_cert().into());
    flag("--key-file", certs.server_key().into());
    flag("--peer-cert-file", certs.server_cert().into());
    flag("--peer-key-file", certs.server_key().into());
    flag("--peer-trusted-ca-file", certs.ca().into());
    // Since 3.4 the clients' CA alone makes etcd demand a client certificate.
    if options.tls == Tls::Mutual {
        flag("--trusted-ca-file", certs.ca().into());
        args.push("--client-cert-auth".into());
    }
    args.push("--peer-client-cert-auth".into());
    args
}

/// Whether this etcd knows the flag that spares tests the disk: 3.4.10 and later do, though not all list it.
pub(super) async fn skips_fsync() -> bool {
    static KNOWN: OnceCell<bool> = OnceCell::const_new();
    let probe = || async {
        let probe = Command::new(program("ETCD", "etcd")).args(["--unsafe-no-fsync", "--version"]).output().await;
        probe.is_ok_and(|output| output.status.success())
    };
    *KNOWN.get_or_init(probe).await
}
