//! The demo's assertions: what a newcomer sees holds, with few sessions and with many.

use netplane_bench::demo::{self, Options};
use std::path::Path;

fn play(sessions: u32) {
    let netplane = Path::new(env!("CARGO_BIN_EXE_netplane"));
    let report = demo::run(netplane, Options { sessions, keep: false }, &|_| {}).expect("the demo");
    assert_eq!(report.sessions, sessions);
    let judgement = &report.fast_path.judgement;
    assert_eq!(judgement.problems, Vec::<String>::new());
    assert!(judgement.uplink >= 9 && judgement.downlink >= 9, "{judgement:?}");
    assert_eq!(report.restart.n_lost(), 0);
    assert!(report.user_space.packets_into_pod > report.fast_path.packets_into_pod);
}

#[test]
fn with_the_examples() {
    play(3);
}

#[test]
fn with_a_thousand_sessions() {
    play(1000);
}
