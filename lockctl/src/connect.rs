//! From the options that name a store to a client of it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use lock_any::Settings;
use lock_core::{Client, Error};

use crate::cli::duration;
use crate::exit::{Exit, Failure, say, with_causes};

/// Where the password may be, other than in a file that `--password-file` names.
const PASSWORD: &str = "LOCKCTL_PASSWORD";

/// Variables that commands need not see.
pub(crate) const SECRETS: [&str; 2] = [PASSWORD, "LOCKCTL_PASSWORD_FILE"];

pub(crate) const BACKEND: &str = "LOCKCTL_BACKEND";

/// Which store, and how to get in. The same for all subcommands.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Store")]
pub(crate) struct Store {
    /// The store: file:///DIR, etcd://HOST:2379/NAMESPACE or zk://HOST:2181/PATH; etcds:// and zks:// for TLS; several
    /// hosts with commas. Without it: a directory of this user on this host
    #[arg(long, value_name = "URL", global = true, env = BACKEND, hide_env_values = true)]
    pub(crate) backend: Option<String>,

    /// The user; the password is in LOCKCTL_PASSWORD or in a file
    #[arg(long, value_name = "NAME", global = true, env = "LOCKCTL_USER")]
    user: Option<String>,

    /// A file with the user's password in its first line
    #[arg(long, value_name = "FILE", global = true, env = "LOCKCTL_PASSWORD_FILE")]
    password_file: Option<PathBuf>,

    /// A PEM file with the authorities that sign the servers' certificates
    #[arg(long, value_name = "FILE", global = true, env = "LOCKCTL_CA")]
    ca: Option<PathBuf>,

    /// A PEM file with this client's certificate
    #[arg(long, value_name = "FILE", global = true, env = "LOCKCTL_CERT")]
    cert: Option<PathBuf>,

    /// A PEM file with the certificate's key
    #[arg(long, value_name = "FILE", global = true, env = "LOCKCTL_KEY")]
    key: Option<PathBuf>,

    /// After this time others get the lock of a dead or unreachable host; the store's default if not given
    #[arg(long, value_name = "TIME", global = true, env = "LOCKCTL_TTL", value_parser = duration)]
    ttl: Option<Duration>,

    /// How long the store may take to answer at first; the store's default if not given
    #[arg(long, value_name = "TIME", global = true, env = "LOCKCTL_CONNECT_TIMEOUT", value_parser = duration)]
    connect_timeout: Option<Duration>,
}

impl Store {
    /// The URL; without `--backend`, of a directory of this user, which is made if need be.
    ///
    /// # Errors
    /// That there is no such directory and none can be made.
    pub(crate) fn url(&self) -> Result<String, Failure> {
        match &self.backend {
            Some(url) if url.is_empty() => Err(Failure::new(
                Exit::CONFIGURATION,
                "the backend is \"\", expected a URL, or --backend to be left out",
            )),
            Some(url) => Ok(url.clone()),
            None => {
                let dir = own_directory(env::var_os("XDG_STATE_HOME"), env::var_os("HOME"))?;
                make_private(&dir)?;
                let url = file_url(&dir)?;
                say(format_args!(
                    "no --backend, so this lock is among the processes of this user on this host ({url})"
                ));
                Ok(url)
            }
        }
    }

    /// Opens a session. People see the label in the queues.
    ///
    /// # Errors
    /// What is wrong with the options, the credentials or the way to the servers.
    pub(crate) async fn connect(&self, label: Option<&str>) -> Result<Client, Failure> {
        let url = self.url()?;
        self.warn_of_password(&url);
        self.connect_to(&url, label).await
    }

    /// Tells the user of a password that others can read.
    pub(crate) fn warn_of_password(&self, url: &str) {
        if self.is_in_argv(url) && has_password(url) {
            say(
                "the password in --backend can be read in the list of processes; put it into LOCKCTL_PASSWORD or a --password-file",
            );
        }
    }

    /// The same for a URL that was made of this one.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub(crate) async fn connect_to(&self, url: &str, label: Option<&str>) -> Result<Client, Failure> {
        let explained = |error: Error| match hint(url, self.user(url).is_some(), &error) {
            Some(hint) => Failure::from(error).with(hint),
            None => error.into(),
        };
        let store = lock_any::Store::new(url, &self.settings()?).map_err(explained)?;
        let mut builder = Client::builder(store);
        if let Some(label) = label {
            builder = builder.label(label);
        }
        builder.connect().await.map_err(explained)
    }

    /// The ttl that was asked for.
    pub(crate) fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// The user, if one was named, in the URL or beside it.
    pub(crate) fn user(&self, url: &str) -> Option<String> {
        self.user.clone().or_else(|| {
            let url = without_password(url);
            let authority = url.split_once("://")?.1.split(['/', '?']).next()?;
            authority.rsplit_once('@').map(|(user, _)| user.to_owned())
        })
    }

    fn settings(&self) -> Result<Settings, Failure> {
        let password = match &self.password_file {
            Some(file) => Some(first_line(file)?),
            None => match env::var(PASSWORD) {
                Ok(password) => Some(password),
                Err(env::VarError::NotPresent) => None,
                Err(env::VarError::NotUnicode(_)) => {
                    return Err(Failure::new(Exit::CONFIGURATION, format!("{PASSWORD} is not UTF-8")));
                }
            },
        };
        Ok(Settings {
            ttl: self.ttl,
            connect_timeout: self.connect_timeout,
            user: self.user.clone(),
            // Without a user, the password is for other stores than this one.
            password: password.filter(|_| self.user.is_some() || self.password_file.is_some()),
            ca: self.ca.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
        })
    }

    fn is_in_argv(&self, url: &str) -> bool {
        env::var_os(BACKEND).is_none_or(|variable| variable != *url)
    }
}

