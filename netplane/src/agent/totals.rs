//! Packets that endpoints have forwarded, added up from their sessions' counters: what a session that has ended
//! has counted stays counted.

use super::top::{BusySession, MOST_BUSY};
use crate::dataplane::{Kernel, KernelError};
use crate::nad::fast_path::Role;
use crate::world::{Compiled, SessionView};
use netplane_common::map::Counter;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Counters are read anew no more often than this, and at most in a hundredth of the time: a node may have a hundred
/// thousand sessions, and each counter is a system call.
const FRESH: Duration = Duration::from_secs(2);
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
    pub(super) busiest: Busiest,
}

/// Between the last two readings.
#[derive(Debug, Default)]
pub(super) struct Busiest {
    pub(super) sessions: Vec<BusySession>,
    pub(super) between: Duration,
    /// How many readings there were.
    pub(super) reading: u64,
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
            self.busiest.between = self.read.map_or(Duration::ZERO, |(at, _)| begun - at);
            self.busiest.reading += 1;
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
        let mut busy: Vec<(u64, &SessionView, Forwarded)> = Vec::new();
        for session in &compiled.sessions {
            let name = (session.network.to_string(), session.pod.clone());
            let Some(sums) = endpoints.get_mut(&name) else { continue };
            let mut own = Forwarded::default();
            for (index, sum, own) in [
                (session.uplink, &mut sums.uplink, &mut own.uplink),
                (session.downlink, &mut sums.downlink, &mut own.downlink),
            ] {
                let Some((index, now)) = index.and_then(|it| Some((it, now.get(&it)?))) else { continue };
                *own = since(self.last.get(&index), *now);
                sum.packets = sum.packets.wrapping_add(own.packets);
                sum.bytes = sum.bytes.wrapping_add(own.bytes);
            }
            let packets = own.uplink.packets.saturating_add(own.downlink.packets);
            if packets > 0 {
                busy.push((packets, session, own));
            }
        }
        // By name among equals, so that lines do not jump.
        busy.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.name.cmp(&b.1.name)));
        self.busiest.sessions = busy.into_iter().take(MOST_BUSY).map(|(_, it, own)| shown(it, own)).collect();
        (self.endpoints, self.last) = (endpoints, now);
        Ok(())
    }
}

fn shown(session: &SessionView, own: Forwarded) -> BusySession {
    BusySession {
        name: session.name.clone(),
        network: session.network.to_string(),
        pod: session.pod.clone(),
        ue: session.ue.clone(),
        teid: session.teid.map(|it| format!("{it:#x}")),
        peer: session.peer.clone(),
        uplink: own.uplink.into(),
        downlink: own.downlink.into(),
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
