//! What an operator does to a running etcd cluster, with `etcdctl`.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::process::{Child, Command};

use super::{Etcd, program};
use crate::wait::eventually;
use crate::{Error, PATIENCE, Result, Tls};

/// What a node says about itself.
#[derive(Debug)]
struct Status {
    node: usize,
    member: u64,
    leader: u64,
    revision: u64,
}

impl Etcd {
    /// Runs `etcdctl` against all nodes, as `root` when authentication is on, and returns what it prints.
    ///
    /// A later `--user`, `--cacert`, `--cert` or `--key` among `args` replaces the fixture's own.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] with what it complains about.
    pub async fn ctl(&self, args: &[&str]) -> Result<String> {
        self.ctl_at(&self.urls(), args).await
    }

    /// Runs `etcdctl` against other endpoints, for example a proxy's; otherwise as [`ctl`](Self::ctl).
    ///
    /// # Errors
    ///
    /// [`Error::Command`] with what it complains about.
    pub async fn ctl_at(&self, urls: &str, args: &[&str]) -> Result<String> {
        let output = self.etcdctl(urls, args).output().await;
        let output = output.map_err(|source| Error::Spawn { program: "etcdctl".into(), source })?;
        text(output, args)
    }

    /// Starts `etcdctl` as [`ctl`](Self::ctl) does, for a command that goes on until it is interrupted, such as `elect`. Its output is piped; it is killed when dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] when there is no such program.
    pub fn ctl_in_background(&self, args: &[&str]) -> Result<Child> {
        let child = self.etcdctl(&self.urls(), args).spawn();
        child.map_err(|source| Error::Spawn { program: "etcdctl".into(), source })
    }

    /// The node that all active nodes take for the leader, and which is active itself; waits up to [`PATIENCE`] for it.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when they do not agree in time, for example without a quorum.
    pub async fn leader(&self) -> Result<usize> {
        eventually("one etcd leader", PATIENCE, || async { self.agreed_leader().await }).await
    }

    /// Makes node `to` the leader and waits until all active nodes say so.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] when the leader refuses, [`Error::Timeout`] when the nodes do not agree in time.
    pub async fn move_leader(&self, to: usize) -> Result<()> {
        let from = self.leader().await?;
        if from == to {
            return Ok(());
        }
        let target = format!("{:x}", self.status(to).await?.member);
        self.ctl_at(&self.url(from), &["move-leader", &target]).await?;
        let moved = || async { (self.agreed_leader().await == Some(to)).then_some(()) };
        eventually(format!("etcd n{to} to lead"), PATIENCE, moved).await
    }

    /// The revision of the last change that the leader knows.
    ///
    /// # Errors
    ///
    /// As [`leader`](Self::leader).
    pub async fn revision(&self) -> Result<u64> {
        Ok(self.status(self.leader().await?).await?.revision)
    }

    /// Compacts the history away up to the current revision, so that watches from an earlier one are cancelled.
    ///
    /// # Errors
    ///
    /// As [`leader`](Self::leader), or [`Error::Command`] when that revision is compacted already.
    pub async fn compact(&self) -> Result<()> {
        let revision = self.revision().await?.to_string();
        self.ctl(&["compact", &revision]).await.map(drop)
    }

    /// The ids of all leases.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] when `etcdctl` fails.
    pub async fn lease_list(&self) -> Result<Vec<i64>> {
        let answer = self.ctl(&["lease", "list", "--write-out=json"]).await?;
        let json: Value = serde_json::from_str(&answer).map_err(|_| unreadable("lease list", &answer))?;
        // Without a lease the member is missing or null, depending on the release.
        let leases = json["leases"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(leases.iter().filter_map(|lease| lease["id"].as_i64().or_else(|| lease["ID"].as_i64())).collect())
    }

    /// Revokes a lease by force, with all its keys.
    ///
    /// # Errors
    ///
    /// [`Error::Command`], also when there is no such lease.
    pub async fn lease_revoke(&self, id: i64) -> Result<()> {
        self.ctl(&["lease", "revoke", &format!("{id:x}")]).await.map(drop)
    }

    /// All keys with a prefix, in order.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] when `etcdctl` fails.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let answer = self.ctl(&["get", "--prefix", "--keys-only", "--", prefix]).await?;
        Ok(answer.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    pub(super) async fn enable_auth(&mut self) -> Result<()> {
        let commands = [
            "user add root:rootpw",
            "role add root",
            "user grant-role root root",
            "role add locks",
            "role grant-permission locks --prefix=true readwrite locks/",
            "role grant-permission locks --prefix=true readwrite /locks/",
            "user add app:apppw",
            "user grant-role app locks",
            "auth enable",
        ];
        for command in commands {
            self.ctl(&command.split(' ').collect::<Vec<_>>()).await?;
        }
        self.auth_on = true;
        Ok(())
    }

    async fn agreed_leader(&self) -> Option<usize> {
        let active: Vec<usize> = (0..self.nodes.len()).filter(|&i| self.nodes[i].server.is_active()).collect();
        // One that does not answer costs a timeout, so all are asked at once.
        let asked: Vec<_> = active.iter().map(|&i| (i, self.etcdctl(&self.url(i), STATUS).spawn())).collect();
        let mut statuses = Vec::new();
        for (node, child) in asked {
            statuses.push(parse_status(node, child.ok()?.wait_with_output().await.ok()?).ok()?);
        }
        let first = statuses.first()?.leader;
        let agreed = statuses.iter().all(|status| status.leader == first);
        statuses.iter().find(|status| agreed && status.member == first).map(|status| status.node)
    }

    async fn status(&self, node: usize) -> Result<Status> {
        let output = self.etcdctl(&self.url(node), STATUS).output().await;
        parse_status(node, output.map_err(|source| Error::Spawn { program: "etcdctl".into(), source })?)
    }

    fn etcdctl(&self, urls: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program("ETCDCTL", "etcdctl"));
        for (variable, _) in std::env::vars_os() {
            if variable.as_encoded_bytes().starts_with(b"ETCDCTL_") {
                command.env_remove(variable);
            }
        }
        command.env("ETCDCTL_API", "3").args(["--endpoints", urls, "--dial-timeout=2s", "--command-timeout=5s"]);
        if let Some(certs) = &self.certs {
            command.arg("--cacert").arg(certs.ca());
            if self.options.tls == Tls::Mutual {
                command.arg("--cert").arg(certs.client_cert()).arg("--key").arg(certs.client_key());
            }
        }
        if self.auth_on {
            command.args(["--user", "root:rootpw"]);
        }
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }
}

const STATUS: &[&str] = &["endpoint", "status", "--write-out=json"];

fn parse_status(node: usize, output: Output) -> Result<Status> {
    let answer = text(output, STATUS)?;
    let json: Value = serde_json::from_str(&answer).map_err(|_| unreadable("endpoint status", &answer))?;
    let status = &json[0]["Status"];
    let number = |value: &Value| value.as_u64().ok_or_else(|| unreadable("endpoint status", &answer));
    Ok(Status {
        node,
        member: number(&status["header"]["member_id"])?,
        // Absent while there is none.
        leader: status["leader"].as_u64().unwrap_or(0),
        revision: number(&status["header"]["revision"])?,
    })
}

fn text(output: Output, args: &[&str]) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Command { command: format!("etcdctl {}", args.join(" ")), status: output.status, stderr })
}

fn unreadable(command: &str, answer: &str) -> Error {
    Error::Answer { from: format!("etcdctl {command}"), answer: answer.into() }
}
