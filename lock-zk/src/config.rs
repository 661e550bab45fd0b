//! How to reach an ensemble.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lock_core::url::BackendUrl;
use lock_core::{Error, Result};

const DEFAULT_PORT: u16 = 2181;

/// Where queues are kept when no chroot is given.
const DEFAULT_CHROOT: &str = "/locks";

const MIN_TIMEOUT: Duration = Duration::from_millis(500);
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_millis(10);
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(600);

/// Settings of a [`ZooKeeper`](crate::ZooKeeper) backend. `Debug` hides the password.
///
/// # Examples
/// ```
/// use lock_zk::{Access, Config, Credentials, ZooKeeper};
///
/// let mut config = Config::new(["10.0.0.1:2181"]);
/// config.chroot = "/team/locks".into();
/// config.credentials = Some(Credentials::digest("app", "s3cret"));
/// config.acl = Access::Creator;
/// assert!(!format!("{config:?}").contains("s3cret"));
/// let ensemble = ZooKeeper::new(config)?;
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// `host:port` of the servers, at least one. A session uses one of them at a time and moves when it fails.
    pub hosts: Vec<String>,
    /// The directory that holds the queues, created when missing; `/locks` by default. Clients that share locks use the
    /// same one. `/` is the root of the ensemble.
    pub chroot: String,
    /// The session timeout to ask for; 10 s by default, 500 ms to 1 h. Servers grant 2 to 20 of their ticks (4 s to 40 s as
    /// shipped). A lock whose holder died is passed on after this time; too short, and a pause of a holder or a server
    /// costs the lock. Validity is proven on the assumption that it is at least two ticks, so do not set a server's
    /// `minSessionTimeout` below that.
    pub timeout: Duration,
    /// Bounds the opening of a session over all servers; 5 s by default, 10 ms to 10 min. Too short, and an ensemble that elects
    /// its leader is taken for a dead one; too long, and a wrong address is told late.
    pub connect_timeout: Duration,
    /// TLS; off by default.
    pub tls: Option<Tls>,
    /// Who the client is; nobody by default.
    pub credentials: Option<Credentials>,
    /// Who may do what with the nodes that this client creates; anybody anything by default.
    pub acl: Access,
    /// Whether a client that has a good share of those who wait in a queue follows the queue once for all of them, instead
    /// of reading and watching for each; yes by default. Both give the same answers. Servers before 3.6 cannot tell a client
    /// of all changes of a queue; there, each waiter reads and watches.
    pub views: bool,
}

/// TLS settings. The files are read again for each session, so that renewed certificates are used.
///
/// # Examples
/// ```
/// use lock_zk::{Config, Tls, ZooKeeper};
///
/// let mut config = Config::new(["10.0.0.1:2281"]);
/// config.tls = Some(Tls::new("/etc/zookeeper/no-such-ca.pem"));
/// assert!(ZooKeeper::new(config).unwrap_err().to_string().contains("no-such-ca.pem"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tls {
    /// PEM file with the authorities that sign the servers' certificates.
    pub ca: PathBuf,
    /// PEM files with this client's certificate and key, for servers that ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// TLS that trusts the authorities in a PEM file.
    ///
    /// # Examples
    /// ```
    /// let tls = lock_zk::Tls::new("/etc/zookeeper/ca.pem");
    /// assert!(tls.identity.is_none(), "the servers are checked, this client is not");
    /// ```
    pub fn new(ca: impl Into<PathBuf>) -> Self {
        Self { ca: ca.into(), identity: None }
    }

    /// Shows servers this client's certificate.
    ///
    /// # Examples
    /// ```
    /// let tls = lock_zk::Tls::new("/etc/zookeeper/ca.pem").with_identity("/etc/app/cert.pem", "/etc/app/key.pem");
    /// let (cert, key) = tls.identity.expect("given");
    /// assert!(cert.ends_with("cert.pem") && key.ends_with("key.pem"));
    /// ```
    #[must_use]
    pub fn with_identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((cert.into(), key.into()));
        self
    }
}

/// A user and a password. `Debug` hides the password.
///
/// # Examples
/// ```
/// use lock_zk::{Config, Credentials};
///
/// let config = Config::from_url("zk://app:s%40cret@10.0.0.1?auth=sasl")?;
/// assert_eq!(config.credentials, Some(Credentials::sasl("app", "s@cret")));
/// assert!(!format!("{config:?}").contains("s@cret"));
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
    /// How they are shown to the server.
    pub scheme: Scheme,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

