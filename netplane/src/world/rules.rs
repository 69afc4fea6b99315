//! A session's rules, as the API has them, into what the tables can hold. What they cannot hold is refused:
//! nothing is without effect.

use super::flat::{Flat, FlatDownlink, FlatTunnel, FlatUplink};
use super::refusal::{Kind, Refusal};
use crate::nad::NetworkName;
use crate::nad::fast_path::Target;
use ipnet::IpNet;
use netplane_client::v1::{ApplyAction, Far, ForwardingParameters, Gate, Interface, Pdi, Pdr, Qer, Session};
use std::net::IpAddr;

/// Longest session identifier in bytes.
const MAX_ID: usize = 64;
const MAX_QFI: u32 = 63;

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(Kind::InvalidArgument, message)
}

fn unimplemented(message: impl Into<String>) -> Refusal {
    Refusal::new(Kind::Unimplemented, message)
}

/// The session's entries-to-be.
///
/// # Errors
/// The rules are wrong, or more than the fast path has.
pub(super) fn flat(session: &Session) -> Result<Flat, Refusal> {
    if session.id.is_empty() || session.id.len() > MAX_ID {
        return Err(invalid(format!("id: has {} bytes, should have 1 to {MAX_ID}", session.id.len())));
    }
    unique("PDR", session.pdrs.iter().map(|it| it.id))?;
    unique("FAR", session.fars.iter().map(|it| it.id))?;
    unique("QER", session.qers.iter().map(|it| it.id))?;
    let mut flat = Flat::default();
    for pdr in &session.pdrs {
        let at = |refusal: Refusal| Refusal::new(refusal.kind, format!("PDR {}: {refusal}", pdr.id));
        rule(session, pdr, &mut flat).map_err(at)?;
    }
    if flat.uplink.is_none() && flat.downlink.is_none() {
        return Err(invalid("pdrs: there is none"));
    }
    let to_data = flat.uplink.as_ref().is_some_and(|it| matches!(it.to, Some(Target::Data(_))));
    if flat.ue4.is_none() && flat.ue6.is_none() && (to_data || flat.downlink.is_some()) {
        return Err(invalid("ue_ip_addresses: is missing: whose packets are these?"));
    }
    Ok(flat)
}

fn unique(what: &str, ids: impl Iterator<Item = u32>) -> Result<(), Refusal> {
    let mut seen = Vec::new();
    for id in ids {
        if seen.contains(&id) {
            return Err(invalid(format!("{what} {id}: there are two with this id")));
        }
        seen.push(id);
    }
    Ok(())
}

fn rule(session: &Session, pdr: &Pdr, flat: &mut Flat) -> Result<(), Refusal> {
    let pdi = pdr.pdi.as_ref().ok_or_else(|| invalid("pdi: is missing"))?;
    let far = session.fars.iter().find(|it| it.id == pdr.far_id);
    let far = far.ok_or_else(|| invalid(format!("far_id: there is no FAR {}", pdr.far_id)))?;
    let mut qers = Vec::new();
    for id in &pdr.qer_ids {
        let qer = session.qers.iter().find(|it| it.id == *id);
        qers.push(qer.ok_or_else(|| invalid(format!("qer_ids: there is no QER {id}")))?);
    }
    users(pdi, flat)?;
    match pdi.source_interface() {
        Interface::Access => {
            if let Some(other) = flat.uplink.as_ref().map(|_| other_pdr(session, pdr, Interface::Access)) {
                return Err(several(pdr, other, "access"));
            }
            flat.uplink = Some(uplink(pdr, pdi, far, &qers)?);
        }
        Interface::Core => {
            if let Some(other) = flat.downlink.as_ref().map(|_| other_pdr(session, pdr, Interface::Core)) {
                return Err(several(pdr, other, "core"));
            }
            flat.downlink = Some(downlink(pdi, far, &qers)?);
        }
        Interface::Unspecified => return Err(invalid("source_interface: should be ACCESS or CORE")),
    }
    Ok(())
}

