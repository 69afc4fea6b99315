//! What the agent says of itself: the document behind `netplane status --json`.

use crate::dataplane::{AttachedMode, Kernel, KernelError};
use crate::nad::fast_path::Role;
use crate::sources::chain;
use crate::world::tables::XdpMode;
use crate::world::{Compiled, Problem, SessionView};
use netplane_common::map::Counter;
use netplane_common::verdict::Reason;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    /// Every source has spoken: what is here is what there is.
    pub ready: bool,
    pub networks: Vec<NetworkStatus>,
    pub masters: Vec<MasterStatus>,
    pub endpoints: Vec<EndpointStatus>,
    /// Static ones.
    pub sessions: Vec<SessionStatus>,
    #[serde(default)]
    pub programmed: ProgrammedStatus,
    pub problems: Vec<Problem>,
}

/// The sessions of the API, which are too many to be listed here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgrammedStatus {
    pub sessions: usize,
    /// Sessions of either kind that fit.
    pub capacity: u32,
    /// Of the kernel's memory, for the tables of sessions.
    pub table_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkStatus {
    /// `namespace/name`.
    pub name: String,
    pub role: Role,
    pub masters: Vec<String>,
    /// Packets that were not forwarded, by reason.
    pub counters: BTreeMap<String, PacketsBytes>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MasterStatus {
    pub name: String,
    pub ifindex: u32,
    /// As the networks ask for.
    pub xdp: XdpMode,
    /// As the kernel says.
    pub attached: AttachedMode,
    /// A TC program beside XDP sees what pods under the master send each other.
    #[serde(default)]
    pub local: bool,
    /// Why it is not on native XDP, where nobody asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    pub pod: String,
    pub network: String,
    pub interface: String,
    pub master: String,
    pub mac: String,
    pub addresses: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    pub name: String,
    pub network: String,
    pub pod: String,
    pub ue: Vec<String>,
    /// Of the uplink, as `0x1001`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    pub state: SessionState,
    /// Forwarded packets and their inner bytes.
    pub uplink: PacketsBytes,
    pub downlink: PacketsBytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionState {
    Forwarding,
    /// A next hop is not resolved: the session's packets are dropped until it is.
    NextHopUnresolved,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketsBytes {
    pub packets: u64,
    pub bytes: u64,
}

impl From<Counter> for PacketsBytes {
    fn from(it: Counter) -> Self {
        Self { packets: it.packets, bytes: it.bytes }
    }
}

/// Reads the counters and puts everything together.
pub(super) fn gather<K: Kernel>(
    kernel: &mut K,
    compiled: &Compiled,
    ready: bool,
    problems: Vec<Problem>,
) -> Status {
    gather_some(kernel, compiled, ready, problems, usize::MAX)
}

/// As [`gather`], with the first sessions only.
pub(super) fn gather_some<K: Kernel>(
    kernel: &mut K,
    compiled: &Compiled,
    ready: bool,
    mut problems: Vec<Problem>,
    most_sessions: usize,
) -> Status {
    let mut failed = |error: KernelError| {
        problems.push(Problem { object: error.operation.clone(), message: chain(&*error.source) });
    };
    let mut networks = Vec::new();
    for view in &compiled.networks {
        let counters = view.index.map_or_else(|| Ok(BTreeMap::new()), |index| kernel.network_counters(index));
        let counters = counters.unwrap_or_else(|error| {
            failed(error);
            BTreeMap::new()
        });
        networks.push(NetworkStatus {
            name: view.name.to_string(),
            role: view.role,
            masters: view.masters.keys().cloned().collect(),
            counters: counters.into_iter().map(|(number, it)| (reason_name(number), it.into())).collect(),
        });
    }
    let shown = compiled.sessions.get(..most_sessions).unwrap_or(&compiled.sessions);
    let sessions = sessions(kernel, shown).unwrap_or_else(|error| {
        failed(error);
        Vec::new()
    });
    let mut masters = Vec::new();
    for (ifindex, master) in &compiled.tables.masters {
        let attached = kernel.attached(*ifindex);
        let problem = |message| Problem { object: format!("master {}", master.name), message };
        problems.extend(attached.problem.map(problem));
        masters.push(MasterStatus {
            name: master.name.clone(),
            ifindex: *ifindex,
            xdp: master.mode,
            attached: attached.mode,
            local: attached.local,
            why: attached.why,
        });
    }
    let endpoints = compiled.endpoints.iter().map(|it| EndpointStatus {
        pod: it.pod.clone(),
        network: it.network.to_string(),
        interface: it.interface.clone(),
        master: it.master.clone(),
        mac: it.mac.clone(),
        addresses: it.addresses.iter().map(ToString::to_string).collect(),
    });
    let endpoints = endpoints.collect();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let programmed = ProgrammedStatus {
        sessions: 0,
        capacity: kernel.session_counters_len() / 2,
        table_bytes: kernel.session_table_bytes(),
    };
    Status { version, ready, networks, masters, endpoints, sessions, programmed, problems }
}

fn sessions<K: Kernel>(kernel: &mut K, shown: &[SessionView]) -> Result<Vec<SessionStatus>, KernelError> {
    let indices: Vec<_> = shown.iter().flat_map(|it| [it.uplink, it.downlink]).flatten().collect();
    let counters = kernel.session_counters(&indices)?;
    let counters: BTreeMap<u32, Counter> = indices.into_iter().zip(counters).collect();
    let count =
        |index: Option<u32>| index.and_then(|it| counters.get(&it)).copied().unwrap_or_default().into();
    let session = |it: &SessionView| SessionStatus {
        name: it.name.clone(),
        network: it.network.to_string(),
        pod: it.pod.clone(),
        ue: it.ue.clone(),
        teid: it.teid.map(|it| format!("{it:#x}")),
        peer: it.peer.clone(),
        state: if it.resolved { SessionState::Forwarding } else { SessionState::NextHopUnresolved },
        uplink: count(it.uplink),
        downlink: count(it.downlink),
    };
    Ok(shown.iter().map(session).collect())
}

fn reason_name(number: u8) -> String {
    let reason = Reason::ALL.iter().find(|it| **it as u8 == number);
    reason.map_or_else(|| format!("reason-{number}"), |it| it.name().to_owned())
}
