//! `netplane install`: the flags of Multus's thin entrypoint, and a few of its own.

use crate::install::{self, Options, Settings, Source};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a DaemonSet mounts the node's folders. The plugin sees them without.
const MOUNT: &str = "/host";
/// The plugin's own default for `confDir`.
const DEFAULT_NETWORKS_DIR: &str = "/etc/cni/multus/net.d";
/// What install itself puts into the configuration.
const GENERATED_KEYS: [&str; 7] =
    ["cniVersion", "name", "type", "capabilities", "delegates", "kubeconfig", "plugins"];

#[derive(Args)]
#[command(args_override_self = true)]
pub(super) struct InstallArguments {
    /// Where the runtime looks for plugins.
    #[arg(long, default_value = "/host/opt/cni/bin")]
    cni_bin_dir: PathBuf,
    /// Where the runtime looks for configurations.
    #[arg(long, default_value = "/host/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// What the default network's cniVersion must be; needed where it has none.
    #[arg(long, default_value = "")]
    cni_version: String,
    /// Take --cni-version whatever the default network's is.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    force_cni_version: bool,
    /// "auto", or a configuration to be copied.
    #[arg(long, default_value = "auto")]
    multus_conf_file: String,
    /// Where "auto" looks for the default network's configuration [default: --cni-conf-dir].
    #[arg(long, default_value = "")]
    multus_autoconfig_dir: String,
    /// The default network's configuration in --multus-autoconfig-dir [default: the first by name].
    #[arg(long, default_value = "")]
    multus_master_cni_file_name: String,
    /// The program to install [default: this one].
    #[arg(long, default_value = "")]
    multus_bin_file: String,
    /// Configurations that NADs without `config` refer to.
    #[arg(long, default_value = "/host/etc/cni/multus/net.d")]
    multus_cni_conf_dir: String,
    /// Leave --cni-bin-dir alone.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    skip_multus_binary_copy: bool,
    /// Where the plugin finds the kubeconfig on the node.
    #[arg(long, default_value = "/etc/cni/net.d/multus.d/multus.kubeconfig")]
    multus_kubeconfig_file_host: PathBuf,
    /// Do not check the API server's certificate.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    skip_tls_verify: bool,
    /// Pods use NADs of their own namespace only.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    namespace_isolation: bool,
    /// But those of these namespaces, separated by commas.
    #[arg(long, default_value = "")]
    global_namespaces: String,
    /// Whether the plugin logs to stderr.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = boolean)]
    multus_log_to_stderr: bool,
    /// The plugin's log level: panic, error, verbose or debug.
    #[arg(long, default_value = "", value_parser = log_level)]
    multus_log_level: String,
    /// The plugin's log file on the node.
    #[arg(long, default_value = "")]
    multus_log_file: String,
    /// Name the configuration as the default network's.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    override_network_name: bool,
    /// On SIGTERM or SIGINT, remove configuration and kubeconfig, and put back what was renamed.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    cleanup_config_on_exit: bool,
    /// Rename the default network's configuration to *.old.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    rename_conf_file: bool,
    /// The plugin waits for this file on the node.
    #[arg(long, default_value = "")]
    readiness_indicator_file: String,
    /// A further folder where the plugin looks for plugins, on the node.
    #[arg(long, default_value = "")]
    additional_bin_dir: String,
    /// Make the configuration once. The kubeconfig is renewed all the same.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    skip_config_watch: bool,
    /// How often to look where a folder's watch has missed a change.
    #[arg(long, default_value = "1s", value_parser = duration)]
    multus_config_watch_timer: Duration,
    /// No effect: changes are always watched.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    force_config_watch: bool,
    /// No effect: runtimes notice the configuration by themselves.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean)]
    restart_crio: bool,
    /// Also install the program as `multus`, for configurations of that type.
    #[arg(long)]
    multus_alias: bool,
    /// Token and CA of the service account.
    #[arg(long, default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    service_account_dir: PathBuf,
    /// A further key of the configuration, as KEY=JSON; what is not JSON is a string. May be repeated.
    #[arg(long = "set", value_name = "KEY=JSON", value_parser = setting)]
    settings: Vec<(String, Value)>,
    /// End when all is in place.
    #[arg(long)]
    one_shot: bool,
    /// error, warn, info, debug, trace, or a filter as in RUST_LOG; of this command itself.
    #[arg(long, default_value = "info")]
    log_level: String,
}

