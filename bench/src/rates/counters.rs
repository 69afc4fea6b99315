//! Where frames are lost, as the kernel counts it: by interface, by protocol, by core.

use crate::lab::Namespace;
use crate::lab::command::ETHTOOL;
use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// Counters by name, those of drops only.
pub type Counters = BTreeMap<String, u64>;

/// A side of the wire whose counters are read: a namespace, or where this process is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub name: &'a str,
    pub namespace: Option<&'a Namespace>,
    pub interfaces: &'a [&'a str],
    /// Whether what IP throws away counts. Not where it only throws away copies of what sockets have.
    pub with_ip: bool,
}

/// All drop counters of these places.
///
/// # Errors
/// A counter cannot be read.
pub(super) fn read(places: &[Place<'_>]) -> Result<Counters> {
    let mut counters = Counters::new();
    for place in places {
        let inside = || -> Result<Counters> {
            let mut found = Counters::new();
            // Of the thread's own namespace; /proc/net is that of the process's first thread.
            protocols(&text("/proc/thread-self/net/snmp")?, &mut found);
            devices(&text("/proc/thread-self/net/dev")?, place.interfaces, &mut found);
            for interface in place.interfaces {
                driver(interface, &mut found)?;
            }
            found.retain(|it, _| place.with_ip || !it.starts_with("Ip "));
            Ok(found)
        };
        let found = match place.namespace {
            Some(namespace) => namespace.run(inside)??,
            None => inside()?,
        };
        counters.extend(found.into_iter().map(|(key, count)| (format!("{} {key}", place.name), count)));
    }
    // Per CPU, in hexadecimal; the second column counts frames for which a queue had no room.
    let softnet = text("/proc/net/softnet_stat")?;
    let dropped =
        softnet.lines().filter_map(|it| u64::from_str_radix(it.split_whitespace().nth(1)?, 16).ok());
    counters.insert("softnet dropped".to_owned(), dropped.sum());
    Ok(counters)
}

/// What has grown between two readings, and by how much.
pub(super) fn grown(before: &Counters, after: &Counters) -> Counters {
    let growth = |(key, count): (&String, &u64)| {
        let more = count.saturating_sub(before.get(key).copied().unwrap_or_default());
        (more > 0).then(|| (key.clone(), more))
    };
    after.iter().filter_map(growth).collect()
}

fn text(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {path}"))
}

/// Of /proc/net/snmp: what IP and UDP throw away. `InErrors` of UDP includes the buffers' errors; what an
/// interface refuses (`OutDiscards`, `SndbufErrors`) is among that interface's drops.
fn protocols(snmp: &str, counters: &mut Counters) {
    const DROPS: [&str; 6] = [
        "Ip InHdrErrors",
        "Ip InAddrErrors",
        "Ip InDiscards",
        "Ip OutNoRoutes",
        "Udp NoPorts",
        "Udp InErrors",
    ];
    let lines: Vec<_> = snmp.lines().collect();
    for [names, values] in lines.as_chunks::<2>().0 {
        let Some((protocol, names)) = names.split_once(": ") else { continue };
        let values = values.split_whitespace().skip(1);
        for (name, value) in names.split_whitespace().zip(values) {
            let key = format!("{protocol} {name}");
            if let (true, Ok(value)) = (DROPS.contains(&key.as_str()), value.parse()) {
                counters.insert(key, value);
            }
        }
    }
}

/// Of /proc/net/dev: frames dropped on the way in and out. A veth's `rx dropped` are its peer's `tx dropped`
/// and what [`driver`] finds.
fn devices(text: &str, interfaces: &[&str], counters: &mut Counters) {
    for line in text.lines() {
        let Some((name, values)) = line.split_once(':') else { continue };
        if !interfaces.contains(&name.trim()) {
            continue;
        }
        let values: Vec<u64> = values.split_whitespace().filter_map(|it| it.parse().ok()).collect();
        for (column, what) in [(3, "rx dropped"), (11, "tx dropped")] {
            counters
                .insert(format!("{} {what}", name.trim()), values.get(column).copied().unwrap_or_default());
        }
    }
}

/// Of the driver (`ethtool -S`): what XDP dropped, which is not in the device's own numbers.
fn driver(interface: &str, counters: &mut Counters) -> Result<()> {
    if !ETHTOOL.is_installed() {
        return Err(ETHTOOL.explain(std::io::ErrorKind::NotFound.into()));
    }
    let output = ETHTOOL.command().args(["-S", interface]).output().context("ethtool -S")?;
    // Some drivers have no statistics.
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("peer_ifindex:") {
        counters.remove(&format!("{interface} rx dropped"));
    }
    for line in text.lines() {
        let Some((name, value)) = line.trim().split_once(':') else { continue };
        let is_drop = match name.strip_prefix("rx_queue_") {
            // A veth's.
            Some(rest) => rest.ends_with("_drops") || rest.ends_with("_xdp_tx_errors"),
            None => ["rx_xdp_drop", "rx_xdp_tx_err", "rx_discards_phy"].contains(&name),
        };
        if let (true, Ok(value)) = (is_drop, value.trim().parse()) {
            counters.insert(format!("{interface} {name}"), value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_found_and_only_their_growth_counts() {
        let mut counters = Counters::new();
        protocols(
            "Ip: Forwarding InDiscards\nIp: 1 7\nUdp: InDatagrams InErrors\nUdp: 100 3\n",
            &mut counters,
        );
        let dev = "Inter-|   Receive\n face |bytes\n    n3: 1 2 3 44 5 6 7 8 9 10 11 55 13\n  lo: 0 0 0 9\n";
        devices(dev, &["n3"], &mut counters);
        let names: Vec<_> = counters.iter().map(|(key, count)| format!("{key} {count}")).collect();
        assert_eq!(names, ["Ip InDiscards 7", "Udp InErrors 3", "n3 rx dropped 44", "n3 tx dropped 55"]);
        let mut after = counters.clone();
        after.insert("Udp InErrors".to_owned(), 10);
        assert_eq!(grown(&counters, &after), Counters::from([("Udp InErrors".to_owned(), 7)]));
    }
}
