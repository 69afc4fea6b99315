//! The case table on the real XDP and TC programs, by BPF_PROG_TEST_RUN: same verdicts, same bytes, same
//! counters as on slices; and the same for packets that nobody thought of.

use netplane_bench::differential::{self, Counted, Fates, Hook, Kernel};
use netplane_common::testing::cases::{self, Case};
use netplane_common::testing::invariants::pass;
use netplane_common::testing::packet::difference;

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
