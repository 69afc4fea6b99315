//! Looking over a whole network's addresses: whether there are any left (STATUS), and giving back those
//! whose containers are gone (GC).

use super::host_local::{Config, HostLocalError, check_name};
use super::store::{LOCK_WAIT, Store};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

/// Which addresses GC is to leave alone.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// Container and interface.
    pub attachments: BTreeSet<(String, String)>,
    /// Containers of which it is not known which interfaces they have.
    pub containers: BTreeSet<String>,
}

impl Keep {
    /// Files of very old versions hold the container only.
    fn has(&self, owner: &str) -> bool {
        let mut lines = owner.split(['\r', '\n']).filter(|it| !it.is_empty());
        let Some(container) = lines.next() else { return false };
        let known =
            |interface: &str| self.attachments.contains(&(container.to_owned(), interface.to_owned()));
        self.containers.contains(container)
            || match lines.next() {
                Some(interface) => known(interface),
                None => self.attachments.iter().any(|(it, _)| it == container),
            }
    }
}

/// One store on disk: plugins whose configurations have the same name and `dataDir` share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pool {
    data_dir: PathBuf,
    pub network: String,
}

impl Pool {
    /// The store that a plugin's configuration uses, if its addresses are host-local's.
    pub fn of(config: &Value) -> Option<Self> {
        let ipam = config.get("ipam").filter(|it| it.get("type") == Some(&Value::from("host-local")))?;
        let network = config.get("name").and_then(Value::as_str)?.to_owned();
        let data_dir = Config::deserialize(ipam).ok()?.data_dir();
        check_name(&network).ok().map(|()| Self { data_dir, network })
    }

    /// Gives back all addresses that are not in `keep`, and says which.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn collect(&self, keep: &Keep) -> Result<Vec<IpAddr>, HostLocalError> {
        let Some(store) = Store::open_existing(&self.data_dir, &self.network, LOCK_WAIT)? else {
            return Ok(Vec::new());
        };
        let mut freed = Vec::new();
        for (address, owner) in store.taken()? {
            if !keep.has(&owner) {
                store.release(address)?;
                freed.push(address);
            }
        }
        Ok(freed)
    }
}

/// Whether each set of ranges has an address left.
///
/// # Errors
/// One has none, or the store cannot be read.
pub fn available(config: &Config, network: &str) -> Result<(), HostLocalError> {
    let sets = config.sets()?;
    check_name(network)?;
    let taken = match Store::open_existing(&config.data_dir(), network, LOCK_WAIT)? {
        Some(store) => {
            // An empty file is what a process that died has left.
            let taken = store.taken()?.into_iter().filter(|(_, owner)| !owner.is_empty());
            taken.map(|(address, _)| address).collect()
        }
        None => BTreeSet::new(),
    };
    for set in sets {
        // No more steps than addresses are taken.
        if !set.iter().flat_map(|it| it.round_robin(None)).any(|it| !taken.contains(&it)) {
            let range =
                set.iter().map(|it| format!("{}-{}", it.start, it.end)).collect::<Vec<_>>().join(", ");
            return Err(HostLocalError::Exhausted { range, network: network.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::host_local::{Request, allocate};
    use super::*;
    use serde_json::json;

    fn plugin(folder: &std::path::Path) -> (Value, Config) {
        let ipam = json!({"type": "host-local", "dataDir": folder, "subnet": "10.30.0.0/29"});
        let config = Config::deserialize(&ipam).expect("a configuration");
        (json!({"name": "n3", "ipam": ipam}), config)
    }

    fn take(config: &Config, container_id: &str, interface: &str) -> Result<(), HostLocalError> {
        allocate(config, Request { network: "n3", container_id, interface, wait: LOCK_WAIT }, &[]).map(drop)
    }

    #[test]
    fn gc_keeps_what_is_valid_and_only_that() {
        let folder = tempfile::tempdir().expect("a folder");
        let (plugin, config) = plugin(folder.path());
        for (container, interface) in [("a", "net1"), ("a", "net2"), ("b", "net1"), ("c", "net7")] {
            take(&config, container, interface).expect("an address");
        }
        std::fs::write(folder.path().join("n3/10.30.0.6"), "a").expect("as very old versions wrote it");
        let pool = Pool::of(&plugin).expect("host-local");
        let keep = Keep {
            attachments: [("a".to_owned(), "net1".to_owned())].into(),
            containers: ["c".to_owned()].into(),
        };
        let freed: Vec<_> = pool.collect(&keep).expect("done").iter().map(ToString::to_string).collect();
        let freed: BTreeSet<_> = freed.iter().map(String::as_str).collect();
        assert_eq!(freed, ["10.30.0.3", "10.30.0.4"].into());
        assert!(pool.collect(&keep).expect("done").is_empty());
        let elsewhere = Pool { network: "absent".to_owned(), ..pool };
        assert!(elsewhere.collect(&keep).expect("nothing there").is_empty());
        assert!(!folder.path().join("absent").exists(), "looking makes no store");
    }

    #[test]
    fn a_pool_without_addresses_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_, config) = plugin(folder.path());
        for container in ["a", "b", "c", "d"] {
            take(&config, container, "net1").expect("an address");
            available(&config, "n3").expect("one left");
        }
        take(&config, "e", "net1").expect("the last");
        let error = available(&config, "n3").expect_err("none left").to_string();
        assert_eq!(error, "ipam: no address left in 10.30.0.1-10.30.0.6 of network n3");
    }
}
