//! A session's rules, as the API has them, into what the tables can hold. What they cannot hold is refused:
//! nothing is without effect.

use super::flat::{Flat, FlatDownlink, FlatRule, FlatTunnel, FlatUplink};
use super::refusal::{Kind, Refusal};
use super::sdf;
use crate::nad::NetworkName;
use crate::nad::fast_path::Target;
use ipnet::IpNet;
use netplane_client::v1::{ApplyAction, Far, ForwardingParameters, Gate, Interface, Pdi, Pdr, Qer, Session};
use netplane_common::map::{Filter, MAX_RULES};
use std::collections::BTreeMap;
use std::net::IpAddr;

mod enforced;

/// Longest session identifier in bytes.
const MAX_ID: usize = 64;
const MAX_QFI: u32 = 63;
/// Framed routes of one session.
const MAX_FRAMED: usize = 16;

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(Kind::InvalidArgument, message)
}

fn unimplemented(message: impl Into<String>) -> Refusal {
    Refusal::new(Kind::Unimplemented, message)
}

/// The session's entries-to-be. `is_held`: what would be forwarded to the user is kept for now, behind what is kept
/// already.
///
/// # Errors
/// The rules are wrong, or more than the fast path has.
pub(super) fn flat(session: &Session, is_held: bool) -> Result<Flat, Refusal> {
    if session.id.is_empty() || session.id.len() > MAX_ID {
        return Err(invalid(format!("id: has {} bytes, should have 1 to {MAX_ID}", session.id.len())));
    }
    unique("PDR", session.pdrs.iter().map(|it| it.id))?;
    unique("FAR", session.fars.iter().map(|it| it.id))?;
    unique("QER", session.qers.iter().map(|it| it.id))?;
    unique("URR", session.urrs.iter().map(|it| it.id))?;
    session.qers.iter().try_for_each(enforced::check_qer)?;
    session.urrs.iter().try_for_each(enforced::check_urr)?;
    let only_tells = |it: &&Far| it.notify_cp && it.apply_action() != ApplyAction::Buff;
    if let Some(far) = session.fars.iter().find(only_tells) {
        return Err(invalid(format!(
            "FAR {}: notify_cp: is for apply_action BUFF (NOCP, TS 29.244 §8.2.26)",
            far.id
        )));
    }
    let mut flat = Flat::default();
    for pdr in &session.pdrs {
        let pdi = pdr.pdi.as_ref().ok_or_else(|| invalid("pdi: is missing"));
        pdi.and_then(|it| users(it, &mut flat)).map_err(|it| at(pdr, &it))?;
    }
    check_framed(&flat)?;
    let uplink = rules_of(session, Interface::Access, &flat)?;
    let mut downlink = rules_of(session, Interface::Core, &flat)?;
    for it in downlink.iter_mut().filter_map(|it| it.flat.downlink.as_mut()) {
        it.buffers |= is_held && it.tunnel.is_some();
    }
    if uplink.is_empty() && downlink.is_empty() {
        return Err(invalid("pdrs: there is none"));
    }
    // What forwards packets that no filter is for is usually the last; answers and End Markers go that way.
    let forwards = |it: &&FlatRule| it.flat.uplink.as_ref().is_some_and(|it| it.to.is_some());
    let last = uplink.iter().rev().find(forwards).or(uplink.last());
    flat.uplink = last.and_then(|it| it.flat.uplink.clone());
    let forwards = |it: &&FlatRule| it.flat.downlink.as_ref().is_some_and(|it| it.tunnel.is_some());
    let last = downlink.iter().rev().find(forwards).or(downlink.last());
    flat.downlink = last.and_then(|it| it.flat.downlink.clone());
    if !is_plain(&uplink) {
        if let Some(it) = &mut flat.uplink {
            it.qfi = None;
        }
        flat.uplink_rules = uplink;
    } else if let (Some(it), Some(rule)) = (&mut flat.uplink, uplink.first()) {
        it.qfi = (rule.filter.qfis != 0).then(|| rule.filter.qfis.trailing_zeros() as u8);
    }
    if !is_plain(&downlink) {
        flat.downlink_rules = downlink;
    }
    let to_data = flat.uplink_targets().any(|it| matches!(it, Target::Data(_)));
    if flat.ue4.is_none() && flat.ue6.is_none() && (to_data || flat.downlink.is_some()) {
        return Err(invalid("ue_ip_addresses: is missing: whose packets are these?"));
    }
    Ok(flat)
}

