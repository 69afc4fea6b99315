//! What attaching costs as a container runtime sees it: wall time of ADD and DEL from the start of the first
//! process to the exit of the last, CPU time, and peak memory. netplane beside the reference plugins that do
//! the same work, called in turn in one run, in network namespaces of their own.

mod call;
mod report;
mod shape;
mod stage;

pub use report::{Goal, Report, Row};
pub use shape::{Shape, Subject, Verb};

use anyhow::{Context, Result};
use call::Cost;
use report::Samples;
use stage::Stage;
use std::path::{Path, PathBuf};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of one call at a time; in each, every subject attaches and detaches once.
    pub rounds: usize,
    /// Rounds of [`Effort::at_once`] calls at a time.
    pub bursts: usize,
    /// Pods that are attached at the same time in a burst.
    pub at_once: usize,
}

/// What is compared.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The binary under test.
    pub netplane: PathBuf,
    /// The folder of the reference plugins: macvlan, ptp, host-local.
    pub plugins: PathBuf,
}

/// Measures. `progress` is told what is being measured. For the only thread of a process without children: those
/// that calls leave become its own.
///
/// # Errors
/// Not root, a program is missing, or a call fails.
pub fn run(programs: &Programs, effort: Effort, mut progress: impl FnMut(&str)) -> Result<Report> {
    check(programs)?;
    nix::sys::prctl::set_child_subreaper(true).context("become the parent of what calls leave")?;
    let stage = Stage::new(programs, effort.at_once.max(1))?;
    let measured = measure(&stage, effort, &mut progress);
    let removed = stage.remove();
    let samples = measured?;
    removed?;
    Ok(Report::new(effort, samples))
}

fn check(programs: &Programs) -> Result<()> {
    let plugin = |name: &str| programs.plugins.join(name);
    for program in [programs.netplane.clone(), plugin("macvlan"), plugin("ptp"), plugin("host-local")] {
        program.metadata().with_context(|| {
            let remedy = "remedy: apt-get install containernetworking-plugins (Debian), or --plugins FOLDER";
            format!("{} is needed; {remedy}", program.display())
        })?;
    }
    Ok(())
}

fn measure(stage: &Stage, effort: Effort, progress: &mut impl FnMut(&str)) -> Result<Samples> {
    let mut samples = Samples::default();
    for shape in Shape::ALL {
        progress(&format!("{}, one at a time", shape.name()));
        // One round that does not count fills the page cache.
        for round in 0..=effort.rounds {
            for subject in turn(&Subject::ALL, round) {
                let (add, del) = one(stage, shape, subject)?;
                if round > 0 {
                    samples.add((shape, subject, Verb::Add, 1), [add]);
                    samples.add((shape, subject, Verb::Del, 1), [del]);
                }
            }
        }
        for burst in 0..effort.bursts {
            let pods = effort.at_once;
            progress(&format!("{}, {pods} at a time, burst {}", shape.name(), burst + 1));
            for subject in turn(&[Subject::Netplane, Subject::Reference], burst) {
                for verb in [Verb::Add, Verb::Del] {
                    wait_for_children();
                    let (costs, together) = stage.burst(shape, subject, verb, pods)?;
                    samples.add((shape, subject, verb, pods), costs);
                    samples.add_memory((shape, subject, verb, pods), together);
                }
            }
        }
    }
    Ok(samples)
}

fn one(stage: &Stage, shape: Shape, subject: Subject) -> Result<(Cost, Cost)> {
    let add = stage.one(shape, subject, Verb::Add)?;
    wait_for_children();
    let del = stage.one(shape, subject, Verb::Del)?;
    wait_for_children();
    Ok((add, del))
}

/// What a call has left behind: netplane has the disk written after its answer. The next one is to find the
/// machine as a call does that is alone on it.
fn wait_for_children() {
    while nix::sys::wait::wait().is_ok() {}
}

/// The subjects, another one first in each round: who comes first finds another machine.
fn turn(subjects: &[Subject], round: usize) -> Vec<Subject> {
    let mut turned = subjects.to_vec();
    turned.rotate_left(round % subjects.len());
    turned
}

/// Where the reference plugins are unless said otherwise: Debian's package.
pub const DEFAULT_PLUGINS: &str = "/usr/lib/cni";

/// The netplane of the same build: beside this program.
///
/// # Errors
/// This program's own path is not known.
pub fn own_netplane() -> Result<PathBuf> {
    let own = std::env::current_exe().context("the path of this program")?;
    Ok(own.parent().unwrap_or(Path::new("/")).join("netplane"))
}
