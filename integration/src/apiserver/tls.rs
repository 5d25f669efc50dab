//! Certificates that live as long as a test.

use std::{net::IpAddr, sync::Arc};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

/// What the clients authenticate with.
pub(super) const TOKEN: &str = "a-token-of-the-tests";

/// The name of HTTP/2 in TLS.
pub(super) const HTTP2: &[u8] = b"h2";

/// An authority of its own, and a server's certificate of it.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    authority: String,
    /// Of a server that speaks HTTP/1.1 only, and of one that speaks HTTP/2, too.
    servers: [Arc<ServerConfig>; 2],
}

impl Credentials {
    pub fn new(address: IpAddr) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let authority = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![address.to_string()])?.signed_by(&key, &issuer)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)?;
        let mut both = server.clone();
        both.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
        Ok(Self { authority, servers: [server, both].map(Arc::new) })
    }

    pub fn acceptor(&self, http2: bool) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.servers[usize::from(http2)]))
    }

    /// The certificate of the authority.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub fn kubeconfig(&self, server: &str) -> String {
        format!(
            r#"{{"apiVersion": "v1", "kind": "Config", "current-context": "tests",
"clusters": [{{"name": "tests", "cluster": {{"server": "{server}", "certificate-authority-data": "{}"}}}}],
"users": [{{"name": "tests", "user": {{"token": "{}"}}}}],
"contexts": [{{"name": "tests", "context": {{"cluster": "tests", "user": "tests"}}}}]}}
"#,
            base64(self.authority.as_bytes()),
            TOKEN
        )
    }
}

/// RFC 4648, for the one field that wants it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut bits = 0u32;
        for at in 0..3 {
            bits = bits << 8 | u32::from(chunk.get(at).copied().unwrap_or(0));
        }
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        assert_eq!(["", "f", "fo", "foo"].map(|it| base64(it.as_bytes())), ["", "Zg==", "Zm8=", "Zm9v"]);
    }
}
