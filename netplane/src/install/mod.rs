//! Puts netplane on a node in place of Multus's thin entrypoint: the binary, a kubeconfig, and the
//! configuration that wraps the default network's; keeps them current. Touches the folders it is given
//! and nothing else: no network, no kernel. What the container runtime reads is only ever renamed into place.

mod binary;
mod configuration;
mod generate;
mod kubeconfig;
mod master;
mod owner;
mod place;
mod watch;

pub use generate::Settings;

use binary::Binary;
use configuration::{Configuration, State};
use kubeconfig::Kubeconfig;
use owner::Owner;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use watch::{Events, Wake};

/// What is to be installed, and where. Folders are as this process sees them, `*_on_host` as the node does.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the runtime looks for plugins.
    pub bin_dir: PathBuf,
    /// Where the runtime looks for configurations.
    pub conf_dir: PathBuf,
    /// The program to install; this one, if none is named.
    pub binary: Option<PathBuf>,
    pub copy_binary: bool,
    /// The program is to be found as `multus`, too.
    pub alias: bool,
    pub source: Source,
    /// What pods mount at `/var/run/secrets/kubernetes.io/serviceaccount`.
    pub service_account: PathBuf,
    pub kubeconfig_on_host: PathBuf,
    pub skip_tls_verify: bool,
    /// The folder of configurations that NADs refer to; made if it can be.
    pub networks_dir: Option<PathBuf>,
    pub settings: Settings,
    /// Take back what can be taken back when the process is told to stop.
    pub cleanup: bool,
    /// Make the configuration once. The kubeconfig is renewed all the same.
    pub skip_watch: bool,
    /// End when all is in place.
    pub one_shot: bool,
    /// How long a change that the watch has missed may go unnoticed.
    pub interval: Duration,
}

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Generated from the default network's in `folder`: the first by name, or the one called `name`.
    Auto { folder: PathBuf, name: Option<String>, rename: bool },
    /// Copied.
    File(PathBuf),
}

/// Why nothing, or not everything, is installed.
#[derive(Debug, Error)]
pub enum InstallError {
    #[error("{} is {}, which is not there: is it mounted?", flag, path.display())]
    Missing { flag: &'static str, path: PathBuf },
    #[error("cannot {operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    /// The service account, or the environment that belongs to it.
    #[error("{subject}: {problem}")]
    Account { subject: String, problem: String },
    /// The configuration that is to be wrapped or copied.
    #[error("{}: {problem}", path.display())]
    Configuration { path: PathBuf, problem: String },
    #[error("cannot take signals")]
    Signals(#[source] io::Error),
}

impl InstallError {
    fn file<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + 'a {
        move |source| Self::File { operation, path: path.to_owned(), source }
    }
}

/// Installs, and keeps what is installed current until SIGTERM or SIGINT.
///
/// # Errors
/// A folder is missing, or what is needed cannot be read or written at the start. Later problems, and
/// configurations that are not sound (yet), are told in the log and tried again; with `one_shot` they are errors.
pub fn run(options: &Options) -> Result<(), InstallError> {
    check_folders(options)?;
    let mut events = Events::start()?;
    events.watch(&watched(options));
    let mut installer = Installer::start(options)?;
    loop {
        let state = installer.round()?;
        if options.one_shot && state == State::InPlace {
            return Ok(());
        }
        match events.wait(options.interval) {
            Wake::Look => events.watch(&watched(options)),
            Wake::Stop => break,
        }
    }
    if options.cleanup {
        return installer.clean();
    }
    tracing::info!("stopped; what is installed stays");
    Ok(())
}

fn check_folders(options: &Options) -> Result<(), InstallError> {
    let needed = |flag, path: &Path| match path.is_dir() {
        true => Ok(()),
        false => Err(InstallError::Missing { flag, path: path.to_owned() }),
    };
    needed("--cni-conf-dir", &options.conf_dir)?;
    if options.copy_binary {
        needed("--cni-bin-dir", &options.bin_dir)?;
    }
    if let Some(file) = options.binary.as_ref().filter(|it| options.copy_binary && !it.is_file()) {
        return Err(InstallError::Missing { flag: "--multus-bin-file", path: file.clone() });
    }
    match &options.source {
        Source::Auto { folder, .. } => needed("--multus-autoconfig-dir", folder),
        Source::File(path) if !path.is_file() => {
            Err(InstallError::Missing { flag: "--multus-conf-file", path: path.clone() })
        }
        Source::File(_) => Ok(()),
    }
}

fn watched(options: &Options) -> [&Path; 3] {
    let source = match &options.source {
        Source::Auto { folder, .. } => folder,
        Source::File(path) => path.parent().unwrap_or(Path::new(".")),
    };
    [&options.conf_dir, source, &options.service_account]
}

/// One process's installation.
struct Installer<'a> {
    options: &'a Options,
    owner: Owner,
    binary: Binary<'a>,
    kubeconfig: Kubeconfig<'a>,
    configuration: Configuration<'a>,
    first: bool,
    /// What was said last, so that it is said once.
    said: Option<String>,
}