/// How packets of a PDR are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffering {
    /// The first one is reported.
    pub notifies: bool,
    /// So many at most; 0: no such limit.
    pub most: u32,
    /// Of the PDR's QERs.
    pub qfi: Option<u32>,
}

/// The PDRs of a session whose packets are kept.
pub fn buffering(session: &Session) -> BTreeMap<u32, Buffering> {
    let mut all = BTreeMap::new();
    for pdr in &session.pdrs {
        let is_own = |it: &&Far| it.id == pdr.far_id && it.apply_action() == ApplyAction::Buff;
        let Some(far) = session.fars.iter().find(is_own) else { continue };
        let qers = || session.qers.iter().filter(|it| pdr.qer_ids.contains(&it.id));
        if qers().all(|it| it.downlink_gate() == Gate::Open) {
            let (notifies, most) = (far.notify_cp, far.dl_buffering_suggested_packet_count);
            all.insert(pdr.id, Buffering { notifies, most, qfi: qers().find_map(|it| it.qfi) });
        }
    }
    all
}

/// Whether an entry without rules does: all packets, or those with one QFI, and nothing to pay.
fn is_plain(rules: &[FlatRule]) -> bool {
    match rules {
        [] => true,
        [one] => {
            let is_for_all = Filter { qfis: 0, ..one.filter } == Filter::default();
            let buffers = one.flat.downlink.as_ref().is_some_and(|it| it.buffers);
            let is_free = one.qers.is_empty() && one.urrs.is_empty() && !buffers;
            is_for_all && one.filter.qfis.count_ones() <= 1 && is_free
        }
        _ => false,
    }
}

