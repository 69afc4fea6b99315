//! The kernel's pktgen as a generator, by its files in /proc/net/pktgen (kernel documentation,
//! networking/pktgen.rst).
//!
//! pktgen itself only makes UDP with a header of its own inside. A program at TC egress of the interface
//! writes the scenario's frames over them: GTP-U, TEIDs, sessions and flows. So that frames come by there,
//! pktgen sends through the interface's queue (`xmit_mode queue_xmit`), one at a time: its bursts go to the
//! driver directly.

use super::live::destination;
use super::objects::{configure, load_generator, restart, room, sent};
use super::scenario::{Mac, Scenario};
use super::template::Templates;
use super::{Load, Sent, mac_of};
use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::programs::tc::{SchedClassifier, TcAttachType, qdisc_add_clsact, qdisc_detach_program};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Instant;

/// Of the calling thread's network namespace; /proc/net is that of the process's first thread.
const FOLDER: &str = "/proc/thread-self/net/pktgen";

const PROGRAM: &str = "stamp";

/// pktgen, ready to send. Whatever ends this process, the kernel stops sending; what is then left (devices
/// added to threads, and before Linux 6.6 the program) goes with the next run, or with the namespace.
pub struct Pktgen {
    ebpf: Ebpf,
    scenario: Scenario,
    templates: Templates,
    interface: String,
    macs: [Mac; 2],
}

impl Pktgen {
    /// For an interface of the calling thread's network namespace. Takes away what an earlier run left.
    ///
    /// # Errors
    /// A kernel without pktgen (the error says what to do), no such interface, not root.
    pub fn new(interface: &str, scenario: &Scenario) -> Result<Self> {
        ensure!(
            Path::new(FOLDER).is_dir(),
            "this kernel has no pktgen; remedy: `modprobe pktgen` (CONFIG_NET_PKTGEN), \
             or `--generator live` where there is no such module"
        );
        let source = scenario.ethernet.source.map_or_else(|| mac_of(interface), Ok)?;
        let macs = [source, destination(scenario)?];
        let (mut ebpf, templates) = load_generator(scenario, macs[0], macs[1])?;
        remove_devices()?;
        // Before Linux 6.6 filters outlive their process. There is none to remove in most cases.
        let _removed = qdisc_detach_program(interface, TcAttachType::Egress, PROGRAM);
        // It exists already where somebody else has filters too; and tcx (Linux 6.6) needs none.
        let _added = qdisc_add_clsact(interface);
        let program: &mut SchedClassifier =
            ebpf.program_mut(PROGRAM).context("no program stamp in the object")?.try_into()?;
        program.load().context("the kernel refuses the generator's program")?;
        program
            .attach(interface, TcAttachType::Egress)
            .with_context(|| format!("TC egress of {interface}"))?;
        let interface = interface.to_owned();
        Ok(Self { ebpf, scenario: scenario.clone(), templates, interface, macs })
    }

    /// Sends, from one kernel thread on each CPU of the scenario. In the same namespace as [`Pktgen::new`].
    ///
    /// # Errors
    /// A setting that pktgen refuses, or frames that did not get the scenario's bytes.
    pub fn run(&mut self, load: Load) -> Result<Sent> {
        // The rate is pktgen's to keep.
        let (turns, send) = (room(&mut self.ebpf)?, &self.scenario.send);
        configure(&mut self.ebpf, send, turns, self.templates.pattern.len(), None)?;
        restart(&mut self.ebpf, &send.cpus, turns, None)?;
        remove_devices()?;
        let devices = self.add_devices(load)?;
        let start = Instant::now();
        let ran = run_threads(load);
        let seconds = start.elapsed().as_secs_f64();
        let results = devices.iter().map(|it| Results::read(it)).collect::<Result<Vec<_>>>();
        remove_devices()?;
        ran?;
        let results = results?;
        let [frames, bytes, _] = sent(&mut self.ebpf)?;
        let total: u64 = results.iter().map(|it| it.sent).sum();
        let errors: u64 = results.iter().map(|it| it.errors).sum();
        ensure!(
            frames == total + errors,
            "pktgen sent {total} frames and failed with {errors}, but {frames} became the scenario's"
        );
        // Until pktgen itself was done, which is less than the waiting above.
        let seconds = results.iter().map(|it| it.seconds).fold(0.0, f64::max).min(seconds);
        Ok(Sent { frames, bytes, seconds, late: 0 })
    }

