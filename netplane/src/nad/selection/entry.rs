//! One entry of the annotation's JSON form, key by key. Keys with a dot are somebody's own (§4.1.2.1), other
//! unknown ones are ignored as Multus does; a known key that is null or empty is as one that is not there.

use super::{Bandwidth, NetworkSelection, PortMapping, SelectionError, interface_problem, name_problem};
use crate::nad::NetworkName;
use ipnet::IpNet;
use serde_json::{Map, Value};
use std::net::IpAddr;

/// Where a rate comes without a burst, and the bandwidth plugin wants one: what kubelet sets for a pod's
/// own limits, in bits.
const DEFAULT_BURST: u64 = i32::MAX as u64;

/// The bandwidth plugin takes bursts of less than 2³² bytes.
const MAX_BURST: u64 = 8 * (u32::MAX as u64) - 1;

/// All keys that are read.
const KEYS: [&str; 13] = [
    "name",
    "namespace",
    "interface",
    "interfaceRequest",
    "ips",
    "mac",
    "infiniband-guid",
    "portMappings",
    "bandwidth",
    "deviceID",
    "cni-args",
    "ipam-claim-reference",
    "default-route",
];

const MAC: &str = "should be a MAC like \"02:00:00:00:00:01\"";
const ADDRESS: &str = "should be an address, with or without prefix length, like \"10.0.0.5/24\"";

/// Reads entry `number`, counted from 1.
pub(super) fn read(
    number: usize,
    object: &Map<String, Value>,
    pod_namespace: &str,
) -> Result<NetworkSelection, SelectionError> {
    let unnamed = Entry { label: number.to_string(), object };
    let Some(name) = unnamed.string("name")? else {
        return Err(unnamed.wrong("name", "is missing"));
    };
    let namespace = unnamed.string("namespace")?.unwrap_or(pod_namespace);
    for (key, part) in [("name", name), ("namespace", namespace)] {
        if let Some(problem) = name_problem(part) {
            return Err(unnamed.wrong(key, problem));
        }
    }
    let network = NetworkName { namespace: namespace.to_owned(), name: name.to_owned() };
    let entry = Entry { label: network.to_string(), object };
    let selection = NetworkSelection {
        interface: entry.interface()?,
        ips: entry.ips()?,
        mac: entry.hardware_address("mac", &[6, 8, 20], MAC)?,
        infiniband_guid: entry.hardware_address("infiniband-guid", &[8], "should be a GUID of 8 octets")?,
        port_mappings: entry.port_mappings()?,
        bandwidth: entry.bandwidth()?,
        device_id: entry.string("deviceID")?.map(str::to_owned),
        cni_args: entry.object("cni-args")?.cloned(),
        ipam_claim: entry.string("ipam-claim-reference")?.map(str::to_owned),
        default_route: entry.default_route()?,
        ..NetworkSelection::of(network)
    };
    if selection.ipam_claim.is_some() && selection.ips.as_ref().is_some_and(|it| !it.is_empty()) {
        let problem = "together with ips: the claim says which addresses there are; only one of them";
        return Err(entry.wrong("ipam-claim-reference", problem));
    }
    Ok(selection)
}

/// Every key that is wrong.
pub(super) fn check(
    number: usize,
    object: &Map<String, Value>,
    pod_namespace: &str,
) -> Result<NetworkSelection, Vec<SelectionError>> {
    let is_name = |key: &str| matches!(key, "name" | "namespace");
    let mut errors = Vec::new();
    for key in object.keys().filter(|it| !is_name(it)) {
        let single = object.iter().filter(|(it, _)| is_name(it) || *it == key);
        let single = single.map(|(key, it)| (key.clone(), it.clone())).collect();
        errors.extend(read(number, &single, pod_namespace).err());
    }
    // Without a name each key's own reading says the same.
    errors.dedup_by_key(|it| it.to_string());
    match read(number, object, pod_namespace) {
        Ok(selection) if errors.is_empty() => Ok(selection),
        // What two keys are together.
        Err(error) if errors.is_empty() => Err(vec![error]),
        _ => Err(errors),
    }
}

/// Keys of an entry that mean nothing here: outside the standard, and without a dot.
pub(super) fn unknown_keys(object: &Map<String, Value>) -> Vec<&str> {
    let known = |key: &str| KEYS.contains(&key) || key.contains('.');
    object.keys().map(String::as_str).filter(|it| !known(it)).collect()
}

/// An entry, and how errors name it.
struct Entry<'a> {
    label: String,
    object: &'a Map<String, Value>,
}