/// The PDR before this one from the same side.
fn other_pdr<'s>(session: &'s Session, pdr: &Pdr, side: Interface) -> Option<&'s Pdr> {
    let from = |it: &&Pdr| it.pdi.as_ref().is_some_and(|it| it.source_interface() == side);
    session.pdrs.iter().filter(from).find(|it| it.id != pdr.id)
}

fn several(pdr: &Pdr, other: Option<&Pdr>, side: &str) -> Refusal {
    let id = other.map_or(0, |it| it.id);
    if other.is_some_and(|it| it.precedence == pdr.precedence) {
        return invalid(format!("precedence: {} is that of PDR {id}, too", pdr.precedence));
    }
    unimplemented(format!("source_interface: PDR {id} is from the {side} side, too; one a side is forwarded"))
}

/// At most one IPv4 address and one IPv6 /64, the same in all PDRs that name any (TS 23.501 §5.8.2.2).
fn users(pdi: &Pdi, flat: &mut Flat) -> Result<(), Refusal> {
    for text in &pdi.ue_ip_addresses {
        let prefix = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let wrong = |what: &str| Err(unimplemented(format!("ue_ip_addresses: {text}: {what}")));
        match prefix {
            Some(IpNet::V4(it)) if it.prefix_len() == 32 => match flat.ue4 {
                Some(other) if other != it.addr() => return wrong(&format!("{other} is there already")),
                _ => flat.ue4 = Some(it.addr()),
            },
            Some(IpNet::V6(it)) if it.prefix_len() == 64 => match flat.ue6 {
                Some(other) if other != it.trunc().addr() => {
                    return wrong(&format!("{other}/64 is there already"));
                }
                _ => flat.ue6 = Some(it.trunc().addr()),
            },
            Some(_) => return wrong("only IPv4 addresses and IPv6 /64 are forwarded"),
            None => {
                let message = format!("ue_ip_addresses: \"{text}\" should be an IPv4 address or an IPv6 /64");
                return Err(invalid(message));
            }
        }
    }
    Ok(())
}

fn network(text: &str, what: &str) -> Result<NetworkName, Refusal> {
    if text.is_empty() {
        return Err(invalid(format!("{what}: is missing, should be NAMESPACE/NAME of a NAD")));
    }
    NetworkName::try_from(text.to_owned()).map_err(|it| invalid(format!("{what}: {it}")))
}

/// The FAR's parameters; absent: packets are dropped. A closed gate drops, too.
fn forwarded(far: &Far, is_closed: bool) -> Result<Option<&ForwardingParameters>, Refusal> {
    match far.apply_action() {
        ApplyAction::Drop => Ok(None),
        ApplyAction::Forw => match &far.forwarding_parameters {
            None => Err(invalid(format!("FAR {}: forwarding_parameters: are missing", far.id))),
            Some(_) if is_closed => Ok(None),
            Some(it) => Ok(Some(it)),
        },
        ApplyAction::Unspecified => {
            Err(invalid(format!("FAR {}: apply_action: should be DROP or FORW", far.id)))
        }
    }
}

fn tunnel(far: &Far, parameters: &ForwardingParameters) -> Result<Option<(IpAddr, u32)>, Refusal> {
    let Some(outer) = &parameters.outer_header_creation else { return Ok(None) };
    let at = format!("FAR {}: outer_header_creation", far.id);
    let peer = outer.address.parse();
    let peer = peer.map_err(|_| invalid(format!("{at}.address: \"{}\" is no IP address", outer.address)))?;
    if outer.teid == 0 {
        return Err(invalid(format!("{at}.teid: is 0, should be 1 to 4294967295")));
    }
    Ok(Some((peer, outer.teid)))
}

