//! From a `--backend` argument to a client: the only place that knows which backends exist.

use std::time::Duration;

use lock_core::memory::Memory;
use lock_core::{Client, Error, Result};

const EXPECTED: &str = "memory, etcd://host:2379 (etcds:// for TLS) or zk://host:2181 (zks:// for TLS)";

/// Connects to the store that `backend` names: `memory`, or a URL.
///
/// `ttl` is the time after which a dead process's locks go to others; `None` leaves it to the backend.
///
/// # Errors
/// [`Error::InvalidConfig`] for what cannot be used or was not built in, and those of [`Client::connect`].
pub async fn connect(backend: &str, ttl: Option<Duration>, label: &str) -> Result<Client> {
    match backend.split_once("://").map(|(scheme, _)| scheme) {
        None if backend == "memory" => open(memory(ttl)?, label).await,
        #[cfg(feature = "etcd")]
        Some("etcd" | "etcds") => open(lock_etcd::Etcd::from_url(&with_ttl(backend, "ttl", ttl)?)?, label).await,
        #[cfg(not(feature = "etcd"))]
        Some("etcd" | "etcds") => Err(not_built_in("etcd", " (needs protoc: protobuf-compiler and libprotobuf-dev)")),
        #[cfg(feature = "zk")]
        Some("zk" | "zks") => open(lock_zk::ZooKeeper::from_url(&with_ttl(backend, "timeout", ttl)?)?, label).await,
        #[cfg(not(feature = "zk"))]
        Some("zk" | "zks") => Err(not_built_in("zk", "")),
        // Only the scheme is shown: the rest may hold a password.
        Some(scheme) => Err(invalid("--backend", &format!("{scheme}://…"), EXPECTED)),
        None => Err(invalid("--backend", backend, EXPECTED)),
    }
}

/// The store in the memory of this process.
///
/// # Errors
/// [`Error::InvalidConfig`] for a ttl that is too short.
pub fn memory(ttl: Option<Duration>) -> Result<Memory> {
    let memory = Memory::new();
    ttl.map_or_else(|| Ok(memory.clone()), |ttl| memory.clone().with_ttl(ttl))
}

/// Connects to a store.
///
/// # Errors
/// Those of [`Client::connect`].
pub async fn open(backend: impl lock_core::backend::Backend, label: &str) -> Result<Client> {
    Client::builder(backend).label(label).connect().await
}

/// `backend` without user, password and parameters, for people to read.
pub fn shown(backend: &str) -> String {
    let Some((scheme, rest)) = backend.split_once("://") else { return backend.to_owned() };
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    format!("{scheme}://{hosts}{path}")
}

/// `url` with the ttl as its parameter `key`.
#[cfg_attr(not(any(feature = "etcd", feature = "zk")), cfg(test))]
fn with_ttl(url: &str, key: &str, ttl: Option<Duration>) -> Result<String> {
    let Some(ttl) = ttl else { return Ok(url.to_owned()) };
    let ttl = humantime::format_duration(ttl).to_string().replace(' ', "");
    let query = url.split_once('?').map(|(_, query)| query);
    if query.is_some_and(|query| query.split('&').any(|pair| pair.split('=').next() == Some(key))) {
        let expected = format!("to be left out when the URL has the parameter {key}; remove one of the two");
        return Err(invalid("--ttl", &ttl, &expected));
    }
    Ok(format!("{url}{}{key}={ttl}", if query.is_some() { '&' } else { '?' }))
}

#[cfg(not(all(feature = "etcd", feature = "zk")))]
fn not_built_in(feature: &str, needs: &str) -> Error {
    let expected =
        format!("a backend of this build, which has no {feature} support: build with --features {feature}{needs}");
    invalid("--backend", &format!("{feature}://…"), &expected)
}

fn invalid(setting: &str, value: &str, expected: &str) -> Error {
    Error::InvalidConfig { setting: setting.to_owned(), value: value.to_owned(), expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ttl_joins_the_parameters_of_the_url() {
        let ttl = Some(Duration::from_millis(90_500));
        for (url, want) in [
            ("etcd://h", "etcd://h?ttl=1m30s500ms"),
            ("etcd://h/ns?ca=/ca.pem", "etcd://h/ns?ca=/ca.pem&ttl=1m30s500ms"),
            ("etcd://h/ns?attl=x", "etcd://h/ns?attl=x&ttl=1m30s500ms"),
        ] {
            assert_eq!(with_ttl(url, "ttl", ttl).unwrap(), want);
            assert_eq!(with_ttl(url, "ttl", None).unwrap(), url);
        }
        assert_eq!(lock_core::url::parse_duration("ttl", "1m30s500ms").ok(), ttl);
        let error = with_ttl("etcd://h?a=b&ttl=5s", "ttl", ttl).unwrap_err().to_string();
        assert!(error.contains("--ttl") && error.contains("remove one"), "{error}");
    }

    #[test]
    fn what_is_shown_of_a_url_is_no_secret() {
        assert_eq!(shown("memory"), "memory");
        assert_eq!(shown("etcd://h1:1,h2/ns?ttl=5s"), "etcd://h1:1,h2/ns");
        assert_eq!(shown("zks://app:p@ss@h1,h2?password=x"), "zks://h1,h2");
    }
}
