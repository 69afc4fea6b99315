//! F-TEIDs that the agent gives (CHOOSE, TS 29.244 §8.2.3).

use crate::dataplane::Kernel;
use crate::world::programmed::Planned;
use crate::world::tables::Operation;
use crate::world::{Kind, Refusal};
use netplane_client::v1::{CreatedPdr, FTeid, Session};
use std::fs::File;
use std::io::Read;

/// So often is another TEID tried where one is taken, or its slot in the index: of a full table, half are found one.
const TRIES: u32 = 16;

/// Whether packets will find the tunnel's end without a hash.
pub(super) fn is_indexed(kernel: &impl Kernel, planned: &Planned) -> bool {
    planned
        .operations
        .iter()
        .all(|it| !matches!(it, Operation::SetUplink { key, .. } if !kernel.would_be_indexed(key)))
}

fn chosen(session: &Session) -> impl Iterator<Item = (u32, &FTeid)> {
    let f_teids = session.pdrs.iter().filter_map(|it| Some((it.id, it.pdi.as_ref()?.local_f_teid.as_ref()?)));
    f_teids.filter(|(_, it)| it.choose)
}

/// How many TEIDs may be tried.
pub(super) fn tries(session: &Session, old: &Session) -> u32 {
    if chosen(session).next().is_some() && chosen(old).next().is_none() { TRIES } else { 1 }
}

/// Gives the session the TEID that it had, else one from the kernel's random numbers: all its tunnels end there.
///
/// # Errors
/// It names a TEID, too.
pub(super) fn give(session: &mut Session, old: &Session) -> Result<(), Refusal> {
    let had = chosen(old).map(|(_, it)| it.teid).next();
    if let Some((pdr, it)) = chosen(session).find(|(_, it)| it.teid != 0 && Some(it.teid) != had) {
        let message = format!("PDR {pdr}: local_f_teid.teid: is {:#x}, should be 0 with choose", it.teid);
        return Err(Refusal::new(Kind::InvalidArgument, message));
    }
    let teid = had.map_or_else(random, Ok)?;
    for pdi in session.pdrs.iter_mut().filter_map(|it| it.pdi.as_mut()) {
        if let Some(it) = pdi.local_f_teid.as_mut().filter(|it| it.choose) {
            it.teid = teid;
        }
    }
    Ok(())
}

/// What was given.
pub(super) fn given(session: &Session) -> Vec<CreatedPdr> {
    chosen(session).map(|(pdr_id, it)| CreatedPdr { pdr_id, local_f_teid: Some(it.clone()) }).collect()
}

/// Not 0, which is no tunnel.
fn random() -> Result<u32, Refusal> {
    let mut bytes = [0; 4];
    let read = File::open("/dev/urandom").and_then(|mut it| it.read_exact(&mut bytes));
    read.map_err(|it| Refusal::new(Kind::Unavailable, format!("local_f_teid: no random numbers: {it}")))?;
    Ok(u32::from_ne_bytes(bytes).max(1))
}
