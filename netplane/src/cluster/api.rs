//! The API server by a kubeconfig: a client of its own for each call of the plugin, with a deadline and a
//! bounded number of tries for every request.

use super::error::{ClusterError, chain, is_transient_status};
use kube::config::{AuthInfo, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Until TCP and TLS stand.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// For one try, the connection included.
const TRY_DEADLINE: Duration = Duration::from_secs(5);

/// For all tries of one request: kubelet gives the whole sandbox four minutes.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

const MOST_TRIES: u32 = 5;

/// Before the second try; twice as long before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The API server, with the kubeconfig's credentials as they are now.
pub(super) struct Api {
    pub(super) client: Client,
    server: String,
    kubeconfig: PathBuf,
    credentials: String,
    /// How often a request is tried, at most.
    pub(super) tries: u32,
}

impl Api {
    /// Reads the kubeconfig and the files that it names. Nothing is connected yet. Needs a runtime around it.
    pub(super) fn open(path: &Path) -> Result<Self, ClusterError> {
        let failed = |problem: String| ClusterError::Kubeconfig { path: path.to_owned(), problem };
        let kubeconfig = Kubeconfig::read_from(path).map_err(|it| match it {
            // What the parser says quotes the lines around, and they hold tokens and keys.
            KubeconfigError::Parse(error) => {
                let place =
                    error.location().map(|it| format!(" at line {} column {}", it.line(), it.column()));
                failed(format!("is not a kubeconfig in YAML or JSON{}", place.unwrap_or_default()))
            }
            other => failed(chain(&other)),
        })?;
        Self::by(kubeconfig, path)
    }

    /// As [`Api::open`], by what a kubeconfig says; `path` is what errors name.
    fn by(kubeconfig: Kubeconfig, path: &Path) -> Result<Self, ClusterError> {
        super::names::from_hosts_and_dns();
        let failed = |problem: String| ClusterError::Kubeconfig { path: path.to_owned(), problem };
        let names_proxy = |it: &Kubeconfig| {
            it.clusters.iter().filter_map(|it| it.cluster.as_ref()).any(|it| it.proxy_url.is_some())
        };
        let names_proxy = names_proxy(&kubeconfig);
        let mut config = Config::try_from(kubeconfig).map_err(|it| failed(chain(&it)))?;
        if !names_proxy {
            // HTTPS_PROXY in the runtime's environment is for its images, not for the cluster's own API.
            config.proxy_url = None;
        }
        config.connect_timeout = Some(CONNECT_DEADLINE);
        // 15 tries without an end in sight are not for a pod that waits; see `call`.
        config.default_retry = false;
        let credentials = credentials(&mut config.auth_info, path).map_err(failed)?;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = Client::try_from(config).map_err(|it| failed(chain(&it)))?;
        Ok(Self { client, server, kubeconfig: path.to_owned(), credentials, tries: MOST_TRIES })
    }

    /// By the service account of the pod that this runs in, at the address that its environment names.
    pub(super) fn open_in_cluster(account: &Path) -> Result<Self, ClusterError> {
        let failed = |problem: String| ClusterError::Kubeconfig { path: account.to_owned(), problem };
        let variable = |name: &str| {
            let problem = |it| failed(format!("in-cluster: {name}: {it}; is this a pod of the cluster?"));
            std::env::var(name).map_err(problem)
        };
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let kubeconfig = serde_json::json!({
            "current-context": "in-cluster",
            "clusters": [{ "name": "in-cluster", "cluster": {
                "server": format!("https://{host}:{port}"), "certificate-authority": account.join("ca.crt"),
            } }],
            "users": [{ "name": "in-cluster", "user": { "tokenFile": account.join("token") } }],
            "contexts": [{ "name": "in-cluster", "context": { "cluster": "in-cluster", "user": "in-cluster" } }],
        });
        let kubeconfig = serde_json::from_value(kubeconfig).map_err(|it| failed(it.to_string()))?;
        Self::by(kubeconfig, account)
    }

    pub(super) fn server(&self) -> String {
        self.server.clone()
    }

    /// One request, tried again where that can help. `what` names it in errors: verb, kind and name.
    pub(super) async fn call<T, F>(&self, what: &str, request: impl Fn() -> F) -> Result<T, ClusterError>
    where
        F: Future<Output = Result<T, kube::Error>>,
    {
        let deadline = Instant::now() + REQUEST_DEADLINE;
        let mut pause = FIRST_PAUSE;
        for tries in 1.. {
            let left = deadline.saturating_duration_since(Instant::now());
            let (error, asked) = match timeout(left.min(TRY_DEADLINE), request()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => {
                    let asked = retry_after(&error);
                    (self.error(what, error, tries), asked)
                }
                Err(_) => (self.unreachable(what, "it takes too long".to_owned(), tries), None),
            };
            let pause_now = asked.unwrap_or_else(|| jittered(pause));
            if !error.is_transient() || tries == self.tries || Instant::now() + pause_now >= deadline {
                return Err(error);
            }
            tracing::debug!(%error, ?pause_now, "trying again");
            tokio::time::sleep(pause_now).await;
            pause *= 2;
        }
        unreachable!("the loop ends with the tries")
    }

    fn unreachable(&self, what: &str, problem: String, tries: u32) -> ClusterError {
        let (server, kubeconfig) = (self.server(), self.kubeconfig.clone());
        ClusterError::Unreachable { server, what: what.to_owned(), problem, tries, kubeconfig }
    }

    fn error(&self, what: &str, error: kube::Error, tries: u32) -> ClusterError {
        let (server, what_owned) = (self.server(), what.to_owned());
        match error {
            kube::Error::Api(status) => match status.code {
                401 => {
                    let credentials = self.credentials.clone();
                    ClusterError::Unauthorized { server, what: what_owned, credentials }
                }
                403 => ClusterError::Forbidden { server, what: what_owned, message: status.message },
                code => ClusterError::Refused { server, what: what_owned, code, message: status.message },
            },
            kube::Error::Service(cause) if is_distrust(&*cause) => {
                let path = self.kubeconfig.clone();
                let problem = format!("certificate authority: {what}: {server}: {}", chain(&*cause));
                ClusterError::Kubeconfig { path, problem }
            }
            kube::Error::Service(cause) => self.unreachable(what, chain(&*cause), tries),
            kube::Error::HyperError(cause) => self.unreachable(what, chain(&cause), tries),
            kube::Error::ReadEvents(cause) => self.unreachable(what, chain(&cause), tries),
            kube::Error::Auth(cause) => {
                ClusterError::Kubeconfig { path: self.kubeconfig.clone(), problem: chain(&cause) }
            }
            other => ClusterError::Answer { server, what: what_owned, problem: chain(&other) },
        }
    }
}

/// Settles which credentials are used, and says how to name them. As with client-go a `tokenFile` counts
/// before a `token`; it is read here, since kube sends it with the line end that people's editors leave.
fn credentials(auth: &mut AuthInfo, path: &Path) -> Result<String, String> {
    if let Some(file) = auth.token_file.take() {
        match std::fs::read_to_string(&file) {
            Ok(token) => {
                let token = token.trim();
                check_token(token, &file)?;
                auth.token = Some(token.to_owned().into());
                return Ok(format!("the token in {file}"));
            }
            Err(error) if auth.token.is_some() => {
                tracing::warn!(%error, file, "tokenFile cannot be read; using the token in the kubeconfig");
            }
            Err(error) => return Err(format!("tokenFile {file}: {error}")),
        }
    }
    let path = path.display();
    // The only way to look into it without the crate that hides it.
    if let Ok(serde_json::Value::Object(auth)) = serde_json::to_value(&*auth)
        && let Some(token) = auth.get("token").and_then(serde_json::Value::as_str)
    {
        check_token(token, &path.to_string())?;
    }
    Ok(if auth.token.is_some() {
        format!("the token in {path}")
    } else if auth.client_certificate.is_some() || auth.client_certificate_data.is_some() {
        format!("the client certificate of {path}")
    } else {
        format!("what {path} has as credentials")
    })
}

/// What cannot stand in a header would be a panic inside kube.
fn check_token(token: &str, place: &str) -> Result<(), String> {
    if token.bytes().all(|it| it.is_ascii_graphic()) {
        return Ok(());
    }
    Err(format!("the token in {place} has blanks, line ends or other characters that no token has"))
}

/// Whether TLS was refused: no second try mends a certificate. tokio-rustls says so with this kind, in one
/// `io::Error` inside another, which `source` steps over.
fn is_distrust(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            if error.kind() == std::io::ErrorKind::InvalidData {
                return true;
            }
            next = error.get_ref().map(|it| -> &(dyn std::error::Error + 'static) { it });
        }
    }
    false
}

/// `Retry-After` as the API server repeats it in the body, up to a few seconds.
fn retry_after(error: &kube::Error) -> Option<Duration> {
    let kube::Error::Api(status) = error else { return None };
    let seconds = status.details.as_ref()?.retry_after_seconds;
    (is_transient_status(status.code) && seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// From a half to the whole of it: pods that start together must not come back together.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 1000;
    pause.mul_f64(0.5 + random as f64 / 2000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<Api, ClusterError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, text).expect("a file");
        std::fs::write(folder.path().join("token"), "secret\n").expect("a file");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        Api::open(&path)
    }

    fn kubeconfig(user: &str) -> String {
        format!(
            r#"{{"apiVersion":"v1","kind":"Config","current-context":"c",
                "clusters":[{{"name":"c","cluster":{{"server":"https://127.0.0.1:6443"}}}}],
                "users":[{{"name":"u","user":{user}}}],
                "contexts":[{{"name":"c","context":{{"cluster":"c","user":"u"}}}}]}}"#
        )
    }

    #[test]
    fn credentials_are_named_by_where_they_are() {
        for (user, part) in [
            (r#"{"tokenFile":"token"}"#, "/token"),
            (r#"{"tokenFile":"token","token":"other"}"#, "/token"),
            (r#"{"tokenFile":"absent","token":"other"}"#, "/kubeconfig"),
            (r#"{"token":"other"}"#, "/kubeconfig"),
        ] {
            let api = open(&kubeconfig(user)).expect(user);
            assert!(api.credentials.starts_with("the token in") && api.credentials.ends_with(part), "{user}");
            assert_eq!(api.server, "https://127.0.0.1:6443");
        }
    }

    #[test]
    fn what_is_wrong_with_a_kubeconfig_is_named() {
        for (text, part) in [
            (kubeconfig(r#"{"tokenFile":"absent"}"#), "tokenFile"),
            (kubeconfig("{}").replace("\"current-context\":\"c\"", "\"current-context\":\"d\""), "d"),
            ("{".to_owned(), "kubeconfig"),
        ] {
            let Err(error) = open(&text) else { panic!("{text}") };
            let error = error.to_string();
            assert!(error.starts_with("kubeconfig /") && error.contains(part), "{error}");
        }
        let Err(error) = Api::open(Path::new("/nonexistent/kubeconfig")) else { panic!("no such file") };
        assert!(error.to_string().contains("kubeconfig /nonexistent/kubeconfig: "), "{error}");
    }

    #[test]
    fn errors_quote_no_secrets() {
        for text in [
            "users:\n- name: u\n  user:\n    token: s3cr3t\n   bad: indent\n".to_owned(),
            "users:\n- name: u\n  user: {token: s3cr3t, username: [s3cr3t]}\n".to_owned(),
            kubeconfig(r#"{"token":["s3cr3t"]}"#),
            kubeconfig(r#"{"client-certificate-data":"s3cr3t","client-key-data":"s3cr3t"}"#),
            kubeconfig(r#"{"token":"s3cr3t\nX: y"}"#),
        ] {
            let Err(error) = open(&text) else { panic!("{text}") };
            let error = error.to_string();
            assert!(!error.contains("s3cr3t"), "{error}");
        }
    }

    #[test]
    fn pauses_differ_and_are_bounded() {
        let pauses: Vec<_> = (0..32).map(|_| jittered(Duration::from_millis(100))).collect();
        assert!(pauses.iter().all(|it| (50..=100).contains(&it.as_millis())), "{pauses:?}");
        assert!(pauses.iter().any(|it| it != &pauses[0]), "{pauses:?}");
    }
}
