//! Settings, and how a URL becomes them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error as EtcdError, Identity, TlsOptions};
use lock_core::url::BackendUrl;
use lock_core::{Error, Result};

use crate::transport;

const DEFAULT_PORT: u16 = 2379;

/// Where etcd is, and how to talk to it. `Debug` hides the password.
///
/// # Examples
/// ```
/// use lock_etcd::{Config, Etcd};
///
/// let mut config = Config::new(["10.0.0.1:2379"]);
/// config.namespace = "locks".into();
/// config.login = Some(("app".into(), "s3cret".into()));
/// assert!(!format!("{config:?}").contains("s3cret"));
/// let etcd = Etcd::new(config)?;
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// `host:port` of each member. One is used at a time; the others when it fails. At least one.
    pub endpoints: Vec<String>,
    /// Prefix of all keys: lock `l` is kept under `<namespace>/l/`. Default: empty, where keys start with the lock's name.
    /// No slash at its end.
    pub namespace: String,
    /// How long the store keeps the locks of a client that shows no sign of life, in whole seconds, rounded up; 2 s to
    /// 1 h. Default: 15 s. Below 5 s, a busy machine is taken for a dead one; the larger, the longer others wait for a dead
    /// one. What the server grants counts: it may be more.
    pub ttl: Duration,
    /// How long opening a session may take, all members tried again and again; 10 ms to 1 h. Default: 5 s. Too short, and
    /// an election of a leader (1 to 2 s) is taken for a dead cluster; too long, and a wrong address is told late.
    pub connect_timeout: Duration,
    /// User and password. Default: none.
    pub login: Option<(String, String)>,
    /// TLS. Default: none.
    pub tls: Option<Tls>,
    /// Whether a client that has a good share of those who wait in a queue follows the queue once for all of them, instead
    /// of reading and watching for each. Default: yes. Both give the same answers.
    pub views: bool,
}

/// How to talk TLS. The files are read again for each session, so that renewed certificates are used.
///
/// # Examples
/// ```
/// use lock_etcd::{Config, Etcd, Tls};
///
/// let mut tls = Tls::default();
/// tls.ca = Some("/etc/etcd/no-such-ca.pem".into());
/// let mut config = Config::new(["10.0.0.1:2379"]);
/// config.tls = Some(tls);
/// assert!(Etcd::new(config).unwrap_err().to_string().contains("no-such-ca.pem"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tls {
    /// A file with the certificates, in PEM form, of the authorities to trust. Default: those of the system.
    pub ca: Option<PathBuf>,
    /// Files with the client's certificate chain and its key, in PEM form. Default: none.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the servers' certificates must carry. Default: the host of each endpoint.
    pub server_name: Option<String>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("endpoints", &self.endpoints)
            .field("namespace", &self.namespace)
            .field("ttl", &self.ttl)
            .field("connect_timeout", &self.connect_timeout)
            .field("user", &self.user())
            .field("tls", &self.tls)
            .field("views", &self.views)
            .finish()
    }
}

