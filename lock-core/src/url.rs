//! Backend URLs: `scheme://[user[:password]@]host[:port][,host…][/path][?key=value…]`, or `scheme:///path[?key=value…]`.
//!
//! A backend takes the parts it knows by name and ends with [`BackendUrl::finish`], which refuses the rest.
//!
//! # Examples
//! ```
//! use std::time::Duration;
//! use lock_core::{Result, url::BackendUrl};
//!
//! fn settings(url: &str) -> Result<(Vec<String>, Duration)> {
//!     let mut url = BackendUrl::parse(url, &["redis"], 6379)?;
//!     let ttl = url.take_duration("ttl")?.unwrap_or(Duration::from_secs(10));
//!     let hosts = std::mem::take(&mut url.hosts);
//!     url.finish()?;
//!     Ok((hosts, ttl))
//! }
//! assert_eq!(settings("redis://h?ttl=5s")?, (vec!["h:6379".into()], Duration::from_secs(5)));
//! assert!(settings("redis://h?timeout=5s").is_err());
//! # Ok::<(), lock_core::Error>(())
//! ```

use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};
use crate::name::abbreviated;

/// A parsed backend URL. `Debug` hides the password.
///
/// # Examples
/// ```
/// use lock_core::url::BackendUrl;
///
/// let mut url = BackendUrl::parse("etcd://app:s%40cret@h1,h2:4001/locks?ttl=15s", &["etcd"], 2379)?;
/// assert_eq!(url.password.as_deref(), Some("s@cret"));
/// assert_eq!(url.hosts, ["h1:2379", "h2:4001"]);
/// assert_eq!(url.take("ttl").as_deref(), Some("15s"));
/// url.finish()?;
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Clone)]
pub struct BackendUrl {
    /// What stands before `://`.
    pub scheme: String,
    /// The user, percent-decoded.
    pub user: Option<String>,
    /// The password, percent-decoded.
    pub password: Option<String>,
    /// `host` or `host:port`; at least one, but none in a URL of this host's files.
    pub hosts: Vec<String>,
    /// What stands after the first `/` behind the hosts, percent-decoded, without that slash.
    pub path: String,
    params: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl fmt::Debug for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendUrl")
            .field("scheme", &self.scheme)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("hosts", &self.hosts)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl BackendUrl {
    /// Parses a URL whose scheme is one of `schemes`. A host without a port gets `default_port`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the part that is wrong; never showing a password.
    ///
    /// # Examples
    /// ```
    /// # use lock_core::url::BackendUrl;
    /// let url = BackendUrl::parse("zk://[::1]/team/locks", &["zk", "zks"], 2181)?;
    /// assert_eq!((url.scheme.as_str(), url.hosts[0].as_str(), url.path.as_str()), ("zk", "[::1]:2181", "team/locks"));
    /// let error = BackendUrl::parse("zk://app:secret@h:port", &["zk"], 2181).unwrap_err().to_string();
    /// assert!(error.contains("h:port") && !error.contains("secret"));
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn parse(url: &str, schemes: &[&str], default_port: u16) -> Result<Self> {
        let shown = abbreviated(&without_password(url));
        let example = format!("{}://host:{default_port}", schemes.first().copied().unwrap_or("scheme"));
        let invalid =
            |expected: String| Error::InvalidConfig { setting: "backend URL".into(), value: shown.clone(), expected };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid(format!("a URL such as {example}")))?;
        if !schemes.contains(&scheme) {
            return Err(invalid(format!("a URL that starts with {}", one_of(schemes, "://"))));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let decode = |part: &str| decode(part).ok_or_else(|| invalid("percent-encoded UTF-8".into()));
        let (user, password) = match login.map(|l| l.split_once(':').map_or((l, None), |(u, p)| (u, Some(p)))) {
            Some((user, password)) => (Some(decode(user)?), password.map(decode).transpose()?),
            None => (None, None),
        };
        let hosts = hosts
            .split(',')
            .map(|host| {
                let port = match host.rsplit_once(':') {
                    Some((_, port)) if !port.ends_with(']') => Some(port),
                    _ => None,
                };
                let bare = host.strip_suffix(&port.map_or_else(String::new, |p| format!(":{p}"))).unwrap_or(host);
                if bare.is_empty() || port.is_some_and(|p| p.parse::<u16>().map_or(true, |p| p == 0)) {
                    return Err(invalid(format!("hosts as in {example} (port 1 to 65535), found {host:?}")));
                }
                Ok(if port.is_some() { host.to_owned() } else { format!("{host}:{default_port}") })
            })
            .collect::<Result<Vec<_>>>()?;
        let params = parse_params(query).map_err(&invalid)?;
        let path = decode(path)?;
        Ok(Self { scheme: scheme.to_owned(), user, password, hosts, path, params, known: Vec::new() })
    }

    /// Parses a URL of a file or directory of this host, `scheme:///path[?key=value…]`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the part that is wrong.
    ///
    /// # Examples
    /// ```
    /// # use lock_core::url::BackendUrl;
    /// let mut url = BackendUrl::parse_local("file:///var/lib/my%20app/locks?ttl=15s", "file")?;
    /// assert_eq!((url.path.as_str(), url.hosts.len()), ("var/lib/my app/locks", 0));
    /// assert_eq!(url.take("ttl").as_deref(), Some("15s"));
    /// assert!(BackendUrl::parse_local("file://var/lib", "file").is_err(), "two slashes: var would be a host");
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn parse_local(url: &str, scheme: &str) -> Result<Self> {
        let invalid = |expected: String| Error::InvalidConfig {
            setting: "backend URL".into(),
            value: abbreviated(&without_password(url)),
            expected,
        };
        let example = format!("a URL with three slashes, such as {scheme}:///absolute/path");
        let rest = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
        let (path, query) = rest.map(|rest| rest.split_once('?').unwrap_or((rest, ""))).unwrap_or_default();
        let path = path.strip_prefix('/').filter(|path| !path.is_empty()).ok_or_else(|| invalid(example))?;
        let path = decode(path).ok_or_else(|| invalid("percent-encoded UTF-8".into()))?;
        let params = parse_params(query).map_err(invalid)?;
        let (hosts, known) = (Vec::new(), Vec::new());
        Ok(Self { scheme: scheme.to_owned(), user: None, password: None, hosts, path, params, known })
    }

    /// Takes a parameter; `None` when the URL has none of that name.
    ///
    /// # Examples
    /// ```
    /// # use lock_core::url::BackendUrl;
    /// let mut url = BackendUrl::parse("etcds://h?ca=/etc/ca.pem", &["etcds"], 2379)?;
    /// assert_eq!(url.take("ca").as_deref(), Some("/etc/ca.pem"));
    /// assert_eq!(url.take("cert"), None);
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn take(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        let at = self.params.iter().position(|(k, _)| k == key)?;
        Some(self.params.remove(at).1)
    }

    /// Takes a parameter that is a duration such as `15s` or `1m 30s`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the parameter and its value.
    ///
    /// # Examples
    /// ```
    /// # use std::time::Duration;
    /// # use lock_core::url::BackendUrl;
    /// let mut url = BackendUrl::parse("etcd://h?ttl=1m%2030s&timeout=5", &["etcd"], 2379)?;
    /// assert_eq!(url.take_duration("ttl")?, Some(Duration::from_secs(90)));
    /// assert_eq!(url.take_duration("other")?, None);
    /// assert!(url.take_duration("timeout").is_err(), "5 what?");
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn take_duration(&mut self, key: &'static str) -> Result<Option<Duration>> {
        self.take(key).map(|value| parse_duration(key, &value)).transpose()
    }

    /// Refuses parameters that nobody took, and parameters given twice.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the first one and those that exist.
    ///
    /// # Examples
    /// ```
    /// # use lock_core::url::BackendUrl;
    /// let mut url = BackendUrl::parse("etcd://h?tll=15s", &["etcd"], 2379)?;
    /// let ttl = url.take("ttl").unwrap_or("10s".into());
    /// assert!(url.finish().is_err(), "a default in place of what was meant would go unnoticed");
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn finish(self) -> Result<()> {
        let Some((key, _)) = self.params.first() else { return Ok(()) };
        let expected = if self.known.contains(&key.as_str()) {
            "each parameter at most once".to_owned()
        } else {
            format!("one of {}", one_of(&self.known, ""))
        };
        Err(Error::InvalidConfig { setting: "URL parameter".into(), value: abbreviated(key), expected })
    }
}

/// Parses a duration such as `15s`, `500ms`, `1m 30s`.
///
/// # Errors
/// [`Error::InvalidConfig`] naming `setting` and the value.
///
/// # Examples
/// ```
/// # use std::time::Duration;
/// use lock_core::url::parse_duration;
///
/// assert_eq!(parse_duration("ttl", "1m 30s")?, Duration::from_secs(90));
/// let error = parse_duration("ttl", "15").unwrap_err();
/// assert!(error.to_string().starts_with(r#"ttl is "15", expected a duration with a unit"#));
/// # Ok::<(), lock_core::Error>(())
/// ```
pub fn parse_duration(setting: &str, value: &str) -> Result<Duration> {
    humantime::parse_duration(value).map_err(|_| Error::InvalidConfig {
        setting: setting.to_owned(),
        value: abbreviated(value),
        expected: "a duration with a unit, such as 15s, 500ms or 1m 30s".into(),
    })
}

fn decode(part: &str) -> Option<String> {
    Some(percent_decode_str(part).decode_utf8().ok()?.into_owned())
}

/// The parameters of a query, or what was expected instead.
fn parse_params(query: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("key=value in place of {pair:?}"))?;
        let decoded = decode(key).zip(decode(value));
        decoded.ok_or_else(|| "percent-encoded UTF-8".to_owned())
    });
    pairs.collect()
}

