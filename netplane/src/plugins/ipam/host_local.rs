//! host-local: addresses from ranges on this node, one from each set of ranges.

use super::ranges::{Range, RangeConfig, RangeError};
use super::store::{Owner, Store, StoreError};
use crate::plugins::lenient;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where addresses are kept unless `dataDir` says otherwise.
const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// The `ipam` object of a configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// One range, the old way.
    #[serde(default)]
    pub subnet: Option<String>,
    #[serde(default, deserialize_with = "lenient::address")]
    pub range_start: Option<IpAddr>,
    #[serde(default, deserialize_with = "lenient::address")]
    pub range_end: Option<IpAddr>,
    #[serde(default, deserialize_with = "lenient::address")]
    pub gateway: Option<IpAddr>,
    /// Sets of ranges: one address from each set.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub ranges: Vec<Vec<RangeConfig>>,
    /// Sets that the runtime gives (capability `ipRanges`); they come first.
    #[serde(skip)]
    pub runtime_ranges: Vec<Vec<RangeConfig>>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub routes: Vec<Route>,
    #[serde(default)]
    pub data_dir: Option<PathBuf>,
    /// A file like /etc/resolv.conf, for the result's `dns`.
    #[serde(default)]
    pub resolv_conf: Option<PathBuf>,
}

/// A route that the addresses come with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Route {
    pub dst: IpNet,
    /// Absent: the gateway of the range of the same family.
    #[serde(default, deserialize_with = "lenient::address", skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    #[serde(flatten)]
    pub details: RouteDetails,
}

/// What a route may have since CNI 1.1.0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct RouteDetails {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum HostLocalError {
    #[error(transparent)]
    Range(#[from] RangeError),
    #[error("ipam: {0} and {1} are in two sets of ranges: an address would be given out from both")]
    Overlap(IpNet, IpNet),
    #[error("ipam: neither \"subnet\" nor \"ranges\" is given")]
    NoRanges,
    #[error("ipam: network name \"{name}\" cannot be a folder's name")]
    Name { name: String },
    #[error("ipam: the address {address} asked for is in none of the ranges")]
    NotInRanges { address: String },
    #[error("ipam: {address} is asked for, but its set of ranges has to give another address asked for")]
    TooMany { address: IpAddr },
    #[error("ipam: the address {address} asked for is in use")]
    InUse { address: IpAddr },
    #[error("ipam: no address left in {range} of network {network}")]
    Exhausted { range: String, network: String },
    #[error("ipam: {container_id} has an address for {interface} in network {network} already")]
    Twice { container_id: String, interface: String, network: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An address that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// With the subnet's prefix length.
    pub address: IpNet,
    pub gateway: IpAddr,
}

/// For whom addresses are, on which network.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `name` of the network configuration.
    pub network: &'a str,
    pub container_id: &'a str,
    pub interface: &'a str,
    /// How long to wait for others who use the store.
    pub wait: Duration,
}

impl Config {
    pub(super) fn sets(&self) -> Result<Vec<Vec<Range>>, HostLocalError> {
        let single = self.subnet.as_ref().map(|subnet| RangeConfig {
            subnet: subnet.clone(),
            range_start: self.range_start,
            range_end: self.range_end,
            gateway: self.gateway,
        });
        let mut sets = self.runtime_ranges.clone();
        sets.extend(single.map(|it| vec![it]));
        sets.extend(self.ranges.iter().filter(|it| !it.is_empty()).cloned());
        if sets.is_empty() {
            return Err(HostLocalError::NoRanges);
        }
        let check = |set: Vec<RangeConfig>| set.iter().map(Range::new).collect::<Result<Vec<_>, _>>();
        let sets: Vec<Vec<Range>> = sets.into_iter().map(check).collect::<Result<_, _>>()?;
        for (at, set) in sets.iter().enumerate() {
            let others = sets.get(at + 1..).unwrap_or_default().iter().flatten();
            let overlap = others.flat_map(|other| set.iter().map(move |it| (it, other)));
            if let Some((one, other)) = overlap.into_iter().find(|(one, other)| one.overlaps(other)) {
                return Err(HostLocalError::Overlap(one.subnet, other.subnet));
            }
        }
        Ok(sets)
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR))
    }

    /// Checks the ranges without giving anything out.
    ///
    /// # Errors
    /// As [`HostLocalError`] says.
    pub fn validate(&self, network: &str) -> Result<(), HostLocalError> {
        check_name(network)?;
        self.sets().map(drop)
    }

    /// The gateway that a route goes to.
    pub fn gateway_of(&self, route: &Route, allocations: &[Allocation]) -> Option<IpAddr> {
        let v4 = route.dst.addr().is_ipv4();
        let own = || allocations.iter().find(|it| it.address.addr().is_ipv4() == v4).map(|it| it.gateway);
        route.gw.or_else(own)
    }
}

