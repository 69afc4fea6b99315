//! Which core does what: the sender, the device under test, the sink.

use crate::lab::command::Tool;
use crate::lab::{Namespace, wait_for};
use crate::load::pin_process;
use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::time::Duration;

/// CPUs of the three parts. The same one for all on a machine with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    pub sender: usize,
    /// The device under test: one core.
    pub device: usize,
    pub sink: usize,
}

impl Cores {
    /// The first CPU tends to serve interrupts, so it is not the one that is measured.
    ///
    /// # Errors
    /// The number of CPUs is not known.
    pub fn of_this_machine() -> Result<Self> {
        Ok(match std::thread::available_parallelism()?.get() {
            1 => Self { sender: 0, device: 0, sink: 0 },
            2 => Self { sender: 0, device: 1, sink: 0 },
            _ => Self { sender: 0, device: 1, sink: 2 },
        })
    }
}

impl std::fmt::Display for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{},{},{}", self.sender, self.device, self.sink)
    }
}

impl std::str::FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cpus: Vec<usize> = text.split(',').map_while(|it| it.parse().ok()).collect();
        match cpus[..] {
            [sender, device, sink] => Ok(Self { sender, device, sink }),
            _ => Err(format!("\"{text}\" should be three CPUs, of sender, device and sink: 0,1,2")),
        }
    }
}

/// Which threads go first where several share a core, or the machine has other work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priority {
    /// All threads of the device under test, in the kernel and out of it, among themselves equal.
    Device,
    /// The sink takes what comes at once, or its ring would overflow while the sender has the core.
    Sink,
}

impl Priority {
    pub(super) fn give(self, thread: Pid) -> Result<()> {
        match self {
            Self::Device => {
                let id = rustix::process::Pid::from_raw(thread.as_raw());
                rustix::process::setpriority_process(id, -15).context("setpriority")?;
            }
            // By its tool: no crate here has the system call.
            Self::Sink => {
                CHRT.run(["--fifo", "--pid", "10", &thread.to_string()])?;
            }
        }
        Ok(())
    }
}

const CHRT: Tool = Tool { program: "chrt", package: "util-linux" };

/// Kernel threads that poll interfaces of this name.
fn pollers(interface: &str) -> BTreeSet<i32> {
    let prefix = format!("napi/{interface}-");
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|it| it.file_name().to_str()?.parse::<i32>().ok());
    let is_poller = |id: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        name.starts_with(&prefix)
    };
    ids.filter(is_poller).collect()
}

/// Lets an interface be polled by a kernel thread of its own (Linux 5.12), on this CPU: else whoever sends
/// to a veth also does the receiver's work. Once all programs are attached: attaching makes new threads.
///
/// # Errors
/// The driver does not poll (a veth polls with GRO on, or with an XDP program).
pub(super) fn poll_on(namespace: &Namespace, interface: &str, cpu: usize, priority: Priority) -> Result<()> {
    let before = pollers(interface);
    let setting = format!("/sys/class/net/{interface}/threaded");
    // `ip netns exec` mounts the /sys that shows the namespace's interfaces.
    let script = format!("echo 0 > {setting} && echo 1 > {setting}");
    let arguments = ["netns", "exec", namespace.name(), "sh", "-c", &script];
    crate::lab::command::IP.run(arguments).context("threaded polling needs Linux 5.12")?;
    let what = format!("a thread that polls {interface}");
    let fresh = wait_for(&what, Duration::from_secs(5), || {
        let fresh: Vec<_> = pollers(interface).difference(&before).copied().collect();
        Ok((!fresh.is_empty()).then_some(fresh))
    })?;
    for id in &fresh {
        pin_process(Pid::from_raw(*id), cpu)?;
        priority.give(Pid::from_raw(*id))?;
    }
    ensure!(!fresh.is_empty(), "nobody polls {interface}");
    Ok(())
}
