//! The kubeconfig of the plugin, made from the service account of this pod. kubelet renews the token every
//! hour or so, by swapping a link: what is on the node must follow.

use super::place::{FolderLock, place_if_changed};
use super::{InstallError, Options, Source};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

/// Multus's folder in the folder of configurations. Runtimes do not look into folders.
pub(super) const FOLDER: &str = "multus.d";
const NAME: &str = "multus.kubeconfig";

/// The file on the node.
pub(super) struct Kubeconfig<'a> {
    options: &'a Options,
    path: PathBuf,
    placed: Option<String>,
}

impl<'a> Kubeconfig<'a> {
    pub(super) fn new(options: &'a Options) -> Self {
        Self { options, path: options.conf_dir.join(FOLDER).join(NAME), placed: None }
    }

    /// Whether the configuration can name it.
    pub(super) fn is_there(&self) -> bool {
        self.placed.is_some()
    }

    /// Makes it, or makes it anew where the service account has changed.
    pub(super) fn renew(&mut self, env: &dyn Fn(&str) -> Option<String>) -> Result<(), InstallError> {
        let account = &self.options.service_account;
        if !account.is_dir() && self.is_optional() {
            return Ok(());
        }
        let text = text(account, self.options.skip_tls_verify, env)?;
        if place_if_changed(&self.path, 0o600, text.as_bytes())? {
            tracing::info!(path = %self.path.display(), "kubeconfig written");
        }
        self.placed = Some(text);
        Ok(())
    }

    /// NADs may come from a folder, and a configuration that is copied may do without.
    fn is_optional(&self) -> bool {
        let has_nads = self.options.settings.further.contains_key("nadDir");
        has_nads || matches!(self.options.source, Source::File(_))
    }

    /// Removes it if it is still ours.
    pub(super) fn clean(&self, lock: &FolderLock) -> Result<(), InstallError> {
        let Some(placed) = &self.placed else { return Ok(()) };
        match fs::read(&self.path) {
            Ok(there) if there == placed.as_bytes() => lock.remove(&self.path),
            _ => Ok(()),
        }
    }
}

/// YAML; every value is in quotes, as JSON has them.
fn text(
    account: &Path,
    skip_tls_verify: bool,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<String, InstallError> {
    let server = server(env)?;
    let token = token(&account.join("token"))?;
    let tls = if skip_tls_verify {
        "insecure-skip-tls-verify: true".to_owned()
    } else {
        format!("certificate-authority-data: \"{}\"", authority(&account.join("ca.crt"))?)
    };
    Ok(format!(
        r#"# Of the plugin netplane; written by `netplane install`, and again when token or CA change.
apiVersion: v1
kind: Config
clusters:
- name: local
  cluster:
    server: "{server}"
    {tls}
users:
- name: netplane
  user:
    token: "{token}"
contexts:
- name: netplane
  context:
    cluster: local
    user: netplane
current-context: netplane
"#
    ))
}

/// Where the API server is, as kubelet tells every pod.
fn server(env: &dyn Fn(&str) -> Option<String>) -> Result<String, InstallError> {
    let value = |name: &str| env(name).filter(|it| !it.is_empty());
    let wrong = |name: &str, problem: String| InstallError::Account { subject: name.to_owned(), problem };
    let needed = |name: &str| {
        value(name).ok_or_else(|| wrong(name, "is not set: kubelet sets it in every pod".to_owned()))
    };
    let protocol = value("KUBERNETES_SERVICE_PROTOCOL").unwrap_or_else(|| "https".to_owned());
    if !["http", "https"].contains(&protocol.as_str()) {
        let problem = format!("is \"{protocol}\", should be http or https");
        return Err(wrong("KUBERNETES_SERVICE_PROTOCOL", problem));
    }
    let host = needed("KUBERNETES_SERVICE_HOST")?;
    let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(&host);
    let host = match bare.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) if bare.chars().all(|it| it.is_ascii_alphanumeric() || "-._".contains(it)) => bare.to_owned(),
        Err(_) => {
            let problem = format!("is \"{host}\", should be an address or a name");
            return Err(wrong("KUBERNETES_SERVICE_HOST", problem));
        }
    };
    let port = needed("KUBERNETES_SERVICE_PORT")?;
    if port.parse::<u16>().is_err() {
        return Err(wrong("KUBERNETES_SERVICE_PORT", format!("is \"{port}\", should be a port")));
    }
    Ok(format!("{protocol}://{host}:{port}"))
}

