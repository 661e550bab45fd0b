//! Certificates for servers and clients of a test, made by `openssl`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Error, Result};

/// Whether servers speak TLS with their clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Plain TCP.
    #[default]
    Off,
    /// The server shows a certificate, the client needs none.
    Server,
    /// Both sides show a certificate of the same CA.
    Mutual,
}

/// A test CA with a server and a client certificate, and a second CA that nobody trusts; the files live as long as this value.
#[derive(Debug)]
pub struct Certs {
    dir: TempDir,
}

impl Certs {
    /// Makes P-256 keys and certificates for `localhost`, `127.0.0.1` and `::1`; takes about 0.1 seconds.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] when there is no `openssl`, [`Error::Command`] when it fails.
    pub async fn generate() -> Result<Self> {
        let made = tokio::task::spawn_blocking(|| {
            let dir = tempfile::Builder::new()
                .prefix("lock-certs-")
                .tempdir()
                .map_err(Error::io("make a directory for certificates"))?;
            let certs = Self { dir };
            certs.authority("ca", "test-ca")?;
            certs.leaf("server", "localhost", "serverAuth,clientAuth")?;
            certs.leaf("client", "root", "clientAuth")?;
            certs.authority("other", "other-ca")?;
            Ok(certs)
        });
        made.await.unwrap_or_else(|error| Err(Error::io("make certificates")(std::io::Error::other(error))))
    }

    /// The trusted CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The server's certificate, which is good for a client as well.
    pub fn server_cert(&self) -> PathBuf {
        self.path("server.pem")
    }

    /// The server's key, PKCS#8.
    pub fn server_key(&self) -> PathBuf {
        self.path("server.key")
    }

    /// The server's key, certificate and CA in one file, as ZooKeeper wants them.
    pub fn server_bundle(&self) -> PathBuf {
        self.path("server-bundle.pem")
    }

    /// A client's certificate; its common name is `root`, which etcd takes for a user's name.
    pub fn client_cert(&self) -> PathBuf {
        self.path("client.pem")
    }

    /// The client's key, PKCS#8.
    pub fn client_key(&self) -> PathBuf {
        self.path("client.key")
    }

    /// The certificate of a CA that signed nothing here.
    pub fn other_ca(&self) -> PathBuf {
        self.path("other.pem")
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn authority(&self, name: &str, subject: &str) -> Result<()> {
        self.key(name)?;
        let args = format!(
            "req -x509 -new -key {name}.key -sha256 -days 3650 -subj /CN={subject} -out {name}.pem \
             -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign"
        );
        openssl(self.dir.path(), &args)
    }

    fn leaf(&self, name: &str, subject: &str, usage: &str) -> Result<()> {
        self.key(name)?;
        let extensions = format!(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\n\
             subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\n"
        );
        let file = |action: &str| Error::io(format!("{action} the {name} certificate's files"));
        fs::write(self.path("extensions"), extensions).map_err(file("write"))?;
        openssl(self.dir.path(), &format!("req -new -key {name}.key -subj /CN={subject} -out {name}.csr"))?;
        openssl(
            self.dir.path(),
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -sha256 -days 3650 -extfile extensions -out {name}.pem"
            ),
        )?;
        let mut bundle = Vec::new();
        for part in [&format!("{name}.key"), &format!("{name}.pem"), "ca.pem"] {
            bundle.extend(fs::read(self.path(part)).map_err(file("read"))?);
        }
        fs::write(self.path(&format!("{name}-bundle.pem")), bundle).map_err(file("write"))
    }

    fn key(&self, name: &str) -> Result<()> {
        openssl(self.dir.path(), &format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key"))
    }
}

fn openssl(dir: &Path, args: &str) -> Result<()> {
    let output = Command::new("openssl").args(args.split(' ').filter(|arg| !arg.is_empty())).current_dir(dir).output();
    let output = output.map_err(|source| Error::Spawn { program: "openssl".into(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Command { command: format!("openssl {args}"), status: output.status, stderr })
}
