//! The case table on the real XDP and TC programs, by BPF_PROG_TEST_RUN: same verdicts, same bytes, same
//! counters as on slices; and the same for packets that nobody thought of.

use crate::program::{Hook, count, empty, fill, load, run, session_count};
use aya::Ebpf;
use netplane_common::decide::decide;
use netplane_common::frame::SliceFrame;
use netplane_common::testing::answers;
use netplane_common::testing::cases::{self, Case, IFINDEX};
use netplane_common::testing::packet::difference;
use netplane_common::verdict::Verdict;

fn check(ebpf: &mut Ebpf, hook: Hook, case: &Case) {
    fill(ebpf, &case.tables);
    let counter = match case.verdict {
        Verdict::Drop { network, reason }
        | Verdict::PassCounted { network, reason }
        | Verdict::Answer { network, reason, .. } => Some((network, reason)),
        _ => None,
    };
    let counted = |ebpf: &Ebpf| counter.map_or(0, |(network, reason)| count(ebpf, network, reason as u8));
    let before = (session_count(ebpf), counted(ebpf));
    let (verdict, out) = run(ebpf, hook, &case.packet);
    assert_eq!(verdict, hook.action(case.verdict), "{} on {hook:?}: action of the kernel", case.name);
    let wanted = case.out.as_deref().unwrap_or(&case.packet);
    let as_wanted = hook.is_as_wanted(&out, wanted);
    assert!(as_wanted, "{} on {hook:?}: {}", case.name, difference(&out, wanted));
    let forwarded = matches!(case.verdict, Verdict::Transmit | Verdict::Redirect { .. });
    assert_eq!(
        session_count(ebpf) - before.0,
        u64::from(forwarded),
        "{} on {hook:?}: session counters",
        case.name
    );
    assert_eq!(
        counted(ebpf) - before.1,
        u64::from(counter.is_some()),
        "{} on {hook:?}: counter of {counter:?}",
        case.name
    );
    empty(ebpf, &case.tables);
}

#[test]
fn every_case_holds_in_the_kernel() {
    let cases = cases::all();
    assert!(cases.len() > 60, "the table has {} cases", cases.len());
    let mut ebpf = load();
    for hook in Hook::ALL {
        let cases = cases.iter().filter(|it| hook.can_run(&it.packet));
        cases.for_each(|it| check(&mut ebpf, hook, it));
    }
}

/// Numbers that look random and are the same in each run (xorshift64, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).expect("below a limit")
    }
}

/// A packet of the table with some bytes changed, mostly in its headers; sometimes cut or made longer.
fn mutated(packet: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut packet = packet.to_vec();
    for _ in 0..numbers.below(4) {
        let headers = packet.len().min(90);
        let at = if numbers.below(4) == 0 { numbers.below(packet.len()) } else { numbers.below(headers) };
        packet[at] = match numbers.below(3) {
            0 => packet[at] ^ 1 << numbers.below(8),
            1 => [0, 1, 4, 0x30, 0x34, 0x45, 0x85, 0xff][numbers.below(8)],
            _ => numbers.next() as u8,
        };
    }
    match numbers.below(10) {
        0 => packet.truncate(14 + numbers.below(packet.len() - 13)),
        1 => packet.extend(std::iter::repeat_n(0xee, numbers.below(40))),
        _ => {}
    }
    packet
}

#[test]
fn the_kernel_decides_as_slices_do_on_mutated_packets() {
    let packets: Vec<_> = cases::all().into_iter().map(|it| it.packet).collect();
    let tables = answers::answering();
    let mut ebpf = load();
    fill(&mut ebpf, &tables);
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut forwarded = 0;
    for round in 0..200_000 {
        let hook = Hook::ALL[round % 2];
        let packet = mutated(&packets[numbers.below(packets.len())], &mut numbers);
        if !hook.can_run(&packet) {
            continue;
        }
        let mut frame = SliceFrame::new(&packet);
        let verdict = decide(&mut frame, &tables, IFINDEX);
        let (got, out) = run(&ebpf, hook, &packet);
        assert_eq!(got, hook.action(verdict), "round {round} on {hook:?}: {verdict:?} of {packet:02x?}");
        let as_wanted = hook.is_as_wanted(&out, frame.bytes());
        assert!(as_wanted, "round {round} on {hook:?}: {verdict:?}: {}", difference(&out, frame.bytes()));
        forwarded += u32::from(matches!(verdict, Verdict::Transmit | Verdict::Redirect { .. }));
    }
    // Else the mutations are so strong that only the first checks are tested.
    assert!(forwarded > 20_000, "{forwarded} of 200,000 were forwarded");
}