fn one_of(words: &[&str], suffix: &str) -> String {
    words.iter().map(|w| format!("{w}{suffix}")).collect::<Vec<_>>().join(", ")
}

/// `url` with its password, if any, replaced by `***`.
fn without_password(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
    match (url[start..end].rfind('@'), url[start..end].find(':')) {
        (Some(at), Some(colon)) if colon < at => format!("{}:***{}", &url[..start + colon], &url[start + at..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(url: &str) -> Result<BackendUrl> {
        BackendUrl::parse(url, &["etcd", "etcds"], 2379)
    }

    #[test]
    fn all_parts_are_found() {
        let mut url =
            parse("etcd://app:p%40ss@h1:1234,h2,[::1],[::1]:7/some%20space/x?ttl=15s&ca=/etc/ca.pem").unwrap();
        assert_eq!(url.user.as_deref(), Some("app"));
        assert_eq!(url.password.as_deref(), Some("p@ss"));
        assert_eq!(url.hosts, ["h1:1234", "h2:2379", "[::1]:2379", "[::1]:7"]);
        assert_eq!(url.path, "some space/x");
        assert_eq!(url.take_duration("ttl").unwrap(), Some(Duration::from_secs(15)));
        assert_eq!(url.take("ca").as_deref(), Some("/etc/ca.pem"));
        assert_eq!(url.take("ca"), None);
        url.finish().unwrap();
    }

    #[test]
    fn what_is_wrong_is_named_and_passwords_are_not() {
        for (url, want) in [
            ("localhost:2379", "etcd://host:2379"),
            ("redis://localhost", "etcd://, etcds://"),
            ("etcd://", "hosts"),
            ("etcd://h1,,h2", "hosts"),
            ("etcd://h1:port", "\"h1:port\""),
            ("etcd://h1:0", "\"h1:0\""),
            ("etcd://h1:70000", "\"h1:70000\""),
            ("etcd://u:secret@h1:x", "\"h1:x\""),
            ("etcd://h1?ttl", "key=value"),
            ("etcd://h1/%ff", "UTF-8"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(want) && !error.contains("secret"), "{url}: {error}");
        }
        assert!(!format!("{:?}", parse("etcd://u:secret@h").unwrap()).contains("secret"));
    }

    #[test]
    fn a_path_of_this_host_has_no_hosts() {
        let mut url = BackendUrl::parse_local("file:///var/my%20locks?ttl=15s", "file").unwrap();
        assert_eq!((url.path.as_str(), url.hosts.len()), ("var/my locks", 0));
        assert_eq!(url.take_duration("ttl").unwrap(), Some(Duration::from_secs(15)));
        url.finish().unwrap();
        for (url, want) in [
            ("file://", "file:///absolute/path"),
            ("file:///", "file:///absolute/path"),
            ("file://locks", "three slashes"),
            ("file://./locks", "three slashes"),
            ("files:///locks", "file:///"),
            ("/var/locks", "file:///"),
            ("file:///a?b", "key=value"),
            ("file:///%ff", "UTF-8"),
            ("file:///a?b=%ff", "UTF-8"),
        ] {
            let error = BackendUrl::parse_local(url, "file").unwrap_err().to_string();
            assert!(error.contains(want), "{url}: {error}");
        }
    }

    #[test]
    fn unknown_and_repeated_parameters_are_refused() {
        let mut url = parse("etcd://h?tll=15s").unwrap();
        url.take("ttl");
        let error = url.finish().unwrap_err().to_string();
        assert!(error.contains("tll") && error.contains("ttl"), "{error}");
        let mut url = parse("etcd://h?ttl=1s&ttl=2s").unwrap();
        url.take("ttl");
        assert!(url.finish().unwrap_err().to_string().contains("once"));
        let mut url = parse("etcd://h?ttl=15").unwrap();
        let error = url.take_duration("ttl").unwrap_err().to_string();
        assert!(error.contains("ttl") && error.contains("\"15\""), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_panics(url in "\\PC{0,80}", rest in "[a-z0-9:@,/?=&%\\[\\]é]{0,60}") {
            let _ = parse(&url);
            let _ = BackendUrl::parse_local(&url, "file");
            if let Ok(url) = parse(&format!("etcd://{rest}")) {
                prop_assert!(!url.hosts.is_empty());
                let _ = url.finish();
            }
        }
    }
}