impl<'a> Installer<'a> {
    fn start(options: &'a Options) -> Result<Self, InstallError> {
        let folder = options.conf_dir.join(kubeconfig::FOLDER);
        place::make_folder(&folder)?;
        // Its use is optional, and on a read-only root file system that does not mount it, it cannot be made.
        if let Some(path) = &options.networks_dir
            && let Err(error) = std::fs::create_dir_all(path)
        {
            tracing::debug!(%error, path = %path.display(), "not made");
        }
        let mut binary = Binary::new(options);
        binary.install()?;
        Ok(Self {
            options,
            owner: Owner::claim(folder)?,
            binary,
            kubeconfig: Kubeconfig::new(options),
            configuration: Configuration::new(options),
            first: true,
            said: None,
        })
    }

    /// Looks at everything, and puts right what is not.
    fn round(&mut self) -> Result<State, InstallError> {
        if !self.owner.is_in_charge()? {
            self.say("a netplane install that started later is in charge: waiting");
            return Ok(State::Waiting);
        }
        let strict = self.first || self.options.one_shot;
        let mut problem = None;
        // In this order, since each is of use only with those before it.
        let binary = self.binary.restore();
        let kubeconfig = self.kubeconfig.renew(&|name| std::env::var(name).ok());
        for result in [binary, kubeconfig] {
            match result {
                Err(error) if strict => return Err(error),
                Err(error) => problem = Some(chain(&error)),
                Ok(()) => {}
            }
        }
        let state = match self.configuration.renew(self.kubeconfig.is_there()) {
            Ok(state) => state,
            // It may be half written, or be put right by its owner.
            Err(error @ InstallError::Configuration { .. }) if !self.options.one_shot => {
                problem = Some(format!("{}; what is installed stays until this is put right", chain(&error)));
                State::Waiting
            }
            Err(error) if strict => return Err(error),
            Err(error) => {
                problem = Some(chain(&error));
                State::Waiting
            }
        };
        self.first = false;
        if state == State::NoDefaultNetwork && problem.is_none() {
            problem = Some("waiting for the configuration of a default network".to_owned());
        }
        match problem {
            Some(problem) => self.say(&problem),
            None if state == State::InPlace => self.said = None,
            None => {}
        }
        Ok(state)
    }

    fn say(&mut self, what: &str) {
        if self.said.as_deref() != Some(what) {
            tracing::warn!("{what}");
            self.said = Some(what.to_owned());
        }
    }

    /// Back to before, unless somebody else has taken over.
    fn clean(self) -> Result<(), InstallError> {
        let Some(lock) = self.owner.lock_if_mine()? else {
            tracing::info!("a netplane install that started later is in charge: nothing removed");
            return Ok(());
        };
        // Whatever comes first must not keep the rest.
        let configuration = self.configuration.clean();
        let kubeconfig = self.kubeconfig.clean(&lock);
        let binary = self.binary.clean();
        self.owner.leave(lock);
        configuration.and(kubeconfig).and(binary)?;
        tracing::info!("cleaned up");
        Ok(())
    }
}

/// An error with its causes, as one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |it| it.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