    fn add_devices(&self, load: Load) -> Result<Vec<String>> {
        let cpus = &self.scenario.send.cpus;
        let mut devices = Vec::new();
        for (index, cpu) in cpus.iter().enumerate() {
            let device = format!("{}@{cpu}", self.interface);
            write(&format!("kpktgend_{cpu}"), &format!("add_device {device}"))
                .with_context(|| format!("thread of CPU {cpu}"))?;
            let (index, threads) = (index as u64, cpus.len() as u64);
            // 0 stands for no limit.
            let share = |frames: u64| (frames / threads + u64::from(index < frames % threads)).max(1);
            let mut settings = vec![
                format!("count {}", load.frames.map_or(0, share)),
                "xmit_mode queue_xmit".to_owned(),
                "clone_skb 0".to_owned(),
                format!("src_mac {}", self.macs[0]),
                format!("dst_mac {}", self.macs[1]),
                // Both are written over.
                "dst 198.18.0.1".to_owned(),
                "udp_dst_min 9".to_owned(),
                self.sizes(),
            ];
            settings
                .extend(load.rate.map(|it| format!("ratep {}", (it / cpus.len() as f64).max(1.0) as u64)));
            for setting in settings {
                write(&device, &setting).with_context(|| format!("pktgen's {device}: {setting}"))?;
            }
            devices.push(device);
        }
        Ok(devices)
    }

    /// pktgen counts what is on the wire without FCS, as we do.
    fn sizes(&self) -> String {
        let templates = &self.templates.templates;
        if let [template] = &templates[..] {
            return format!("pkt_size {}", template.frame.len());
        }
        let mut weights = String::from("imix_weights");
        for (index, template) in (0_u32..).zip(templates) {
            let weight = self.templates.pattern.iter().filter(|it| **it == index).count();
            let _infallible = write!(weights, " {},{weight}", template.frame.len());
        }
        weights
    }
}

impl Drop for Pktgen {
    fn drop(&mut self) {
        // Only in the namespace that it was made in; elsewhere there is nothing of it.
        let _removed = remove_devices();
        let _detached = qdisc_detach_program(&self.interface, TcAttachType::Egress, PROGRAM);
    }
}

/// What pktgen says of a device after a run.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Results {
    sent: u64,
    errors: u64,
    seconds: f64,
}

impl Results {
    fn read(device: &str) -> Result<Self> {
        let path = file(device);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("what pktgen says of {device}: {text}"))
    }

    fn parse(text: &str) -> Option<Self> {
        let number = |key: &str| {
            let rest = text.split_once(key)?.1.trim_start();
            rest.split(|it: char| !it.is_ascii_digit()).next()?.parse::<u64>().ok()
        };
        // "Result: OK: 1999(c1998+d1) usec, 1000 (60byte,0frags)".
        text.contains("Result: OK:").then_some(())?;
        let microseconds = number("Result: OK:")?;
        Some(Self {
            sent: number("pkts-sofar:")?,
            errors: number("errors:")?,
            seconds: microseconds as f64 / 1e6,
        })
    }
}

/// Starts all threads and waits for their end, which comes with the last frame or the time.
fn run_threads(load: Load) -> Result<()> {
    let (done, wait) = channel::<()>();
    std::thread::scope(|scope| {
        let stopper = scope.spawn(move || match wait.recv_timeout(load.time) {
            Err(RecvTimeoutError::Timeout) => write("pgctrl", "stop"),
            _ => Ok(()),
        });
        // Returns when all threads are done; a signal stops them.
        let started = write("pgctrl", "start");
        drop(done);
        let stopped = stopper.join().ok().context("the stopping thread panicked")?;
        started.and(stopped)
    })
}

/// All threads' devices, of whatever run.
fn remove_devices() -> Result<()> {
    for entry in std::fs::read_dir(FOLDER).with_context(|| format!("read {FOLDER}"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("kpktgend_") {
            write(&name, "rem_device_all")?;
        }
    }
    Ok(())
}

fn file(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

fn write(name: &str, command: &str) -> Result<()> {
    std::fs::write(file(name), format!("{command}\n")).with_context(|| format!("pktgen's {name}: {command}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_as_the_kernel_writes_them() {
        let text = "Params: count 1000  min_pkt_size: 98  max_pkt_size: 98\n\
                    Current:\n     pkts-sofar: 1000  errors: 2\n     started: 1us  stopped: 9us idle: 3us\n\
                    Result: OK: 20012(c19980+d32) usec, 1000 (98byte,0frags)\n  49970pps 39Mb/sec\n";
        let results = Results::parse(text);
        assert_eq!(results, Some(Results { sent: 1000, errors: 2, seconds: 0.020_012 }));
        assert_eq!(Results::parse("Result: Idle\n"), None);
    }
}
