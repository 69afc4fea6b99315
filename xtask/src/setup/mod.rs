//! `setup`: installs what is missing, says what and why, and leaves alone what is there.

mod debian;
mod toolchain;

use anyhow::Result;
use debian::Need;
use std::time::Instant;
use xtask::toolchain::on_path;

/// What the labs, the demo and the tests run, beside what every Debian system has.
const LAB: [Need; 12] = [
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
    Need { package: "tcpdump", why: "looking around in a lab that was kept" },
    Need { package: "bpftool", why: "looking at programs and maps in the kernel" },
];

/// For the one test that another vendor's kubectl serves as well: Debian's package cannot be installed beside
/// one that has the same file.
const KUBECTL: [Need; 1] =
    [Need { package: "kubernetes-client", why: "kubectl, an independent client of the tests' API server" }];

/// # Errors
/// Something is missing that cannot be installed from here: what, and the remedy.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    debian::install("the labs and the tests", &LAB)?;
    match on_path("kubectl") {
        Some(path) => say(&format!("kubectl: {}", path.display())),
        None => debian::install("the tests' API server", &KUBECTL)?,
    }
    toolchain::provide()?;
    say(&format!("ready ({} s)", start.elapsed().as_secs()));
    Ok(())
}

fn say(what: &str) {
    eprintln!("setup: {what}");
}
