//! The benches' BPF object, loaded with maps as large as they are needed.

use super::scenario::{Mac, Scenario, Sending};
use super::template::{Template, Templates, Words};
use super::turns::turns;
use anyhow::{Context, Result};
use aya::maps::{Array, Map, PerCpuArray, PerCpuValues};
use aya::{Ebpf, EbpfLoader};

/// Maps of other programs in the object, which take memory although nobody uses them.
const OTHERS: [&str; 4] = ["FLOOR_UPLINK", "FLOOR_DOWNLINK", "FLOOR_COUNTERS", "FLOOR_LINES"];

/// Loads the object with maps of these sizes.
pub(crate) fn load(sizes: &[(&str, u32)]) -> Result<Ebpf> {
    let object = aya::include_bytes_aligned!(env!("NETPLANE_BENCH_BPF_OBJECT"));
    let mut loader = EbpfLoader::new();
    for name in OTHERS {
        loader.map_max_entries(name, 1);
    }
    for (name, size) in sizes {
        loader.map_max_entries(name, *size);
    }
    loader.load(object).context("cannot load the benches' BPF object; it needs root")
}

/// A map of the object by its name and type.
pub(crate) fn map<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<&'a mut Map>,
    T::Error: std::error::Error + Send + Sync + 'static,
{
    let map = ebpf.map_mut(name).with_context(|| format!("no map {name} in the object"))?;
    T::try_from(map).with_context(|| format!("map {name}"))
}

/// The generator's tables: templates, pattern and turns of a scenario.
pub(super) fn load_generator(
    scenario: &Scenario,
    source: Mac,
    destination: Mac,
) -> Result<(Ebpf, Templates)> {
    let templates = Templates::new(scenario, source, destination)?;
    let turns = turns(scenario);
    let mut ebpf = load(&[("TURNS", u32::try_from(turns.len())?)])?;
    let mut pattern: Array<_, u32> = map(&mut ebpf, "PATTERN")?;
    for (index, template) in (0..).zip(&templates.pattern) {
        pattern.set(index, *template, 0)?;
    }
    fill(&mut ebpf, &templates.templates, &turns)?;
    Ok((ebpf, templates))
}

/// Writes templates and turns.
pub(crate) fn fill(ebpf: &mut Ebpf, templates: &[Template], turns: &[[u32; 2]]) -> Result<()> {
    let mut map_of_templates: Array<_, Words> = map(ebpf, "LOAD_TEMPLATES")?;
    for (index, template) in (0..).zip(templates) {
        map_of_templates.set(index, template.words(), 0)?;
    }
    let mut map_of_turns: Array<_, [u32; 2]> = map(ebpf, "TURNS")?;
    for (index, turn) in (0..).zip(turns) {
        map_of_turns.set(index, *turn, 0)?;
    }
    Ok(())
}

/// `LoadState` of `netplane-ebpf/src/bench/load.rs`: turn and step, limit, sent, bytes, due, late.
pub(super) type State = [u64; 6];

/// Sets how fast to send; the interval is of each thread. `turns` are those in use.
pub(crate) fn configure(
    ebpf: &mut Ebpf,
    send: &Sending,
    turns: u32,
    pattern: usize,
    rate: Option<f64>,
) -> Result<()> {
    let threads = send.cpus.len() as f64;
    // In 1/1024 ns.
    let interval = rate.map_or(0, |it| ((1024e9 * threads / it) as u64).max(1));
    let mut config: Array<_, [u64; 3]> = map(ebpf, "LOAD_CONFIG")?;
    let lengths = u64::from(turns) | (pattern as u64) << 32;
    config.set(0, [lengths, u64::from(send.latency), interval], 0)?;
    Ok(())
}

/// How many turns the list has room for.
pub(crate) fn room(ebpf: &mut Ebpf) -> Result<u32> {
    let turns: Array<_, [u32; 2]> = map(ebpf, "TURNS")?;
    Ok(turns.len())
}

/// Starts all CPUs anew, each at another place of the list, with its share of `frames`.
pub(crate) fn restart(ebpf: &mut Ebpf, cpus: &[usize], turns: u32, frames: Option<u64>) -> Result<()> {
    let turns = u64::from(turns);
    let n_cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
    let share = |thread: u64| {
        let threads = cpus.len() as u64;
        frames.map_or(u64::MAX, |it| it / threads + u64::from(thread < it % threads))
    };
    let state = |cpu: usize| -> State {
        match cpus.iter().position(|it| *it == cpu) {
            Some(at) => [at as u64 * turns / cpus.len() as u64, share(at as u64), 0, 0, 0, 0],
            None => [0; 6],
        }
    };
    let states = PerCpuValues::try_from((0..n_cpus).map(state).collect::<Vec<_>>())?;
    let mut map: PerCpuArray<_, State> = map(ebpf, "LOAD_STATE")?;
    map.set(0, states, 0)?;
    Ok(())
}

/// Frames, bytes and late frames of all CPUs so far.
pub(super) fn sent(ebpf: &mut Ebpf) -> Result<[u64; 3]> {
    let states: PerCpuArray<_, State> = map(ebpf, "LOAD_STATE")?;
    let states = states.get(&0, 0)?;
    let sum = |index: usize| states.iter().map(|it| it[index]).sum();
    Ok([sum(2), sum(3), sum(5)])
}
