//! What is given beside the URL, and how it gets into it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lock_core::memory::Memory;
use lock_core::{Error, Result};

use crate::invalid;

/// Settings that a program takes from somewhere else than the URL, so that they need not be put together: secrets above all.
/// What is `None` is left to the URL, or to the backend. `Debug` hides the password.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// use std::time::Duration;
/// use lock_any::{Settings, Store};
/// use lock_core::Client;
///
/// let ttl = Duration::from_secs(30); // from a command line, a file, …
/// let settings = Settings { ttl: Some(ttl), ..Settings::default() };
/// let client = Client::connect(Store::new("memory", &settings)?).await?;
/// assert_eq!(client.ttl().await?, ttl);
/// # Ok(()) }
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// How long the store keeps the locks of a client that shows no sign of life.
    pub ttl: Option<Duration>,
    /// How long opening a session may take.
    pub connect_timeout: Option<Duration>,
    /// Who the client is. With a password.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// A PEM file with the authorities that sign the servers' certificates.
    pub ca: Option<PathBuf>,
    /// A PEM file with this client's certificate. With a key.
    pub cert: Option<PathBuf>,
    /// A PEM file with the certificate's key.
    pub key: Option<PathBuf>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("ttl", &self.ttl)
            .field("connect_timeout", &self.connect_timeout)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("ca", &self.ca)
            .field("cert", &self.cert)
            .field("key", &self.key)
            .finish()
    }
}

impl Settings {
    /// A store in memory with these settings.
    pub(crate) fn memory(&self) -> Result<Memory> {
        self.only_ttl("memory")?;
        self.ttl.map_or_else(|| Ok(Memory::new()), |ttl| Memory::new().with_ttl(ttl))
    }

    /// Refuses all but the ttl, for a store without servers.
    pub(crate) fn only_ttl(&self, store: &str) -> Result<()> {
        let expected = format!("to be left out: {store} has no servers to connect to");
        let without_ttl = Self { ttl: None, ..self.clone() };
        match without_ttl.parameters("ttl")?.first() {
            Some((key, value)) => Err(invalid(key, value, &expected)),
            None if self.user.is_some() || self.password.is_some() => {
                Err(invalid("user", self.user.as_deref().unwrap_or_default(), &expected))
            }
            None => Ok(()),
        }
    }

    /// `url` with these settings in it. The backend calls its ttl `ttl_key`.
    #[cfg_attr(not(any(target_os = "linux", feature = "etcd", feature = "zk")), cfg(test))]
    pub(crate) fn in_url(&self, url: &str, ttl_key: &'static str) -> Result<String> {
        let mut url = self.with_login(url)?;
        for (key, value) in self.parameters(ttl_key)? {
            let query = url.split_once('?').map(|(_, query)| query);
            if query.is_some_and(|query| query.split('&').any(|pair| pair.split('=').next() == Some(key))) {
                return Err(invalid(key, &value, "to be given once: it is a parameter of the backend's URL already"));
            }
            let separator = if query.is_some() { '&' } else { '?' };
            url = format!("{url}{separator}{key}={}", encoded(&value));
        }
        Ok(url)
    }

    #[cfg_attr(not(any(target_os = "linux", feature = "etcd", feature = "zk")), cfg(test))]
    fn with_login(&self, url: &str) -> Result<String> {
        let (user, password) = match (&self.user, &self.password) {
            (None, None) => return Ok(url.to_owned()),
            (Some(user), Some(password)) => (user, password),
            (Some(user), None) => return Err(invalid("user", user, "a password beside it")),
            (None, Some(_)) => return Err(invalid("user", "", "a user, whose password is given")),
        };
        let Some((scheme, rest)) = url.split_once("://") else { return Ok(url.to_owned()) };
        let authority = rest.find(['/', '?']).map_or(rest, |end| &rest[..end]);
        if authority.contains('@') {
            return Err(invalid("user", user, "to be given once: the backend's URL names a user already"));
        }
        Ok(format!("{scheme}://{}:{}@{rest}", encoded(user), encoded(password)))
    }

