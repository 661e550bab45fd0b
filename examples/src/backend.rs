//! From a `--backend` argument to a client: the only place that knows which backends exist.

use std::time::Duration;

use lock_core::memory::Memory;
use lock_core::{Client, Error, Result};

const EXPECTED: &str = "memory";

/// Connects to the store that `backend` names: `memory`, or a URL.
///
/// `ttl` is the time after which a dead process's locks go to others; `None` leaves it to the backend.
///
/// # Errors
/// [`Error::InvalidConfig`] for what cannot be used or was not built in, and those of [`Client::connect`].
pub async fn connect(backend: &str, ttl: Option<Duration>, label: &str) -> Result<Client> {
    match backend.split_once("://").map(|(scheme, _)| scheme) {
        None if backend == "memory" => {
            let memory = Memory::new();
            open(ttl.map_or(Ok(memory.clone()), |ttl| memory.with_ttl(ttl))?, label).await
        }
        // Only the scheme is shown: the rest may hold a password.
        Some(scheme) => Err(invalid("--backend", &format!("{scheme}://…"), EXPECTED)),
        None => Err(invalid("--backend", backend, EXPECTED)),
    }
}

/// `backend` without user, password and parameters, for people to read.
pub fn shown(backend: &str) -> String {
    let Some((scheme, rest)) = backend.split_once("://") else { return backend.to_owned() };
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    format!("{scheme}://{hosts}{path}")
}

async fn open(backend: impl lock_core::backend::Backend, label: &str) -> Result<Client> {
    Client::builder(backend).label(label).connect().await
}

fn invalid(setting: &str, value: &str, expected: &str) -> Error {
    Error::InvalidConfig { setting: setting.to_owned(), value: value.to_owned(), expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_url_is_no_secret() {
        assert_eq!(shown("memory"), "memory");
        assert_eq!(shown("etcd://h1:1,h2/ns?ttl=5s"), "etcd://h1:1,h2/ns");
        assert_eq!(shown("zks://app:p@ss@h1,h2?password=x"), "zks://h1,h2");
    }
}
