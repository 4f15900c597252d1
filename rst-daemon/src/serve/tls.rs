//! What the TCP listener speaks TLS with: rustls, as `tls_server_config` asks for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, SupportedCipherSuite, SupportedProtocolVersion};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use crate::serve::web::{Client, Tls, Versions};

/// Why there is no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file can't be read, or is not what it should be.
    #[error("can't read {what} from {}: {source}", path.display())]
    File {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// A file without a certificate.
    #[error("{} holds no certificate; write them as PEM", .0.display())]
    Empty(PathBuf),
    /// A suite that there is not.
    #[error("the cipher suite {name} is not supported; of TLS 1.2 there are {known}")]
    Suite {
        /// The name.
        name: String,
        /// All there are.
        known: String,
    },
    /// rustls refuses the key with this certificate.
    #[error("{} is no key for {}: {source}", key.display(), cert.display())]
    Key {
        /// The file of the key.
        key: PathBuf,
        /// That of the certificate.
        cert: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// An authority that can't be one.
    #[error("a certificate in {} is of no use as an authority: {source}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// rustls refuses the authorities of clients.
    #[error("can't verify clients by {}: {source}", path.display())]
    Clients {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: VerifierBuilderError,
    },
    /// rustls refuses versions and suites together.
    #[error("no TLS is left with these versions and cipher suites: {0}")]
    Nothing(#[source] rustls::Error),
}

/// Reads the files and makes what accepts connections.
pub(super) fn acceptor(tls: &Tls) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(provider(&tls.suites)?);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(tls.versions))
        .map_err(TlsError::Nothing)?;
    let verifier = |ca: &Path, required: bool| {
        let roots = Arc::new(authorities(ca)?);
        let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let builder = if required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        builder.build().map_err(|source| TlsError::Clients {
            path: ca.into(),
            source,
        })
    };
    let builder = match &tls.client {
        Client::Unasked => builder.with_no_client_auth(),
        Client::Verified(ca) => builder.with_client_cert_verifier(verifier(ca, false)?),
        Client::Required(ca) => builder.with_client_cert_verifier(verifier(ca, true)?),
    };
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|source| TlsError::File {
        what: "a private key",
        path: tls.key.clone(),
        source,
    })?;
    let mut config = builder
        .with_single_cert(certificates(&tls.cert)?, key)
        .map_err(|source| TlsError::Key {
            key: tls.key.clone(),
            cert: tls.cert.clone(),
            source,
        })?;
    config.ignore_client_order = tls.own_order;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// ring, with those suites of TLS 1.2 alone that are named; TLS 1.3 keeps its own.
fn provider(names: &[String]) -> Result<CryptoProvider, TlsError> {
    let mut provider = ring::default_provider();
    let old = |suite: &&SupportedCipherSuite| suite.tls13().is_none();
    let name = |suite: &SupportedCipherSuite| format!("{:?}", suite.suite());
    let known: Vec<String> = provider
        .cipher_suites
        .iter()
        .filter(old)
        .map(name)
        .collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        return Err(TlsError::Suite {
            name: unknown.clone(),
            known: known.join(", "),
        });
    }
    if !names.is_empty() {
        provider
            .cipher_suites
            .retain(|suite| suite.tls13().is_some() || names.contains(&name(suite)));
    }
    Ok(provider)
}

fn versions(wanted: Versions) -> &'static [&'static SupportedProtocolVersion] {
    static OLD: &[&SupportedProtocolVersion] = &[&TLS12];
    static NEW: &[&SupportedProtocolVersion] = &[&TLS13];
    static BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];
    match (wanted.tls12, wanted.tls13) {
        (true, false) => OLD,
        (false, _) => NEW,
        (true, true) => BOTH,
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsError::File {
            what: "certificates",
            path: path.into(),
            source,
        })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty(path.into()));
    }
    Ok(certificates)
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|source| TlsError::Authority {
                path: path.into(),
                source,
            })?;
    }
    Ok(roots)
}
