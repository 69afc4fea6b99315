//! What the loop knows when Prometheus asks, as metrics. Made anew each time, so that series of what is gone are
//! gone.

use super::totals::{EndpointName, Forwarded};
use crate::agent::status::{SessionState, SessionStatus, Status};
use crate::dataplane::Statistics;
use crate::world::tables::Tables;
use netplane_common::map::Counter as Count;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

type Labels = Vec<(&'static str, String)>;

/// What a scrape is made of.
pub(super) struct Scraped<'a> {
    /// Without sessions, but for those that have series of their own.
    pub(super) status: &'a Status,
    pub(super) forwarded: &'a BTreeMap<EndpointName, Forwarded>,
    /// Sessions by network: those that forward, and all.
    pub(super) sessions: BTreeMap<String, (usize, usize)>,
    pub(super) tables: &'a Tables,
    pub(super) statistics: &'a Statistics,
    /// How many sessions have series of their own at most; nothing: none was asked for.
    pub(super) most_sessions: Option<usize>,
}

/// The registry that is written out.
pub(super) fn registry(scraped: &Scraped<'_>) -> Registry {
    let mut out = Out(Registry::with_prefix("netplane"));
    out.state(scraped.status);
    out.lost(scraped.status);
    out.networks(scraped);
    out.kernel(scraped);
    if let Some(most) = scraped.most_sessions {
        out.sessions(&scraped.status.sessions, most, scraped.sessions.values().map(|it| it.1).sum());
    }
    out.0
}

struct Out(Registry);

impl Out {
    fn counter(&mut self, name: &str, help: &str) -> Family<Labels, Counter> {
        let family = Family::default();
        self.0.register(name, help, family.clone());
        family
    }

