//! What the agent says of itself: the document behind `netplane status --json`.

use crate::dataplane::{AttachedMode, Kernel, KernelError, Lost};
use crate::nad::fast_path::Role;
use crate::netlink::device::Device;
use crate::sources::chain;
use crate::world::tables::XdpMode;
use crate::world::{Compiled, Problem, SessionView};
use netplane_common::map::{Counter, Failure, FailureKey};
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
    /// What is less than it could be, and needs nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Problem>,
}

/// The sessions of the API, which are too many to be listed here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgrammedStatus {
    pub sessions: usize,
    /// Packets that are kept for idle users (BUFF).
    #[serde(default)]
    pub buffered_packets: usize,
    /// Sessions of either kind that fit.
    pub capacity: u32,
    /// Of the kernel's memory, for the tables of sessions.
    pub table_bytes: u64,
    /// Entries of sessions that packets find by an index; others are hashed.
    #[serde(default)]
    pub indexed: u32,
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
    /// GTP-U paths that have failed since the agent began; absent where peers are not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_failures: Option<u64>,
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
    /// As kernel and driver said some seconds ago; absent: not asked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// Packets that were to leave by it and that the kernel has lost, since XDP was attached.
    #[serde(default)]
    pub lost: Vec<LostPackets>,
}

/// Packets from one master that the kernel has lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostPackets {
    /// The master that they came in by.
    pub from: String,
    pub reason: String,
    pub packets: u64,
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
    /// Absent where peers are not asked (`gtpu.echoInterval`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<PathsStatus>,
}

/// An endpoint's GTP-U paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathsStatus {
    pub up: usize,
    /// Asked for the first time, without an answer yet.
    pub unknown: usize,
    /// Peers that do not answer.
    pub down: Vec<String>,
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

/// What the agent knows besides: whether every source has spoken, what is wrong, and the masters' devices.
pub(super) type Known = (bool, Vec<Problem>, BTreeMap<u32, Device>);

/// Reads the counters and puts everything together, with the first sessions only.
pub(super) fn gather<K: Kernel>(
    kernel: &mut K,
    compiled: &Compiled,
    (ready, mut problems, devices): Known,
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
            path_failures: None,
        });
    }
    let shown = compiled.sessions.get(..most_sessions).unwrap_or(&compiled.sessions);
    let sessions = sessions(kernel, shown).unwrap_or_else(|error| {
        failed(error);
        Vec::new()
    });
    let lost = kernel.lost().unwrap_or_else(|error| {
        failed(error);
        Lost::default()
    });
    let masters = masters(kernel, compiled, (&lost, &devices), &mut problems);
    let note = |message| Problem { object: "redirect failures".to_owned(), message };
    let notes = lost.note.map(note).into_iter().collect();
    let endpoints = compiled.endpoints.iter().map(|it| EndpointStatus {
        pod: it.pod.clone(),
        network: it.network.to_string(),
        interface: it.interface.clone(),
        master: it.master.clone(),
        mac: it.mac.clone(),
        addresses: it.addresses.iter().map(ToString::to_string).collect(),
        paths: None,
    });
    let endpoints = endpoints.collect();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let programmed = ProgrammedStatus {
        sessions: 0,
        buffered_packets: 0,
        capacity: kernel.session_counters_len() / 2,
        table_bytes: kernel.session_table_bytes(),
        indexed: kernel.indexed(),
    };
    Status { version, ready, networks, masters, endpoints, sessions, programmed, problems, notes }
}

