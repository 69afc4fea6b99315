//! Calling the plugin as a container runtime does, and checking its answer against the specification.

use super::command::NSENTER;
use super::{Lab, Namespace};
use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::net::IpAddr;

/// The configuration that the plugin gets: `examples/cni/00-netplane.conf`.
const CONFIGURATION: &str = include_str!("../../../examples/cni/00-netplane.conf");
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// A pod sandbox as the runtime knows it.
#[derive(Clone, Debug)]
pub struct Sandbox<'a> {
    pub container_id: String,
    pub namespace: &'a Namespace,
    /// Of `k8s.v1.cni.cncf.io/networks`.
    pub networks: &'a str,
}

impl Sandbox<'_> {
    /// ADD.
    ///
    /// # Errors
    /// The plugin's, or its answer is not as the specification says.
    pub fn add(&self, lab: &Lab) -> Result<Value> {
        self.add_as(lab, "upf-0")
    }

    /// ADD for another pod than `upf-0`, of the namespace `core`.
    ///
    /// # Errors
    /// As of [`add`](Self::add).
    pub fn add_as(&self, lab: &Lab, pod: &str) -> Result<Value> {
        let text = self.call(lab, "ADD", None, pod)?;
        let result: Value = serde_json::from_str(&text).with_context(|| format!("result of ADD: {text}"))?;
        check_result(&result, self.namespace).with_context(|| format!("result of ADD: {result}"))?;
        Ok(result)
    }

    /// CHECK, with the result of the ADD.
    ///
    /// # Errors
    /// The plugin's.
    pub fn check(&self, lab: &Lab, added: &Value) -> Result<()> {
        let text = self.call(lab, "CHECK", Some(added), "upf-0")?;
        ensure!(text.is_empty(), "CHECK printed {text}");
        Ok(())
    }

    /// DEL.
    ///
    /// # Errors
    /// The plugin's.
    pub fn del(&self, lab: &Lab) -> Result<()> {
        let text = self.call(lab, "DEL", None, "upf-0")?;
        ensure!(text.is_empty(), "DEL printed {text}");
        Ok(())
    }

    fn call(&self, lab: &Lab, verb: &str, previous: Option<&Value>, pod: &str) -> Result<String> {
        let mut configuration: Value = serde_json::from_str(CONFIGURATION)?;
        // The one thing of the example that is a place on the node.
        configuration["nadDir"] = json!(lab.nad_dir());
        configuration["runtimeConfig"] =
            json!({ ANNOTATIONS: { "k8s.v1.cni.cncf.io/networks": self.networks } });
        if let Some(previous) = previous {
            configuration["prevResult"] = previous.clone();
        }
        let mut command = lab.plugin()?;
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", &self.container_id);
        command
            .env("CNI_NETNS", self.namespace.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin");
        let uid = "K8S_POD_UID=8d2e6cf4-3a53-4a0c-9d39-0d5bb3a4b1f2";
        command.env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=core;K8S_POD_NAME={pod};{uid}"));
        let output = NSENTER.finish(&mut command, configuration.to_string().as_bytes())?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{verb}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(stdout)
    }
}

/// CNI specification 1.1.0, section 5, "ADD Success": and what it says is there.
fn check_result(result: &Value, namespace: &Namespace) -> Result<()> {
    ensure!(result["cniVersion"] == "1.1.0", "cniVersion is not the one of the configuration");
    let interfaces = result["interfaces"].as_array().context("no interfaces")?;
    let sandbox = namespace.path();
    for interface in interfaces {
        let name = interface["name"].as_str().context("an interface without a name")?;
        ensure!(interface["sandbox"].as_str() == sandbox.to_str(), "{name} is not in the sandbox");
        let links = namespace.ip_json(&["link", "show", name])?;
        let mac = links.first().context("no such link")?["address"].clone();
        ensure!(interface["mac"] == mac, "{name} has MAC {mac}");
    }
    for ip in result["ips"].as_array().context("no ips")? {
        let index = ip["interface"].as_u64().context("an address without its interface")?;
        let interface = usize::try_from(index).ok().and_then(|it| interfaces.get(it));
        let name = interface.and_then(|it| it["name"].as_str()).context("an address of no interface")?;
        let address = ip["address"].as_str().context("an address that is no string")?;
        ensure!(addresses(namespace, name)?.iter().any(|it| it == address), "{address} is not on {name}");
    }
    // Both may be absent: `null` has no elements.
    let parses =
        |value: &Value| value.is_null() || value.as_str().is_some_and(|it| it.parse::<IpAddr>().is_ok());
    for ip in result["ips"].as_array().into_iter().flatten() {
        ensure!(parses(&ip["gateway"]), "gateway {} is no address", ip["gateway"]);
    }
    for route in result["routes"].as_array().into_iter().flatten() {
        let destination = route["dst"].as_str().and_then(|it| it.parse::<IpNet>().ok());
        ensure!(destination.is_some(), "route's destination {} is no prefix", route["dst"]);
        ensure!(parses(&route["gw"]), "route's gateway {} is no address", route["gw"]);
    }
    Ok(())
}

/// The IPv4 addresses of an interface, with prefix lengths.
///
/// # Errors
/// There is no such interface.
pub fn addresses(namespace: &Namespace, interface: &str) -> Result<Vec<String>> {
    let links = namespace.ip_json(&["address", "show", "dev", interface])?;
    let infos = links.first().and_then(|it| it["addr_info"].as_array()).cloned().unwrap_or_default();
    let v4 = infos.iter().filter(|it| it["family"] == "inet");
    let shown = v4.filter_map(|it| Some(format!("{}/{}", it["local"].as_str()?, it["prefixlen"])));
    Ok(shown.collect())
}