fn at(pdr: &Pdr, refusal: &Refusal) -> Refusal {
    Refusal::new(refusal.kind, format!("PDR {}: {refusal}", pdr.id))
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

/// The PDRs from one side, in the order of precedence: one rule for each filter.
fn rules_of(session: &Session, side: Interface, users: &Flat) -> Result<Vec<FlatRule>, Refusal> {
    let side_of = |it: &Pdr| it.pdi.as_ref().map_or(Interface::Unspecified, Pdi::source_interface);
    if let Some(pdr) = session.pdrs.iter().find(|it| side_of(it) == Interface::Unspecified) {
        return Err(at(pdr, &invalid("source_interface: should be ACCESS or CORE")));
    }
    let mut pdrs: Vec<&Pdr> = session.pdrs.iter().filter(|it| side_of(it) == side).collect();
    pdrs.sort_by_key(|it| it.precedence);
    if let Some([a, b]) = pdrs.windows(2).find(|it| it[0].precedence == it[1].precedence) {
        let message = format!("precedence: {} is that of PDR {}, too", b.precedence, a.id);
        return Err(at(b, &invalid(message)));
    }
    let mut rules: Vec<FlatRule> = Vec::new();
    for pdr in pdrs {
        let own = rules_of_pdr(session, pdr, side, users).map_err(|it| at(pdr, &it))?;
        let one_place = own.iter().chain(rules.first()).map(|it| it.flat.place()).collect::<Vec<_>>();
        if one_place.windows(2).any(|it| it[0] != it[1]) {
            let message = "its network or F-TEID is another than that of PDRs before it: that takes a session of \
                           its own";
            return Err(at(pdr, &unimplemented(message)));
        }
        rules.extend(own);
    }
    let (filters, most) = (rules.len(), MAX_RULES as usize);
    if filters > most {
        let message = format!(
            "pdrs: have {filters} filters from one side (one for each combination of ranges of \
                               ports), of which a session may have {most}"
        );
        return Err(unimplemented(message));
    }
    Ok(rules)
}

fn rules_of_pdr(
    session: &Session,
    pdr: &Pdr,
    side: Interface,
    users: &Flat,
) -> Result<Vec<FlatRule>, Refusal> {
    let pdi = pdr.pdi.as_ref().ok_or_else(|| invalid("pdi: is missing"))?;
    let far = session.fars.iter().find(|it| it.id == pdr.far_id);
    let far = far.ok_or_else(|| invalid(format!("far_id: there is no FAR {}", pdr.far_id)))?;
    let mut qers = Vec::new();
    for id in &pdr.qer_ids {
        let qer = session.qers.iter().find(|it| it.id == *id);
        qers.push(qer.ok_or_else(|| invalid(format!("qer_ids: there is no QER {id}")))?);
    }
    let is_uplink = side == Interface::Access;
    let mut flat = Flat { ue4: users.ue4, ue6: users.ue6, framed: users.framed.clone(), ..Flat::default() };
    if is_uplink {
        flat.uplink = Some(uplink(pdr, pdi, far, &qers)?);
    } else {
        flat.downlink = Some(downlink(pdi, far, &qers)?);
    }
    let mut qfis = 0;
    for it in &pdi.qfis {
        qfis |= 1_u64 << qfi("qfis", *it)?;
    }
    let mut filters = Vec::new();
    for sdf in &pdi.sdf_filters {
        filters.extend(sdf::filters(enforced::same_filter(session, sdf)?, is_uplink)?);
    }
    if filters.is_empty() {
        filters.push(Filter::default());
    }
    let meters = enforced::meters(&qers, is_uplink)?;
    let urrs = enforced::usages(session, pdr)?;
    let rule = |filter| FlatRule {
        pdr: pdr.id,
        filter: Filter { qfis, ..filter },
        qers: meters.clone(),
        urrs: urrs.clone(),
        flat: flat.clone(),
    };
    Ok(filters.into_iter().map(rule).collect())
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
    for text in &pdi.framed_routes {
        let prefix = text.parse::<IpNet>();
        let form = "a prefix such as 10.61.0.0/24";
        let prefix = prefix.map_err(|_| invalid(format!("framed_routes: \"{text}\" should be {form}")))?;
        if prefix != prefix.trunc() {
            let message =
                format!("framed_routes: {text} has bits behind its length, should be {}", prefix.trunc());
            return Err(invalid(message));
        }
        if !flat.framed.contains(&prefix) {
            flat.framed.push(prefix);
        }
    }
    Ok(())
}

/// Framed-Route (TS 29.244 §8.2.109) and Framed-IPv6-Route (§8.2.111), of all PDRs together.
fn check_framed(flat: &Flat) -> Result<(), Refusal> {
    let (routes, most) = (flat.framed.len(), MAX_FRAMED);
    if routes > most {
        return Err(unimplemented(format!(
            "framed_routes: are {routes}, of which a session may have {most}"
        )));
    }
    for (number, prefix) in flat.framed.iter().enumerate() {
        let (family, has) = match prefix {
            IpNet::V4(_) => ("IPv4", flat.ue4.is_some()),
            IpNet::V6(_) => ("IPv6", flat.ue6.is_some()),
        };
        if !has {
            let message =
                format!("framed_routes: {prefix}: the user has no {family} address in ue_ip_addresses");
            return Err(invalid(message));
        }
        let overlaps = |it: &&IpNet| it.contains(prefix) || prefix.contains(*it);
        if let Some(other) = flat.framed[..number].iter().find(overlaps) {
            return Err(invalid(format!("framed_routes: {prefix} overlaps {other}")));
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
        ApplyAction::Drop | ApplyAction::Buff => Ok(None),
        ApplyAction::Forw => match &far.forwarding_parameters {
            None => Err(invalid(format!("FAR {}: forwarding_parameters: are missing", far.id))),
            Some(_) if is_closed => Ok(None),
            Some(it) => Ok(Some(it)),
        },
        ApplyAction::Unspecified => {
            Err(invalid(format!("FAR {}: apply_action: should be DROP, FORW or BUFF", far.id)))
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
    if far.apply_action() == ApplyAction::Buff {
        return Err(unimplemented(format!("FAR {}: apply_action: BUFF is for PDRs from CORE only", far.id)));
    }
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
    Ok(FlatUplink { network: access, teid: f_teid.teid, local, qfi: None, to })
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
            Some(FlatTunnel { network, peer, teid, qfi: mark, end_marker: parameters.send_end_marker })
        }
    };
    // A closed gate drops, whatever the FAR says.
    let buffers = far.apply_action() == ApplyAction::Buff && !is_closed;
    Ok(FlatDownlink { network: network(&pdi.network_instance, "network_instance")?, tunnel, buffers })
}

fn qfi(what: &str, qfi: u32) -> Result<u8, Refusal> {
    let qfi = u8::try_from(qfi).ok().filter(|it| u32::from(*it) <= MAX_QFI).ok_or(qfi);
    qfi.map_err(|it| invalid(format!("{what}: {it} should be 0 to {MAX_QFI}")))
}