pub(super) fn run(arguments: InstallArguments) -> Result<()> {
    super::log_to_stderr(&arguments.log_level);
    for (given, flag, why) in [
        (arguments.force_config_watch, "--force-config-watch", "changes are always watched"),
        (arguments.restart_crio, "--restart-crio", "CRI-O notices the configuration by itself"),
    ] {
        if given {
            tracing::info!("{flag} has no effect: {why}");
        }
    }
    install::run(&options(arguments)?).context("not installed")
}

fn options(arguments: InstallArguments) -> Result<Options> {
    let given = |text: String| Some(text).filter(|it| !it.is_empty());
    let auto_dir = given(arguments.multus_autoconfig_dir).map(PathBuf::from);
    let source = match arguments.multus_conf_file.as_str() {
        "auto" => Source::Auto {
            folder: auto_dir.unwrap_or_else(|| arguments.cni_conf_dir.clone()),
            name: given(arguments.multus_master_cni_file_name),
            rename: arguments.rename_conf_file,
        },
        file => Source::File(file.into()),
    };
    let cni_version = given(arguments.cni_version);
    anyhow::ensure!(
        !arguments.force_cni_version || cni_version.is_some(),
        "--force-cni-version needs --cni-version"
    );
    let settings = Settings {
        cni_version,
        force_cni_version: arguments.force_cni_version,
        override_network_name: arguments.override_network_name,
        namespace_isolation: arguments.namespace_isolation,
        global_namespaces: given(arguments.global_namespaces),
        log_to_stderr: arguments.multus_log_to_stderr,
        log_level: given(arguments.multus_log_level),
        log_file: given(arguments.multus_log_file),
        bin_dir: given(arguments.additional_bin_dir),
        conf_dir: on_host(&arguments.multus_cni_conf_dir),
        readiness_indicator_file: given(arguments.readiness_indicator_file),
        further: Map::from_iter(arguments.settings),
    };
    Ok(Options {
        bin_dir: arguments.cni_bin_dir,
        conf_dir: arguments.cni_conf_dir,
        binary: given(arguments.multus_bin_file).map(PathBuf::from),
        copy_binary: !arguments.skip_multus_binary_copy,
        alias: arguments.multus_alias,
        source,
        service_account: arguments.service_account_dir,
        kubeconfig_on_host: arguments.multus_kubeconfig_file_host,
        skip_tls_verify: arguments.skip_tls_verify,
        networks_dir: given(arguments.multus_cni_conf_dir).map(PathBuf::from),
        settings,
        cleanup: arguments.cleanup_config_on_exit,
        skip_watch: arguments.skip_config_watch,
        one_shot: arguments.one_shot,
        interval: arguments.multus_config_watch_timer,
    })
}

/// `confDir` for a folder as it is mounted here; none where it is the plugin's default anyway.
fn on_host(mounted: &str) -> Option<String> {
    let bare = Path::new(mounted).strip_prefix(MOUNT).map(|it| Path::new("/").join(it));
    let path = bare.unwrap_or_else(|_| mounted.into()).display().to_string();
    Some(path).filter(|it| !it.is_empty() && it != DEFAULT_NETWORKS_DIR)
}

/// What Go's flags take for a boolean.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("should be true or false".to_owned()),
    }
}

fn log_level(text: &str) -> Result<String, String> {
    let level = text.to_lowercase();
    match level.as_str() {
        "" | "panic" | "error" | "verbose" | "debug" => Ok(level),
        _ => Err("should be panic, error, verbose or debug".to_owned()),
    }
}

/// Go's notation, as in `1h30m` or `1.5s`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "should be a duration such as 500ms, 1s or 1m30s".to_owned();
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let unit_at = rest.find(|it: char| !it.is_ascii_digit() && it != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(unit_at);
        let end = tail.find(|it: char| it.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let factor = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => return Err(wrong()),
        };
        seconds += number.parse::<f64>().map_err(|_| wrong())? * factor;
        rest = tail;
    }
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    if duration < Duration::from_millis(10) {
        return Err("should be 10ms or longer".to_owned());
    }
    Ok(duration)
}

