//! A short soak: mixed traffic with restarts and changing neighbours, and every packet accounted for. The long
//! one is `cargo xtask soak`.

use netplane_bench::soak::{self, Kind, Trouble};
use std::path::Path;
use std::time::Duration;

#[test]
fn every_packet_of_mixed_traffic_is_accounted_for() {
    let netplane = Path::new(env!("CARGO_BIN_EXE_netplane"));
    let account = soak::run(netplane, Duration::from_secs(10), &|_| {}).expect("a soak");
    assert!(account.problems.is_empty(), "\n{account}");
    assert!(account.troubles >= Trouble::ALL.len(), "\n{account}");
    // Else some kind was not there to be accounted for.
    assert_eq!(account.rows.len(), Kind::ALL.len());
    assert!(account.rows.iter().all(|it| it.sent > 500), "\n{account}");
}
