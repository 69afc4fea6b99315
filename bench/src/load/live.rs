//! XDP live frames as a generator: BPF_PROG_TEST_RUN with `BPF_F_TEST_XDP_LIVE_FRAMES` (Linux 5.18) hands
//! frames to a program that writes and redirects them, in batches, with no socket buffer on the way.
//! The rate is kept in the program: a frame that is not due yet goes back to the kernel's pool.

use super::objects::{configure, load_generator, map, restart, room, sent};
use super::scenario::{Mac, Scenario};
use super::template::HEAD;
use super::{Load, Sent, mac_of, pin};
use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::xdp::DevMap;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use std::time::Instant;

/// Frames handed to the program in one system call, sent or not: some milliseconds' worth.
const SLICE: u32 = 1 << 16;

/// Live frames, ready to send.
pub struct Live {
    ebpf: Ebpf,
    scenario: Scenario,
    frame: Vec<u8>,
    pattern: usize,
}

impl Live {
    /// For an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// No such interface or destination, not root, or a kernel before 5.18.
    pub fn new(interface: &str, scenario: &Scenario) -> Result<Self> {
        let source = scenario.ethernet.source.map_or_else(|| mac_of(interface), Ok)?;
        let destination = destination(scenario)?;
        let (mut ebpf, templates) = load_generator(scenario, source, destination)?;
        let index = nix::net::if_::if_nametoindex(interface);
        let index = index.with_context(|| format!("no interface {interface}"))?;
        let mut port: DevMap<_> = map(&mut ebpf, "LOAD_PORT")?;
        port.set(0, index, None, 0).with_context(|| format!("{interface} as a way out of XDP"))?;
        program(&mut ebpf)?.load().context("the kernel refuses the generator's program")?;
        let frame = vec![0; templates.longest().max(HEAD)];
        Ok(Self { ebpf, scenario: scenario.clone(), frame, pattern: templates.pattern.len() })
    }

    /// Sends from all CPUs of the scenario at once.
    ///
    /// # Errors
    /// The kernel's; that it knows no live frames among them.
    pub fn run(&mut self, load: Load) -> Result<Sent> {
        let turns = room(&mut self.ebpf)?;
        configure(&mut self.ebpf, &self.scenario.send, turns, self.pattern, load.rate)?;
        restart(&mut self.ebpf, &self.scenario.send.cpus, turns, load.frames)?;
        let (frame, send) = (&self.frame, &self.scenario.send);
        let states = &self.ebpf;
        let program: &Xdp = states.program("generate").context("no program generate")?.try_into()?;
        let share = load.frames.map(|it| it.div_ceil(send.cpus.len() as u64));
        let start = Instant::now();
        let thread = |cpu: usize| -> Result<()> {
            pin(cpu)?;
            let mut handed = 0;
            while start.elapsed() < load.time {
                // Without a rate every frame handed in is sent, so that the last call can be short.
                let slice = match (share, load.rate) {
                    (Some(share), None) => u32::try_from(share - handed)?.min(SLICE),
                    _ => SLICE,
                };
                if slice == 0 {
                    break;
                }
                send_slice(program, frame, slice, send.burst)?;
                handed += u64::from(slice);
                if load.rate.is_some() && share.is_some() && is_done(states, cpu)? {
                    break;
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| -> Result<()> {
            let threads: Vec<_> = send.cpus.iter().map(|cpu| scope.spawn(|| thread(*cpu))).collect();
            for it in threads {
                it.join().ok().context("a sending thread panicked")??;
            }
            Ok(())
        })?;
        let seconds = start.elapsed().as_secs_f64();
        let [frames, bytes, late] = sent(&mut self.ebpf)?;
        Ok(Sent { frames, bytes, seconds, late })
    }
}

fn is_done(ebpf: &Ebpf, cpu: usize) -> Result<bool> {
    let map = ebpf.map("LOAD_STATE").context("no map LOAD_STATE in the object")?;
    let states: aya::maps::PerCpuArray<_, super::objects::State> = map.try_into()?;
    let states = states.get(&0, 0)?;
    let state = states.get(cpu).with_context(|| format!("no CPU {cpu}"))?;
    Ok(state[2] >= state[1])
}

fn send_slice(program: &Xdp, frame: &[u8], slice: u32, burst: u32) -> Result<()> {
    let attrs = TestRunAttrs::new().xdp_live_frames(burst);
    let options = TestRunOptions { data_in: Some(frame), repeat: slice, attrs, ..TestRunOptions::default() };
    program.test_run(options).context(
        "XDP live frames (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES); \
         remedy: Linux 5.18 or newer, or `--generator pktgen` where the kernel has that module",
    )?;
    Ok(())
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    Ok(ebpf.program_mut("generate").context("no program generate in the object")?.try_into()?)
}

pub(super) fn destination(scenario: &Scenario) -> Result<Mac> {
    let destination = scenario.ethernet.destination;
    let message = "no destination MAC address: give --destination, or ethernet.destination in the scenario";
    ensure!(destination.is_some(), message);
    destination.context(message)
}
