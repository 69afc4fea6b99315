//! Rates from two looks. Pure.

use crate::agent::status::PacketsBytes;
use crate::agent::top::Top;
use std::collections::BTreeMap;
use std::time::Instant;

/// A second's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) packets: f64,
    pub(super) bits: f64,
}

impl Rate {
    fn of(packets: u64, bytes: u64, seconds: f64) -> Self {
        if seconds <= 0.0 {
            return Self::default();
        }
        #[expect(clippy::cast_precision_loss, reason = "for people, three digits are shown")]
        let (packets, bytes) = (packets as f64, bytes as f64);
        Self { packets: packets / seconds, bits: 8.0 * bytes / seconds }
    }
}

/// What is drawn.
#[derive(Debug)]
pub(super) struct Rates {
    at: Instant,
    pub(super) top: Top,
    /// By network and reason.
    pub(super) reasons: BTreeMap<(String, String), Rate>,
    /// By network and pod: uplink and downlink.
    pub(super) endpoints: BTreeMap<(String, String), [Rate; 2]>,
    /// When the endpoints' rates were made, and of which reading.
    read: (Instant, u64),
    /// Why the last look has not worked.
    pub(super) failed: Option<String>,
}

impl Rates {
    pub(super) fn new((at, top): (Instant, Top)) -> Self {
        let read = (at, top.reading);
        Self { at, top, reasons: BTreeMap::new(), endpoints: BTreeMap::new(), read, failed: None }
    }

    /// Another look. Counters that fell belong to another agent or table: they count from zero.
    pub(super) fn take(&mut self, (at, top): (Instant, Top)) {
        let seconds = (at - self.at).as_secs_f64();
        let before: BTreeMap<_, _> = reasons(&self.top).collect();
        let rate = |(key, now): ((String, String), PacketsBytes)| {
            let new = since(before.get(&key).copied(), now);
            (key, Rate::of(new.packets, new.bytes, seconds))
        };
        self.reasons = reasons(&top).map(rate).collect();
        if top.reading != self.read.1 {
            let seconds = (at - self.read.0).as_secs_f64();
            let before: BTreeMap<_, _> = endpoints(&self.top).collect();
            let rate = |(key, now): ((String, String), [PacketsBytes; 2])| {
                let old = before.get(&key);
                let rates = [0, 1].map(|it| {
                    let new = since(old.map(|old| old[it]), now[it]);
                    Rate::of(new.packets, new.bytes, seconds)
                });
                (key, rates)
            };
            self.endpoints = endpoints(&top).map(rate).collect();
            self.read = (at, top.reading);
        }
        (self.at, self.top, self.failed) = (at, top, None);
    }

    pub(super) fn fail(&mut self, why: String) {
        self.failed = Some(why);
    }

    /// A busy session's rates, uplink and downlink.
    pub(super) fn of_session(&self, uplink: PacketsBytes, downlink: PacketsBytes) -> [Rate; 2] {
        [uplink, downlink].map(|it| Rate::of(it.packets, it.bytes, self.top.seconds))
    }
}

fn reasons(top: &Top) -> impl Iterator<Item = ((String, String), PacketsBytes)> {
    let of_network = |it: &crate::agent::status::NetworkStatus| {
        let name = it.name.clone();
        it.counters.clone().into_iter().map(move |(reason, count)| ((name.clone(), reason), count))
    };
    top.status.networks.iter().flat_map(of_network)
}

fn endpoints(top: &Top) -> impl Iterator<Item = ((String, String), [PacketsBytes; 2])> {
    top.endpoints.iter().map(|it| ((it.network.clone(), it.pod.clone()), [it.uplink, it.downlink]))
}

fn since(before: Option<PacketsBytes>, now: PacketsBytes) -> PacketsBytes {
    match before {
        Some(old) if old.packets <= now.packets && old.bytes <= now.bytes => {
            PacketsBytes { packets: now.packets - old.packets, bytes: now.bytes - old.bytes }
        }
        _ => now,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::agent::status::{NetworkStatus, Status};
    use crate::agent::top::{BusySession, EndpointTraffic};
    use crate::nad::fast_path::Role;
    use std::time::Duration;

    pub(in super::super) fn count(packets: u64) -> PacketsBytes {
        PacketsBytes { packets, bytes: packets * 125 }
    }

    /// A node with one network, one UPF and two sessions.
    pub(in super::super) fn top(reading: u64, drops: u64, packets: u64) -> Top {
        let network = NetworkStatus {
            name: "core/n3".to_owned(),
            role: Role::Access,
            masters: vec!["n3".to_owned()],
            counters: [("ue-spoofed".to_owned(), count(drops))].into(),
            path_failures: None,
        };
        let busy = |name: &str, up, down| BusySession {
            name: name.to_owned(),
            network: "core/n3".to_owned(),
            pod: "pod core/upf-0".to_owned(),
            ue: vec!["10.60.0.1".to_owned()],
            teid: Some("0x1001".to_owned()),
            peer: Some("10.30.0.10".to_owned()),
            uplink: count(up),
            downlink: count(down),
        };
        Top {
            status: Status { ready: true, networks: vec![network], ..Status::default() },
            sessions: 3,
            endpoints: vec![EndpointTraffic {
                network: "core/n3".to_owned(),
                pod: "pod core/upf-0".to_owned(),
                uplink: count(packets),
                downlink: count(2 * packets),
            }],
            busiest: vec![busy("ue-1", 2000, 10), busy("ue-2", 20, 30_000)],
            seconds: 2.0,
            reading,
        }
    }

    #[test]
    fn rates_are_of_what_was_counted_between_two_readings() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rates = Rates::new((at(0), top(1, 10, 1000)));
        rates.take((at(2), top(1, 14, 1000)));
        let (drops, upf) = (
            ("core/n3".to_owned(), "ue-spoofed".to_owned()),
            ("core/n3".to_owned(), "pod core/upf-0".to_owned()),
        );
        assert_eq!(rates.reasons[&drops], Rate { packets: 2.0, bits: 2000.0 });
        assert_eq!(rates.endpoints.get(&upf), None, "the counters were not read meanwhile");
        rates.take((at(4), top(2, 14, 5000)));
        assert_eq!(rates.endpoints[&upf].map(|it| it.packets), [1000.0, 2000.0]);
        // Another agent: from zero.
        rates.take((at(5), top(3, 3, 100)));
        assert_eq!((rates.reasons[&drops].packets, rates.endpoints[&upf][0].packets), (3.0, 100.0));
    }
}
