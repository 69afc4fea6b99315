//! A double of the Kubernetes API server: HTTP or HTTPS on a real socket, with resources, versions and
//! watches as the API conventions say. docs/apiserver-double.md says what it does and what it does not.
//!
//! It runs on a thread of its own, so that synchronous tests can use it, and ends when it is dropped. Started
//! inside [`super::Namespace::run`], it listens in that namespace.

mod api;
mod events;
mod faults;
mod objects;
mod patch;
mod resources;
mod route;
mod selector;
mod serve;
mod shared;
mod status;
mod store;
mod tls;
mod watch;

pub use faults::{Entry, Fault};
pub use objects::{nad, node, pod};

use anyhow::{Context, Result, anyhow};
use faults::Rule;
use resources::Resource;
use serde_json::Value;
use serve::{Command, Place};
use shared::{Order, Shared};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;
use tls::Authority;
use tokio::sync::mpsc::UnboundedSender;

/// The token of [`Options::default`].
pub const TOKEN: &str = "a-token-of-the-tests";

/// How the server is reached.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0: any that is free.
    pub address: SocketAddr,
    pub https: bool,
    /// Bearer tokens that are valid. Nothing: no authentication.
    pub tokens: Option<Vec<String>>,
}

impl Default for Options {
    /// HTTPS on a free port of 127.0.0.1, with [`TOKEN`].
    fn default() -> Self {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self { address, https: true, tokens: Some(vec![TOKEN.to_owned()]) }
    }
}

impl Options {
    /// HTTP without authentication, as behind `kubectl proxy`.
    pub fn plain() -> Self {
        Self { https: false, tokens: None, ..Self::default() }
    }
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    https: bool,
    folder: TempDir,
    commands: Option<UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// # Errors
    /// The address cannot be listened on.
    pub fn start(options: &Options) -> Result<Self> {
        let authority = options.https.then(|| Authority::new(options.address.ip())).transpose()?;
        let folder =
            tempfile::Builder::new().prefix("np-apiserver-").tempdir().context("temporary folder")?;
        let shared = Arc::new(Shared::new(options.tokens.clone().map(|it| it.into_iter().collect())));
        let (commands, orders) = tokio::sync::mpsc::unbounded_channel();
        let (started, start) = mpsc::channel();
        let (address, config, state) =
            (options.address, authority.as_ref().map(|it| it.config.clone()), shared.clone());
        let run = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            runtime.block_on(async move {
                match Place::take(address).and_then(|it| Ok((it.listen()?, it))) {
                    Ok((listener, place)) => {
                        let _ = started.send(Ok(place.address));
                        serve::run(place, listener, config, orders, state).await;
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            });
        };
        let thread = std::thread::Builder::new().name("apiserver".to_owned()).spawn(run).context("thread")?;
        let address = start.recv().context("the server's thread ended")?;
        let address = address.with_context(|| format!("listen on {}", options.address))?;
        let server = Self {
            shared,
            address,
            https: options.https,
            folder,
            commands: Some(commands),
            thread: Some(thread),
        };
        if let Some(authority) = &authority {
            server.write_ca(authority)?;
        }
        let token = options.tokens.as_ref().and_then(|it| it.first());
        server.write_kubeconfig(&server.kubeconfig(), token.map(String::as_str))?;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://127.0.0.1:34567`.
    pub fn url(&self) -> String {
        tls::url(self.address, self.https)
    }

    /// A kubeconfig with the first token. It names [`ApiServer::ca`] by its path.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// The CA's certificate in PEM.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// Writes another kubeconfig.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path, token: Option<&str>) -> Result<()> {
        let ca = self.ca();
        tls::write_kubeconfig(path, &self.url(), self.https.then_some(&ca), token)
    }

    /// Writes what a pod finds in `/var/run/secrets/kubernetes.io/serviceaccount`.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn write_service_account(&self, folder: &Path, token: &str, namespace: &str) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        std::fs::copy(self.ca(), folder.join("ca.crt")).context("copy the CA; has the server one?")?;
        std::fs::write(folder.join("token"), token).context("write the token")?;
        std::fs::write(folder.join("namespace"), namespace).context("write the namespace")
    }

    /// The bearer tokens that are valid from now on. Nothing: no authentication.
    pub fn set_tokens(&self, tokens: Option<&[&str]>) {
        self.shared.set_tokens(tokens.map(|it| it.iter().map(|it| (*it).to_owned()).collect()));
    }

    /// A new CA and a certificate by it; [`ApiServer::ca`] is written anew, open connections end.
    ///
    /// # Errors
    /// The server speaks HTTP, or has ended.
    pub fn rotate_ca(&self) -> Result<()> {
        anyhow::ensure!(self.https, "a server without TLS has no CA");
        let authority = Authority::new(self.address.ip())?;
        self.write_ca(&authority)?;
        self.command(|reply| Command::Tls(authority.config, reply))
    }

