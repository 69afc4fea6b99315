//! The sink: counts a scenario's frames in XDP where they come out, and drops them there, so that counting
//! costs less than whatever is measured.

use super::objects::{load, map};
use super::scenario::Scenario;
use super::template::Arrival;
use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, PerCpuArray, PerCpuValues};
use aya::programs::xdp::{Xdp, XdpMode};

/// `STEPS` and `BUCKETS` of `netplane-ebpf/src/bench/sink.rs`.
const STEPS: u32 = 16;
const BUCKETS: u32 = 40 * STEPS;

/// A sink on an interface, until it is dropped.
pub struct Sink {
    ebpf: Ebpf,
    sessions: u32,
}

/// What a sink has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub frames: u64,
    pub bytes: u64,
    /// Frames that are not the scenario's.
    pub others: u64,
}

/// How long frames took: for each bucket its lower bound in nanoseconds and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies(pub Vec<(u64, u64)>);

impl Sink {
    /// Attaches it to an interface of the calling thread's network namespace. `by_session` counts each
    /// session's frames too.
    ///
    /// # Errors
    /// No such interface, a driver without native XDP (unless `generic`), or another program there.
    pub fn attach(
        interface: &str,
        scenario: &Scenario,
        arrival: Arrival,
        by_session: bool,
        generic: bool,
    ) -> Result<Self> {
        let sessions = if by_session { scenario.sessions } else { 1 };
        let mut ebpf = load(&[("SESSION_FRAMES", sessions)])?;
        let [marker, user] = [scenario.marker_at(arrival), scenario.user_at(arrival)].map(u64::from);
        let [with_time, by_session] = [scenario.send.latency, by_session].map(u64::from);
        let mut config: Array<_, [u64; 2]> = map(&mut ebpf, "SINK_CONFIG")?;
        let offsets = u64::from_le_bytes({
            let parts = [marker, user, with_time, by_session].map(|it| (it as u16).to_ne_bytes());
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&parts.concat());
            bytes
        });
        config.set(0, [offsets, u64::from(scenario.first_user())], 0)?;
        let program: &mut Xdp = ebpf.program_mut("sink").context("no program sink")?.try_into()?;
        program.load().context("the kernel refuses the sink's program")?;
        let mode = if generic { XdpMode::Skb } else { XdpMode::Driver };
        program.attach(interface, mode).with_context(|| {
            format!("attach the sink to {interface}; where its driver has no native XDP: --generic-sink")
        })?;
        Ok(Self { ebpf, sessions })
    }

    /// Counts from zero again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reset(&mut self) -> Result<()> {
        let n_cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        let mut count: PerCpuArray<_, [u64; 3]> = map(&mut self.ebpf, "SINK_COUNT")?;
        count.set(0, PerCpuValues::try_from(vec![[0; 3]; n_cpus])?, 0)?;
        for (name, length) in [("LATENCY", BUCKETS), ("SESSION_FRAMES", self.sessions)] {
            let mut counts: PerCpuArray<_, u64> = map(&mut self.ebpf, name)?;
            for index in 0..length {
                counts.set(index, PerCpuValues::try_from(vec![0; n_cpus])?, 0)?;
            }
        }
        Ok(())
    }

    /// What has come so far.
    ///
    /// # Errors
    /// The kernel's.
    pub fn received(&mut self) -> Result<Received> {
        let count: PerCpuArray<_, [u64; 3]> = map(&mut self.ebpf, "SINK_COUNT")?;
        let count = count.get(&0, 0)?;
        let sum = |index: usize| count.iter().map(|it| it[index]).sum();
        Ok(Received { frames: sum(0), bytes: sum(1), others: sum(2) })
    }

    /// Frames of each session so far.
    ///
    /// # Errors
    /// The kernel's.
    pub fn by_session(&mut self) -> Result<Vec<u64>> {
        let counts: PerCpuArray<_, u64> = map(&mut self.ebpf, "SESSION_FRAMES")?;
        (0..self.sessions).map(|it| Ok(counts.get(&it, 0)?.iter().sum())).collect()
    }

    /// How long the frames took so far.
    ///
    /// # Errors
    /// The kernel's.
    pub fn latencies(&mut self) -> Result<Latencies> {
        let counts: PerCpuArray<_, u64> = map(&mut self.ebpf, "LATENCY")?;
        let mut buckets = Vec::new();
        for index in 0..BUCKETS {
            let count: u64 = counts.get(&index, 0)?.iter().sum();
            if count > 0 {
                buckets.push((lower_bound(index), count));
            }
        }
        Ok(Latencies(buckets))
    }
}

/// The shortest time that a bucket counts, in nanoseconds.
fn lower_bound(bucket: u32) -> u64 {
    if bucket < STEPS {
        return u64::from(bucket);
    }
    let (power, step) = (bucket / STEPS + 3, bucket % STEPS);
    u64::from(STEPS + step) << (power - 4)
}

impl Latencies {
    /// The time within which this part of all frames came, in nanoseconds: the upper bound of its bucket, at
    /// most 6 % too long.
    pub fn percentile(&self, part: f64) -> Option<f64> {
        let total: u64 = self.0.iter().map(|it| it.1).sum();
        let wanted = (part * total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bound, count) in &self.0 {
            seen += count;
            if seen >= wanted {
                return Some(*bound as f64 * (1.0 + 1.0 / f64::from(STEPS)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_go_on_without_gaps() {
        let bounds: Vec<_> = (0..BUCKETS).map(lower_bound).collect();
        assert_eq!(bounds[..18], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]);
        assert!(bounds.windows(2).all(|it| it[0] < it[1] && it[1] as f64 <= it[0] as f64 * 1.0626 + 1.0));
    }

    #[test]
    fn percentiles_are_where_they_should_be() {
        let latencies = Latencies(vec![(1000, 50), (2000, 49), (64_000, 1)]);
        let at = |part| latencies.percentile(part).map(|it| it as u64);
        assert_eq!([at(0.5), at(0.9), at(0.999)], [Some(1062), Some(2125), Some(68_000)]);
        assert_eq!(Latencies::default().percentile(0.5), None);
    }
}
