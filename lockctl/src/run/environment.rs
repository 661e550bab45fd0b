//! What a command finds in its environment.

use std::env;
use std::process::Command;
use std::time::Duration;

use crate::connect::{BACKEND, SECRETS, without_password};

/// The lock, as commands see it.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) token: u64,
    pub(crate) valid: Duration,
    pub(crate) is_etcd: bool,
    /// For leaders.
    pub(crate) term: Option<u64>,
}

/// Tells a command which lock it runs under, and none of the secrets by which it was taken.
pub(crate) fn prepare(command: &mut Command, lock: &Described) {
    for secret in SECRETS {
        command.env_remove(secret);
    }
    if let Ok(url) = env::var(BACKEND) {
        command.env(BACKEND, without_password(&url));
    }
    let token = lock.token.to_string();
    command
        .env("LOCK_NAME", &lock.name)
        .env("LOCK_KEY", &lock.key)
        .env("LOCK_TOKEN", &token)
        .env("LOCK_VALID_MS", lock.valid.as_millis().to_string());
    // Another lock's, when one lockctl runs in another.
    for (variable, value) in [
        ("LOCK_TERM", lock.term.map(|term| term.to_string())),
        ("ETCD_LOCK_KEY", lock.is_etcd.then(|| lock.key.clone())),
        ("ETCD_LOCK_REV", lock.is_etcd.then_some(token)),
    ] {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inner_lock_is_described_and_nothing_is_left_of_the_outer() {
        let described = Described {
            name: "inner".into(),
            key: "/k".into(),
            token: 7,
            valid: Duration::from_millis(8_500),
            is_etcd: false,
            term: None,
        };
        let mut command = Command::new("true");
        command.env("ETCD_LOCK_KEY", "/outer").env("LOCKCTL_PASSWORD", "secret");
        prepare(&mut command, &described);
        let value = |name: &str| {
            let set = command.get_envs().find(|(variable, _)| *variable == name);
            set.and_then(|(_, value)| value.map(|value| value.to_string_lossy().into_owned()))
        };
        let set = ["LOCK_NAME", "LOCK_KEY", "LOCK_TOKEN", "LOCK_VALID_MS"].map(|name| value(name).unwrap());
        assert_eq!(set, ["inner", "/k", "7", "8500"]);
        for unset in ["ETCD_LOCK_KEY", "ETCD_LOCK_REV", "LOCK_TERM", "LOCKCTL_PASSWORD", "LOCKCTL_PASSWORD_FILE"] {
            assert_eq!(value(unset), None, "{unset}");
        }
    }
}
