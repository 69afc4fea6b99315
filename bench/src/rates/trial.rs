//! One trial: a generator sends, a sink counts, and the difference is looked for where the kernel counts
//! what it drops.

use super::busy::Busy;
use super::counters::{Counters, Place, grown, read};
use crate::lab::Namespace;
use crate::load::scenario::Scenario;
use crate::load::sink::{Latencies, Received, Sink};
use crate::load::template::Arrival;
use crate::load::{Generator, Kind, Load, Sent};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

/// An interface of the tester: of a lab's host, or a NIC of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    pub namespace: Option<&'a Namespace>,
    pub interface: &'a str,
}

impl Port<'_> {
    /// Runs `f` where the interface is.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        match self.namespace {
            Some(namespace) => namespace.run(f),
            None => Ok(f()),
        }
    }
}

/// A tester: one port that sends and one that receives, with a device under test between them.
pub struct Tester<'a> {
    transmit: Port<'a>,
    generator: Generator,
    sink: Sink,
    /// Where drops are counted.
    pub places: Vec<Place<'a>>,
    /// Of drops that only the device itself counts.
    pub own_counters: Option<Box<dyn Fn() -> Result<Counters> + 'a>>,
    /// The CPU on which the device does its work, and nobody else.
    pub device_cpu: Option<usize>,
    /// Whether drops happen that cannot be seen from here: in a device that is not this machine's.
    pub is_account_open: bool,
    scenario: Scenario,
    arrival: Arrival,
}

/// What a trial gave.
#[derive(Clone, Debug)]
pub struct Trial {
    pub sent: Sent,
    pub received: Received,
    /// Frames that did not come, by where they were counted.
    pub drops: Counters,
    /// Where frames carried a time.
    pub latencies: Latencies,
    /// For how long the device's CPU was at work, where it has one of its own.
    pub busy: Option<Duration>,
}

impl Trial {
    /// Frames a second that came out.
    pub fn rate(&self) -> f64 {
        self.received.frames as f64 / self.sent.seconds.max(1e-9)
    }

    /// Nanoseconds of the device's core for each frame that came out.
    pub fn core_time(&self) -> Option<f64> {
        Some(self.busy?.as_nanos() as f64 / (self.received.frames.max(1)) as f64)
    }

    /// Part of the frames that did not come.
    pub fn loss(&self) -> f64 {
        let lost = self.sent.frames.saturating_sub(self.received.frames);
        lost as f64 / (self.sent.frames.max(1)) as f64
    }

    /// Frames that neither came nor were counted as dropped; negative for too many.
    pub fn unaccounted(&self) -> i64 {
        let dropped: u64 = self.drops.values().sum();
        self.sent.frames as i64 - self.received.frames as i64 - dropped as i64
    }
}

/// Dropped frames that may be others': neighbour discovery of the hosts themselves.
const FOREIGN: i64 = 32;

/// Which generator and sink, and what comes out of the device.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    pub transmit: Port<'a>,
    pub receive: Port<'a>,
    pub kind: Kind,
    pub generic_sink: bool,
    pub arrival: Arrival,
}

impl<'a> Tester<'a> {
    /// Attaches the sink and loads the generator.
    ///
    /// # Errors
    /// Either cannot be had.
    pub fn new(setup: Setup<'a>, scenario: &Scenario) -> Result<Self> {
        let Setup { transmit, receive, kind, generic_sink, arrival } = setup;
        let sink =
            receive.run(|| Sink::attach(receive.interface, scenario, arrival, false, generic_sink))??;
        let generator = transmit.run(|| Generator::new(kind, transmit.interface, scenario))??;
        Ok(Self {
            transmit,
            generator,
            sink,
            places: Vec::new(),
            own_counters: None,
            device_cpu: None,
            is_account_open: false,
            scenario: scenario.clone(),
            arrival,
        })
    }

    /// Sends and counts.
    ///
    /// # Errors
    /// The generator's or the kernel's; or frames came out of another length than they should.
    pub fn trial(&mut self, load: Load) -> Result<Trial> {
        self.sink.reset()?;
        let before = self.counters()?;
        let (transmit, generator) = (self.transmit, &mut self.generator);
        let busy = self.device_cpu.map(Busy::start).transpose()?;
        let sent = transmit.run(|| generator.run(load))??;
        let busy = busy.map(|it| it.end()).transpose()?;
        let received = self.settled(sent.frames)?;
        let drops = grown(&before, &self.counters()?);
        let latencies = self.sink.latencies()?;
        let trial = Trial { sent, received, drops, latencies, busy };
        self.check(&trial)?;
        Ok(trial)
    }

    fn counters(&self) -> Result<Counters> {
        let mut counters = read(&self.places)?;
        if let Some(own) = &self.own_counters {
            counters.extend(own()?);
        }
        Ok(counters)
    }

    /// What the sink has when nothing more comes.
    fn settled(&mut self, sent: u64) -> Result<Received> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut last = self.sink.received()?;
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.sink.received()?;
            if now.frames >= sent || now == last || Instant::now() > deadline {
                return Ok(now);
            }
            last = now;
        }
    }

    fn check(&self, trial: &Trial) -> Result<()> {
        let Trial { sent, received, .. } = trial;
        ensure!(received.frames <= sent.frames, "{} frames came of {} sent", received.frames, sent.frames);
        // Where all have one length, so have those that come out.
        if let [size] = self.scenario.sizes.mix()[..] {
            let length = self.scenario.frame_length(size.bytes, self.arrival) as u64;
            ensure!(
                received.bytes == received.frames * length,
                "{} frames came with {} bytes, should be of {length} each",
                received.frames,
                received.bytes
            );
        }
        Ok(())
    }

    /// That `sent = received + drops`; there may be drops of a few frames that are not the scenario's.
    ///
    /// # Errors
    /// It is not so: with all numbers.
    pub fn check_account(&self, trial: &Trial) -> Result<()> {
        let unaccounted = trial.unaccounted();
        ensure!(
            unaccounted >= -FOREIGN && (self.is_account_open || unaccounted <= 0),
            "{} frames sent, {} received, {unaccounted} of them nobody counted; drops: {:?}",
            trial.sent.frames,
            trial.received.frames,
            trial.drops
        );
        Ok(())
    }

    /// Sends a few frames and waits until they come, so that neighbours are known and caches warm.
    ///
    /// # Errors
    /// None comes.
    pub fn warm_up(&mut self) -> Result<()> {
        let load = Load { rate: Some(10_000.0), frames: Some(500), time: Duration::from_secs(2) };
        let came = crate::lab::wait_for("frames come out of the device", Duration::from_secs(10), || {
            let trial = self.trial(load)?;
            Ok((trial.received.frames > 0).then_some(trial))
        });
        let drops = self.counters().map(|it| it.into_iter().filter(|it| it.1 > 0).collect::<Counters>());
        came.with_context(|| format!("dropped so far: {drops:?}")).map(|_| ())
    }
}
