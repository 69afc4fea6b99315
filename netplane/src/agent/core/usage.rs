//! Usage reports: which limits of URRs are reached, and what follows.

use super::Core;
use super::sessions::volume;
use crate::agent::sessions::Happened;
use crate::dataplane::Kernel;
use crate::world::tables::Operation;
use netplane_client::v1::watch_response::Event as Watched;
use netplane_client::v1::{Urr, UsageReport, UsageTrigger, VolumeLimit};
use netplane_common::map::{Counter, Usage, UsageKey, UsageLimits, usage_state};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;

/// What the loop keeps of URRs; all else is in the maps.
#[derive(Debug, Default)]
pub(super) struct Usages {
    /// When to look at those that have to do with time, in nanoseconds of the kernel's clock.
    due: BTreeMap<UsageKey, u64>,
    /// Reached while nobody watched, or just now.
    reached: BTreeSet<UsageKey>,
    /// Who watches, by pod.
    watchers: BTreeMap<String, Arc<()>>,
}

impl Usages {
    /// To be kept for as long as somebody watches a pod.
    pub(super) fn watch(&mut self, pod: &str) -> Arc<()> {
        self.watchers.entry(pod.to_owned()).or_default().clone()
    }

    pub(super) fn is_watched(&self, pod: &str) -> bool {
        self.watchers.get(pod).is_some_and(|it| Arc::strong_count(it) > 1)
    }

    /// A packet has reached a limit.
    pub(super) fn reached(&mut self, key: UsageKey) {
        self.reached.insert(key);
    }

    /// A URR is there, from now or from an earlier agent.
    pub(super) fn follow(&mut self, key: UsageKey, urr: &Urr) {
        if urr.measurement_period != 0 || urr.time_threshold != 0 || urr.time_quota != 0 {
            self.due.insert(key, 0);
        }
    }

    pub(super) fn forget(&mut self, key: &UsageKey) {
        self.due.remove(key);
        self.reached.remove(key);
    }

    fn due(&self, now: u64) -> Vec<UsageKey> {
        self.due.iter().filter(|(_, at)| **at <= now).map(|(key, _)| *key).collect()
    }
}

impl<K: Kernel> Core<K> {
    /// Looks at the URRs whose time has come, and at those that packets have told of.
    pub(super) fn report_usage(&mut self) {
        let now = self.kernel.clock();
        let mut keys = std::mem::take(&mut self.usages.reached);
        keys.extend(self.usages.due(now));
        for key in keys {
            self.report_one(key, now);
        }
    }

    fn report_one(&mut self, key: UsageKey, now: u64) {
        let Some((pod, session)) = self.programmed.of_handle(key.session) else {
            return self.usages.forget(&key);
        };
        let Some(urr) = session.urrs.iter().find(|it| it.id == key.urr) else {
            return self.usages.forget(&key);
        };
        // Not programmed yet, or not to be read: with the next look.
        let Ok(Some((usage, limits))) = self.kernel.usage(&key) else { return };
        let is_watched = self.usages.is_watched(&pod);
        let look = Look { urr, usage, limits, now };
        let triggers = look.triggers();
        let mut limits = limits;
        if look.is_out_of_time() {
            // Packets see volumes only.
            limits.quotas = [0; 3];
        }
        if triggers.is_empty() {
            self.set_limits(key, look.limits, limits);
        } else if is_watched {
            let report = look.report(&session.id, &triggers);
            self.set_limits(key, look.limits, look.told(limits, &triggers));
            let _ = self.happened.send(Happened { pod, event: Watched::UsageReport(report) });
        } else {
            self.set_limits(key, look.limits, limits);
            self.usages.reached.insert(key);
        }
        if let Some(due) = self.usages.due.get_mut(&key) {
            *due = if triggers.is_empty() || is_watched { look.next() } else { now + SECOND };
        }
    }

    fn set_limits(&mut self, key: UsageKey, old: UsageLimits, new: UsageLimits) {
        if old != new {
            let operation = Operation::SetLimits { key, limits: Box::new(new) };
            for (_, error) in self.kernel.apply(&[operation]) {
                tracing::error!(%error, "limits of a usage");
            }
        }
    }
}

/// A URR that is looked at.
struct Look<'u> {
    urr: &'u Urr,
    usage: Usage,
    limits: UsageLimits,
    now: u64,
}

