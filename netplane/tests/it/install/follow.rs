//! What is installed follows its sources: the program, the service account, the default network.

use super::{CERTIFICATE, CONF, Host, LIST, MASTER, until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn program_kubeconfig_and_configuration_are_put_into_place() {
    let host = Host::new();
    host.master(MASTER, "1.0.0", 1);
    let (done, log) = host.once(&["--namespace-isolation=true", "--set", "strictSelections=true"]);
    assert!(done, "{log}");
    assert_eq!(host.names(), [LIST, MASTER]);
    let list = host.read(LIST).expect("a configuration");
    let plugin = &list["plugins"][0];
    assert_eq!((&list["cniVersion"], &list["name"]), (&json!("1.0.0"), &json!("multus-cni-network")));
    assert_eq!(
        (&plugin["type"], &plugin["capabilities"]["portMappings"]),
        (&json!("netplane"), &json!(true))
    );
    assert_eq!(plugin["delegates"], json!([host.read(MASTER).expect("the default network")]));
    assert_eq!(plugin["kubeconfig"], "/etc/cni/net.d/multus.d/multus.kubeconfig");
    assert_eq!(plugin["confDir"], json!(host.path("networks")));
    assert_eq!((&plugin["namespaceIsolation"], &plugin["strictSelections"]), (&json!(true), &json!(true)));
    assert_eq!((mode(&host.net_d(LIST)), mode(&host.net_d("multus.d/multus.kubeconfig"))), (0o600, 0o600));
    let kubeconfig: Value = serde_saphyr::from_str(&host.kubeconfig()).expect("YAML");
    assert_eq!(kubeconfig["clusters"][0]["cluster"]["server"], "https://[fd00::1]:6443");
    assert_eq!(kubeconfig["users"][0]["user"]["token"], "token-0");
    assert!(kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"].is_string());
    // What was copied is a plugin.
    let program = host.path("bin").join("netplane");
    assert_eq!(mode(&program), 0o755);
    let output = Command::new(&program).env("CNI_COMMAND", "VERSION").output().expect("it runs");
    let versions: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(versions["supportedVersions"].is_array());
}

#[test]
fn the_kubeconfig_follows_token_and_ca_also_when_the_configuration_is_not_watched() {
    let host = Host::new();
    host.master(MASTER, "0.4.0", 1);
    let mut install = host.start(&["--skip-config-watch"]);
    install.until("the configuration", || host.mark() == Some(1));
    for turn in 1..20 {
        let token = format!("token-{turn}");
        host.rotate(&token, CERTIFICATE);
        install.until(&token, || host.kubeconfig().contains(&format!("\"{token}\"")));
    }
    let before = host.kubeconfig();
    host.rotate("token-20", &CERTIFICATE.replace("AAAA", "BBBB"));
    let authority = |text: &str| text.lines().find(|it| it.contains("authority-data")).map(str::to_owned);
    install.until("the new CA", || authority(&host.kubeconfig()) != authority(&before));
    // A token that is no token is told, and the kubeconfig stays.
    host.rotate("not a token", CERTIFICATE);
    install.until_logged("is not a token");
    assert!(host.kubeconfig().contains("token-20"));
    host.master(MASTER, "0.4.0", 2);
    host.rotate("token-22", CERTIFICATE);
    install.until("renewed", || host.kubeconfig().contains("token-22"));
    assert_eq!(host.mark(), Some(1), "--skip-config-watch");
}

#[test]
fn a_watch_that_misses_everything_costs_an_interval_only() {
    let host = Host::new();
    host.master(MASTER, "0.4.0", 1);
    // In a user namespace of its own, where inotify is not to be had.
    let mut command = Command::new("unshare");
    let install = host.command(&["--skip-multus-binary-copy", "--multus-config-watch-timer=100ms"]);
    let none = r#"echo 0 >/proc/sys/user/max_inotify_instances; exec "$0" "$@""#;
    command.args(["--user", "--map-root-user", "sh", "-c", none]).arg(install.get_program());
    command.args(install.get_args()).env_clear();
    command.env("KUBERNETES_SERVICE_HOST", "10.0.0.1").env("KUBERNETES_SERVICE_PORT", "443");
    let mut install = super::Install::start(command, host.path("log"));
    install.until_logged("by the clock alone");
    host.master(MASTER, "0.4.0", 2);
    host.rotate("token-1", CERTIFICATE);
    install.until("both", || host.mark() == Some(2) && host.kubeconfig().contains("token-1"));
}

#[test]
fn the_configuration_follows_the_default_network() {
    let host = Host::new();
    let mut install = host.start(&[]);
    install.until_logged("waiting for the configuration of a default network");
    assert_eq!(host.names(), [""; 0]);
    assert!(host.kubeconfig().contains("token-0"), "ready before the first pod");
    host.master(MASTER, "0.4.0", 1);
    install.until("it appears", || host.mark() == Some(1));
    host.master(MASTER, "0.4.0", 2);
    install.until("it changes", || host.mark() == Some(2));
    host.master("05-before.conf", "0.4.0", 3);
    install.until("another comes first", || host.mark() == Some(3));
    fs::remove_file(host.net_d("05-before.conf")).expect("removed");
    install.until("the first goes", || host.mark() == Some(2));
    // As an installer does that writes in place: kubelet still sees the old one.
    fs::write(host.net_d(MASTER), r#"{"cniVersion":"0.4.0","na"#).expect("half a file");
    install.until_logged("10-default.conflist: is not JSON");
    assert_eq!(host.mark(), Some(2));
    host.master(MASTER, "0.4.0", 4);
    install.until("it is put right", || host.mark() == Some(4));
    fs::remove_file(host.net_d(MASTER)).expect("removed");
    fs::remove_file(host.net_d(CONF)).expect("removed");
    host.master(MASTER, "0.4.0", 4);
    install.until("what somebody removed is there again", || host.mark() == Some(4));
    fs::remove_file(host.net_d(MASTER)).expect("removed");
    host.rotate("token-1", CERTIFICATE);
    install.until("a further look", || host.kubeconfig().contains("token-1"));
    assert_eq!(host.mark(), Some(4), "without any default network, pods still need the last one");
}

#[test]
fn a_default_network_by_name_is_waited_for() {
    let host = Host::new();
    host.master("05-other.conf", "0.4.0", 5);
    let mut install = host.start(&["--multus-master-cni-file-name=20-mine.json", "--override-network-name"]);
    install.until_logged("waiting for the configuration of a default network");
    host.master("20-mine.json", "0.4.0", 6);
    install.until("it appears", || host.mark() == Some(6));
    assert_eq!(host.read(CONF).expect("there")["name"], "pods");
}

#[test]
fn a_file_of_ones_own_is_copied_and_what_it_calls_is_netplane() {
    let host = Host::new();
    let source = host.path("70-multus.conf");
    let config = |mark: u64| json!({ "cniVersion": "0.4.0", "name": "x", "type": "multus", "delegates": [{ "mark": mark }] });
    fs::write(&source, config(1).to_string()).expect("a configuration");
    fs::write(host.path("bin/multus"), "of somebody else").expect("a program");
    fs::write(host.path("small"), "netplane itself").expect("a program");
    let [file, program] = ["70-multus.conf", "small"].map(|it| host.path(it).display().to_string());
    let flags = ["--multus-conf-file", &file, "--multus-bin-file", &program, "--cleanup-config-on-exit"];
    let mut install = super::Install::start(host.command(&flags), host.path("log"));
    install.until("copied", || host.mark() == Some(1));
    assert_eq!(fs::read_to_string(host.path("bin/multus")).expect("there"), "netplane itself");
    fs::write(&source, config(2).to_string()).expect("a configuration");
    install.until("copied again", || host.mark() == Some(2));
    fs::remove_file(host.path("bin/netplane")).expect("removed");
    install.until("the program is back", || host.path("bin/netplane").exists());
    assert!(install.stop().success(), "{}", install.log());
    assert_eq!(host.names(), [""; 0]);
    assert_eq!(fs::read_to_string(host.path("bin/multus")).expect("there"), "of somebody else");
    assert!(!host.net_d("multus.d").exists());
}

#[test]
fn what_is_wrong_at_the_start_is_named() {
    let host = Host::new();
    let refused = |flags: &[&str], told: &[&str]| {
        let (done, log) = host.once(flags);
        assert!(!done && told.iter().all(|it| log.contains(it)), "{flags:?}: {log}");
    };
    refused(&["--cni-conf-dir=/nowhere"], &["--cni-conf-dir is /nowhere", "not there"]);
    refused(&["--cni-bin-dir=/nowhere"], &["--cni-bin-dir is /nowhere"]);
    refused(&["--multus-bin-file=/nowhere"], &["--multus-bin-file is /nowhere"]);
    refused(&["--multus-conf-file=/nowhere"], &["--multus-conf-file is /nowhere"]);
    let quick = "--skip-multus-binary-copy";
    refused(&[quick, "--service-account-dir=/nowhere"], &["/nowhere/token", "service account"]);
    refused(&[quick, "--force-cni-version"], &["--cni-version"]);
    host.write(MASTER, &json!({ "cniVersion": "0.4.0", "type": "ptp", "capabilities": { "ips": 1 } }));
    refused(&[quick], &["10-default.conflist", "capabilities.ips is 1"]);
    host.master(MASTER, "0.4.0", 1);
    refused(&[quick, "--cni-version=1.0.0"], &["10-default.conflist", "\"0.4.0\"", "\"1.0.0\""]);
    assert_eq!(host.names(), [MASTER]);
    // NADs from a folder need no API server.
    let flags = [quick, "--service-account-dir=/nowhere", "--set", "nadDir=/nads"];
    let (done, log) = host.once(&flags);
    assert!(done, "{log}");
    let config = host.read(CONF).expect("there");
    assert!(config.get("kubeconfig").is_none() && config["nadDir"] == "/nads");
}

#[test]
fn a_watching_install_does_nothing_when_nothing_happens() {
    let host = Host::new();
    host.master(MASTER, "0.4.0", 1);
    let mut install = host.start(&["--multus-config-watch-timer=1h"]);
    install.until("the configuration", || host.mark() == Some(1));
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", install.child.id())).expect("it lives");
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        fields[11..13].iter().map(|it| it.parse::<u64>().expect("a number")).sum::<u64>()
    };
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{}/status", install.child.id())).expect("it lives");
        let line = status.lines().find(|it| it.starts_with("voluntary")).expect("a count").to_owned();
        line.rsplit('\t').next().expect("a number").parse::<u64>().expect("a number")
    };
    // The main thread sleeps for good: reading its own files must not wake it.
    let mut last = (switches(), ticks());
    until("it sleeps", || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        let now = (switches(), ticks());
        std::mem::replace(&mut last, now) == now
    });
}