fn uplink(pdr: &Pdr, pdi: &Pdi, far: &Far, qers: &[&Qer]) -> Result<FlatUplink, Refusal> {
    let f_teid = pdi.local_f_teid.as_ref().ok_or_else(|| invalid("local_f_teid: is missing"))?;
    if f_teid.teid == 0 {
        return Err(invalid("local_f_teid.teid: is 0, should be 1 to 4294967295"));
    }
    if !pdr.outer_header_removal {
        return Err(unimplemented("outer_header_removal: is false; G-PDUs are always decapsulated"));
    }
    let local = (!f_teid.address.is_empty()).then(|| f_teid.address.parse()).transpose();
    let local = local
        .map_err(|_| invalid(format!("local_f_teid.address: \"{}\" is no IP address", f_teid.address)))?;
    let qfi = match pdi.qfis.as_slice() {
        [] => None,
        [one] => Some(qfi("qfis", *one)?),
        _ => return Err(unimplemented("qfis: one is checked, or none")),
    };
    let is_closed = qers.iter().any(|it| it.uplink_gate() == Gate::Closed);
    let to = match forwarded(far, is_closed)? {
        None => None,
        Some(parameters) => {
            let at = format!("FAR {}: network_instance", far.id);
            let name = network(&parameters.network_instance, &at)?;
            match (tunnel(far, parameters)?, parameters.destination_interface()) {
                (_, Interface::Unspecified) => {
                    let at = format!("FAR {}: destination_interface", far.id);
                    return Err(invalid(format!("{at}: should be ACCESS or CORE")));
                }
                (Some((peer, teid)), _) => Some(Target::Relay { network: name, peer, teid }),
                (None, Interface::Core) => Some(Target::Data(name)),
                (None, Interface::Access) => {
                    let at = format!("FAR {}: outer_header_creation", far.id);
                    return Err(invalid(format!("{at}: is missing for destination ACCESS")));
                }
            }
        }
    };
    let access = network(&pdi.network_instance, "network_instance")?;
    Ok(FlatUplink { network: access, teid: f_teid.teid, local, qfi, to })
}

fn downlink(pdi: &Pdi, far: &Far, qers: &[&Qer]) -> Result<FlatDownlink, Refusal> {
    if pdi.local_f_teid.is_some() {
        return Err(unimplemented(
            "local_f_teid: packets from the core side in a tunnel are relayed by a session of their own, whose \
             PDR is from ACCESS",
        ));
    }
    if !pdi.qfis.is_empty() {
        return Err(invalid("qfis: packets of a data network have none"));
    }
    let is_closed = qers.iter().any(|it| it.downlink_gate() == Gate::Closed);
    let mut marked = qers.iter().filter_map(|it| it.qfi);
    let mark = marked.next().map(|it| qfi("QER: qfi", it)).transpose()?;
    if marked.any(|it| Some(it) != mark.map(u32::from)) {
        return Err(invalid("qer_ids: two QERs have different QFIs"));
    }
    let tunnel = match forwarded(far, is_closed)? {
        None => None,
        Some(parameters) => {
            if parameters.destination_interface() != Interface::Access {
                let at = format!("FAR {}: destination_interface", far.id);
                return Err(invalid(format!("{at}: should be ACCESS for packets to the user")));
            }
            let at = format!("FAR {}: outer_header_creation", far.id);
            let outer = tunnel(far, parameters)?;
            let (peer, teid) = outer.ok_or_else(|| invalid(format!("{at}: is missing")))?;
            let at = format!("FAR {}: network_instance", far.id);
            let network = network(&parameters.network_instance, &at)?;
            Some(FlatTunnel { network, peer, teid, qfi: mark, end_marker: false })
        }
    };
    Ok(FlatDownlink { network: network(&pdi.network_instance, "network_instance")?, tunnel })
}

fn qfi(what: &str, qfi: u32) -> Result<u8, Refusal> {
    let qfi = u8::try_from(qfi).ok().filter(|it| u32::from(*it) <= MAX_QFI).ok_or(qfi);
    qfi.map_err(|it| invalid(format!("{what}: {it} should be 0 to {MAX_QFI}")))
}
