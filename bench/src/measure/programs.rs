//! The programs and their tables, loaded into the kernel and attached to nothing.

use super::scenario::{INDEX_MASK, Path, Scenario};
use super::tables;
use crate::load::index;
use crate::load::objects::{self, map};
use crate::load::scenario::Sending;
use crate::load::turns::turns;
use anyhow::{Context, Result, ensure};
use aya::maps::ProgramArray;
use aya::programs::{ProgramFd, SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use netplane::dataplane::{load_tc, load_xdp, object};

pub(super) const EMPTY: &str = "empty";
pub(super) const TESTED: &str = "netplane_xdp";
pub(super) const TC_EMPTY: &str = "tc_empty";
pub(super) const TC_TESTED: &str = "netplane_tc";

/// Turns that a list has room for: `turns` makes no longer one.
const TURNS: u32 = 1 << 20;

/// The product's object and the benches' one.
pub struct Programs {
    product: Ebpf,
    bench: Ebpf,
    cpu: usize,
    frame: Vec<u8>,
}

impl Programs {
    /// Loads both objects with tables for so many sessions on each path, to run on this CPU.
    ///
    /// # Errors
    /// No privilege, or a program or map that the kernel refuses.
    pub fn load(sessions: u32, cpu: usize) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for (name, size) in tables::sizes(sessions) {
            loader.map_max_entries(name, size);
        }
        index::size(&mut loader, &INDEX_MASK);
        let mut product = loader.load(object()).context("cannot load the product's object")?;
        let mut sizes = tables::floor_sizes(sessions).to_vec();
        sizes.push(("TURNS", TURNS));
        let mut bench = objects::load(&sizes)?;
        load_xdp(&mut product).context("cannot load the product's programs")?;
        load_tc(&mut product).context("cannot load the product's TC programs")?;
        for name in ["wrapper", EMPTY, "floor_uplink", "floor_indexed", "floor_downlink"] {
            let refused = || format!("the kernel refuses the program {name}");
            xdp(&mut bench, name)?.load().with_context(refused)?;
        }
        for name in ["tc_wrapper", TC_EMPTY, "tc_shorter", "tc_longer"] {
            let refused = || format!("the kernel refuses the program {name}");
            classifier(&mut bench, name)?.load().with_context(refused)?;
        }
        tables::fill(&mut product, sessions).context("cannot fill the product's tables")?;
        tables::fill_floor(&mut bench, sessions).context("cannot fill the floor's tables")?;
        Ok(Self { product, bench, cpu, frame: Vec::new() })
    }

    /// Makes the wrapper write this scenario's packets.
    pub(super) fn use_scenario(&mut self, scenario: Scenario) -> Result<()> {
        let load = scenario.load(self.cpu);
        let (template, turns) = (scenario.template(&load)?, turns(&load));
        let used = u32::try_from(turns.len())?;
        objects::fill(&mut self.bench, std::slice::from_ref(&template), &turns)?;
        objects::configure(&mut self.bench, &Sending::default(), used, 1, None)?;
        objects::restart(&mut self.bench, &[self.cpu], used, None)?;
        self.frame = template.frame;
        Ok(())
    }

    /// Nanoseconds that one packet takes through the wrapper and the target.
    pub(super) fn run(&mut self, scenario: Scenario, target: &str, packets: u32) -> Result<f64> {
        let is_tc = target == TC_TESTED || target.starts_with("tc_");
        let from = if target == TESTED || target == TC_TESTED { &mut self.product } else { &mut self.bench };
        let program = if is_tc { fd(classifier(from, target)?.fd()) } else { fd(xdp(from, target)?.fd()) }?;
        let mut slot: ProgramArray<_> = map(&mut self.bench, if is_tc { "TC_TARGET" } else { "TARGET" })?;
        slot.set(0, &program, 0)?;
        let options =
            TestRunOptions { data_in: Some(&self.frame), repeat: packets, ..TestRunOptions::default() };
        let result = if is_tc {
            let wrapper: &SchedClassifier =
                self.bench.program("tc_wrapper").context("no TC wrapper")?.try_into()?;
            wrapper.test_run(options)
        } else {
            let wrapper: &Xdp = self.bench.program("wrapper").context("no program wrapper")?.try_into()?;
            wrapper.test_run(options)
        };
        let result = result.context("BPF_PROG_TEST_RUN")?;
        let path = if target == EMPTY || target == TC_EMPTY { Path::Pass } else { scenario.path };
        let wanted = if is_tc { path.tc_action() } else { path.action() };
        ensure!(
            result.return_value == wanted,
            "{target} on {}: the last packet's action was {}, not {wanted}",
            scenario.path.name(),
            result.return_value
        );
        Ok(result.duration.as_nanos() as f64)
    }
}

fn fd(program: Result<&ProgramFd, aya::programs::ProgramError>) -> Result<ProgramFd> {
    Ok(program?.try_clone()?)
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name} in the object"))?;
    Ok(program.try_into()?)
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name} in the object"))?;
    Ok(program.try_into()?)
}
