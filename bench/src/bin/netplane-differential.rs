//! `netplane-differential`: random packets for the decision on slices and for the programs in the kernel.
//! `cargo xtask differential` builds and runs it.

use anyhow::{Context, Result};
use clap::Parser;
use netplane_bench::differential::{self, Fates, Hook, Kernel};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Feeds random and mutated packets to the decision on slices and to the real programs, and compares
/// verdicts, bytes, counters and events.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How many, at least: worlds of up to a thousand run to their end. What a test run of TC cannot show (tagged
    /// frames, cut headers) does not count.
    #[arg(long, default_value_t = 10_000_000)]
    packets: u64,
    /// All packets follow from it; a new one if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// The first world, to go on where a run was stopped.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Which programs; else every second world is XDP's and every other TC's.
    #[arg(long, value_parser = ["xdp", "tc"])]
    hook: Option<String>,
    /// How many at a time, each with programs of its own.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
}

#[expect(clippy::print_stderr, reason = "errors are for the person who waits")]
fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netplane-differential: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the threads share.
struct Run {
    seed: u64,
    packets: u64,
    hooks: &'static [Hook],
    next: AtomicU64,
    failed: AtomicBool,
    fates: Mutex<Fates>,
    started: Instant,
}

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn run(arguments: &Arguments) -> Result<()> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => std::time::UNIX_EPOCH.elapsed().context("the clock is before 1970")?.as_secs(),
    };
    let run = Run {
        seed,
        packets: arguments.packets,
        hooks: match arguments.hook.as_deref() {
            Some("xdp") => &[Hook::Xdp],
            Some(_) => &[Hook::Tc],
            None => &Hook::ALL,
        },
        next: AtomicU64::new(arguments.from),
        failed: AtomicBool::new(false),
        fates: Mutex::default(),
        started: Instant::now(),
    };
    println!("seed {seed}, from world {}, {:?}", arguments.from, run.hooks);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..arguments.threads).map(|_| scope.spawn(|| run.work())).collect();
        threads
            .into_iter()
            .try_for_each(|it| it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let fates = *run.fates();
    let seconds = run.started.elapsed().as_secs_f64();
    println!(
        "{} packets in {seconds:.0} s ({:.0} a second): {} forwarded, {} answered, {} dropped, {} passed; all alike; \
         the next world is {}",
        fates.packets(),
        fates.packets() as f64 / seconds,
        fates.forwarded,
        fates.answered,
        fates.dropped,
        fates.passed,
        run.next.into_inner()
    );
    Ok(())
}

impl Run {
    /// Worlds until there are no more, or until one fails.
    fn work(&self) -> Result<()> {
        let result = self.worlds();
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn fates(&self) -> MutexGuard<'_, Fates> {
        self.fates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(clippy::print_stderr, reason = "progress is for the person who waits")]
    fn worlds(&self) -> Result<()> {
        const INTERVAL: Duration = Duration::from_secs(10);
        let mut kernel = Kernel::load()?;
        let mut told = Instant::now();
        while !self.failed.load(Ordering::Relaxed) {
            if self.fates().packets() >= self.packets {
                break;
            }
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            // Worlds of the case table are every fourth: each hook gets its share of them.
            let hook = self.hooks[(number / 4 + number) as usize % self.hooks.len()];
            let fates = differential::world(&mut kernel, hook, self.seed, number)?;
            let mut all = self.fates();
            *all += fates;
            if told.elapsed() > INTERVAL {
                told = Instant::now();
                let rate = all.packets() as f64 / self.started.elapsed().as_secs_f64();
                eprintln!("{} packets, {rate:.0} a second; world {number}", all.packets());
            }
        }
        Ok(())
    }
}