/// How a client tells who it is.
///
/// # Examples
/// ```
/// use lock_zk::{Config, Scheme};
///
/// let scheme = |url| Config::from_url(url).map(|config| config.credentials.map(|who| who.scheme));
/// assert_eq!(scheme("zk://app:secret@10.0.0.1")?, Some(Scheme::Digest));
/// assert_eq!(scheme("zk://app:secret@10.0.0.1?auth=sasl")?, Some(Scheme::Sasl));
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scheme {
    /// ZooKeeper's `digest`. Servers accept any user and password; only ACLs tell right from wrong.
    #[default]
    Digest,
    /// SASL with DIGEST-MD5: the server checks the password. From 3.8.2 it must run with `zookeeper.fips-mode=false`.
    Sasl,
}

/// Who may do what with the nodes that a client creates.
///
/// # Examples
/// ```
/// use lock_zk::{Access, Config};
///
/// assert_eq!(Config::from_url("zk://10.0.0.1")?.acl, Access::Open);
/// assert_eq!(Config::from_url("zk://app:secret@10.0.0.1?acl=creator")?.acl, Access::Creator);
/// assert!(Config::from_url("zk://10.0.0.1?acl=creator").is_err(), "who is the creator?");
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Anybody may do anything.
    #[default]
    Open,
    /// Only who shows the same credentials may do anything, reading included.
    Creator,
}

impl Config {
    /// The defaults for these servers, each `host` or `host:port`.
    ///
    /// # Examples
    /// ```
    /// # use std::time::Duration;
    /// let config = lock_zk::Config::new(["10.0.0.1"]);
    /// assert_eq!((config.timeout, config.connect_timeout), (Duration::from_secs(10), Duration::from_secs(5)));
    /// assert!(config.chroot == "/locks" && config.views);
    /// ```
    pub fn new(hosts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            hosts: hosts.into_iter().map(Into::into).collect(),
            chroot: DEFAULT_CHROOT.into(),
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            tls: None,
            credentials: None,
            acl: Access::default(),
            views: true,
        }
    }

    /// Reads `zk://[user:password@]host[:port][,host…][/chroot][?parameter=value…]`, or `zks://` for TLS.
    ///
    /// Parameters: `timeout`, `connect_timeout`, `auth` (`digest` or `sasl`), `acl` (`open` or `creator`), `views` (`on` or
    /// `off`), and with `zks://` also `ca`, `cert` and `key`, the paths of PEM files.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the part that is wrong; never showing a password.
    ///
    /// # Examples
    /// ```
    /// let config = lock_zk::Config::from_url("zk://10.0.0.1,10.0.0.2:2182/team/locks?timeout=15s")?;
    /// assert_eq!(config.hosts, ["10.0.0.1:2181", "10.0.0.2:2182"]);
    /// assert_eq!(config.chroot, "/team/locks");
    /// assert!(lock_zk::Config::from_url("zk://10.0.0.1?tiemout=15s").is_err());
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn from_url(url: &str) -> Result<Self> {
        let mut url = BackendUrl::parse(url, &["zk", "zks"], DEFAULT_PORT)?;
        let mut config = Self::new(std::mem::take(&mut url.hosts));
        if !url.path.is_empty() {
            config.chroot = format!("/{}", url.path);
        }
        if let Some(timeout) = url.take_duration("timeout")? {
            config.timeout = timeout;
        }
        if let Some(timeout) = url.take_duration("connect_timeout")? {
            config.connect_timeout = timeout;
        }
        config.tls = tls(&mut url)?;
        config.credentials = credentials(&mut url)?;
        config.acl = match url.take("acl").as_deref() {
            None | Some("open") => Access::Open,
            Some("creator") => Access::Creator,
            Some(other) => return Err(invalid("acl", other, "open or creator")),
        };
        config.views = match url.take("views").as_deref() {
            None | Some("on") => true,
            Some("off") => false,
            Some(other) => return Err(invalid("views", other, "on or off")),
        };
        url.finish()?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what can be checked without a server, except the contents of files.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.hosts.is_empty() {
            return Err(invalid("hosts", "", "at least one host:port"));
        }
        for host in &self.hosts {
            if !is_host(host) {
                return Err(invalid("hosts", host, "host:port, a name or an address, such as zk1.example.com:2181"));
            }
        }
        let within = |setting, value: Duration, min: Duration, max: Duration| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(invalid(setting, &format!("{value:?}"), &format!("{min:?} to {max:?}")))
        };
        within("timeout", self.timeout, MIN_TIMEOUT, MAX_TIMEOUT)?;
        within("connect_timeout", self.connect_timeout, MIN_CONNECT_TIMEOUT, MAX_CONNECT_TIMEOUT)?;
        if !is_directory(&self.chroot) {
            let expected = "an absolute path such as /locks, without empty, . or .. parts, control characters or a \
                            final /, and outside of /zookeeper";
            return Err(invalid("chroot", &self.chroot, expected));
        }
        match &self.credentials {
            Some(credentials) if credentials.user.is_empty() || credentials.user.contains(':') => {
                Err(invalid("user", &credentials.user, "a user name without a colon"))
            }
            None if self.acl == Access::Creator => {
                Err(invalid("acl", "creator", "credentials (user:password@), to which access is restricted"))
            }
            _ => Ok(()),
        }
    }

    /// The servers as one list, for messages and for the client.
    pub(crate) fn endpoints(&self) -> String {
        self.hosts.join(",")
    }

    /// Who this client is, for messages.
    pub(crate) fn who(&self) -> String {
        self.credentials
            .as_ref()
            .map_or_else(|| "a client without credentials".into(), |c| format!("user {:?}", c.user))
    }
}

