//! Packets that endpoints have forwarded, added up from their sessions' counters: what a session that has ended
//! has counted stays counted.

use crate::dataplane::{Kernel, KernelError};
use crate::nad::fast_path::Role;
use crate::world::Compiled;
use netplane_common::map::Counter;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Counters are read anew at most this often, and at most in a hundredth of the time: a node may have a hundred
/// thousand sessions, and each counter is a system call.
const FRESH: Duration = Duration::from_secs(5);
const SHARE: u32 = 100;

/// Network and pod, as status names them.
pub(super) type EndpointName = (String, String);

/// Of one endpoint, inner bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Forwarded {
    pub(super) uplink: Counter,
    pub(super) downlink: Counter,
}

/// All endpoints'.
#[derive(Debug, Default)]
pub(super) struct Totals {
    endpoints: BTreeMap<EndpointName, Forwarded>,
    /// What each counter was when it was last read.
    last: HashMap<u32, Counter>,
    /// When that was, and how long it took.
    read: Option<(Instant, Duration)>,
}

impl Totals {
    /// The endpoints as they are, with what they have forwarded up to some seconds ago.
    ///
    /// # Errors
    /// A counter cannot be read.
    pub(super) fn get<K: Kernel>(
        &mut self,
        kernel: &mut K,
        compiled: &Compiled,
    ) -> Result<&BTreeMap<EndpointName, Forwarded>, KernelError> {
        let begun = Instant::now();
        let due = self.read.is_none_or(|(at, took)| begun - at >= FRESH.max(took * SHARE));
        if due {
            self.read(kernel, compiled)?;
            self.read = Some((begun, begun.elapsed()));
        }
        Ok(&self.endpoints)
    }

    fn read<K: Kernel>(&mut self, kernel: &mut K, compiled: &Compiled) -> Result<(), KernelError> {
        let indices: Vec<u32> =
            compiled.sessions.iter().flat_map(|it| [it.uplink, it.downlink]).flatten().collect();
        let now: HashMap<u32, Counter> =
            indices.iter().copied().zip(kernel.session_counters(&indices)?).collect();
        // Sessions belong to the access network that their uplink arrives on.
        let access: BTreeSet<_> =
            compiled.networks.iter().filter(|it| it.role == Role::Access).map(|it| &it.name).collect();
        let counted = compiled.endpoints.iter().filter(|it| access.contains(&it.network));
        let names = counted.map(|it| (it.network.to_string(), it.pod.clone()));
        let mut endpoints: BTreeMap<_, _> =
            names.map(|it| (it.clone(), self.endpoints.remove(&it).unwrap_or_default())).collect();
        for session in &compiled.sessions {
            let name = (session.network.to_string(), session.pod.clone());
            let Some(sums) = endpoints.get_mut(&name) else { continue };
            for (index, sum) in [(session.uplink, &mut sums.uplink), (session.downlink, &mut sums.downlink)] {
                let Some((index, now)) = index.and_then(|it| Some((it, now.get(&it)?))) else { continue };
                let new = since(self.last.get(&index), *now);
                sum.packets = sum.packets.wrapping_add(new.packets);
                sum.bytes = sum.bytes.wrapping_add(new.bytes);
            }
        }
        (self.endpoints, self.last) = (endpoints, now);
        Ok(())
    }
}

/// What was counted since `last`. A counter that is less than it was has been given to another session, from zero.
fn since(last: Option<&Counter>, now: Counter) -> Counter {
    match last {
        Some(last) if last.packets <= now.packets && last.bytes <= now.bytes => {
            Counter { packets: now.packets - last.packets, bytes: now.bytes - last.bytes }
        }
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_begins_anew_counts_from_zero() {
        let counter = |packets| Counter { packets, bytes: packets * 100 };
        assert_eq!(since(None, counter(7)), counter(7));
        assert_eq!(since(Some(&counter(7)), counter(9)), counter(2));
        assert_eq!(since(Some(&counter(7)), counter(3)), counter(3));
    }
}
