//! A network namespace of the lab: what runs in it and how it is set up.

use super::command::{ETHTOOL, IP, NSENTER, Tool};
use super::undo::{Undo, UndoStack};
use anyhow::{Context, Result};
use netplane::netlink::netns::Netns;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A network namespace: one that the lab makes and removes, or a container runtime's.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    netns: Netns,
}

impl Namespace {
    /// Makes `/run/netns/NAME` with its loopback interface up and reverse-path filters off: a lab's
    /// replies may come in where no request went out.
    pub(crate) fn create(name: String, undo: &UndoStack) -> Result<Self> {
        undo.make(|| Ok((IP.run(["netns", "add", &name])?, Undo::Namespace(name.clone()))))?;
        let netns = Netns::open(format!("/run/netns/{name}"))?;
        let namespace = Self { name, netns };
        namespace.ip("link set lo up")?;
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
        }
        Ok(namespace)
    }

    /// Somebody else's, which is not removed with the lab.
    ///
    /// # Errors
    /// There is no network namespace at `path`.
    pub fn open(name: &str, path: &Path) -> Result<Self> {
        Ok(Self { name: name.to_owned(), netns: Netns::open(path)? })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> PathBuf {
        self.netns.path().to_owned()
    }

    /// Runs `ip` commands in it, one a line, as one batch.
    ///
    /// # Errors
    /// The first command that fails, with its line number in what `ip` says.
    pub fn ip(&self, script: &str) -> Result<()> {
        let mut command = self.command(IP.program);
        command.args(["-batch", "-"]);
        IP.output(&mut command, script).with_context(|| format!("in {}: {script}", self.name))?;
        Ok(())
    }

    /// What `ip -json` prints for this query, as a list.
    ///
    /// # Errors
    /// `ip` fails, or prints something else than a list.
    pub fn ip_json(&self, query: &[&str]) -> Result<Vec<serde_json::Value>> {
        let mut command = self.command(IP.program);
        command.args(["-json", "-details"]).args(query);
        let text = IP.output(&mut command, "")?;
        // `ip` prints nothing at all for some empty lists.
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        serde_json::from_str(&text).with_context(|| format!("output of ip -json {}", query.join(" ")))
    }

    /// Names of its interfaces.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        let links = self.ip_json(&["link", "show"])?;
        Ok(links.iter().filter_map(|link| link["ifname"].as_str().map(str::to_owned)).collect())
    }

    /// Sets features of an interface: `gro on`.
    ///
    /// # Errors
    /// `ethtool` is missing or fails.
    pub fn ethtool(&self, interface: &str, features: &[&str]) -> Result<()> {
        let mut command = self.command(ETHTOOL.program);
        command.args(["-K", interface]).args(features);
        if !ETHTOOL.is_installed() {
            return Err(ETHTOOL.explain(std::io::ErrorKind::NotFound.into()));
        }
        NSENTER.output(&mut command, "")?;
        Ok(())
    }

    /// Writes a setting below /proc/sys, which shows the network settings of the thread that looks.
    ///
    /// # Errors
    /// There is no such setting.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{key}");
        self.run(|| std::fs::write(&path, value))?.with_context(|| format!("write {value} to {path}"))
    }

    /// A command that runs in it. By `nsenter`, not `ip netns exec`, which would mount another /sys over
    /// the one with the BPF file system.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = NSENTER.command();
        command.arg(format!("--net={}", self.netns.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a tool in it to its end, and returns what it printed.
    ///
    /// # Errors
    /// It is not installed, or it failed.
    pub fn tool(&self, tool: Tool, arguments: &[&str]) -> Result<String> {
        if !tool.is_installed() {
            return Err(tool.explain(std::io::ErrorKind::NotFound.into()));
        }
        let mut command = self.command(tool.program);
        NSENTER.output(command.args(arguments), "")
    }

    /// Runs `f` on a thread inside it. Sockets, devices, threads and processes that `f` starts stay in it.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns.run(f).with_context(|| format!("in namespace {}", self.name))
    }
}
