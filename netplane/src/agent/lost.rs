//! Packets that the kernel has lost after the decision, as problems while they grow.

use crate::dataplane::Lost;
use crate::world::Problem;
use netplane_common::map::{Failure, FailureKey};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long after its last packet a loss is a problem: as long as a person takes to look.
const RECENT: Duration = Duration::from_secs(60);

/// What has grown of late.
#[derive(Debug, Default)]
pub(super) struct Growth {
    last: Option<BTreeMap<FailureKey, u64>>,
    /// Packets since it began, and when the last ones were seen.
    grown: BTreeMap<FailureKey, (u64, Instant)>,
}

impl Growth {
    /// Takes in what is counted now. What an earlier agent has seen grow is nothing new.
    pub(super) fn observe(&mut self, lost: &Lost, now: Instant) {
        let last = self.last.replace(lost.packets.clone());
        self.grown.retain(|_, (_, at)| now.duration_since(*at) < RECENT);
        let Some(last) = last else { return };
        for (key, packets) in &lost.packets {
            // A count that is less than it was has begun anew.
            let new = packets.checked_sub(last.get(key).copied().unwrap_or(0)).unwrap_or(*packets);
            if new > 0 {
                let (sum, at) = self.grown.entry(*key).or_insert((0, now));
                (*sum, *at) = (*sum + new, now);
            }
        }
    }

    /// One for each way and reason. `name` is that of an interface.
    pub(super) fn problems(&self, name: impl Fn(u32) -> String) -> Vec<Problem> {
        let problem = |(key, (packets, _)): (&FailureKey, &(u64, Instant))| {
            let (from, to) = (name(key.from), name(key.to));
            let failure = Failure::from_number(key.failure).unwrap_or(Failure::Other);
            let from = if key.from == key.to { "itself".to_owned() } else { format!("master {from}") };
            let remedy = remedy(failure).map(|it| format!(" ({it})")).unwrap_or_default();
            Problem {
                object: format!("master {to}"),
                message: format!(
                    "{packets} packets from {from} were lately lost on their way out, {}: {}{remedy}",
                    failure.name(),
                    failure.sentence().trim().trim_end_matches('.')
                ),
            }
        };
        self.grown.iter().map(problem).collect()
    }
}

fn remedy(failure: Failure) -> Option<&'static str> {
    match failure {
        Failure::NotSupported | Failure::NotReady => Some(
            "a veth takes them when its other end is up and has GRO on; where the driver has no ndo_xdp_xmit, set \
             \"xdp\": \"tc\" for the networks of the master that they come from",
        ),
        Failure::TooLong => Some("the MTU of the master is less than that of the pods' interfaces under it"),
        Failure::LinkDown => Some("`ip link set MASTER up`"),
        Failure::QueueFull => Some("it is sent more than it can take; more queues or a longer ring may help"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_grows_is_a_problem_and_not_for_ever() {
        let name = |index: u32| format!("n{index}");
        let key = FailureKey { from: 3, to: 6, failure: Failure::TooLong as u32 };
        let lost = |packets| Lost { packets: BTreeMap::from([(key, packets)]), note: None };
        let (mut growth, begin) = (Growth::default(), Instant::now());
        growth.observe(&lost(7), begin);
        assert_eq!(growth.problems(name), Vec::new(), "of an earlier agent");
        growth.observe(&lost(9), begin);
        growth.observe(&lost(12), begin);
        let problems = growth.problems(name);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].object, "master n6");
        assert!(problems[0].message.starts_with("5 packets from master n3 "), "{problems:?}");
        assert!(problems[0].message.contains("too-long"), "{problems:?}");
        growth.observe(&lost(12), begin + RECENT);
        assert_eq!(growth.problems(name), Vec::new());
        growth.observe(&lost(2), begin + RECENT);
        assert!(growth.problems(name)[0].message.starts_with("2 packets"), "counts have begun anew");
    }
}
