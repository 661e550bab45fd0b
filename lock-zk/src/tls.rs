//! Certificates and keys, for the client and for finding out why a handshake fails.

use std::path::Path;
use std::sync::Arc;

use lock_core::Result;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use zookeeper_client::TlsOptions;

use crate::config::{Tls, invalid};

/// The contents of PEM files.
pub(crate) struct Pem {
    ca: String,
    identity: Option<(String, String)>,
    files: Tls,
}

impl Pem {
    pub(crate) fn read(files: &Tls) -> Result<Self> {
        let identity = match &files.identity {
            Some((cert, key)) => Some((read("cert", cert)?, read("key", key)?)),
            None => None,
        };
        Ok(Self { ca: read("ca", &files.ca)?, identity, files: files.clone() })
    }

    /// Options for the ZooKeeper client.
    pub(crate) fn options(&self) -> Result<TlsOptions> {
        // The client panics when the program contains two providers and none was chosen.
        if CryptoProvider::get_default().is_none() {
            let _ = aws_lc_rs::default_provider().install_default();
        }
        let options = TlsOptions::new().with_pem_ca(&self.ca);
        let options = options.map_err(|_| no_pem("ca", &self.files.ca, "a PEM file with at least one certificate"))?;
        match (&self.identity, &self.files.identity) {
            (Some((cert, key)), Some((cert_file, key_file))) => {
                if CertificateDer::pem_slice_iter(cert.as_bytes()).filter_map(Result::ok).next().is_none() {
                    return Err(no_pem("cert", cert_file, "a PEM file with at least one certificate"));
                }
                let options = options.with_pem_identity(cert, key);
                options.map_err(|_| no_pem("key", key_file, "a PEM file with the certificate's private key"))
            }
            _ => Ok(options),
        }
    }

    /// The same for a handshake of our own.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(self.ca.as_bytes()).filter_map(Result::ok));
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let Some((cert, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).filter_map(Result::ok).collect();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| rustls::Error::General(format!("the key cannot be used: {error}")))?;
        builder.with_client_auth_cert(chain, key)
    }
}

fn read(setting: &str, path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| no_pem(setting, path, &format!("the path of a PEM file that can be read ({error})")))
}

fn no_pem(setting: &str, path: &Path, expected: &str) -> lock_core::Error {
    invalid(setting, &path.to_string_lossy(), expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let missing = Tls::new("/nowhere/ca.pem");
        let error = Pem::read(&missing).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("ca is \"/nowhere/ca.pem\"") && error.contains("PEM"), "{error}");
        let empty = Pem { ca: String::new(), identity: None, files: missing };
        let error = empty.options().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("/nowhere/ca.pem") && error.contains("certificate"), "{error}");
    }
}