    fn gauge(&mut self, name: &str, help: &str) -> impl Fn(Labels, usize) + use<> {
        let family = Family::<Labels, Gauge>::default();
        self.0.register(name, help, family.clone());
        move |labels, value| {
            family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// A gauge without labels.
    fn value(&mut self, name: &str, help: &str, value: usize) {
        self.0.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn state(&mut self, status: &Status) {
        self.gauge("build_info", "Always 1, with the version of the agent")(
            vec![("version", status.version.clone())],
            1,
        );
        let help = "1 when every source has spoken and the tables follow them";
        self.value("ready", help, usize::from(status.ready));
        self.value("problems", "What is wrong, as netplane status lists it", status.problems.len());
        let set = self.gauge("master_attached", "Always 1, with how the program is attached to the master");
        for it in &status.masters {
            let mode = format!("{:?}", it.attached).to_lowercase();
            set(vec![("master", it.name.clone()), ("mode", mode)], 1);
        }
    }

    fn lost(&mut self, status: &Status) {
        let help = "Packets that were to leave by the master and that the kernel has lost";
        let packets = self.counter("lost_packets", help);
        for master in &status.masters {
            for it in &master.lost {
                let labels = vec![
                    ("master", master.name.clone()),
                    ("from", it.from.clone()),
                    ("reason", it.reason.clone()),
                ];
                packets.get_or_create(&labels).inc_by(it.packets);
            }
        }
    }

    fn networks(&mut self, scraped: &Scraped<'_>) {
        let packets = self.counter("not_forwarded_packets", "Packets that were not forwarded, by reason");
        let bytes = self.counter("not_forwarded_bytes", "Bytes of frames that were not forwarded, by reason");
        for network in &scraped.status.networks {
            for (reason, count) in &network.counters {
                let labels = vec![("network", network.name.clone()), ("reason", reason.clone())];
                packets.get_or_create(&labels).inc_by(count.packets);
                bytes.get_or_create(&labels).inc_by(count.bytes);
            }
        }
        let packets = self.counter("forwarded_packets", "Packets that were forwarded for an endpoint");
        let bytes = self.counter("forwarded_bytes", "Bytes of users' IP packets that were forwarded");
        for ((network, pod), forwarded) in scraped.forwarded {
            for (direction, count) in directions(forwarded.uplink, forwarded.downlink) {
                let labels = vec![("network", network.clone()), ("pod", pod_name(pod)), direction];
                packets.get_or_create(&labels).inc_by(count.packets);
                bytes.get_or_create(&labels).inc_by(count.bytes);
            }
        }
        let set = self.gauge("endpoints", "Interfaces of pods on the network that the fast path knows");
        let of = |name: &str| scraped.status.endpoints.iter().filter(|it| it.network == name).count();
        for network in &scraped.status.networks {
            set(vec![("network", network.name.clone())], of(&network.name));
        }
        self.paths(scraped.status);
        let set = self.gauge("sessions", "Sessions of the network, by state");
        for (network, (forwarding, all)) in &scraped.sessions {
            let states = [("forwarding", *forwarding), ("next-hop-unresolved", all - forwarding)];
            for (state, count) in states {
                set(vec![("network", network.clone()), ("state", state.to_owned())], count);
            }
        }
    }

    /// By network: peers may be thousands.
    fn paths(&mut self, status: &Status) {
        let set = self.gauge("gtpu_paths", "GTP-U paths that sessions of the network use, by state");
        let failures =
            self.counter("gtpu_path_failures", "Times that a GTP-U path of the network has failed");
        for network in &status.networks {
            let Some(failed) = network.path_failures else { continue };
            let labels = vec![("network", network.name.clone())];
            failures.get_or_create(&labels).inc_by(failed);
            let own = status.endpoints.iter().filter(|it| it.network == network.name);
            let [mut up, mut down, mut unknown] = [0; 3];
            for it in own.filter_map(|it| it.paths.as_ref()) {
                (up, down, unknown) = (up + it.up, down + it.down.len(), unknown + it.unknown);
            }
            for (state, paths) in [("up", up), ("down", down), ("unknown", unknown)] {
                set(vec![("network", network.name.clone()), ("state", state.to_owned())], paths);
            }
        }
    }

    fn kernel(&mut self, scraped: &Scraped<'_>) {
        let kept = scraped.status.programmed.buffered_packets;
        self.value("buffered_packets", "Packets that are kept for idle users", kept);
        let set = self.gauge("table_entries", "Entries of the packet program's table");
        for (table, entries) in entries(scraped.tables) {
            set(vec![("table", table.to_owned())], entries);
        }
        let set = self.gauge("table_capacity", "Entries that the packet program's table has room for");
        for (table, capacity) in &scraped.statistics.capacities {
            set(vec![("table", (*table).to_owned())], usize::try_from(*capacity).unwrap_or(usize::MAX));
        }
        // Zero runs: the kernel counts none unless it is told to.
        if scraped.statistics.runs > 0 {
            let runs = Counter::<u64>::default();
            runs.inc_by(scraped.statistics.runs);
            let help = "Runs of the packet program, while the kernel counts them";
            self.0.register("program_runs", help, runs);
            let seconds = Counter::<f64, AtomicU64>::default();
            seconds.inc_by(scraped.statistics.run_time.as_secs_f64());
            let help = "Time in the packet program, while the kernel counts it";
            self.0.register("program_run_seconds", help, seconds);
        }
    }

    fn sessions(&mut self, sessions: &[SessionStatus], most: usize, all: usize) {
        let help = "Sessions that have no series of their own, for there are more than --metrics-sessions";
        self.value("sessions_without_series", help, all.saturating_sub(most));
        let packets = self.counter("session_packets", "Packets that were forwarded for a session");
        let bytes = self.counter("session_bytes", "Bytes of users' IP packets of a session");
        for it in sessions {
            let [up, down] =
                [it.uplink, it.downlink].map(|it| Count { packets: it.packets, bytes: it.bytes });
            for (direction, count) in directions(up, down) {
                let labels = vec![
                    ("network", it.network.clone()),
                    ("pod", pod_name(&it.pod)),
                    ("session", it.name.clone()),
                    direction,
                ];
                packets.get_or_create(&labels).inc_by(count.packets);
                bytes.get_or_create(&labels).inc_by(count.bytes);
            }
        }
    }
}

/// `core/upf-0`; outside Kubernetes as status has it.
fn pod_name(shown: &str) -> String {
    shown.strip_prefix("pod ").unwrap_or(shown).to_owned()
}

fn directions(uplink: Count, downlink: Count) -> [((&'static str, String), Count); 2] {
    [(("direction", "uplink".to_owned()), uplink), (("direction", "downlink".to_owned()), downlink)]
}

/// Only tables whose entries come and go.
fn entries(tables: &Tables) -> [(&'static str, usize); 8] {
    [
        ("uplink", tables.uplink.len()),
        ("uplink6", tables.uplink6.len()),
        ("downlink4", tables.downlink4.len()),
        ("downlink6", tables.downlink6.len()),
        ("endpoints", tables.endpoints.len()),
        ("next_hops", tables.next_hops.len()),
        ("routes", tables.routes.len()),
        ("peers", tables.peers.len()),
    ]
}

/// Sessions by network: forwarding, and all.
pub(super) fn count_sessions<'a>(
    sessions: impl Iterator<Item = (&'a crate::nad::NetworkName, SessionState)>,
) -> BTreeMap<String, (usize, usize)> {
    let mut counts: BTreeMap<&crate::nad::NetworkName, (usize, usize)> = BTreeMap::new();
    for (network, state) in sessions {
        let (forwarding, all) = counts.entry(network).or_default();
        *forwarding += usize::from(state == SessionState::Forwarding);
        *all += 1;
    }
    counts.into_iter().map(|(network, it)| (network.to_string(), it)).collect()
}
