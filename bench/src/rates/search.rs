//! The throughput search of RFC 2544 §26.1: the highest rate at which no frame is lost, and, as testers of
//! software routers do, the highest at which no more than one in 200 is.

use super::counters::Counters;
use super::trial::{Tester, Trial};
use crate::load::Load;
use anyhow::Result;
use std::time::Duration;

/// How carefully to search.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Length of a trial. RFC 2544 §24 asks for 60 s for the last ones.
    pub trial: Duration,
    /// Trials at full load.
    pub overloads: usize,
    /// Steps of each search; with none there is no search, and no latency.
    pub steps: usize,
}

/// Loss that the partial drop rate allows.
pub(super) const PARTIAL: f64 = 0.005;

/// What was found, in frames a second; `None`: even the lowest rate tried lost too many.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) no_drop: Option<f64>,
    pub(super) partial_drop: Option<f64>,
    /// Where the frames of all trials together were dropped.
    pub(super) drops: Counters,
}

/// A trial whose frames are all accounted for.
///
/// # Errors
/// The trial's; or frames vanished uncounted.
pub(super) fn trial(tester: &mut Tester<'_>, rate: Option<f64>, effort: Effort) -> Result<Trial> {
    let trial = tester.trial(Load { rate, frames: None, time: effort.trial })?;
    tester.check_account(&trial)?;
    Ok(trial)
}

/// Searches below the rate that could be offered at most.
///
/// # Errors
/// A trial's.
pub(super) fn search(tester: &mut Tester<'_>, effort: Effort, most: f64) -> Result<Found> {
    let mut found = Found::default();
    let mut loss = |rate: f64, drops: &mut Counters| -> Result<f64> {
        let trial = trial(tester, Some(rate), effort)?;
        for (place, count) in &trial.drops {
            *drops.entry(place.clone()).or_default() += count;
        }
        Ok(trial.loss())
    };
    found.no_drop = bisect(effort.steps, 0.0, most, |rate| Ok(loss(rate, &mut found.drops)? == 0.0))?;
    let lowest = found.no_drop.unwrap_or_default();
    let partial = bisect(effort.steps, lowest, most, |rate| Ok(loss(rate, &mut found.drops)? <= PARTIAL))?;
    found.partial_drop = partial.or(found.no_drop);
    Ok(found)
}

/// The highest rate seen to pass, between `low` (known to pass, or nothing) and `high`.
fn bisect(
    steps: usize,
    mut low: f64,
    mut high: f64,
    mut passes: impl FnMut(f64) -> Result<bool>,
) -> Result<Option<f64>> {
    let mut best = None;
    for _ in 0..steps {
        let middle = f64::midpoint(low, high);
        if middle < 1.0 || high - low < high * 0.01 {
            break;
        }
        if passes(middle)? {
            best = Some(middle);
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_ends_just_below_the_limit() {
        let found = bisect(12, 0.0, 1_000_000.0, |rate| Ok(rate <= 654_321.0)).unwrap().unwrap();
        assert!((640_000.0..=654_321.0).contains(&found), "{found}");
        assert_eq!(bisect(12, 0.0, 1e6, |_| Ok(false)).unwrap(), None);
    }
}