fn tls(url: &mut BackendUrl) -> Result<Option<Tls>> {
    let [ca, cert, key] = ["ca", "cert", "key"].map(|setting| url.take(setting));
    if url.scheme != "zks" {
        for (setting, value) in [("ca", ca), ("cert", cert), ("key", key)] {
            if let Some(value) = value {
                return Err(invalid(setting, &value, "it only with zks://, which turns TLS on"));
            }
        }
        return Ok(None);
    }
    let Some(ca) = ca else {
        return Err(invalid("ca", "", "the path of a PEM file with the authorities to trust, which zks:// needs"));
    };
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(Tls::new(ca).with_identity(cert, key))),
        (None, None) => Ok(Some(Tls::new(ca))),
        (Some(cert), None) => Err(invalid("cert", &cert, "key too, the path of the certificate's key")),
        (None, Some(key)) => Err(invalid("key", &key, "cert too, the path of the key's certificate")),
    }
}

fn credentials(url: &mut BackendUrl) -> Result<Option<Credentials>> {
    let scheme = url.take("auth");
    let Some(user) = url.user.take() else {
        return match scheme {
            Some(scheme) => Err(invalid("auth", &scheme, "credentials too, as in zk://user:password@host")),
            None => Ok(None),
        };
    };
    let scheme = match scheme.as_deref() {
        None | Some("digest") => Scheme::Digest,
        Some("sasl") => Scheme::Sasl,
        Some(other) => return Err(invalid("auth", other, "digest or sasl")),
    };
    let Some(password) = url.password.take() else {
        return Err(invalid("user", &user, "a password too, as in zk://user:password@host"));
    };
    Ok(Some(Credentials { user, password, scheme }))
}

impl Credentials {
    /// Credentials for ZooKeeper's `digest`.
    ///
    /// # Examples
    /// ```
    /// use lock_zk::{Access, Config, Credentials, ZooKeeper};
    ///
    /// let mut config = Config::new(["10.0.0.1"]);
    /// config.credentials = Some(Credentials::digest("app", "secret"));
    /// config.acl = Access::Creator; // without it, digest keeps nobody out
    /// ZooKeeper::new(config)?;
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn digest(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into(), scheme: Scheme::Digest }
    }

    /// Credentials for SASL DIGEST-MD5.
    ///
    /// # Examples
    /// ```
    /// use lock_zk::{Credentials, Scheme};
    ///
    /// assert_eq!(Credentials::sasl("app", "secret").scheme, Scheme::Sasl);
    /// ```
    pub fn sasl(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into(), scheme: Scheme::Sasl }
    }
}

pub(crate) fn invalid(setting: &str, value: &str, expected: &str) -> Error {
    Error::InvalidConfig { setting: setting.into(), value: value.into(), expected: expected.into() }
}

