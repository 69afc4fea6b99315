//! What PDRs refer to beside their FARs: QERs, URRs, and filters of other PDRs.

use super::{Refusal, invalid, unimplemented};
use netplane_client::v1::{Pdr, Qer, SdfFilter, Session, Urr, VolumeLimit};
use netplane_common::map::{MAX_METERS, MAX_USAGES, Rate};

/// Of a QER's rates, in kbit/s.
const MOST_KBIT: u64 = Rate::MOST / 1000;

pub(super) fn check_qer(qer: &Qer) -> Result<(), Refusal> {
    let rates =
        [("uplink", qer.uplink_mbr, qer.uplink_gbr), ("downlink", qer.downlink_mbr, qer.downlink_gbr)];
    for (way, mbr, gbr) in rates {
        for (name, rate) in [("mbr", mbr), ("gbr", gbr)] {
            if let Some(rate) = rate.filter(|it| !(1..=MOST_KBIT).contains(it)) {
                let message = format!("{way}_{name}: {rate} should be 1 to {MOST_KBIT} kbit/s");
                return Err(invalid(format!("QER {}: {message}", qer.id)));
            }
        }
        if let (Some(gbr), Some(mbr)) = (gbr, mbr)
            && gbr > mbr
        {
            let message = format!("{way}_gbr: {gbr} is more than {way}_mbr, which is {mbr}");
            return Err(invalid(format!("QER {}: {message}", qer.id)));
        }
    }
    Ok(())
}

pub(super) fn check_urr(urr: &Urr) -> Result<(), Refusal> {
    let wrong = |message: &str| Err(invalid(format!("URR {}: {message}", urr.id)));
    let has = |it: &Option<VolumeLimit>| it.as_ref().is_some_and(|it| *it != VolumeLimit::default());
    if !urr.volume && !urr.duration {
        return wrong("volume, duration: neither is measured");
    }
    if !urr.volume && (has(&urr.volume_threshold) || has(&urr.volume_quota)) {
        return wrong("volume: is not measured, and has a threshold or quota");
    }
    if !urr.duration && (urr.time_threshold != 0 || urr.time_quota != 0) {
        return wrong("duration: is not measured, and has a threshold or quota");
    }
    if let Some(it) = &urr.volume_threshold
        && [it.total, it.uplink, it.downlink].contains(&Some(0))
    {
        return wrong("volume_threshold: is 0, should be 1 or more");
    }
    Ok(())
}

/// The maximum bit rates of a PDR in its direction.
pub(super) fn meters(qers: &[&Qer], is_uplink: bool) -> Result<Vec<(u32, Rate)>, Refusal> {
    let mbr = |it: &Qer| if is_uplink { it.uplink_mbr } else { it.downlink_mbr };
    let meter = |it: &&Qer| mbr(it).map(|kbit| (it.id, Rate::of_bits(kbit * 1000)));
    let meters: Vec<_> = qers.iter().filter_map(meter).collect();
    if meters.len() > MAX_METERS {
        let n = meters.len();
        return Err(unimplemented(format!("qer_ids: {n} of them have a maximum bit rate, {MAX_METERS} may")));
    }
    Ok(meters)
}

/// The URRs of a PDR, and whether packets can make them reach something.
pub(super) fn usages(session: &Session, pdr: &Pdr) -> Result<Vec<(u32, bool)>, Refusal> {
    let mut usages = Vec::new();
    for id in &pdr.urr_ids {
        let urr = session.urrs.iter().find(|it| it.id == *id);
        let urr = urr.ok_or_else(|| invalid(format!("urr_ids: there is no URR {id}")))?;
        let has_time = urr.time_threshold != 0 || urr.time_quota != 0;
        let is_limited = urr.volume_threshold.is_some() || urr.volume_quota.is_some() || has_time;
        usages.push((urr.id, is_limited));
    }
    if usages.len() > MAX_USAGES {
        return Err(unimplemented(format!("urr_ids: there are {}, {MAX_USAGES} may be", usages.len())));
    }
    Ok(usages)
}

/// The filter itself, or for one that has an identifier only, the one of another PDR that has all.
pub(super) fn same_filter<'s>(session: &'s Session, sdf: &'s SdfFilter) -> Result<&'s SdfFilter, Refusal> {
    let only_id =
        |it: &SdfFilter| *it == SdfFilter { sdf_filter_id: it.sdf_filter_id, ..SdfFilter::default() };
    if sdf.sdf_filter_id == 0 || !only_id(sdf) {
        return Ok(sdf);
    }
    let all = session.pdrs.iter().filter_map(|it| it.pdi.as_ref()).flat_map(|it| &it.sdf_filters);
    let mut whole = all.filter(|it| it.sdf_filter_id == sdf.sdf_filter_id && !only_id(it));
    let whole = whole.next();
    whole.ok_or_else(|| {
        invalid(format!("sdf_filters: no filter says what sdf_filter_id {} is", sdf.sdf_filter_id))
    })
}
