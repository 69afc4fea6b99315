//! What `netplane top` draws: the state without the sessions, endpoints' traffic, and the busiest sessions.

use super::status::{PacketsBytes, Status};
use serde::{Deserialize, Serialize};

/// Sessions that are told.
pub const MOST_BUSY: usize = 32;

/// One moment. Sums only grow; whoever asks twice has rates.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Top {
    /// Without sessions.
    pub status: Status,
    pub sessions: usize,
    pub endpoints: Vec<EndpointTraffic>,
    /// Those with most packets between the last two readings of the counters, most first.
    pub busiest: Vec<BusySession>,
    /// Between those readings.
    pub seconds: f64,
    /// Counts the readings: with very many sessions not every answer has a new one.
    pub reading: u64,
}

/// Forwarded on an access network for a pod, inner bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointTraffic {
    pub network: String,
    pub pod: String,
    pub uplink: PacketsBytes,
    pub downlink: PacketsBytes,
}

/// A session, and what it has forwarded between the last two readings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BusySession {
    pub name: String,
    pub network: String,
    pub pod: String,
    pub ue: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    pub uplink: PacketsBytes,
    pub downlink: PacketsBytes,
}