/// A host that the client crate parses as such; it would panic on one that TLS cannot name.
fn is_host(host: &str) -> bool {
    let name = |name: &str| {
        !name.is_empty()
            && name.len() <= 253
            && name.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            })
    };
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else { return false };
        let port_fits = rest.is_empty() || rest.strip_prefix(':').is_some_and(port);
        return address.parse::<std::net::Ipv6Addr>().is_ok() && port_fits;
    }
    match host.split_once(':') {
        Some((host, number)) => name(host) && port(number),
        None => name(host),
    }
}

fn is_directory(path: &str) -> bool {
    let refused = |c: char| c.is_control() || matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..);
    let own = path.strip_prefix("/zookeeper").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let parts = |path: &str| path.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains(refused));
    !own && path.strip_prefix('/').is_some_and(|rest| rest.is_empty() || parts(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_of_a_url_are_used() {
        let config = Config::from_url(
            "zks://app:p%40ss@h1,h2:7/team/locks?timeout=15s&connect_timeout=2s&auth=sasl&acl=creator&ca=/ca.pem&cert=/c&key=/k",
        )
        .unwrap();
        assert_eq!(config.hosts, ["h1:2181", "h2:7"]);
        assert_eq!(config.chroot, "/team/locks");
        assert_eq!((config.timeout, config.connect_timeout), (Duration::from_secs(15), Duration::from_secs(2)));
        assert_eq!(config.credentials, Some(Credentials::sasl("app", "p@ss")));
        assert_eq!(config.acl, Access::Creator);
        let tls = config.tls.as_ref().unwrap();
        assert_eq!(tls.ca.to_str(), Some("/ca.pem"));
        assert!(tls.identity.is_some());
        assert!(!format!("{config:?}").contains("p@ss"), "{config:?}");
    }

    #[test]
    fn a_bare_url_has_the_documented_defaults() {
        let config = Config::from_url("zk://localhost").unwrap();
        assert_eq!(config.chroot, "/locks");
        assert_eq!((config.timeout, config.connect_timeout), (Duration::from_secs(10), Duration::from_secs(5)));
        assert!(config.tls.is_none() && config.credentials.is_none());
        assert_eq!(Config::from_url("zk://[::1]").unwrap().hosts, ["[::1]:2181"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value_and_passwords_are_not() {
        for (url, want) in [
            ("zk://h?timeout=0s", "timeout is \"0ns\", expected 500ms to 3600s"),
            ("zk://h?timeout=2days", "timeout"),
            ("zk://h?timeout=5", "\"5\""),
            ("zk://h?connect_timeout=0s", "connect_timeout"),
            ("zk://h?tiemout=5s", "tiemout"),
            ("zk://h/a//b", "chroot is \"/a//b\""),
            ("zk://h/a/", "chroot"),
            ("zk://h/a/../b", "chroot"),
            ("zk://h/zookeeper/quota", "chroot"),
            ("zk://h/a%00", "chroot"),
            ("zk://h?ca=/ca.pem", "zks://"),
            ("zk://h?key=/k", "zks://"),
            ("zks://h", "ca is \"\""),
            ("zks://h?ca=/ca.pem&cert=/c", "key too"),
            ("zks://h?ca=/ca.pem&key=/k", "cert too"),
            ("zk://h?acl=creator", "credentials"),
            ("zk://u:secret@h?acl=everybody", "\"everybody\""),
            ("zk://u:secret@h?auth=kerberos", "digest or sasl"),
            ("zk://h?auth=sasl", "credentials"),
            ("zk://u@h", "password"),
            ("zk://:secret@h", "user"),
            ("zk://a b", "hosts is \"a b:2181\""),
            ("zk://-a", "hosts"),
            ("zk://a..b", "hosts"),
            ("zk://[x]", "hosts"),
            ("etcd://h", "zk://"),
        ] {
            let error = Config::from_url(url).unwrap_err().to_string();
            assert!(error.contains(want) && !error.contains("secret"), "{url}: {error}");
        }
        assert!(Config::new(Vec::<String>::new()).validate().is_err());
        assert!(Config { chroot: "/".into(), ..Config::new(["h"]) }.validate().is_ok());
        assert!(Config { chroot: "locks".into(), ..Config::new(["h"]) }.validate().is_err());
    }
}
