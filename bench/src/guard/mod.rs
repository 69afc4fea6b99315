//! The guard against slow growth, which needs no clock: lookups and calls of each path, and the size of the
//! program as compiler, verifier and JIT see it, beside a committed table.

mod count;

mod program;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// What a packet path does, by kind: `hash lookups` and the like.
type Counts = BTreeMap<String, u32>;

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Table {
    /// Of each path, how often it does what.
    pub paths: BTreeMap<String, Counts>,
    /// Of the program in the object: instructions, and places that call each helper.
    pub object: Counts,
    /// By kernel series and machine: instructions that the verifier went through, bytes after it and after the
    /// JIT.
    pub kernels: BTreeMap<String, Counts>,
}

/// How much larger a size may be than in the table. What a path does may not grow at all.
const GROWTH: f64 = 1.10;
/// The same for a kernel that is not in the table, beside the largest of those that are.
const GROWTH_ELSEWHERE: f64 = 1.5;

/// Where the table is in the repository.
pub const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guard.json");

impl Table {
    /// Counts anew, on this kernel.
    ///
    /// # Errors
    /// No privilege to load the program, or the kernel refuses it.
    pub fn measure() -> Result<Self> {
        let kernels = BTreeMap::from([(program::kernel()?, program::loaded()?)]);
        Ok(Self { paths: count::paths(), object: program::object()?, kernels })
    }

    /// Reads one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("table {}", path.display()))
    }

    /// Writes this one. Kernels that it does not know are kept as they are in the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn renew(mut self, path: &Path) -> Result<()> {
        if let Ok(old) = Self::read(path) {
            for (kernel, counts) in old.kernels {
                self.kernels.entry(kernel).or_insert(counts);
            }
        }
        let text = serde_json::to_string_pretty(&self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// What has grown in `now` beyond what this table allows.
    pub fn grown(&self, now: &Self) -> Vec<String> {
        let mut problems = Vec::new();
        for (path, counts) in &now.paths {
            match self.paths.get(path) {
                Some(allowed) => compare(path, allowed, counts, 1.0, &mut problems),
                None => problems.push(format!("{path}: not in the table")),
            }
        }
        compare("object", &self.object, &now.object, GROWTH, &mut problems);
        for (kernel, counts) in &now.kernels {
            match self.kernels.get(kernel) {
                Some(allowed) => compare(kernel, allowed, counts, GROWTH, &mut problems),
                None => compare(kernel, &self.largest(), counts, GROWTH_ELSEWHERE, &mut problems),
            }
        }
        problems
    }

    /// The largest of all kernels.
    fn largest(&self) -> Counts {
        let mut largest = Counts::new();
        for (name, count) in self.kernels.values().flatten() {
            let most = largest.entry(name.clone()).or_default();
            *most = (*most).max(*count);
        }
        largest
    }
}

fn compare(what: &str, allowed: &Counts, now: &Counts, growth: f64, problems: &mut Vec<String>) {
    for (name, count) in now {
        let limit = allowed.get(name).copied().unwrap_or_default();
        if f64::from(*count) > (f64::from(limit) * growth).floor() {
            problems.push(format!(
                "{what}: {name}: {count}, the table has {limit} and allows {:.0}",
                f64::from(limit) * growth
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(list: &[(&str, u32)]) -> Counts {
        list.iter().map(|it| (it.0.to_owned(), it.1)).collect()
    }

    #[test]
    fn growth_is_found_where_it_is_too_much() {
        let table = Table {
            paths: BTreeMap::from([("uplink".to_owned(), counts(&[("hash lookups", 1)]))]),
            object: counts(&[(program::INSTRUCTIONS, 1000), ("bpf_redirect_map", 2)]),
            kernels: BTreeMap::from([("6.18".to_owned(), counts(&[("verified instructions", 5000)]))]),
        };
        assert_eq!(table.grown(&table), Vec::<String>::new());
        let mut now = table.clone();
        now.object.insert(program::INSTRUCTIONS.to_owned(), 1100);
        assert_eq!(table.grown(&now), Vec::<String>::new());
        now.object.insert(program::INSTRUCTIONS.to_owned(), 1101);
        now.object.insert("bpf_redirect_map".to_owned(), 3);
        now.paths.insert("uplink".to_owned(), counts(&[("hash lookups", 2), ("trie lookups", 1)]));
        now.kernels = BTreeMap::from([("7.0".to_owned(), counts(&[("verified instructions", 7501)]))]);
        let grown = table.grown(&now);
        for wanted in [
            "uplink: hash lookups: 2",
            "uplink: trie lookups: 1",
            "instructions: 1101",
            "bpf_redirect_map: 3",
            "7.0: verified instructions: 7501, the table has 5000 and allows 7500",
        ] {
            assert!(grown.iter().any(|it| it.contains(wanted)), "{wanted} in {grown:?}");
        }
        assert_eq!(grown.len(), 5);
    }
}