impl Look<'_> {
    /// Nanoseconds that are measured since then: from the first packet on (TS 29.244 §5.2.2.2.1, time is not metered
    /// before unless that is asked for).
    fn measured_since(&self, then: u64) -> u64 {
        if self.usage.first == 0 { 0 } else { self.now.saturating_sub(then.max(self.usage.first)) }
    }

    fn is_out_of_time(&self) -> bool {
        let quota = u64::from(self.urr.time_quota) * SECOND;
        self.urr.duration && quota != 0 && self.measured_since(self.limits.granted_at) >= quota
    }

    fn triggers(&self) -> Vec<UsageTrigger> {
        let Self { urr, usage, limits, now } = self;
        let used = [usage.total_bytes, usage.uplink_bytes, usage.downlink_bytes];
        let reached = |limits: &[u64; 3]| used.iter().zip(limits).any(|(used, limit)| used >= limit);
        let is_told = limits.state & usage_state::EXHAUSTION_TOLD != 0;
        let mut triggers = Vec::new();
        let mut add = |is_so: bool, trigger| triggers.extend(is_so.then_some(trigger));
        add(reached(&limits.thresholds), UsageTrigger::VolumeThreshold);
        let out_of_volume = urr.volume_quota.is_some() && reached(&quotas(urr, limits.granted));
        add(!is_told && out_of_volume, UsageTrigger::VolumeQuota);
        let threshold = u64::from(urr.time_threshold) * SECOND;
        add(threshold != 0 && self.measured_since(limits.told_at) >= threshold, UsageTrigger::TimeThreshold);
        add(!is_told && self.is_out_of_time(), UsageTrigger::TimeQuota);
        let period = u64::from(urr.measurement_period) * SECOND;
        add(period != 0 && now.saturating_sub(limits.told_at) >= period, UsageTrigger::Periodic);
        triggers
    }

    /// When there may be something that no packet tells.
    fn next(&self) -> u64 {
        let after = |seconds: u32, since: u64| {
            let at = since.max(self.usage.first) + u64::from(seconds) * SECOND;
            // Time is measured from the first packet on.
            (seconds != 0).then_some(if self.usage.first == 0 { self.now + SECOND } else { at })
        };
        let told_at = if self.triggers().is_empty() { self.limits.told_at } else { self.now };
        let threshold = after(self.urr.time_threshold, told_at);
        let quota = after(self.urr.time_quota, self.limits.granted_at).filter(|it| *it > self.now);
        let period = u64::from(self.urr.measurement_period) * SECOND;
        let period = (period != 0).then_some(told_at + period);
        [threshold, quota, period].into_iter().flatten().min().unwrap_or(self.now + 3600 * SECOND)
    }

    /// What was used since the last report.
    fn report(&self, session: &str, triggers: &[UsageTrigger]) -> UsageReport {
        let (now, told) = (&self.usage, &self.limits.told);
        let counter = |packets: u64, bytes: u64| Counter { packets, bytes };
        let uplink = counter(now.uplink_packets - told.uplink_packets, now.uplink_bytes - told.uplink_bytes);
        let downlink =
            counter(now.downlink_packets - told.downlink_packets, now.downlink_bytes - told.downlink_bytes);
        UsageReport {
            session_id: session.to_owned(),
            urr_id: self.urr.id,
            sequence: self.limits.sequence,
            triggers: triggers.iter().map(|it| i32::from(*it)).collect(),
            uplink: Some(volume(&uplink)),
            downlink: Some(volume(&downlink)),
            duration: u32::try_from(self.measured_since(self.limits.told_at) / SECOND).unwrap_or(u32::MAX),
        }
    }

    /// The limits after a report.
    fn told(&self, limits: UsageLimits, triggers: &[UsageTrigger]) -> UsageLimits {
        let exhausted = [UsageTrigger::VolumeQuota, UsageTrigger::TimeQuota];
        let is_exhausted = triggers.iter().any(|it| exhausted.contains(it));
        UsageLimits {
            thresholds: above(self.urr.volume_threshold.as_ref(), &self.usage),
            told: self.usage,
            told_at: self.now,
            sequence: limits.sequence.wrapping_add(1),
            state: limits.state | if is_exhausted { usage_state::EXHAUSTION_TOLD } else { 0 },
            ..limits
        }
    }
}

/// Where a limit is reached that counts from a usage on.
fn above(limit: Option<&VolumeLimit>, from: &Usage) -> [u64; 3] {
    let limit = limit.copied().unwrap_or_default();
    let at = |limit: Option<u64>, from: u64| limit.map_or(u64::MAX, |it| from.saturating_add(it));
    [
        at(limit.total, from.total_bytes),
        at(limit.uplink, from.uplink_bytes),
        at(limit.downlink, from.downlink_bytes),
    ]
}

fn quotas(urr: &Urr, granted: [u64; 3]) -> [u64; 3] {
    let [total_bytes, uplink_bytes, downlink_bytes] = granted;
    above(urr.volume_quota.as_ref(), &Usage { total_bytes, uplink_bytes, downlink_bytes, ..Usage::default() })
}

