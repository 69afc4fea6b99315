//! The environment of a call (CNI specification 1.1.0, section 2, "Parameters").

use super::error::CniError;
use crate::nad::selection::interface_problem;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// The key of `CNI_ARGS` by which callers without annotations select networks.
pub(super) const NETWORKS_ARG: &str = "K8S_POD_NETWORKS";

const VARIABLES: [&str; 6] =
    ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

/// The parameters, checked.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) container_id: String,
    pub(super) netns: Option<PathBuf>,
    pub(super) interface: String,
    /// `CNI_ARGS` by key, without those that are empty.
    pub(super) args: BTreeMap<String, String>,
    /// `CNI_ARGS` as it came but for [`NETWORKS_ARG`], for delegates.
    pub(super) delegate_args: String,
    pub(super) path: Vec<PathBuf>,
}

impl Request {
    /// Reads the environment.
    pub(super) fn read(env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, CniError> {
        let mut values = BTreeMap::new();
        for name in VARIABLES {
            let text = env(name).unwrap_or_default().into_string();
            let text = text.map_err(|it| CniError::environment(format!("{name} is {it:?}, not UTF-8")))?;
            values.insert(name, text);
        }
        let value = |name: &str| values.get(name).cloned().unwrap_or_default();
        let command = match value("CNI_COMMAND").as_str() {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "STATUS" => Command::Status,
            "GC" => Command::Gc,
            "VERSION" => Command::Version,
            other => {
                let problem =
                    format!("CNI_COMMAND is \"{other}\", should be ADD, DEL, CHECK, STATUS, GC or VERSION");
                return Err(CniError::environment(problem));
            }
        };
        let needed: &[&str] = match command {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Command::Status | Command::Gc => &["CNI_PATH"],
            Command::Version => &[],
        };
        let missing: Vec<_> = needed.iter().filter(|name| value(name).is_empty()).copied().collect();
        if !missing.is_empty() {
            return Err(CniError::environment(format!("missing in the environment: {}", missing.join(", "))));
        }
        let request = Self {
            command,
            container_id: value("CNI_CONTAINERID"),
            netns: Some(value("CNI_NETNS")).filter(|it| !it.is_empty()).map(PathBuf::from),
            interface: value("CNI_IFNAME"),
            args: parse_args(&value("CNI_ARGS"))?,
            delegate_args: delegate_args(&value("CNI_ARGS")),
            path: std::env::split_paths(&value("CNI_PATH")).filter(|it| !it.as_os_str().is_empty()).collect(),
        };
        if needed.contains(&"CNI_CONTAINERID") {
            request.check_names()?;
        }
        Ok(request)
    }

    fn check_names(&self) -> Result<(), CniError> {
        let id = &self.container_id;
        // "Must start with an alphanumeric character, optionally followed by any combination of
        // alphanumeric characters, underscore, dot and hyphen."
        let sound = id.starts_with(|it: char| it.is_ascii_alphanumeric())
            && id.chars().all(|it| it.is_ascii_alphanumeric() || "_.-".contains(it));
        if !sound {
            let problem =
                format!("CNI_CONTAINERID is \"{id}\": letters, digits, _ . - only, a letter or digit first");
            return Err(CniError::environment(problem));
        }
        match interface_problem(&self.interface) {
            Some(problem) => Err(CniError::environment(format!("CNI_IFNAME: {problem}"))),
            None => Ok(()),
        }
    }
}

/// `KEY=VALUE;KEY=VALUE`.
fn parse_args(text: &str) -> Result<BTreeMap<String, String>, CniError> {
    let pairs = text.split(';').filter(|it| !it.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(CniError::environment(format!("CNI_ARGS: \"{pair}\" is not KEY=VALUE"))),
        })
        .filter(|pair| !matches!(pair, Ok((_, value)) if value.is_empty()))
        .collect()
}

/// The pod's selection is ours. `IgnoreUnknown` is put in where the runtime has not: the reference plugins
/// refuse all keys of Kubernetes without it, and Multus always sets it.
fn delegate_args(text: &str) -> String {
    let key = |pair: &str| pair.split_once('=').map(|(key, _)| key.to_owned()).unwrap_or_default();
    let mut pairs: Vec<_> = text.split(';').filter(|it| !it.is_empty() && key(it) != NETWORKS_ARG).collect();
    if !pairs.is_empty() && !pairs.iter().any(|it| key(it) == "IgnoreUnknown") {
        pairs.insert(0, "IgnoreUnknown=1");
    }
    pairs.join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_get_the_arguments_without_the_selection_and_are_told_to_ignore_what_they_do_not_know() {
        for (given, passed) in [
            ("", ""),
            ("K8S_POD_NETWORKS=a@b", ""),
            ("K8S_POD_NAME=x;K8S_POD_NETWORKS=a;IP=10.0.0.1;", "IgnoreUnknown=1;K8S_POD_NAME=x;IP=10.0.0.1"),
            ("IgnoreUnknown=true;K8S_POD_NAME=x", "IgnoreUnknown=true;K8S_POD_NAME=x"),
        ] {
            assert_eq!(delegate_args(given), passed);
        }
    }
}
