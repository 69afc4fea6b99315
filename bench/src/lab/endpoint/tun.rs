//! TUN devices: IP packets that the kernel routes to a device come out of a file, and back.

use super::config::TunConfig;
use crate::lab::command::IP;
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// Packets that wait for the endpoint, so that a burst is not cut off by the device.
const QUEUE_LENGTH: u32 = 10_000;

nix::ioctl_write_ptr_bad!(tunsetiff, libc::TUNSETIFF, libc::ifreq);

/// Makes the device in the calling thread's network namespace and sets it up. It goes when the file is
/// closed. Reads do not wait.
pub(super) fn open(config: &TunConfig) -> Result<File> {
    let TunConfig { name, mtu, local, routes, source } = config;
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    let file = file.context("open /dev/net/tun (is the kernel's tun driver there, and this root?)")?;
    ensure!(name.len() < libc::IFNAMSIZ, "\"{name}\" is too long for an interface's name");
    // SAFETY: plain numbers, for which all zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads an ifreq, which lives through the call.
    unsafe { tunsetiff(file.as_raw_fd(), &request) }.with_context(|| format!("make TUN device {name}"))?;

    let mut script = format!("link set {name} mtu {mtu} txqueuelen {QUEUE_LENGTH} up\n");
    for prefix in local {
        // Every address of the prefix is this host's, without giving it one by one.
        writeln!(script, "route add local {prefix} dev {name}")?;
    }
    let source = source.map(|source| format!(" src {source}")).unwrap_or_default();
    for prefix in routes {
        writeln!(script, "route add {prefix} dev {name}{source}")?;
    }
    let mut command = IP.command();
    IP.output(command.args(["-batch", "-"]), &script).with_context(|| format!("set up {name}: {script}"))?;
    Ok(file)
}