/// Gives out one address from each set of ranges; those in `wanted` where they fit.
///
/// # Errors
/// As [`HostLocalError`] says; what was taken is given back then.
pub fn allocate(
    config: &Config,
    request: Request<'_>,
    wanted: &[String],
) -> Result<Vec<Allocation>, HostLocalError> {
    check_name(request.network)?;
    let sets = config.sets()?;
    let mut wanted = wanted.iter().map(|it| parse_wanted(it, &sets)).collect::<Result<Vec<_>, _>>()?;
    wanted.dedup();
    if let Some(address) = more_than_one_of_a_set(&wanted, &sets) {
        return Err(HostLocalError::TooMany { address });
    }
    let store = Store::open(&config.data_dir(), request.network, request.wait)?;
    let owner = Owner { container_id: request.container_id, interface: request.interface };
    if !store.addresses(owner)?.is_empty() {
        return Err(HostLocalError::Twice {
            container_id: request.container_id.to_owned(),
            interface: request.interface.to_owned(),
            network: request.network.to_owned(),
        });
    }
    let mut allocations: Vec<Allocation> = Vec::new();
    for (number, set) in sets.iter().enumerate() {
        let wanted = wanted.iter().copied().find(|it| set.iter().any(|range| range.contains(*it)));
        match allocate_from(&store, number, set, request, wanted) {
            Ok(allocation) => allocations.push(allocation),
            Err(error) => {
                give_back(&store, owner);
                return Err(error);
            }
        }
    }
    Ok(allocations)
}

/// Each set gives one address.
fn more_than_one_of_a_set(wanted: &[IpAddr], sets: &[Vec<Range>]) -> Option<IpAddr> {
    let of_set = |set: &Vec<Range>| {
        wanted.iter().copied().filter(|it| set.iter().any(|range| range.contains(*it))).nth(1)
    };
    sets.iter().find_map(of_set)
}

/// After a failure, which is the answer: a second one is told in the log.
fn give_back(store: &Store, owner: Owner<'_>) {
    let released = store.addresses(owner).and_then(|it| it.into_iter().try_for_each(|it| store.release(it)));
    if let Err(error) = released {
        tracing::warn!(%error, "could not give back the addresses of an ADD that failed");
    }
}

fn allocate_from(
    store: &Store,
    number: usize,
    set: &[Range],
    request: Request<'_>,
    wanted: Option<IpAddr>,
) -> Result<Allocation, HostLocalError> {
    let owner = Owner { container_id: request.container_id, interface: request.interface };
    let allocation = |range: &Range, address: IpAddr| Allocation {
        address: IpNet::new(address, range.subnet.prefix_len()).unwrap_or(range.subnet),
        gateway: range.gateway,
    };
    if let Some(address) = wanted {
        let range = set.iter().find(|it| it.contains(address) && it.gateway != address);
        let range = range.ok_or_else(|| HostLocalError::NotInRanges { address: address.to_string() })?;
        if !store.reserve(address, owner)? {
            return Err(HostLocalError::InUse { address });
        }
        return Ok(allocation(range, address));
    }
    // Round robin over the whole set: the range that the last address was from comes first, from behind it.
    let last = store.last_reserved(number);
    let first = set.iter().position(|range| last.is_some_and(|it| range.contains(it))).unwrap_or(0);
    for range in set.iter().cycle().skip(first).take(set.len()) {
        for address in range.round_robin(last) {
            if store.reserve(address, owner)? {
                store.set_last_reserved(number, address)?;
                return Ok(allocation(range, address));
            }
        }
    }
    let range = set.iter().map(|it| format!("{}-{}", it.start, it.end)).collect::<Vec<_>>().join(", ");
    Err(HostLocalError::Exhausted { range, network: request.network.to_owned() })
}

