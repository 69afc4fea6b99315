//! `fuzz`: looks for inputs that break a rule, starting from the corpus that is committed.

use crate::setup::fuzzer;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use xtask::process::{run as execute, without_outer_cargo};
use xtask::{root, target_dir};

/// Long enough to see that a change broke nothing that is quickly found.
const DEFAULT_SECONDS: u32 = 60;
/// A corpus that is committed has no more files: the last ones would add an edge each.
const MAX_FILES: usize = 400;
/// Longer frames take another way nowhere.
const MAX_LEN: u32 = 1600;

const USAGE: &str = "cargo xtask fuzz [TARGET] [--seconds N] [--merge]";

/// What was asked for.
struct Request {
    target: Option<String>,
    seconds: u32,
    /// Take what was found into the committed corpus, as few files as cover most.
    merge: bool,
}

pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let request = Request::read(arguments)?;
    let targets = targets()?;
    if let Some(target) = &request.target {
        ensure!(targets.contains(target), "no target {target}; there are {}", targets.join(", "));
    }
    let cargo_fuzz = fuzzer::provide()?;
    for target in targets.iter().filter(|it| request.target.as_ref().is_none_or(|asked| asked == *it)) {
        let fuzzer = Fuzzer { cargo_fuzz: &cargo_fuzz, target };
        if request.merge { fuzzer.merge()? } else { fuzzer.run(request.seconds)? }
    }
    Ok(())
}

impl Request {
    fn read(arguments: &[OsString]) -> Result<Self> {
        let mut request = Self { target: None, seconds: DEFAULT_SECONDS, merge: false };
        let mut words = arguments.iter().map(|it| it.to_string_lossy().into_owned());
        while let Some(word) = words.next() {
            match word.as_str() {
                "--merge" => request.merge = true,
                "--seconds" => {
                    let value = words.next().unwrap_or_default();
                    request.seconds = value
                        .parse()
                        .with_context(|| format!("--seconds \"{value}\": should be a number\n{USAGE}"))?;
                }
                _ if word.starts_with('-') || request.target.is_some() => {
                    bail!("unexpected argument {word}\n{USAGE}")
                }
                _ => request.target = Some(word),
            }
        }
        Ok(request)
    }
}

/// The names of the targets: one file each.
fn targets() -> Result<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let stem = |path: PathBuf| path.file_stem().map(|it| it.to_string_lossy().into_owned());
    let mut names: Vec<_> = entries.flatten().filter_map(|it| stem(it.path())).collect();
    names.sort();
    Ok(names)
}

struct Fuzzer<'a> {
    cargo_fuzz: &'a Path,
    target: &'a str,
}