    fn parameters(&self, ttl_key: &'static str) -> Result<Vec<(&'static str, String)>> {
        let shown = |duration| humantime::format_duration(duration).to_string().replace(' ', "");
        let mut parameters = Vec::new();
        let durations = [(ttl_key, self.ttl), ("connect_timeout", self.connect_timeout)];
        parameters.extend(durations.into_iter().filter_map(|(key, value)| Some((key, shown(value?)))));
        for (key, path) in [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)] {
            if let Some(path) = path {
                parameters.push((key, text(key, path)?));
            }
        }
        Ok(parameters)
    }
}

fn text(setting: &str, path: &Path) -> Result<String, Error> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| invalid(setting, &path.to_string_lossy(), "a path in UTF-8"))
}

#[cfg_attr(not(any(target_os = "linux", feature = "etcd", feature = "zk")), cfg(test))]
fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use lock_core::url::BackendUrl;

    use super::*;

    fn all() -> Settings {
        Settings {
            ttl: Some(Duration::from_millis(90_500)),
            connect_timeout: Some(Duration::from_secs(2)),
            user: Some("app:1".into()),
            password: Some("p@s/s?&".into()),
            ca: Some("/etc/my ca.pem".into()),
            cert: Some("/c".into()),
            key: Some("/k".into()),
        }
    }

    #[test]
    fn a_backend_finds_in_the_url_what_was_given_apart() {
        for url in ["etcd://h", "etcd://h/ns", "etcd://h/ns?a=b", "etcd://h?attl=x"] {
            let url = all().in_url(url, "ttl").unwrap();
            let mut parsed = BackendUrl::parse(&url, &["etcd"], 1).unwrap();
            assert_eq!((parsed.user.as_deref(), parsed.password.as_deref()), (Some("app:1"), Some("p@s/s?&")));
            assert_eq!(parsed.take_duration("ttl").unwrap(), all().ttl);
            assert_eq!(parsed.take_duration("connect_timeout").unwrap(), all().connect_timeout);
            let files = ["ca", "cert", "key"].map(|key| parsed.take(key).unwrap());
            assert_eq!(files, ["/etc/my ca.pem", "/c", "/k"]);
        }
        let untouched = "etcd://u:p@h/ns?a=b";
        assert_eq!(Settings::default().in_url(untouched, "ttl").unwrap(), untouched);
    }

    #[test]
    fn nothing_is_given_twice_or_by_half() {
        for (settings, url, want) in [
            (all(), "etcd://u:secret@h", "user is \"app:1\", expected to be given once"),
            (Settings { user: None, password: None, ..all() }, "etcd://h?x=y&ttl=5s", "ttl is \"1m30s500ms\""),
            (Settings { password: None, ..all() }, "etcd://h", "user is \"app:1\", expected a password"),
            (Settings { user: None, ..all() }, "etcd://h", "expected a user"),
        ] {
            let error = settings.in_url(url, "ttl").unwrap_err().to_string();
            assert!(error.contains(want) && !error.contains("secret") && !error.contains("p@s"), "{url}: {error}");
        }
    }

    #[test]
    fn a_store_without_servers_takes_a_ttl_and_nothing_else() {
        Settings { ttl: Some(Duration::from_secs(1)), ..Settings::default() }.memory().unwrap();
        for settings in [
            Settings { ca: Some("/ca".into()), ..Settings::default() },
            Settings { user: Some("app".into()), password: Some("secret".into()), ..Settings::default() },
            Settings { connect_timeout: Some(Duration::from_secs(1)), ..Settings::default() },
        ] {
            let error = settings.memory().unwrap_err().to_string();
            assert!(error.contains("memory has no servers") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        assert!(!format!("{:?}", all()).contains("p@s"));
    }
}