/// Gives back whatever the interface of the container has. Nothing to give back is no error.
///
/// # Errors
/// The store cannot be read or written.
pub fn release(config: &Config, request: Request<'_>) -> Result<(), HostLocalError> {
    check_name(request.network)?;
    let Some(store) = Store::open_existing(&config.data_dir(), request.network, request.wait)? else {
        return Ok(());
    };
    let owner = Owner { container_id: request.container_id, interface: request.interface };
    for address in store.addresses(owner)? {
        store.release(address)?;
    }
    Ok(())
}

/// The addresses that the interface of the container has.
///
/// # Errors
/// The store cannot be read.
pub fn held(config: &Config, request: Request<'_>) -> Result<Vec<IpAddr>, HostLocalError> {
    check_name(request.network)?;
    let Some(store) = Store::open_existing(&config.data_dir(), request.network, request.wait)? else {
        return Ok(Vec::new());
    };
    let owner = Owner { container_id: request.container_id, interface: request.interface };
    Ok(store.addresses(owner)?)
}

pub(super) fn check_name(name: &str) -> Result<(), HostLocalError> {
    let sound = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    if sound { Ok(()) } else { Err(HostLocalError::Name { name: name.to_owned() }) }
}

/// An address with or without prefix length (NPWG standard §4.1.2.1.3) that is in one of the ranges.
fn parse_wanted(text: &str, sets: &[Vec<Range>]) -> Result<IpAddr, HostLocalError> {
    let address = text.split_once('/').map_or(text, |(address, _)| address).parse::<IpAddr>();
    let address = address.ok().filter(|it| sets.iter().flatten().any(|range| range.contains(*it)));
    address.ok_or_else(|| HostLocalError::NotInRanges { address: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::store::LOCK_WAIT;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn config(folder: &std::path::Path, ipam: serde_json::Value) -> Config {
        let mut config: Config = serde_json::from_value(ipam).expect("a configuration");
        config.data_dir = Some(folder.to_owned());
        config
    }

    fn request<'a>(container_id: &'a str, interface: &'a str) -> Request<'a> {
        Request { network: "n3", container_id, interface, wait: LOCK_WAIT }
    }

    #[test]
    fn layout_of_the_reference_plugin() {
        let folder = tempfile::tempdir().expect("a folder");
        let config =
            config(folder.path(), serde_json::json!({"subnet": "10.30.0.0/24", "rangeStart": "10.30.0.50"}));
        let got = allocate(&config, request("abc", "net1"), &[]).expect("an address");
        assert_eq!(got[0].address.to_string(), "10.30.0.50/24");
        assert_eq!(got[0].gateway.to_string(), "10.30.0.1");
        let read = |name: &str| std::fs::read_to_string(folder.path().join("n3").join(name)).expect(name);
        assert_eq!(read("10.30.0.50"), "abc\r\nnet1");
        assert_eq!(read("last_reserved_ip.0"), "10.30.0.50");
        release(&config, request("abc", "net1")).expect("released");
        release(&config, request("abc", "net1")).expect("released twice");
        let next = allocate(&config, request("abd", "net1"), &[]).expect("the next address");
        assert_eq!(next[0].address.to_string(), "10.30.0.51/24");
    }

    #[test]
    fn dual_stack_and_routes() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config(
            folder.path(),
            serde_json::json!({
                "ranges": [[{"subnet": "10.30.0.0/24"}], [{"subnet": "2001:db8::/64", "gateway": "2001:db8::ff"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "10.9.0.0/16", "gw": "10.30.0.9"}],
            }),
        );
        let got =
            allocate(&config, request("abc", "net1"), &["2001:db8::7/64".to_owned()]).expect("two addresses");
        let addresses: Vec<_> = got.iter().map(|it| it.address.to_string()).collect();
        assert_eq!(addresses, ["10.30.0.2/24", "2001:db8::7/64"]);
        let gateway = |it| config.gateway_of(it, &got).map(|it| it.to_string()).unwrap_or_default();
        let gateways: Vec<_> = config.routes.iter().map(gateway).collect();
        assert_eq!(gateways, ["10.30.0.1", "2001:db8::ff", "10.30.0.9"]);
    }

    #[test]
    fn the_runtimes_ranges_come_first_and_none_may_overlap() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = config(
            folder.path(),
            serde_json::json!({"subnet": "10.30.0.0/24", "gateway": "", "ranges": [[{"subnet": "10.31.0.0/24"}]]}),
        );
        let runtime = serde_json::json!([[{"subnet": "10.32.0.0/24"}]]);
        config.runtime_ranges = serde_json::from_value(runtime).expect("ranges");
        let got = allocate(&config, request("abc", "net1"), &[]).expect("an address of each");
        let addresses: Vec<_> = got.iter().map(|it| it.address.to_string()).collect();
        assert_eq!(addresses, ["10.32.0.2/24", "10.30.0.2/24", "10.31.0.2/24"]);
        let overlapping = serde_json::json!([[{"subnet": "10.31.0.128/25"}]]);
        config.runtime_ranges = serde_json::from_value(overlapping).expect("ranges");
        let error = config.validate("n3").expect_err("overlapping").to_string();
        assert!(error.contains("10.31.0.128/25 and 10.31.0.0/24"), "{error}");
    }

    #[test]
    fn a_failure_gives_back_what_was_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config(
            folder.path(),
            serde_json::json!({"ranges": [[{"subnet": "10.30.0.0/24"}], [{"subnet": "10.31.0.0/30"}]]}),
        );
        allocate(&config, request("first", "net1"), &[]).expect("the only one of the second range");
        let error = allocate(&config, request("second", "net1"), &[]).expect_err("exhausted");
        assert!(error.to_string().contains("no address left in 10.31.0.1-10.31.0.2"), "{error}");
        assert_eq!(held(&config, request("second", "net1")).expect("the store"), Vec::<IpAddr>::new());
    }

    #[test]
    fn addresses_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config(folder.path(), serde_json::json!({"subnet": "10.30.0.0/24"}));
        let ask = |id, address: &str| allocate(&config, request(id, "net1"), &[address.to_owned()]);
        assert_eq!(ask("a", "10.30.0.9").expect("it")[0].address.to_string(), "10.30.0.9/24");
        assert!(matches!(ask("b", "10.30.0.9"), Err(HostLocalError::InUse { .. })));
        assert!(matches!(ask("b", "10.31.0.9"), Err(HostLocalError::NotInRanges { .. })));
        assert!(matches!(ask("b", "10.30.0.1"), Err(HostLocalError::NotInRanges { .. })), "the gateway");
        assert!(matches!(ask("a", "10.30.0.8"), Err(HostLocalError::Twice { .. })));
        let two = ["10.30.0.10".to_owned(), "10.30.0.11".to_owned()];
        let error = allocate(&config, request("b", "net1"), &two).expect_err("one set gives one address");
        assert!(matches!(error, HostLocalError::TooMany { .. }), "{error}");
        assert_eq!(held(&config, request("b", "net1")).expect("the store"), Vec::<IpAddr>::new());
    }

    #[test]
    fn concurrent_callers_get_different_addresses() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config(folder.path(), serde_json::json!({"subnet": "10.30.0.0/24"}));
        let addresses: Vec<_> = std::thread::scope(|scope| {
            let call = |number: usize| {
                let config = &config;
                scope.spawn(move || {
                    allocate(config, request(&format!("c{number}"), "net1"), &[]).expect("an address")
                })
            };
            let threads: Vec<_> = (0..40).map(call).collect();
            threads
                .into_iter()
                .flat_map(|it| it.join().expect("no panic"))
                .map(|it| it.address.addr())
                .collect()
        });
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 40);
    }

    proptest! {
        /// Whatever comes and goes, no address has two owners, and what is given back can be had again.
        #[test]
        fn no_address_twice(steps in proptest::collection::vec((0_usize..12, any::<bool>()), 1..60)) {
            let folder = tempfile::tempdir().expect("a folder");
            let config = config(folder.path(), serde_json::json!({"subnet": "10.30.0.0/28"}));
            let mut owned: std::collections::BTreeMap<usize, IpAddr> = std::collections::BTreeMap::new();
            for (container, add) in steps {
                let id = format!("c{container}");
                if add {
                    match allocate(&config, request(&id, "net1"), &[]) {
                        Ok(got) => {
                            let address = got[0].address.addr();
                            prop_assert!(!owned.values().any(|it| *it == address), "{address} twice");
                            prop_assert!(owned.insert(container, address).is_none());
                        }
                        Err(HostLocalError::Twice { .. }) => prop_assert!(owned.contains_key(&container)),
                        Err(other) => prop_assert!(false, "13 addresses, 12 containers: {other}"),
                    }
                } else {
                    release(&config, request(&id, "net1")).expect("released");
                    owned.remove(&container);
                }
            }
        }
    }
}