impl Config {
    /// The default settings for these members, each as `host:port`.
    ///
    /// # Examples
    /// ```
    /// # use std::time::Duration;
    /// let config = lock_etcd::Config::new(["10.0.0.1:2379"]);
    /// assert_eq!((config.ttl, config.connect_timeout), (Duration::from_secs(15), Duration::from_secs(5)));
    /// assert!(config.namespace.is_empty() && config.login.is_none() && config.tls.is_none());
    /// ```
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            namespace: String::new(),
            ttl: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(5),
            login: None,
            tls: None,
            views: true,
        }
    }

    /// Reads `etcd://[user:password@]host[:port][,host…][/namespace][?parameters]`, or `etcds://…` for TLS.
    ///
    /// The namespace is the path behind its first slash, as it is. Parameters: `ttl` and `connect_timeout` (such as `15s`),
    /// `views` (`on` or `off`); with TLS also `ca`, `cert` and `key` (files in PEM form) and `server_name`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the part that is wrong.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> lock_core::Result<()> {
    /// let config = lock_etcd::Config::from_url("etcd://h1,h2:4001/locks?ttl=20s")?;
    /// assert_eq!(config.endpoints, ["h1:2379", "h2:4001"]);
    /// assert_eq!(config.namespace, "locks");
    /// # Ok(()) }
    /// ```
    pub fn from_url(url: &str) -> Result<Self> {
        let mut url = BackendUrl::parse(url, &["etcd", "etcds"], DEFAULT_PORT)?;
        let mut config = Self::new(std::mem::take(&mut url.hosts));
        config.namespace = std::mem::take(&mut url.path);
        if let Some(ttl) = url.take_duration("ttl")? {
            config.ttl = ttl;
        }
        if let Some(timeout) = url.take_duration("connect_timeout")? {
            config.connect_timeout = timeout;
        }
        config.views = match url.take("views").as_deref() {
            None | Some("on") => true,
            Some("off") => false,
            Some(other) => return Err(invalid("views", other, "on or off")),
        };
        config.login = match (url.user.take(), url.password.take()) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            (Some(user), None) => return Err(invalid("user", user, "user:password@ in front of the hosts")),
            (None, Some(_)) => return Err(invalid("user", "", "user:password@ in front of the hosts")),
        };
        if url.scheme == "etcds" {
            let identity = match (url.take("cert"), url.take("key")) {
                (Some(cert), Some(key)) => Some((cert.into(), key.into())),
                (None, None) => None,
                (Some(cert), None) => return Err(invalid("cert", cert, "a parameter key beside it")),
                (None, Some(key)) => return Err(invalid("key", key, "a parameter cert beside it")),
            };
            config.tls =
                Some(Tls { ca: url.take("ca").map(Into::into), identity, server_name: url.take("server_name") });
        } else {
            for parameter in ["ca", "cert", "key", "server_name"] {
                if let Some(value) = url.take(parameter) {
                    return Err(invalid(parameter, value, "no TLS parameters with etcd://; use etcds://"));
                }
            }
        }
        url.finish()?;
        Ok(config)
    }

    /// Checks what can be checked without a server, and reads the files.
    pub(crate) fn dialer(&self) -> Result<Dialer> {
        if self.endpoints.is_empty() {
            return Err(invalid("endpoints", "", "at least one host:port"));
        }
        if let Some(endpoint) = self.endpoints.iter().find(|endpoint| !is_endpoint(endpoint)) {
            return Err(invalid("endpoints", endpoint, "host:port, without a scheme, such as etcd1.example.com:2379"));
        }
        if self.ttl < Duration::from_secs(2) || self.ttl > Duration::from_secs(3600) {
            return Err(invalid("ttl", format!("{:?}", self.ttl), "2s to 1h; 10s to 30s suit most"));
        }
        if self.connect_timeout < Duration::from_millis(10) || self.connect_timeout > Duration::from_secs(3600) {
            return Err(invalid("connect_timeout", format!("{:?}", self.connect_timeout), "10ms to 1h"));
        }
        if self.namespace.contains('\0') || self.namespace.ends_with('/') {
            let expected = "a path without NUL characters and without a slash at its end";
            return Err(invalid("namespace", self.namespace.clone(), expected));
        }
        if self.user() == Some("") {
            return Err(invalid("user", "", "the name of a user, or no login at all"));
        }
        let mut options = ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(true);
        if let Some((user, password)) = &self.login {
            options = options.with_user(user, password);
        }
        let tls = self.tls.as_ref().map(Tls::options).transpose()?;
        Ok(Dialer { options, tls, named: self.tls.as_ref().is_some_and(|tls| tls.server_name.is_some()) })
    }

    /// How long one request of a session with this ttl may take, so that several can fail before the session is lost.
    pub(crate) fn request_timeout(ttl: Duration) -> Duration {
        (ttl / 6).clamp(Duration::from_millis(300), Duration::from_secs(5))
    }

    /// How long one request may take while a session is opened, so that every member has its turn.
    pub(crate) fn opening_timeout(&self) -> Duration {
        let turns = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX).saturating_add(1);
        Self::request_timeout(self.ttl).min(self.connect_timeout / turns)
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.login.as_ref().map(|(user, _)| user.as_str())
    }
}

/// The settings in the client's terms, with the contents of the files. Not `Debug`: it holds the password and the key.
#[derive(Clone)]
pub(crate) struct Dialer {
    options: ConnectOptions,
    tls: Option<TlsOptions>,
    /// Whether `tls` names the server.
    named: bool,
}

impl Dialer {
    /// Connects to an endpoint.
    pub(crate) async fn connect(&self, endpoint: &str, within: Duration) -> std::result::Result<Client, EtcdError> {
        transport::connect(endpoint, self.tls_for(endpoint), self.options.clone(), within).await
    }

    fn tls_for(&self, endpoint: &str) -> Option<TlsOptions> {
        let tls = self.tls.clone()?;
        match ip_v6(endpoint) {
            // The client would take the brackets for a part of the name.
            Some(address) if !self.named => Some(tls.domain_name(address)),
            _ => Some(tls),
        }
    }
}

/// The address in `[address]:port`.
fn ip_v6(endpoint: &str) -> Option<&str> {
    endpoint.strip_prefix('[')?.split_once(']').map(|(address, _)| address)
}

fn is_endpoint(endpoint: &str) -> bool {
    let Some((host, port)) = endpoint.rsplit_once(':') else { return false };
    let name = |host: &str| host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    let host_fits = match ip_v6(endpoint) {
        Some(address) => host.len() == address.len() + 2 && address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && name(host),
    };
    host_fits && port.parse::<u16>().is_ok_and(|port| port != 0)
}