impl<'a> Entry<'a> {
    fn wrong(&self, key: &'static str, problem: impl Into<String>) -> SelectionError {
        SelectionError::Key { entry: self.label.clone(), key, problem: problem.into() }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|it| !it.is_null())
    }

    fn string(&self, key: &'static str) -> Result<Option<&'a str>, SelectionError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| self.wrong(key, format!("is {value}, should be a string")));
        Ok(Some(text?).filter(|it| !it.is_empty()))
    }

    fn object(&self, key: &'static str) -> Result<Option<&'a Map<String, Value>>, SelectionError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let object = value.as_object();
        object.map(Some).ok_or_else(|| self.wrong(key, format!("is {value}, should be an object")))
    }

    fn list(&self, key: &'static str) -> Result<Option<&'a [Value]>, SelectionError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().map(Vec::as_slice);
        list.map(Some).ok_or_else(|| self.wrong(key, format!("is {value}, should be a list")))
    }

    /// `interfaceRequest` is the name of `interface` in older versions of Multus.
    fn interface(&self) -> Result<Option<String>, SelectionError> {
        for key in ["interface", "interfaceRequest"] {
            if let Some(name) = self.string(key)? {
                return match interface_problem(name) {
                    Some(problem) => Err(self.wrong(key, problem)),
                    None => Ok(Some(name.to_owned())),
                };
            }
        }
        Ok(None)
    }

    fn ips(&self) -> Result<Option<Vec<String>>, SelectionError> {
        let Some(list) = self.list("ips")? else { return Ok(None) };
        let sound = |it: &&str| it.parse::<IpAddr>().is_ok() || it.parse::<IpNet>().is_ok();
        let ip = |item: &Value| match item.as_str().filter(sound) {
            Some(text) => Ok(text.to_owned()),
            None => Err(self.wrong("ips", format!("{item} {ADDRESS}"))),
        };
        list.iter().map(ip).collect::<Result<_, _>>().map(Some)
    }

    /// Passed on as it is written: the forms are those of Go, which Multus and the plugins read it with.
    fn hardware_address(
        &self,
        key: &'static str,
        octets: &[usize],
        form: &str,
    ) -> Result<Option<String>, SelectionError> {
        let Some(text) = self.string(key)? else { return Ok(None) };
        match hardware_octets(text).filter(|it| octets.contains(it)) {
            Some(_) => Ok(Some(text.to_owned())),
            None => Err(self.wrong(key, format!("is \"{text}\", {form}"))),
        }
    }

    fn port_mappings(&self) -> Result<Vec<PortMapping>, SelectionError> {
        let list = self.list("portMappings")?.unwrap_or_default();
        list.iter().map(|it| self.port_mapping(it)).collect()
    }

    fn port_mapping(&self, item: &Value) -> Result<PortMapping, SelectionError> {
        let wrong = |what: String| self.wrong("portMappings", format!("{item}: {what}"));
        let get = |key: &str| item.get(key).filter(|it| !it.is_null());
        let port = |key: &str, low: u16| {
            let number = get(key).and_then(Value::as_u64).and_then(|it| u16::try_from(it).ok());
            number
                .filter(|it| *it >= low)
                .ok_or_else(|| wrong(format!("{key} should be a number from {low} to 65535")))
        };
        let text = |key: &str| match get(key) {
            None => Ok(""),
            Some(value) => value.as_str().ok_or_else(|| wrong(format!("{key} should be a string"))),
        };
        let protocol = match text("protocol")?.to_ascii_lowercase().as_str() {
            // Kubernetes' default; the portmap plugin has none.
            "" => "tcp",
            "tcp" => "tcp",
            "udp" => "udp",
            "sctp" => "sctp",
            _ => return Err(wrong("protocol should be tcp, udp or sctp".to_owned())),
        };
        let host_ip = match text("hostIP")? {
            "" => None,
            it => Some(it.parse().map_err(|_| wrong("hostIP should be an address".to_owned()))?),
        };
        Ok(PortMapping {
            host_port: port("hostPort", 0)?,
            container_port: port("containerPort", 1)?,
            protocol: protocol.to_owned(),
            host_ip,
        })
    }

    fn bandwidth(&self) -> Result<Option<Bandwidth>, SelectionError> {
        let Some(object) = self.object("bandwidth")? else { return Ok(None) };
        let number = |key: &str| match object.get(key).filter(|it| !it.is_null()) {
            None => Ok(0),
            Some(value) => value.as_u64().ok_or_else(|| {
                self.wrong("bandwidth", format!("{key} is {value}, should be a number from 0"))
            }),
        };
        // NPWG standard §4.1.2.1.8.
        let direction = |rate_key: &str, burst_key: &str| match (number(rate_key)?, number(burst_key)?) {
            (0, 0) => Ok((None, None)),
            (0, _) => Err(self.wrong("bandwidth", format!("{burst_key} needs {rate_key}, too"))),
            (rate, 0) => Ok((Some(rate), Some(DEFAULT_BURST))),
            (_, burst) if burst > MAX_BURST => {
                let problem = format!("{burst_key} is {burst}, should be at most {MAX_BURST} bits");
                Err(self.wrong("bandwidth", problem))
            }
            (rate, burst) => Ok((Some(rate), Some(burst))),
        };
        let (ingress_rate, ingress_burst) = direction("ingressRate", "ingressBurst")?;
        let (egress_rate, egress_burst) = direction("egressRate", "egressBurst")?;
        let bandwidth = Bandwidth { ingress_rate, ingress_burst, egress_rate, egress_burst };
        Ok(Some(bandwidth).filter(|it| *it != Bandwidth::default()))
    }

    fn default_route(&self) -> Result<Option<Vec<IpAddr>>, SelectionError> {
        let Some(list) = self.list("default-route")? else { return Ok(None) };
        let mut gateways: Vec<IpAddr> = Vec::new();
        for item in list {
            let gateway: IpAddr = item.as_str().and_then(|it| it.parse().ok()).ok_or_else(|| {
                self.wrong("default-route", format!("{item} should be a gateway's address"))
            })?;
            if let Some(other) = gateways.iter().find(|it| it.is_ipv4() == gateway.is_ipv4()) {
                let problem = format!("{other} and {gateway}: one gateway of each family at most");
                return Err(self.wrong("default-route", problem));
            }
            gateways.push(gateway);
        }
        Ok(Some(gateways))
    }
}

/// How many octets a hardware address has: pairs of digits with `:` or `-`, or fours with `.`.
fn hardware_octets(text: &str) -> Option<usize> {
    let digits = |part: &str, len| part.len() == len && part.chars().all(|it| it.is_ascii_hexdigit());
    let (separator, len) = match text {
        _ if text.contains(':') => (':', 2),
        _ if text.contains('-') => ('-', 2),
        _ => ('.', 4),
    };
    let mut octets = 0;
    for part in text.split(separator) {
        if !digits(part, len) {
            return None;
        }
        octets += len / 2;
    }
    Some(octets)
}