fn masters<K: Kernel>(
    kernel: &mut K,
    compiled: &Compiled,
    (lost, devices): (&Lost, &BTreeMap<u32, Device>),
    problems: &mut Vec<Problem>,
) -> Vec<MasterStatus> {
    let known = &compiled.tables.masters;
    let mut masters = Vec::new();
    for (ifindex, master) in known {
        let attached = kernel.attached(*ifindex);
        let problem = |message| Problem { object: format!("master {}", master.name), message };
        problems.extend(attached.problem.map(problem));
        // Of one that has vanished: at the master that they came in by.
        let is_here =
            |it: &&FailureKey| it.to == *ifindex || it.from == *ifindex && !known.contains_key(&it.to);
        let name = |it: u32| known.get(&it).map_or_else(|| format!("interface {it}"), |it| it.name.clone());
        let lost = lost.packets.iter().filter(|(key, _)| is_here(key)).map(|(key, packets)| LostPackets {
            from: name(key.from),
            reason: Failure::from_number(key.failure).unwrap_or(Failure::Other).name().to_owned(),
            packets: *packets,
        });
        masters.push(MasterStatus {
            name: master.name.clone(),
            ifindex: *ifindex,
            xdp: master.mode,
            attached: attached.mode,
            local: attached.local,
            why: attached.why,
            device: devices.get(ifindex).cloned(),
            lost: lost.collect(),
        });
    }
    for (status, master) in masters.iter().zip(known.values()) {
        let others_redirect =
            masters.iter().any(|it| it.ifindex != status.ifindex && it.attached == AttachedMode::Native);
        let is_target = others_redirect
            && compiled.tables.next_hops.values().any(|it| it.ifindex == status.ifindex && it.is_on_wire());
        let wrong = settings(status, master.tagged, is_target);
        let problem = |message| Problem { object: format!("master {}", master.name), message };
        problems.extend(wrong.into_iter().map(problem));
    }
    masters
}

/// Settings of a master that break the fast path, each with what would be right.
fn settings(status: &MasterStatus, tagged: bool, is_target: bool) -> Vec<String> {
    let (name, Some(device)) = (&status.name, &status.device) else { return Vec::new() };
    let on_xdp = matches!(status.attached, AttachedMode::Native | AttachedMode::Generic);
    let mut wrong = Vec::new();
    if on_xdp && device.lro == Some(true) {
        wrong.push(format!(
            "LRO is on: received segments come merged, and cannot be forwarded (`ethtool -K {name} lro off`)"
        ));
    }
    if on_xdp && tagged && device.strips_vlan == Some(true) {
        wrong.push(format!(
            "it takes VLAN tags off, and XDP does not see whose frames they are (`ethtool -K {name} \
             rx-vlan-hw-parse off`)"
        ));
    }
    if is_target && device.takes_redirects == Some(false) {
        wrong.push(
            "it takes no redirected frames, so that packets from other masters are lost (a veth takes them when \
             its other end has GRO on; where the driver has no ndo_xdp_xmit, set \"xdp\": \"tc\" for the \
             networks of the other masters)"
                .to_owned(),
        );
    }
    wrong
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_break_the_fast_path_are_named_with_what_would_be_right() {
        let status = |attached, device| MasterStatus {
            name: "eth1".to_owned(),
            ifindex: 3,
            xdp: XdpMode::Auto,
            attached,
            local: false,
            why: None,
            device: Some(device),
            lost: Vec::new(),
        };
        let bad = Device {
            lro: Some(true),
            strips_vlan: Some(true),
            takes_redirects: Some(false),
            ..Device::default()
        };
        let wrong = settings(&status(AttachedMode::Native, bad.clone()), true, true);
        let remedies = ["eth1 lro off", "eth1 rx-vlan-hw-parse off", "ndo_xdp_xmit"];
        assert_eq!(wrong.len(), remedies.len(), "{wrong:?}");
        assert!(wrong.iter().zip(remedies).all(|(it, remedy)| it.contains(remedy)), "{wrong:?}");
        // TC takes merged packets apart and has tags beside frames.
        assert_eq!(settings(&status(AttachedMode::Tc, bad.clone()), true, false), Vec::<String>::new());
        assert_eq!(
            settings(&status(AttachedMode::Native, bad), false, false).len(),
            1,
            "no tags, no redirects"
        );
        let unknown = settings(&status(AttachedMode::Native, Device::default()), true, true);
        assert_eq!(unknown, Vec::<String>::new(), "not known is not wrong");
    }
}