impl Fuzzer<'_> {
    /// What this machine's runs have found; not committed.
    fn found(&self) -> PathBuf {
        target_dir().join("fuzz/corpus").join(self.target)
    }

    fn committed(&self) -> PathBuf {
        root().join("fuzz/corpus").join(self.target)
    }

    fn run(&self, seconds: u32) -> Result<()> {
        self.build()?;
        eprintln!("fuzz: {} for {seconds} s", self.target);
        let (found, committed) = (self.found(), self.committed());
        let artifacts = root().join("fuzz/artifacts").join(self.target);
        for folder in [&found, &committed, &artifacts] {
            fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
        }
        let limit = format!("-max_total_time={seconds}");
        // New inputs go into the first folder.
        execute(
            self.command("run")
                .args([&found, &committed])
                .args(["--", &limit, "-print_final_stats=1"])
                .arg(max_len()),
        )
        .with_context(|| {
            format!(
                "{} found something: minimise it (cargo fuzz tmin), fix it, name it as a case, and keep the \
                 file in fuzz/regressions/{}; docs/testing.md tells more",
                self.target, self.target
            )
        })
    }

    /// By itself, so that a failure to build is not taken for a find.
    fn build(&self) -> Result<()> {
        execute(&mut self.command("build")).with_context(|| format!("{} does not build", self.target))
    }

    fn merge(&self) -> Result<()> {
        self.build()?;
        let folder = target_dir().join("fuzz/merge").join(self.target);
        let (control, nothing) = (folder.join("control"), folder.join("nothing"));
        let merged = || {
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            fs::create_dir_all(&nothing)
        };
        merged().with_context(|| format!("empty {}", folder.display()))?;
        let mut written = OsString::from("-merge_control_file=");
        written.push(&control);
        let (found, committed) = (self.found(), self.committed());
        // It writes down what each file covers.
        let mut command = self.command("run");
        command.args([&nothing, &found, &committed]).args(["--", "-merge=1", "-use_counters=0"]);
        execute(command.arg(written).arg(max_len()))?;
        let text = fs::read_to_string(&control).with_context(|| format!("read {}", control.display()))?;
        let smallest = smallest_cover(&text).context("libFuzzer's control file has another form")?;
        let contents = smallest.iter().map(|it| Ok((it.file_name().unwrap_or_default(), fs::read(it)?)));
        let contents = contents.collect::<std::io::Result<Vec<_>>>().context("read the corpus")?;
        let replace = || {
            fs::remove_dir_all(&committed)?;
            fs::create_dir_all(&committed)?;
            contents.iter().try_for_each(|(name, bytes)| fs::write(committed.join(name), bytes))
        };
        replace().with_context(|| format!("replace {}", committed.display()))?;
        eprintln!("fuzz: {} has {} files in its corpus", self.target, contents.len());
        Ok(())
    }

    /// `cargo fuzz VERB TARGET`, up to the folders. The code under test is safe Rust, so no sanitizer slows it
    /// down; coverage is an unstable flag of rustc, which a release compiler takes with RUSTC_BOOTSTRAP.
    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(self.cargo_fuzz);
        without_outer_cargo(&mut command)
            .current_dir(root().join("fuzz"))
            .env("RUSTC_BOOTSTRAP", "1")
            .args([verb, self.target, "--sanitizer", "none", "--target-dir"])
            .arg(target_dir().join("fuzz/build"));
        // Those that only need the decision are built without the rest.
        if !matches!(self.target, "decide" | "gtpu") {
            command.args(["--features", "text"]);
        }
        command
    }
}

/// Up to [`MAX_FILES`] files of a control file of libFuzzer's merge, each next one the one that covers most of
/// what the others do not. `FT number feature…` says what the file with that number covers.
fn smallest_cover(control: &str) -> Option<Vec<PathBuf>> {
    let mut lines = control.lines();
    let count: usize = lines.next()?.parse().ok()?;
    // How many of them were in the first folder.
    lines.next()?;
    let files: Vec<PathBuf> = lines.by_ref().take(count).map(PathBuf::from).collect();
    let mut left: BTreeMap<usize, BTreeSet<u32>> = BTreeMap::new();
    for line in lines {
        let mut words = line.split_whitespace();
        if words.next() == Some("FT") {
            let number = words.next()?.parse().ok()?;
            left.insert(number, words.map_while(|it| it.parse().ok()).collect());
        }
    }
    let (mut covered, mut picked) = (BTreeSet::new(), Vec::new());
    while picked.len() < MAX_FILES {
        let gain = |(_, features): &(&usize, &BTreeSet<u32>)| features.difference(&covered).count();
        let Some((&number, _)) = left.iter().max_by_key(gain).filter(|it| gain(it) > 0) else { break };
        covered.extend(left.remove(&number)?);
        picked.push(files.get(number)?.clone());
    }
    Some(picked)
}

fn max_len() -> String {
    format!("-max_len={MAX_LEN}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let request = Request::read(&words(&["decide", "--seconds", "7"])).expect("sound");
        assert_eq!((request.target.as_deref(), request.seconds, request.merge), (Some("decide"), 7, false));
        for wrong in [&["--seconds", "x"][..], &["--seconds"], &["a", "b"], &["--fast"]] {
            assert!(Request::read(&words(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_smallest_cover_leaves_out_what_adds_nothing() {
        let control = "3\n0\na\nb\nc\nSTARTED 0 1\nFT 0 1 2\nCOV 0 9\nFT 1 2\nFT 2 2 3 4\n";
        assert_eq!(smallest_cover(control), Some(vec![PathBuf::from("c"), PathBuf::from("a")]));
        assert_eq!(smallest_cover("x"), None);
    }

    #[test]
    fn every_target_is_a_binary_of_the_fuzzers_package() {
        let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("fuzz/Cargo.toml");
        for target in targets().expect("targets") {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
        }
    }
}