/// Which options help against an error.
fn hint(url: &str, has_user: bool, error: &Error) -> Option<&'static str> {
    const LOGIN: &str = "--user names the user, and LOCKCTL_PASSWORD or --password-file has the password";
    let text = with_causes(error);
    let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    match (error, scheme) {
        (Error::AccessDenied { .. }, "etcd" | "etcds" | "zk" | "zks") if !has_user => Some(LOGIN),
        (Error::InvalidConfig { setting, .. }, _) if setting == "auth" && !has_user => Some(LOGIN),
        (Error::InvalidConfig { setting, .. }, _) if ["ca", "cert", "key"].contains(&setting.as_str()) => {
            Some("--ca, --cert and --key name these files")
        }
        (Error::Unreachable { .. }, "etcds" | "zks") if says(&["UnknownIssuer", "BadSignature"]) => {
            Some("--ca has to name the authorities that signed the server's certificate")
        }
        // What the server says of it can get lost when it closes the connection at once.
        (Error::Unreachable { .. }, "etcds" | "zks")
            if says(&["received fatal alert", "connection closed", "connection reset", "broken pipe"]) =>
        {
            Some("the server may want a certificate of its clients, or not trust this one: see --cert and --key")
        }
        (Error::Unreachable { .. }, "etcd") if says(&["connection closed", "connection reset", "broken pipe"]) => {
            Some("if the servers speak TLS, the backend is etcds://")
        }
        (Error::Unreachable { .. }, "zk") if says(&["connection reset", "opens no session"]) => {
            Some("if the servers speak TLS, the backend is zks://")
        }
        _ => None,
    }
}

/// Whether the URL has a password in it.
pub(crate) fn has_password(url: &str) -> bool {
    without_password(url) != url
}

/// The URL with its user and without the password.
pub(crate) fn without_password(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
    let authority = &url[start..end];
    match authority.rsplit_once('@') {
        Some((login, hosts)) if login.contains(':') => {
            let user = login.split_once(':').map_or(login, |(user, _)| user);
            format!("{}{user}@{hosts}{}", &url[..start], &url[end..])
        }
        _ => url.to_owned(),
    }
}

/// The directory of this user for locks among the processes of this host.
fn own_directory(state: Option<OsString>, home: Option<OsString>) -> Result<PathBuf, Failure> {
    let given = |variable: Option<OsString>| variable.map(PathBuf::from).filter(|path| path.is_absolute());
    let state = given(state).or_else(|| given(home).map(|home| home.join(".local/state")));
    state.map(|state| state.join("lockctl")).ok_or_else(|| {
        let problem =
            "neither --backend nor an absolute XDG_STATE_HOME or HOME says where the locks are; pass --backend";
        Failure::new(Exit::CONFIGURATION, problem)
    })
}

fn make_private(dir: &Path) -> Result<(), Failure> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Failure::new(Exit::CONFIGURATION, format!("cannot make {}: {error}", dir.display())))
}

fn file_url(dir: &Path) -> Result<String, Failure> {
    let Some(path) = dir.to_str() else {
        let problem = format!("the path {} is not UTF-8; pass --backend", dir.display());
        return Err(Failure::new(Exit::CONFIGURATION, problem));
    };
    // What would end the path of a URL.
    let path = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    Ok(format!("file://{path}"))
}

fn first_line(file: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(file).map_err(|error: io::Error| {
        let problem = format!("cannot read the password file {}: {}", file.display(), with_causes(&error));
        Failure::new(Exit::CONFIGURATION, problem)
    })?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        let problem = format!("the password file {} has no password in its first line", file.display());
        return Err(Failure::new(Exit::CONFIGURATION, problem));
    }
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_taken_out_of_urls() {
        for (url, want) in [
            ("etcd://app:secret@h:1,h2/ns?ttl=5s", "etcd://app@h:1,h2/ns?ttl=5s"),
            ("zk://u:p@ss@h", "zk://u@h"),
            ("etcd://h:2379/a@b:c", "etcd://h:2379/a@b:c"),
            ("etcd://u@h:1", "etcd://u@h:1"),
            ("file:///a:b@c", "file:///a:b@c"),
            ("memory", "memory"),
        ] {
            assert_eq!(without_password(url), want);
            assert_eq!(has_password(url), url != want, "{url}");
        }
    }

    #[test]
    fn the_user_is_named_in_the_url_or_beside_it() {
        let user = |args: &[&str], url| {
            #[derive(clap::Parser)]
            struct Cli {
                #[command(flatten)]
                store: Store,
            }
            <Cli as clap::Parser>::parse_from([&["lockctl"], args].concat()).store.user(url)
        };
        assert_eq!(user(&[], "etcd://app:secret@h/ns").as_deref(), Some("app"));
        assert_eq!(user(&["--user", "other"], "etcd://h/ns@x").as_deref(), Some("other"));
        assert_eq!(user(&[], "etcd://h/ns@x"), None);
        assert_eq!(user(&[], "memory"), None);
    }

    #[test]
    fn the_directory_is_the_users_own() {
        let dir = |state: Option<&str>, home: Option<&str>| own_directory(state.map(Into::into), home.map(Into::into));
        assert_eq!(dir(Some("/s"), Some("/h")).unwrap(), Path::new("/s/lockctl"));
        assert_eq!(dir(Some("relative"), Some("/h")).unwrap(), Path::new("/h/.local/state/lockctl"));
        assert_eq!(dir(None, None).unwrap_err().exit(), Exit::CONFIGURATION);
        assert_eq!(file_url(Path::new("/a b/50%?#")).unwrap(), "file:///a b/50%25%3F%23");
    }
}
