//! The demo's assertions: what a newcomer sees holds, with few sessions and with many.

use netplane_bench::demo::{self, Options};
use std::path::Path;

fn play(sessions: u32) {
    let netplane = Path::new(env!("CARGO_BIN_EXE_netplane"));
    let report = demo::run(netplane, Options { sessions, keep: None }, &|_| {}).expect("the demo");
    assert_eq!(report.sessions, sessions);
    let fast_path = &report.fast_path;
    assert_eq!(fast_path.judgement.problems, Vec::<String>::new());
    assert!(fast_path.judgement.uplink >= 9 && fast_path.judgement.downlink >= 9, "{fast_path:?}");
    assert!(fast_path.packets > 40_000, "{fast_path:?}");
    assert_eq!(fast_path.packets_of_upf, 0);
    let counted: Vec<_> = fast_path.counters.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    let expected = [("core/n3 pass-unknown-teid", 4), ("core/n3 ttl-expired", 3), ("core/n3 ue-spoofed", 5)];
    assert_eq!(counted, expected);
    assert_eq!((report.restart.n_lost(), report.restart.returned), (0, report.restart.sent));
    // Without the fast path, every packet is the UPF's.
    assert!(report.user_space.packets_of_upf > 40_000, "{:?}", report.user_space);
}

#[test]
fn with_the_examples() {
    play(3);
}

#[test]
fn with_a_thousand_sessions() {
    play(1000);
}
