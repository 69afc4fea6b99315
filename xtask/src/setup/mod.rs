//! `setup`: installs what is missing, says what and why, and leaves alone what is there.

mod debian;
pub(crate) mod fuzzer;
mod kernel;
mod toolchain;

use anyhow::{Context, Result};
use debian::Need;
use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;
use xtask::toolchain::on_path;

/// What the labs, the demo and the tests run, beside what every Debian system has.
const LAB: [Need; 13] = [
    Need { package: "iproute2", why: "the labs' namespaces and interfaces (ip)" },
    Need { package: "ethtool", why: "GRO on veth, without which redirected frames are dropped" },
    Need { package: "util-linux", why: "entering namespaces (nsenter, unshare)" },
    Need { package: "busybox-static", why: "ping between the labs' hosts" },
    Need { package: "containerd", why: "the container runtime that calls the plugin in the tests" },
    Need { package: "runc", why: "containerd's sandboxes" },
    Need {
        package: "containernetworking-plugins",
        why: "bridge and ptp as default networks, and to compare with",
    },
    Need { package: "strace", why: "ending a process before a chosen system call" },
    Need { package: "e2fsprogs", why: "file systems whose power is cut" },
    Need { package: "tshark", why: "independent eyes on every packet of the tests" },
    Need { package: "python3-scapy", why: "a second independent reader of those packets" },
    Need { package: "tcpdump", why: "looking around in a lab that was kept" },
    Need { package: "bpftool", why: "looking at programs and maps in the kernel" },
];

/// For the one test that another vendor's kubectl serves as well: Debian's package cannot be installed beside
/// one that has the same file.
const KUBECTL: [Need; 1] =
    [Need { package: "kubernetes-client", why: "kubectl, an independent client of the tests' API server" }];

/// What guests with other kernels take. Debian's stable qemu replaces a newer `qemu-utils` where there is one.
const GUESTS: [Need; 4] = [
    Need { package: "qemu-system-x86", why: "guests with the kernels that clusters have" },
    Need { package: "cpio", why: "the guests' first root file system" },
    Need { package: "kmod", why: "the guests' kernel modules (depmod, modprobe)" },
    Need { package: "xz-utils", why: "unpacking kernel modules" },
];

/// All that building, the demo and every test need.
///
/// # Errors
/// Something is missing that cannot be installed from here: what, and the remedy.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    lab()?;
    guests()?;
    say(&format!("ready ({} s)", start.elapsed().as_secs()));
    Ok(())
}

/// What building, the demo and the benchmarks need.
///
/// # Errors
/// As [`run`].
pub(crate) fn lab() -> Result<()> {
    debian::install("the labs and the tests", &LAB)?;
    match on_path("kubectl") {
        Some(path) => say(&format!("kubectl: {}", path.display())),
        None => debian::install("the tests' API server", &KUBECTL)?,
    }
    toolchain::provide()
}

/// What guests with other kernels need, and their kernels.
///
/// # Errors
/// As [`run`].
pub(crate) fn guests() -> Result<()> {
    debian::install("guests", &GUESTS)?;
    kernel::provide()
}

fn say(what: &str) {
    eprintln!("setup: {what}");
}

/// Two set-ups at a time would unpack into each other; held until the file is closed.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let lock = || {
        fs::create_dir_all(folder)?;
        let file = File::create(&path)?;
        file.lock()?;
        Ok::<_, std::io::Error>(file)
    };
    lock().with_context(|| format!("lock {}", path.display()))
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