    /// Puts an object, status and all, over whatever has its name. Namespaces come by themselves; one without
    /// a namespace goes to `default`. A UID that it brings is kept; another UID makes it another object.
    ///
    /// # Errors
    /// `apiVersion` and `kind` name no resource that the server knows.
    pub fn put(&self, object: Value) -> Result<Value> {
        let resource =
            Resource::of(&object).with_context(|| format!("{} {}", object["apiVersion"], object["kind"]))?;
        Ok((*self.shared.change(|store| store.put(resource, object))).clone())
    }

    /// An object by the plural of its resource: `pods`, `network-attachment-definitions`.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let resource = resource(plural)?;
        self.shared.store().get(resource, namespace, name).ok().map(|it| (*it).clone())
    }

    /// All objects of a resource.
    pub fn all(&self, plural: &str) -> Vec<Value> {
        let store = self.shared.store();
        let objects = resource(plural).and_then(|it| store.snapshot(it, store.version()));
        objects.unwrap_or_default().into_values().map(|it| (*it).clone()).collect()
    }

    /// Deletes an object. False: there is none.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> bool {
        let delete = |it| self.shared.change(|store| store.delete(it, namespace, name, None)).is_ok();
        resource(plural).is_some_and(delete)
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.shared.store().version()
    }

    /// A write elsewhere in the cluster: the version goes up and nobody sees anything.
    pub fn bump(&self) -> u64 {
        self.shared.change(store::Store::bump)
    }

    /// Watches and lists that go on from a version older than now are told 410 `Expired` from now on.
    pub fn compact(&self) {
        self.shared.change(store::Store::compact);
    }

    /// The next `times` requests of a verb (empty: any) whose path contains this text go wrong.
    pub fn fail(&self, times: usize, verb: &str, path: &str, fault: Fault) {
        self.shared.add_rule(Rule { verb: verb.to_owned(), path: path.to_owned(), left: times, fault });
    }

    /// Forgets the faults that have not happened yet.
    pub fn clear_faults(&self) {
        self.shared.clear_rules();
    }

    /// Every answer comes so much later.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.set_delay(delay);
    }

    /// Refuses connections and closes those that are open. The port stays this server's.
    ///
    /// # Errors
    /// The server has ended.
    pub fn down(&self) -> Result<()> {
        self.command(Command::Down)
    }

    /// Listens again, on the same port.
    ///
    /// # Errors
    /// The server has ended.
    pub fn up(&self) -> Result<()> {
        self.command(Command::Up)
    }

    /// How many watches of a resource are open.
    pub fn watches(&self, plural: &str) -> usize {
        self.shared.watches(plural)
    }

    /// How often watches that allow bookmarks get one; a minute at first.
    pub fn set_bookmark_every(&self, every: Duration) {
        self.shared.set_bookmark_every(every);
    }

    /// Sends a bookmark to the open watches that allow it.
    pub fn bookmark(&self) {
        self.shared.order(Order::Bookmark);
    }

    /// Ends the open watches properly, as their time-out does.
    pub fn end_watches(&self) {
        self.shared.order(Order::End);
    }

    /// Sends the open watches a 410 `Expired` and ends them.
    pub fn expire_watches(&self) {
        self.shared.order(Order::Expire);
    }

    /// Ends the connections of the open watches in the middle of an event.
    pub fn cut_watches(&self) {
        self.shared.order(Order::Cut);
    }

    /// All requests so far, in order of arrival.
    pub fn journal(&self) -> Vec<Entry> {
        self.shared.journal()
    }

    /// As [`ApiServer::journal`], and begins anew.
    pub fn take_journal(&self) -> Vec<Entry> {
        self.shared.take_journal()
    }

    /// How many requests of a verb (empty: any) whose path contains this text came in.
    pub fn count(&self, verb: &str, path: &str) -> usize {
        let is = |it: &&Entry| (verb.is_empty() || it.verb == verb) && it.path.contains(path);
        self.journal().iter().filter(is).count()
    }

    fn write_ca(&self, authority: &Authority) -> Result<()> {
        std::fs::write(self.ca(), &authority.ca_pem).context("write the CA")
    }

    fn command(&self, command: impl FnOnce(mpsc::Sender<std::io::Result<()>>) -> Command) -> Result<()> {
        let (reply, replied) = mpsc::channel();
        let commands = self.commands.as_ref().ok_or_else(|| anyhow!("the server has ended"))?;
        commands.send(command(reply)).map_err(|_| anyhow!("the server has ended"))?;
        replied.recv().context("the server has ended")?.with_context(|| format!("at {}", self.address))
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The resource under which objects of this plural are kept.
fn resource(plural: &str) -> Option<&'static Resource> {
    resources::RESOURCES.iter().find(|it| it.plural == plural)
}
