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
    /// Not forwarded, by network and reason.
    pub counters: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UserSpaceReport {
    pub figures: Figures,
    pub packets_into_pod: u64,
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
}

/// Both ways beside each other. Both run through the same gNB and user in user space, so the ratios say less
/// than what the fast path can do; `cargo xtask bench` measures that.
pub(super) fn side_by_side(fast_path: &Figures, user_space: &Figures) -> String {
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
        "(through a gNB and users that are programs in user space on the same two cores)\n".to_owned(),
    ]
    .concat()
}
