//! An authority of the tests, and what it signs.

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// An authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    der: CertificateDer<'static>,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Identity {
    certificate: String,
    der: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Ok(Self { issuer: Issuer::new(params, key), certificate: pem, der })
    }

    /// Signs a new key, for a name.
    pub fn sign(&self, name: &str) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate: certificate.pem(), der: certificate.der().clone(), key })
    }

    /// Puts its certificate into a file.
    pub fn write(&self, file: PathBuf) -> Result<PathBuf> {
        fs::write(&file, &self.certificate)?;
        Ok(file)
    }

    /// What a client has that trusts it; with an identity, which it shows.
    pub fn client(&self, identity: Option<&Identity>) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone())?;
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(Identity { der, key, .. }) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
                config.with_client_auth_cert(vec![der.clone()], key)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

impl Identity {
    /// Puts certificate and key into files.
    pub fn write(&self, certificate: PathBuf, key: PathBuf) -> Result<(PathBuf, PathBuf)> {
        fs::write(&key, self.key.serialize_pem())?;
        fs::write(&certificate, &self.certificate)?;
        Ok((certificate, key))
    }
}
