//! The case table on the real XDP and TC programs, by BPF_PROG_TEST_RUN: same verdicts, same bytes, same
//! counters as on slices; and the same for packets that nobody thought of.

use netplane_bench::differential::{self, Counted, Fates, Hook, Kernel};
use netplane_common::map::Rate;
use netplane_common::testing::cases::{self, Case, TEID, UPLINK_COUNTER, from_gnb, user_packet};
use netplane_common::testing::invariants::pass;
use netplane_common::testing::packet::{self, difference};
use netplane_common::testing::rules::{UPLINK_METER, URR, measured};
use netplane_common::verdict::Reason;
use std::time::{Duration, Instant};

fn check(kernel: &mut Kernel, hook: Hook, case: &Case) {
    kernel.set(&case.tables).expect("the maps can be written");
    let frame = kernel.run(hook, &case.packet).expect("BPF_PROG_TEST_RUN");
    assert_eq!(frame.action, hook.action(case.verdict), "{} on {hook:?}: action of the kernel", case.name);
    let wanted = case.out.as_deref().unwrap_or(&case.packet);
    let as_wanted = hook.is_as_wanted(frame.bytes, wanted);
    assert!(as_wanted, "{} on {hook:?}: {}", case.name, difference(frame.bytes, wanted));
    let mut counted = Counted::default();
    counted.add(&pass(&case.tables, &case.packet), frame.bytes.len());
    assert_eq!(kernel.counted().expect("counters"), counted, "{} on {hook:?}: counters", case.name);
}

#[test]
fn every_case_holds_in_the_kernel() {
    let mut cases = cases::all();
    cases.extend(cases::wrong_sums());
    assert!(cases.len() > 60, "the table has {} cases", cases.len());
    let mut kernel = Kernel::load().expect("root and a kernel with BPF");
    for hook in Hook::ALL {
        let cases = cases.iter().filter(|it| hook.can_run(&it.packet));
        cases.for_each(|it| check(&mut kernel, hook, it));
    }
}

/// `cargo xtask differential` does the same for as long as one likes.
#[test]
fn the_kernel_decides_as_slices_do_in_random_worlds() {
    let mut kernel = Kernel::load().expect("root and a kernel with BPF");
    for hook in Hook::ALL {
        let mut fates = Fates::default();
        for number in 0..100 {
            fates += differential::world(&mut kernel, hook, 1, number).unwrap_or_else(|it| panic!("{it:#}"));
        }
        // Else the mutations are so strong that only the first checks are tested.
        assert!(fates.forwarded > 5_000 && fates.answered > 1_000, "{hook:?}: {fates:?}");
    }
}

/// More is offered than the rate at any time, by more threads than there are CPUs. What was let through is the rate
/// times the time that has passed, and what the burst allows; and no packet is counted twice or not at all.
#[test]
fn meters_and_usages_are_right_on_several_cpus() {
    let mut kernel = Kernel::load().expect("root and a kernel with BPF");
    let inner = user_packet().bytes();
    let packet = from_gnb(&packet::gtpu(0x30, 255, TEID, &inner));
    for bits in [200_000_u64, 2_000_000] {
        let mut tables = measured();
        for rule in tables.rules.values_mut() {
            rule.meters[0].rate = Rate::of_bits(bits);
        }
        kernel.set(&tables).expect("the maps can be written");
        assert!(tables.meters.borrow().contains_key(&UPLINK_METER));
        let begun = Instant::now();
        let offered = kernel.hammer(&packet, 3, Duration::from_secs(2)).expect("it runs");
        let lasted = begun.elapsed().as_nanos();
        let counted = kernel.counted().expect("counters");
        let passed = counted.sessions[&UPLINK_COUNTER];
        let dropped = counted.networks[&(cases::N3, Reason::RateExceeded as u8)].packets;
        assert_eq!(passed.packets + dropped, offered);
        let usage = kernel.usage(&URR).expect("a usage");
        assert_eq!((usage.uplink_packets, usage.total_bytes), (passed.packets, passed.bytes));
        let fair = (u128::from(bits) * lasted / 8_000_000_000) as u64;
        let burst = Rate::BURST_BYTES + inner.len() as u64;
        assert!(passed.bytes <= fair + fair / 50 + burst, "{bits} bit/s: {passed:?}, {fair} are fair");
        assert!(passed.bytes >= fair - fair / 50, "{bits} bit/s: {passed:?} of {offered}, {fair} are fair");
    }
}