/// The limits of a URR that was put, beside what it was before.
pub(super) fn limits(
    urr: &Urr,
    old: Option<&Urr>,
    (usage, limits): (Usage, UsageLimits),
    now: u64,
) -> UsageLimits {
    let Some(old) = old else {
        let started = UsageLimits { told_at: now, granted_at: now, ..UsageLimits::NONE };
        let thresholds = above(urr.volume_threshold.as_ref(), &Usage::default());
        return UsageLimits { thresholds, quotas: quotas(urr, [0; 3]), ..started };
    };
    let mut limits = limits;
    if old.volume_threshold != urr.volume_threshold {
        limits.thresholds = above(urr.volume_threshold.as_ref(), &limits.told);
    }
    if (&old.volume_quota, old.time_quota) != (&urr.volume_quota, urr.time_quota) {
        limits.granted = [usage.total_bytes, usage.uplink_bytes, usage.downlink_bytes];
        limits.granted_at = now;
        limits.quotas = quotas(urr, limits.granted);
        limits.state &= !usage_state::EXHAUSTION_TOLD;
    }
    limits
}

/// The last report of a URR that goes.
pub(super) fn last_report(
    session: &str,
    urr: &Urr,
    (usage, limits): (Usage, UsageLimits),
    now: u64,
) -> UsageReport {
    Look { urr, usage, limits, now }.report(session, &[UsageTrigger::Termination])
}

/// What was used in all.
pub(super) fn in_all(session: &str, urr: &Urr, (usage, _): (Usage, UsageLimits), now: u64) -> UsageReport {
    let limits = UsageLimits::NONE;
    Look { urr, usage, limits, now }.report(session, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urr() -> Urr {
        let limit = |total| Some(VolumeLimit { total: Some(total), ..VolumeLimit::default() });
        Urr {
            id: 3,
            volume: true,
            duration: true,
            volume_threshold: limit(100),
            volume_quota: limit(250),
            time_threshold: 10,
            time_quota: 25,
            measurement_period: 60,
        }
    }

    fn used(bytes: u64) -> Usage {
        let first = 5 * SECOND;
        Usage {
            total_bytes: bytes,
            uplink_bytes: bytes,
            uplink_packets: bytes / 10,
            first,
            ..Usage::default()
        }
    }

    #[test]
    fn each_limit_has_its_report_and_begins_anew() {
        let urr = urr();
        let mut limits = limits(&urr, None, (Usage::default(), UsageLimits::NONE), 4 * SECOND);
        let mut seen = Vec::new();
        // Ten bytes a second from the fifth second on.
        for second in 5..70 {
            let (usage, now) = (used((second - 5) * 10), second * SECOND);
            let look = Look { urr: &urr, usage, limits, now };
            let triggers = look.triggers();
            if !triggers.is_empty() {
                let report = look.report("s", &triggers);
                seen.push((
                    second,
                    triggers.clone(),
                    report.uplink.unwrap_or_default().bytes,
                    report.duration,
                ));
                limits = look.told(limits, &triggers);
            }
        }
        use UsageTrigger::{Periodic, TimeQuota, TimeThreshold, VolumeQuota, VolumeThreshold};
        let both = vec![VolumeThreshold, TimeThreshold];
        assert_eq!(
            seen,
            [
                (15, both.clone(), 100, 10),
                (25, both.clone(), 100, 10),
                (30, vec![VolumeQuota, TimeQuota], 50, 5),
                (40, both.clone(), 100, 10),
                (50, both.clone(), 100, 10),
                (60, both, 100, 10),
            ]
        );
        let _ = Periodic;
        assert_eq!(limits.sequence, 6);
    }

    #[test]
    fn a_quota_of_another_value_is_a_new_one() {
        let old = urr();
        let before = UsageLimits { state: usage_state::EXHAUSTION_TOLD, quotas: [0; 3], ..UsageLimits::NONE };
        let same = limits(&old, Some(&old), (used(300), before), 9);
        assert_eq!(same, before);
        let quota = Some(VolumeLimit { total: Some(1000), ..VolumeLimit::default() });
        let new = Urr { volume_quota: quota, ..old };
        let granted = limits(&new, Some(&old), (used(300), before), 9);
        assert_eq!((granted.quotas, granted.granted_at, granted.state), ([1300, u64::MAX, u64::MAX], 9, 0));
    }

    #[test]
    fn a_period_reports_nothing_too() {
        let urr = Urr { id: 1, volume: true, measurement_period: 60, ..Urr::default() };
        let limits = limits(&urr, None, (Usage::default(), UsageLimits::NONE), 0);
        let look = |now| Look { urr: &urr, usage: Usage::default(), limits, now };
        assert_eq!(look(59 * SECOND).triggers(), []);
        assert_eq!(look(59 * SECOND).next(), 60 * SECOND);
        assert_eq!(look(60 * SECOND).triggers(), [UsageTrigger::Periodic]);
        assert_eq!(look(60 * SECOND).next(), 120 * SECOND);
    }
}
