//! What the fuzzers of `fuzz/` do with their bytes, and what the unit tests do with the bytes that fuzzers
//! have found: the same functions.

use super::invariants::{judge, pass};
use super::mutate::mutated;
use super::numbers::Numbers;
use super::packet::{self, Ipv4, hex};
use super::tables::MapTables;
use super::worlds::World;
use super::{answers, cases};
use crate::verdict::Verdict;
use std::path::Path;

/// Bytes in front of the frame that pick the tables.
const SELECTOR: usize = 2;
/// Random worlds that can be picked, behind the tables of the case table.
const WORLDS: u64 = 64;

thread_local! {
    /// All made at once, so that no input is taken for new because it was the first in its world.
    static TABLES: Vec<MapTables> = {
        let worlds = (0..WORLDS).map(|seed| World::random(&mut Numbers::new(seed)).tables);
        [cases::standard(), answers::answering()].into_iter().chain(worlds).collect()
    };
}

/// The tables that a number picks.
fn with_tables<T>(selector: [u8; SELECTOR], run: impl FnOnce(&MapTables) -> T) -> T {
    let selector = usize::from(u16::from_le_bytes(selector));
    TABLES.with(|tables| run(&tables[selector % tables.len()]))
}

/// A number that picks tables, and a frame: the decision must keep the rules.
///
/// # Panics
/// A rule is broken.
pub fn decide(data: &[u8]) {
    let Some((selector, frame)) = data.split_first_chunk::<SELECTOR>() else { return };
    with_tables(*selector, |tables| {
        let passage = pass(tables, frame);
        if let Err(rule) = judge(tables, frame, &passage) {
            panic!("{rule}: {:?}\nin  {}\nout {}", passage.verdict, hex(frame), hex(&passage.out));
        }
    });
}

/// The bytes of [`decide`], with the frame changed by who knows where its headers are.
#[must_use]
pub fn mutated_decide(data: &[u8], seed: u32) -> Vec<u8> {
    let mut numbers = Numbers::new(u64::from(seed));
    match data.split_first_chunk::<SELECTOR>() {
        None => vec![0; SELECTOR + 60],
        // The same packet in another world is a new one, and a packet made for a world gets far in it.
        Some((_, frame)) if numbers.one_in(8) => [&(numbers.draw() as u16).to_le_bytes()[..], frame].concat(),
        Some((selector, _)) if numbers.one_in(8) => {
            let world = World { tables: with_tables(*selector, MapTables::clone) };
            [&selector[..], &world.packet(&mut numbers)].concat()
        }
        Some((selector, frame)) => [&selector[..], &mutated(frame, &mut numbers)].concat(),
    }
}

/// GTP-U flags and what stands between the mandatory part and a user's packet: where the chain of extension
/// headers is as TS 29.281 §5.2 has it, the packet must come out, else nothing may.
///
/// # Panics
/// A good chain is not decapsulated, or a bad one is.
pub fn gtpu(data: &[u8]) {
    // Longer ones do not fit the path.
    let Some((flags, chain)) = data.split_first().filter(|(_, chain)| chain.len() <= 1024) else { return };
    let inner = cases::user_packet().bytes();
    let behind = [chain, &inner].concat();
    let frame = cases::from_gnb(&packet::gtpu(0x30 | flags & 0x0f, 255, cases::TEID, &behind));
    let selector = [0; SELECTOR];
    decide(&[&selector[..], &frame].concat());
    let tables = cases::standard();
    // What looks like a chain may be a packet itself, but not this one.
    let one_hop = cases::to_router(&Ipv4 { ttl: 63, ..cases::user_packet() });
    let came_out = Some(pass(&tables, &frame).out) == one_hop;
    assert_eq!(came_out, is_good_chain(flags & 7, chain), "flags {flags:#04x}, chain {}", hex(chain));
    let relayed = cases::from_gnb(&packet::gtpu(0x30 | flags & 0x0f, 255, cases::RELAY_TEID, &behind));
    // A relay does not look into the chain.
    assert!(matches!(pass(&tables, &relayed).verdict, Verdict::Redirect { .. }), "{}", hex(&relayed));
}

/// Whether the optional part and up to eight headers that need not be understood, or are PDU Session
/// Containers, end exactly where the user's packet starts.
fn is_good_chain(flags: u8, chain: &[u8]) -> bool {
    if flags == 0 {
        return chain.is_empty();
    }
    let Some((optional, mut rest)) = chain.split_first_chunk::<4>() else { return false };
    let mut kind = if flags & 4 == 0 { 0 } else { optional[3] };
    for _ in 0..8 {
        let understood = kind < 0x80 || kind == 0x85;
        let words = usize::from(rest.first().copied().unwrap_or(0));
        if kind == 0 || !understood || words == 0 || rest.len() < words * 4 {
            break;
        }
        kind = rest[words * 4 - 1];
        rest = &rest[words * 4..];
    }
    kind == 0 && rest.is_empty()
}

/// Runs all files of a target that are committed under `fuzz/`, and says how many there were.
///
/// # Panics
/// A file does not run, which is named then.
pub fn replay(target: &str, run: fn(&[u8])) -> usize {
    let mut files = 0;
    for kind in ["corpus", "regressions"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(kind).join(target);
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            let done = std::panic::catch_unwind(|| run(&bytes));
            assert!(done.is_ok(), "{}", entry.path().display());
            files += 1;
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fuzzers_found_keeps_the_rules() {
        assert!(replay("decide", decide) >= 50);
        assert!(replay("gtpu", gtpu) >= 10);
    }

    #[test]
    fn mutations_keep_the_rules() {
        let mut data = vec![0; 62];
        for seed in 0..20_000 {
            data = mutated_decide(&data, seed);
            decide(&data);
        }
    }
}
