//! The server's own certificate authority, and the files that clients are configured by.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A certificate authority and what it has signed for the server.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    pub(super) ca_pem: String,
    pub(super) config: Arc<ServerConfig>,
}

impl Authority {
    /// A new one, for a server at `address`, `localhost` and the name of the cluster's own service.
    pub(super) fn new(address: IpAddr) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new()).context("parameters of the CA")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().context("key of the CA")?)
            .context("certificate of the CA")?;
        let names = [address.to_string(), "localhost".to_owned(), "kubernetes.default.svc".to_owned()];
        let mut params = CertificateParams::new(names).context("parameters of the server")?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        let key = KeyPair::generate().context("key of the server")?;
        let certificate = params.signed_by(&key, &ca).context("certificate of the server")?;
        let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(|it| anyhow::anyhow!("{it}"))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("versions of TLS")?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .context("certificate and key")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { ca_pem: ca.pem(), config: Arc::new(config) })
    }
}

/// Writes a kubeconfig with one cluster, one user and one context. `authority`: a file with the CA.
pub(super) fn write_kubeconfig(
    path: &Path,
    url: &str,
    authority: Option<&Path>,
    token: Option<&str>,
) -> Result<()> {
    let mut cluster = json!({ "server": url });
    if let Some(authority) = authority {
        cluster["certificate-authority"] = json!(authority);
    }
    let user = token.map_or_else(|| json!({}), |token| json!({ "token": token }));
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "double",
        "clusters": [{ "name": "double", "cluster": cluster }],
        "users": [{ "name": "double", "user": user }],
        "contexts": [{ "name": "double", "context": { "cluster": "double", "user": "double" } }],
    });
    // JSON is YAML.
    std::fs::write(path, format!("{config:#}\n")).with_context(|| format!("write {}", path.display()))
}

pub(super) fn url(address: SocketAddr, https: bool) -> String {
    format!("{}://{address}", if https { "https" } else { "http" })
}
