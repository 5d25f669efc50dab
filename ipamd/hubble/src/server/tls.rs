//! TLS for clients beyond the node. A client is let in by a certificate of the configured authority, and by nothing else.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
        server::{VerifierBuilderError, WebPkiClientVerifier},
    },
};

/// What the two sides have to agree on: gRPC is spoken over HTTP/2.
const HTTP2: &[u8] = b"h2";

/// The files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The daemon's certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities of clients.
    pub client_ca: PathBuf,
}

/// Why clients cannot be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be looked at.
    #[error("cannot look at {}: {source}", path.display())]
    Look {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file has not what it should.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// A file has nothing of what is needed.
    #[error("{} has no certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key cannot be used.
    #[error("the certificate {} and its key cannot be used: {source}", path.display())]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The authorities of clients cannot be used.
    #[error("the authorities of clients in {} cannot be used: {source}", path.display())]
    Authorities {
        /// Their file.
        path: PathBuf,
        /// Why not.
        source: VerifierBuilderError,
    },
}

/// Answers handshakes with what the files have. Who renews certificates only replaces them.
#[derive(Debug)]
pub struct Handshakes {
    files: TlsFiles,
    read: Mutex<(Vec<SystemTime>, Arc<ServerConfig>)>,
}

impl Handshakes {
    /// Reads the files.
    ///
    /// # Errors
    /// Why they cannot be used.
    pub fn new(files: TlsFiles) -> Result<Self, TlsError> {
        let read = Mutex::new((files.changed()?, Arc::new(files.read()?)));
        Ok(Self { files, read })
    }

    /// Answers the next one. Files that cannot be used leave what was read before in use.
    pub fn acceptor(&self) -> TlsAcceptor {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match self.files.changed() {
            Ok(changed) if changed != read.0 => match self.files.read() {
                Ok(config) => *read = (changed, Arc::new(config)),
                Err(error) => {
                    tracing::warn!(%error, "the files of hubble-tls have changed and cannot be used; those before stay in use");
                    // Told once for each change.
                    read.0 = changed;
                }
            },
            // They are being replaced, or looked at the next time.
            Ok(_) | Err(_) => {}
        }
        TlsAcceptor::from(Arc::clone(&read.1))
    }
}

impl TlsFiles {
    /// When each was changed last.
    fn changed(&self) -> Result<Vec<SystemTime>, TlsError> {
        let files = [&self.certificate, &self.key, &self.client_ca].into_iter();
        let changed = files.map(|path| {
            let at = fs::metadata(path).and_then(|metadata| metadata.modified());
            at.map_err(|source| TlsError::Look { path: path.clone(), source })
        });
        changed.collect()
    }

    fn read(&self) -> Result<ServerConfig, TlsError> {
        let certificates = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|source| TlsError::Read { path: self.key.clone(), source })?;
        let unusable = |source| TlsError::Unusable { path: self.certificate.clone(), source };
        let mut authorities = RootCertStore::empty();
        for certificate in self::certificates(&self.client_ca)? {
            authorities
                .add(certificate)
                .map_err(|source| TlsError::Unusable { path: self.client_ca.clone(), source })?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(&provider));
        let verifier = verifier
            .build()
            .map_err(|source| TlsError::Authorities { path: self.client_ca.clone(), source })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates, key)
            .map_err(unusable)?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(config)
    }
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Read { path: path.clone(), source };
    let read = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let read = read.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if read.is_empty() {
        return Err(TlsError::Empty { path: path.clone() });
    }
    Ok(read)
}
