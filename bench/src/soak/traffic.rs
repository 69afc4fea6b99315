//! Senders of numbered frames, and sinks that note each number that comes.

use super::kinds::{Kind, Template, is_echo_response, marked};
use crate::lab::capture::{Frame, FrameSender, Watch};
use crate::lab::{Lab, wait_for};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Of a sender's turns.
const TURN: Duration = Duration::from_micros(500);

/// How many frames of each kind the kernel has taken, for all senders.
#[derive(Clone, Debug)]
pub(super) struct Sent(Arc<BTreeMap<Kind, AtomicU64>>);

impl Sent {
    pub(super) fn new() -> Self {
        Self(Arc::new(Kind::ALL.iter().map(|kind| (*kind, AtomicU64::new(0))).collect()))
    }

    pub(super) fn of(&self, kind: Kind) -> u64 {
        self.0.get(&kind).map_or(0, |it| it.load(Ordering::Acquire))
    }

    pub(super) fn total(&self) -> u64 {
        Kind::ALL.iter().map(|kind| self.of(*kind)).sum()
    }

    /// Waits until this many more have been sent.
    pub(super) fn wait_for_more(&self, more: u64) -> Result<()> {
        let goal = self.total() + more;
        wait_for("senders to go on", super::LIMIT, || Ok((self.total() >= goal).then_some(())))
    }

    fn add(&self, kind: Kind) {
        if let Some(count) = self.0.get(&kind) {
            count.fetch_add(1, Ordering::Release);
        }
    }
}

/// A host that sends in the background.
pub(super) struct Sender {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Sender {
    pub(super) fn start(wire: FrameSender, templates: Vec<Template>, sent: &Sent) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, sent) = (stop.clone(), sent.clone());
        let thread = std::thread::Builder::new().name("soak-sender".to_owned());
        let thread =
            thread.spawn(move || send(&wire, templates, &sent, &stopped)).context("start a thread")?;
        Ok(Self { stop, thread })
    }

    pub(super) fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().ok().context("a sender panicked")
    }
}

fn send(wire: &FrameSender, mut templates: Vec<Template>, sent: &Sent, stop: &AtomicBool) {
    let (start, mut turn) = (Instant::now(), 0_u64);
    while !stop.load(Ordering::Acquire) {
        for template in templates.iter_mut().filter(|it| turn.is_multiple_of(it.every)) {
            let kind = template.kind;
            // One that the kernel does not take was not sent: the next has its number.
            if wire.send(template.frame(sent.of(kind) as u32)) {
                sent.add(kind);
            }
        }
        turn += 1;
        std::thread::sleep(TURN.mul_f64(turn as f64).saturating_sub(start.elapsed()));
    }
}

/// What has come out somewhere.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    /// By kind, which numbers.
    numbers: BTreeMap<Kind, Vec<bool>>,
    pub(super) duplicates: u64,
    pub(super) echo_responses: u64,
    /// How many under each destination MAC.
    pub(super) by_mac: BTreeMap<[u8; 6], u64>,
}

impl Arrived {
    fn note(&mut self, frame: &[u8]) {
        let Some((kind, number)) = marked(frame) else {
            self.echo_responses += u64::from(is_echo_response(frame));
            return;
        };
        let numbers = self.numbers.entry(kind).or_default();
        let number = number as usize;
        numbers.resize(numbers.len().max(number + 1), false);
        self.duplicates += u64::from(std::mem::replace(&mut numbers[number], true));
        if let Some(mac) = frame.first_chunk::<6>() {
            *self.by_mac.entry(*mac).or_default() += 1;
        }
    }

    /// Different frames of a kind.
    pub(super) fn of(&self, kind: Kind) -> u64 {
        self.numbers.get(&kind).map_or(0, |it| it.iter().filter(|it| **it).count() as u64)
    }
}

/// A sink that can be looked at while frames come.
#[derive(Debug)]
pub(super) struct Sink {
    arrived: Arc<Mutex<Arrived>>,
    watch: Watch<Arc<Mutex<Arrived>>>,
}

impl Sink {
    fn start(namespace: &crate::lab::Namespace, interface: &str) -> Result<Self> {
        let arrived = Arc::<Mutex<Arrived>>::default();
        let note = |arrived: &mut Arc<Mutex<Arrived>>, frame: Frame| {
            if !frame.outgoing {
                lock(arrived).note(&frame.bytes);
            }
        };
        Ok(Self { watch: Watch::start(namespace, interface, arrived.clone(), note)?, arrived })
    }

    /// Frames that have come under this destination MAC.
    pub(super) fn under(&self, mac: [u8; 6]) -> u64 {
        lock(&self.arrived).by_mac.get(&mac).copied().unwrap_or(0)
    }

    fn stop(self) -> Result<Arrived> {
        self.watch.stop()?;
        Ok(std::mem::take(&mut lock(&self.arrived)))
    }
}

/// A panic while it was held is the test's failure anyway.
fn lock(arrived: &Mutex<Arrived>) -> MutexGuard<'_, Arrived> {
    arrived.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where frames can come out.
#[derive(Debug)]
pub(super) struct Sinks {
    pub(super) gnb: Sink,
    pub(super) gateway: Sink,
    pod: [Sink; 2],
}

/// What has come out where.
#[derive(Debug)]
pub(super) struct Arrivals {
    pub(super) gnb: Arrived,
    pub(super) gateway: Arrived,
    pub(super) pod: [Arrived; 2],
}

impl Sinks {
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        Ok(Self {
            gnb: Sink::start(&lab.gnb, "n3")?,
            gateway: Sink::start(&lab.dn, "n6")?,
            pod: [Sink::start(&lab.pod, "net1")?, Sink::start(&lab.pod, "net2")?],
        })
    }

    pub(super) fn stop(self) -> Result<Arrivals> {
        let [net1, net2] = self.pod;
        Ok(Arrivals {
            gnb: self.gnb.stop()?,
            gateway: self.gateway.stop()?,
            pod: [net1.stop()?, net2.stop()?],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_comes_twice_is_a_duplicate() {
        let mut arrived = Arrived::default();
        let frame = |number: u8| [&[0; 20][..], b"soak", &[Kind::Relay as u8, 0, 0, 0, number]].concat();
        for number in [0, 2, 2] {
            arrived.note(&frame(number));
        }
        assert_eq!((arrived.of(Kind::Relay), arrived.duplicates), (2, 1));
        assert_eq!(arrived.by_mac[&[0; 6]], 3);
    }
}
