//! The session that most users have: one PDR a direction, no filter. It costs one lookup a packet.

use crate::v1::{
    ApplyAction, FTeid, Far, ForwardingParameters, Interface, OuterHeaderCreation, Pdi, Pdr, Qer, Session,
};

/// A user's PDU session: uplink from a tunnel to a data network, downlink back into the peer's tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plain {
    /// At most one IPv4 address and one IPv6 /64.
    pub ue: Vec<String>,
    /// `namespace/name` of the NAD on which the tunnel ends.
    pub access: String,
    /// `namespace/name` of the data network's NAD.
    pub data: String,
    /// Local TEID of the uplink; 0: the agent gives one, which [`crate::Client::get`] shows.
    pub teid: u32,
    /// The address at which the tunnel ends; empty: all that the pod has on the network.
    pub local: String,
    /// The peer's address and TEID, of the downlink. Empty: downlink packets are dropped.
    pub peer: String,
    pub peer_teid: u32,
    /// In downlink G-PDUs.
    pub qfi: Option<u32>,
}

impl Plain {
    /// As rules: PDR and FAR 1 are the uplink's, 2 the downlink's.
    pub fn session(&self, id: impl Into<String>) -> Session {
        let qer_ids: Vec<u32> = self.qfi.map(|_| 1).into_iter().collect();
        let uplink = Pdr {
            id: 1,
            precedence: 100,
            pdi: Some(Pdi {
                source_interface: Interface::Access.into(),
                network_instance: self.access.clone(),
                local_f_teid: Some(FTeid {
                    teid: self.teid,
                    address: self.local.clone(),
                    choose: self.teid == 0,
                }),
                ue_ip_addresses: self.ue.clone(),
                ..Pdi::default()
            }),
            outer_header_removal: true,
            far_id: 1,
            ..Pdr::default()
        };
        let downlink = Pdr {
            id: 2,
            precedence: 100,
            pdi: Some(Pdi {
                source_interface: Interface::Core.into(),
                network_instance: self.data.clone(),
                ue_ip_addresses: self.ue.clone(),
                ..Pdi::default()
            }),
            outer_header_removal: false,
            far_id: 2,
            qer_ids,
            ..Pdr::default()
        };
        let forward = |destination: Interface, network: &str, outer| ForwardingParameters {
            destination_interface: destination.into(),
            network_instance: network.to_owned(),
            outer_header_creation: outer,
            ..ForwardingParameters::default()
        };
        let out = Far {
            id: 1,
            apply_action: ApplyAction::Forw.into(),
            forwarding_parameters: Some(forward(Interface::Core, &self.data, None)),
            ..Far::default()
        };
        let outer = OuterHeaderCreation { teid: self.peer_teid, address: self.peer.clone() };
        let back = if self.peer.is_empty() {
            Far { id: 2, apply_action: ApplyAction::Drop.into(), ..Far::default() }
        } else {
            let parameters = Some(forward(Interface::Access, &self.access, Some(outer)));
            Far {
                id: 2,
                apply_action: ApplyAction::Forw.into(),
                forwarding_parameters: parameters,
                ..Far::default()
            }
        };
        let qer = self.qfi.map(|qfi| Qer { id: 1, qfi: Some(qfi), ..Qer::default() });
        Session {
            id: id.into(),
            pdrs: vec![uplink, downlink],
            fars: vec![out, back],
            qers: qer.into_iter().collect(),
            ..Session::default()
        }
    }
}
