//! The results of the demo, for people and as JSON.

use crate::lab::traffic::StreamReport;
use crate::lab::wires::Judgement;
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub sessions: u32,
    pub fast_path: FastPathReport,
    /// A stream during which the agent was killed and started anew.
    pub restart: StreamReport,
    pub user_space: UserSpaceReport,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FastPathReport {
    /// tshark's.
    pub judgement: Judgement,
    pub figures: Figures,
    /// Forwarded by sessions.
    pub packets: u64,
    /// Received by the pod's interfaces meanwhile.
    pub packets_into_pod: u64,
    /// Forwarded by the UPF pod's process meanwhile.
    pub packets_of_upf: u64,
    /// Not forwarded, by network and reason.
    pub counters: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserSpaceReport {
    pub figures: Figures,
    pub packets_into_pod: u64,
    /// Forwarded by the UPF pod's process.
    pub packets_of_upf: u64,
}

/// What one user saw.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Mean round trip.
    pub ping_ms: f64,
    pub tcp_up_mbit: f64,
    pub tcp_down_mbit: f64,
    /// Datagrams of 1,000 bytes there and back, 64 under way.
    pub udp_round_trips_per_second: f64,
    pub flood: Flood,
}

/// G-PDUs of 100 inner bytes, as many as one socket can send.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flood {
    pub sent_per_second: f64,
    pub came_out_per_second: f64,
    /// Work of all processors of the machine, the sender's and the receiver's included, in microseconds
    /// for each packet that came out.
    pub processor_us_per_packet: f64,
}

/// Both ways beside each other. TCP and UDP run through the same gNB in user space, so their ratios say less
/// than what the fast path can do; the flood says more, and `cargo xtask bench` measures the program alone.
pub(super) fn side_by_side(fast_path: &Figures, user_space: &Figures) -> String {
    let kpps = |flood: Flood| flood.came_out_per_second / 1e3;
    let row = |name: &str, fast: f64, slow: f64| format!("{name:<34} {fast:>12.2} {slow:>16.2}\n");
    [
        format!("\n{:<34} {:>12} {:>16}\n", "", "fast path", "user-space UPF"),
        row("ping, mean round trip, ms", fast_path.ping_ms, user_space.ping_ms),
        row("TCP uplink, Mbit/s", fast_path.tcp_up_mbit, user_space.tcp_up_mbit),
        row("TCP downlink, Mbit/s", fast_path.tcp_down_mbit, user_space.tcp_down_mbit),
        row(
            "UDP round trips a second",
            fast_path.udp_round_trips_per_second,
            user_space.udp_round_trips_per_second,
        ),
        row("flood N3 to N6, thousand packets/s", kpps(fast_path.flood), kpps(user_space.flood)),
        row(
            "  processor time for each, µs",
            fast_path.flood.processor_us_per_packet,
            user_space.flood.processor_us_per_packet,
        ),
        "(TCP and UDP pass a gNB in user space, the same for both; the flood is sent ready-made)\n"
            .to_owned(),
    ]
    .concat()
}