fn setting(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("should be KEY=JSON")?;
    if GENERATED_KEYS.contains(&key) {
        return Err(format!("{key} is what install generates"));
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        install: InstallArguments,
    }

    fn read(arguments: &[&str]) -> Options {
        let line = Line::try_parse_from(std::iter::once(&"install").chain(arguments)).expect("flags");
        options(line.install).expect("options")
    }

    #[test]
    fn every_flag_of_the_thin_entrypoint_is_taken() {
        let options = read(&[
            "--cni-bin-dir=/b",
            "--cni-conf-dir",
            "/c",
            "--cni-version=1.0.0",
            "--force-cni-version",
            "--multus-conf-file=auto",
            "--multus-autoconfig-dir=/a",
            "--multus-master-cni-file-name=10-x.conf",
            "--multus-bin-file=/usr/src/multus-cni/bin/multus",
            "--multus-cni-conf-dir=/host/etc/more",
            "--skip-multus-binary-copy=true",
            "--multus-kubeconfig-file-host=/k",
            "--skip-tls-verify=1",
            "--namespace-isolation=true",
            "--global-namespaces=default,foo",
            "--multus-log-to-stderr=false",
            "--multus-log-level=DEBUG",
            "--multus-log-file=/l",
            "--override-network-name=true",
            "--cleanup-config-on-exit=true",
            "--rename-conf-file=true",
            "--readiness-indicator-file=/r",
            "--additional-bin-dir=/m",
            "--skip-config-watch",
            "--multus-config-watch-timer=5m",
            "--force-config-watch",
            "--restart-crio=false",
            // The last one counts, as with Go's flags.
            "--namespace-isolation=false",
        ]);
        let settings = &options.settings;
        assert_eq!(settings.log_level.as_deref(), Some("debug"));
        assert_eq!(settings.conf_dir.as_deref(), Some("/etc/more"));
        assert!(!settings.namespace_isolation && !settings.log_to_stderr && settings.force_cni_version);
        assert!(!options.copy_binary && options.cleanup && options.skip_watch && options.skip_tls_verify);
        assert_eq!(options.interval, Duration::from_secs(300));
        let Source::Auto { folder, name, rename } = &options.source else { unreachable!("auto") };
        assert_eq!((folder.as_path(), name.as_deref(), *rename), (Path::new("/a"), Some("10-x.conf"), true));
    }

    #[test]
    fn defaults_are_multus_s() {
        let options = read(&["--multus-log-level=", "--multus-master-cni-file-name="]);
        assert_eq!(options.bin_dir, Path::new("/host/opt/cni/bin"));
        assert_eq!(options.conf_dir, Path::new("/host/etc/cni/net.d"));
        let Source::Auto { folder, name: None, rename: false } = &options.source else {
            unreachable!("auto")
        };
        assert_eq!(folder, &options.conf_dir);
        assert!(options.copy_binary && options.settings.log_to_stderr && !options.cleanup);
        assert_eq!(options.settings.conf_dir, None);
        assert_eq!(options.settings.log_level, None);
    }

    #[test]
    fn what_cannot_be_is_refused_with_flag_and_value() {
        for (argument, told) in [
            ("--multus-log-level=loud", "verbose"),
            ("--namespace-isolation=maybe", "true or false"),
            ("--multus-config-watch-timer=5", "duration"),
            ("--multus-config-watch-timer=0s", "10ms"),
            ("--set=delegates=[]", "delegates"),
            ("--set=x", "KEY=JSON"),
            ("--namespace-isolated", "unexpected argument"),
        ] {
            let error = Line::try_parse_from(["install", argument]).err().expect("refused").to_string();
            let flag = argument.split('=').next().unwrap_or_default();
            assert!(error.contains(told) && error.contains(flag), "{error}");
        }
    }

    #[test]
    fn durations_and_settings() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        let options = read(&["--set", "systemNamespaces=[\"a\"]", "--set", "cniDir=/x"]);
        let further = &options.settings.further;
        assert_eq!((&further["systemNamespaces"][0], &further["cniDir"]), (&"a".into(), &"/x".into()));
    }
}
