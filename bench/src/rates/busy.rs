//! For how long a CPU was at work: the time that the kernel does not count as idle.

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};
use std::time::{Duration, Instant};

/// A CPU that is watched.
#[derive(Debug)]
pub(super) struct Busy {
    cpu: usize,
    since: Instant,
    idle: Duration,
}

impl Busy {
    /// # Errors
    /// There is no such CPU.
    pub(super) fn start(cpu: usize) -> Result<Self> {
        Ok(Self { cpu, since: Instant::now(), idle: idle(cpu)? })
    }

    /// Since the start, to the kernel's tick (10 ms as a rule): what a hypervisor takes from the CPU counts as well.
    ///
    /// # Errors
    /// As for `start`.
    pub(super) fn end(self) -> Result<Duration> {
        let idle = idle(self.cpu)?.saturating_sub(self.idle);
        Ok(self.since.elapsed().saturating_sub(idle))
    }
}

fn idle(cpu: usize) -> Result<Duration> {
    let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    let stat = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let idle = idle_of(&stat, cpu).with_context(|| format!("/proc/stat has no CPU {cpu}"))?;
    Ok(Duration::from_secs_f64(idle as f64 / ticks as f64))
}

/// Ticks without work, those that wait for a disk among them (proc(5)).
fn idle_of(stat: &str, cpu: usize) -> Option<u64> {
    let name = format!("cpu{cpu}");
    let line = stat
        .lines()
        .map(|it| it.split_whitespace().collect::<Vec<_>>())
        .find(|it| it[..].first() == Some(&&*name))?;
    Some(line.get(4)?.parse::<u64>().ok()? + line.get(5)?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_are_the_fourth_and_the_fifth() {
        let stat =
            "cpu  9 9 9 900 90 9 9 9 0 0\ncpu0 1 2 3 400 5 6 7 8 0 0\ncpu1 1 2 3 500 50 6 7 8 0 0\nintr 1\n";
        assert_eq!(idle_of(stat, 1), Some(550));
        assert_eq!(idle_of(stat, 0), Some(405));
        assert_eq!(idle_of(stat, 2), None);
        assert_eq!(idle_of("cpu1 1 2", 1), None);
    }

    #[test]
    fn a_cpu_of_this_machine_is_at_work_for_no_longer_than_time_passes() {
        let begin = Instant::now();
        let busy = Busy::start(0).expect("a CPU").end().expect("a time");
        assert!(busy <= begin.elapsed());
        assert!(Busy::start(4095).is_err());
    }
}
