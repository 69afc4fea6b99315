//! The differential run: random tables and random packets for the decision on slices and for the real
//! programs in the kernel, which must agree in verdict, bytes, counters and events. Everything follows from
//! a seed and a world's number, so a run can be stopped, and a failure repeated.

mod indexed;
mod kernel;

pub use kernel::{Counted, Frame, Hook, Kernel};

use anyhow::{Context, Result, ensure};
use netplane_common::testing::invariants::{Passage, judge};
use netplane_common::testing::mutate::mutated;
use netplane_common::testing::numbers::Numbers;
use netplane_common::testing::packet::{difference, hex};
use netplane_common::testing::worlds::World;
use netplane_common::testing::{answers, cases};
use netplane_common::verdict::Verdict;
use std::ops::AddAssign;

/// Packets of one world.
pub const PACKETS: u64 = 1000;
/// One world in this many is that of the case table, with its packets changed.
const CASES: u64 = 4;

/// How many packets had which fate, the same on both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    pub forwarded: u64,
    pub answered: u64,
    pub dropped: u64,
    pub passed: u64,
}

impl Fates {
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.forwarded + self.answered + self.dropped + self.passed
    }

    fn count(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::Transmit | Verdict::Redirect { .. } | Verdict::Deliver { .. } => &mut self.forwarded,
            Verdict::Answer { .. } | Verdict::ToAnswer { .. } => &mut self.answered,
            Verdict::Drop { .. } => &mut self.dropped,
            Verdict::Pass
            | Verdict::PassCounted { .. }
            | Verdict::Unfinished
            | Verdict::ToRules { .. }
            | Verdict::Buffered => &mut self.passed,
        } += 1;
    }
}

impl AddAssign for Fates {
    fn add_assign(&mut self, other: Self) {
        self.forwarded += other.forwarded;
        self.answered += other.answered;
        self.dropped += other.dropped;
        self.passed += other.passed;
    }
}

/// Runs one world, as far as a test run on this hook shows what becomes of a packet.
///
/// # Errors
/// The first packet on which the two sides do not agree, or that breaks a rule, with all that is needed to
/// repeat it.
pub fn world(kernel: &mut Kernel, hook: Hook, seed: u64, number: u64) -> Result<Fates> {
    let mut numbers = Numbers::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
    let of_cases = number.is_multiple_of(CASES).then(cases::all);
    let world = match &of_cases {
        Some(_) => World { tables: answers::answering() },
        None => World::random(&mut numbers),
    };
    let named = || format!("{hook:?}, seed {seed}, world {number}");
    kernel.set(&world.tables).with_context(named)?;
    let (mut fates, mut counted, mut wanted) = (Fates::default(), Counted::default(), Vec::new());
    for round in 0..PACKETS {
        let packet = match &of_cases {
            Some(cases) => mutated(&cases[numbers.below(cases.len())].packet, &mut numbers),
            None => world.packet(&mut numbers),
        };
        if !hook.can_run(&packet) {
            continue;
        }
        let passage = hook.pass(&world.tables, &packet);
        let len = compare(kernel, hook, &world, &packet, &passage).with_context(|| {
            format!("{}, packet {round}: {:?}\nin  {}", named(), passage.verdict, hex(&packet))
        })?;
        fates.count(passage.verdict);
        counted.add(&passage, len);
        wanted.extend(passage.wanted);
    }
    let in_kernel = kernel.counted()?;
    ensure!(in_kernel == counted, "{}: counters\nkernel {in_kernel:?}\nslices {counted:?}", named());
    let in_kernel = kernel.wanted()?;
    ensure!(
        in_kernel == wanted,
        "{}: neighbours asked for\nkernel {in_kernel:?}\nslices {wanted:?}",
        named()
    );
    Ok(fates)
}

/// Returns the length of the frame afterwards.
fn compare(
    kernel: &mut Kernel,
    hook: Hook,
    world: &World,
    packet: &[u8],
    passage: &Passage,
) -> Result<usize> {
    judge(&world.tables, packet, passage).map_err(anyhow::Error::msg)?;
    let frame = kernel.run(hook, packet)?;
    let wanted = hook.action(passage.verdict);
    ensure!(frame.action == wanted, "the kernel's action is {}, not {wanted}", frame.action);
    // On TC room is made behind the link header: what an answer that came to nothing has left looks otherwise.
    let is_gone = hook == Hook::Tc && matches!(passage.verdict, Verdict::Drop { .. });
    let as_wanted = is_gone || hook.is_as_wanted(frame.bytes, &passage.out);
    ensure!(as_wanted, "the kernel's frame is another: {}", difference(frame.bytes, &passage.out));
    Ok(frame.bytes.len())
}