fn token(path: &Path) -> Result<String, InstallError> {
    let text = String::from_utf8(read(path)?).unwrap_or_default();
    let token = text.trim();
    // RFC 6750: what a bearer token consists of. The value itself is a secret, and not shown.
    let sound = |it: char| it.is_ascii_alphanumeric() || "-._~+/=".contains(it);
    if token.is_empty() || !token.chars().all(sound) {
        return Err(unsound(path, "is not a token"));
    }
    Ok(token.to_owned())
}

fn authority(path: &Path) -> Result<String, InstallError> {
    let pem = read(path)?;
    if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
        return Err(unsound(path, "has no PEM certificate"));
    }
    Ok(STANDARD.encode(pem))
}

fn read(path: &Path) -> Result<Vec<u8>, InstallError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(unsound(path, "is not there: does the pod have a service account (--service-account-dir)?"))
        }
        other => other.map_err(InstallError::file("read", path)),
    }
}

fn unsound(path: &Path, problem: &str) -> InstallError {
    InstallError::Account { subject: path.display().to_string(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn the_server_is_where_kubelet_says() {
        let of = |host, port| {
            server(&env(&[("KUBERNETES_SERVICE_HOST", host), ("KUBERNETES_SERVICE_PORT", port)]))
        };
        for (host, wanted) in [
            ("10.96.0.1", "https://10.96.0.1:443"),
            ("fd00::1", "https://[fd00::1]:443"),
            ("[fd00::1]", "https://[fd00::1]:443"),
            ("api.cluster.example", "https://api.cluster.example:443"),
        ] {
            assert_eq!(of(host, "443").expect("sound"), wanted);
        }
        for (host, port, told) in [
            ("", "443", "KUBERNETES_SERVICE_HOST"),
            ("a b", "443", "\"a b\""),
            ("10.96.0.1", "", "KUBERNETES_SERVICE_PORT"),
            ("10.96.0.1", "tcp://", "\"tcp://\""),
        ] {
            let error = of(host, port).expect_err("unsound").to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn what_the_account_lacks_is_named_and_its_token_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let env = env(&[("KUBERNETES_SERVICE_HOST", "h"), ("KUBERNETES_SERVICE_PORT", "1")]);
        let error = || text(folder.path(), false, &env).expect_err("unsound").to_string();
        assert!(error().contains("token") && error().contains("service account"));
        fs::write(folder.path().join("token"), "se\"cret").expect("a file");
        assert!(error().contains("is not a token") && !error().contains("cret"), "{}", error());
        fs::write(folder.path().join("token"), "sec.ret\n").expect("a file");
        assert!(error().contains("ca.crt"), "{}", error());
        fs::write(folder.path().join("ca.crt"), "").expect("a file");
        assert!(error().contains("no PEM certificate"), "{}", error());
        let unchecked = text(folder.path(), true, &env).expect("made");
        assert!(unchecked.contains("insecure-skip-tls-verify: true") && unchecked.contains("\"sec.ret\""));
        fs::write(folder.path().join("ca.crt"), "-----BEGIN CERTIFICATE-----").expect("a file");
        let checked: serde_json::Value =
            serde_saphyr::from_str(&text(folder.path(), false, &env).expect("made")).expect("YAML");
        let authority = checked["clusters"][0]["cluster"]["certificate-authority-data"].as_str();
        assert_eq!(authority, Some(STANDARD.encode("-----BEGIN CERTIFICATE-----").as_str()));
        assert_eq!(checked["users"][0]["user"]["token"], "sec.ret");
    }
}