impl Tls {
    fn options(&self) -> Result<TlsOptions> {
        let mut options = TlsOptions::new();
        options = match &self.ca {
            Some(ca) => options.ca_certificate(Certificate::from_pem(read("ca", ca)?)),
            None => options.with_native_roots(),
        };
        if let Some((cert, key)) = &self.identity {
            options = options.identity(Identity::from_pem(read("cert", cert)?, read("key", key)?));
        }
        if let Some(name) = &self.server_name {
            options = options.domain_name(name);
        }
        Ok(options)
    }
}

fn read(setting: &str, file: &Path) -> Result<Vec<u8>> {
    let problem = |problem: String| invalid(setting, file.display().to_string(), problem);
    let pem = std::fs::read(file).map_err(|error| problem(format!("a file that can be read ({error})")))?;
    if !pem.windows(11).any(|part| part == b"-----BEGIN ") {
        return Err(problem("a file in PEM form, with a line -----BEGIN …-----".into()));
    }
    Ok(pem)
}

fn invalid(setting: &str, value: impl Into<String>, expected: impl Into<String>) -> Error {
    Error::InvalidConfig { setting: setting.into(), value: value.into(), expected: expected.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str) -> Result<Config> {
        let config = Config::from_url(url)?;
        config.dialer()?;
        Ok(config)
    }

    #[test]
    fn a_url_says_everything() {
        let config = check("etcd://app:p%3A1@h1,h2:1/a/b?ttl=30s&connect_timeout=250ms").unwrap();
        assert_eq!(config.endpoints, ["h1:2379", "h2:1"]);
        assert_eq!(config.namespace, "a/b");
        assert_eq!((config.ttl, config.connect_timeout), (Duration::from_secs(30), Duration::from_millis(250)));
        assert_eq!(config.login, Some(("app".into(), "p:1".into())));
        assert!(!format!("{config:?}").contains("p:1"));
        assert_eq!(check("etcd://h").unwrap(), Config::new(["h:2379"]));
        assert_eq!(check("etcd://h//abs").unwrap().namespace, "/abs");
        let tls = check("etcds://h?server_name=etcd.local").unwrap().tls.unwrap();
        assert_eq!((tls.ca, tls.server_name.as_deref()), (None, Some("etcd.local")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (url, setting, text) in [
            ("etcd://h?ttl=0s", "ttl", "2s to 1h"),
            ("etcd://h?ttl=1s", "ttl", "\"1s\""),
            ("etcd://h?ttl=2h", "ttl", "\"7200s\""),
            ("etcd://h?connect_timeout=0s", "connect_timeout", "0ns"),
            ("etcd://h/locks/", "namespace", "slash"),
            ("etcd://:secret@h", "user", "name of a user"),
            ("etcd://a b", "endpoints", "a b:2379"),
            ("etcd://[x]", "endpoints", "[x]:2379"),
            ("etcd://app@h", "user", "user:password@"),
            ("etcd://h?ca=/x.pem", "ca", "etcds://"),
            ("etcds://h?ca=/no/such/ca.pem", "ca", "/no/such/ca.pem"),
            ("etcds://h?ca=/dev/null", "ca", "PEM"),
            ("etcds://h?cert=/x.pem", "cert", "key"),
            ("etcds://h?key=/x.pem", "key", "cert"),
            ("etcd://h/%00", "namespace", "NUL"),
            ("etcd://h?timeout=1s", "URL parameter", "ttl"),
            ("http://h", "backend URL", "etcd://, etcds://"),
        ] {
            let error = check(url).unwrap_err();
            assert!(matches!(&error, Error::InvalidConfig { setting: s, .. } if s == setting), "{url}: {error}");
            let shown = error.to_string();
            assert!(shown.contains(text) && !shown.contains("secret"), "{url}: {shown}");
        }
        assert!(Config::new(Vec::<String>::new()).dialer().is_err());
        assert!(Config::new(["http://h:1"]).dialer().is_err());
    }

    #[test]
    fn hosts_are_names_and_addresses() {
        for endpoint in ["h:1", "etcd-1.example.com:2379", "10.0.0.1:2379", "[::1]:2379"] {
            assert!(is_endpoint(endpoint), "{endpoint}");
        }
        for endpoint in ["", "h", ":1", "h:0", "h:x", "h/x:1", "u@h:1", "::1:1", "[::1]", "[::1]x:1", "[h]:1"] {
            assert!(!is_endpoint(endpoint), "{endpoint}");
        }
        assert_eq!(ip_v6("[::1]:2379"), Some("::1"));
    }

    #[test]
    fn every_member_has_its_turn_while_a_session_is_opened() {
        let mut config = Config::new(["a:1", "b:1", "c:1"]);
        assert!(config.opening_timeout() * 3 < config.connect_timeout);
        config.ttl = Duration::from_secs(2);
        assert_eq!(config.opening_timeout(), Duration::from_secs(2) / 6);
    }
}
