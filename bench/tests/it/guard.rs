//! The packet program beside the committed table of lookups, calls and sizes.

use netplane_bench::guard::{TABLE, Table};
use std::path::Path;

#[test]
fn the_packet_program_has_not_grown() {
    let table = Table::read(Path::new(TABLE)).expect("the committed table");
    let now = Table::measure().expect("root, and a kernel with BPF");
    let grown = table.grown(&now);
    assert!(
        grown.is_empty(),
        "{}\nif that is meant: cargo run -p netplane-bench --bin netplane-bench -- guard --renew",
        grown.join("\n")
    );
}
