//! One call of a plugin program, with what it cost.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What calls cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// From before the start to after the exit.
    pub(super) wall: Duration,
    /// User and system time of the process and those that it waited for.
    pub(super) cpu: Duration,
    /// Largest resident set in KiB of any one process among them.
    pub(super) peak: u64,
}

impl Cost {
    /// Of two calls, one after the other.
    pub(super) fn and(self, next: Self) -> Self {
        Self { wall: self.wall + next.wall, cpu: self.cpu + next.cpu, peak: self.peak.max(next.peak) }
    }
}

/// Runs a plugin to its end, in the cgroup of this file of processes.
///
/// # Errors
/// It cannot be started, or it fails; then with what it printed.
pub(super) fn run(command: &mut Command, stdin: &str, cgroup: Option<&File>) -> Result<Cost> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The kernel counts the pages of the address space that exec leaves behind to the peak of the new
    // program. A child that was made by fork has few of its own; one by vfork (without this) has all of ours.
    let cgroup = cgroup.map(File::try_clone).transpose().context("the cgroup's processes")?;
    let join = move || cgroup.as_ref().map_or(Ok(()), |mut it| it.write_all(b"0"));
    // SAFETY: the closure makes one system call, or none.
    unsafe { command.pre_exec(join) };
    let program = command.get_program().display().to_string();
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {program}"))?;
    let mut input = child.stdin.take().context("stdin is piped")?;
    // A program that ends early says by its status why.
    let _broken_pipe = input.write_all(stdin.as_bytes());
    drop(input);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    child.stdout.take().context("stdout is piped")?.read_to_end(&mut stdout)?;
    let (status, usage) = wait(&child).with_context(|| format!("wait for {program}"))?;
    let wall = start.elapsed();
    child.stderr.take().context("stderr is piped")?.read_to_end(&mut stderr)?;
    if !status.success() {
        let [stdout, stderr] = [&stdout, &stderr].map(|it| String::from_utf8_lossy(it));
        bail!("{program}: {status}: {stdout}{stderr}");
    }
    let time = |it: libc::timeval| {
        Duration::from_secs(it.tv_sec.unsigned_abs()) + Duration::from_micros(it.tv_usec.unsigned_abs())
    };
    let cpu = time(usage.ru_utime) + time(usage.ru_stime);
    Ok(Cost { wall, cpu, peak: usage.ru_maxrss.unsigned_abs() })
}

/// wait4(2): the standard library does not hand on what the kernel counted.
fn wait(child: &Child) -> io::Result<(ExitStatus, libc::rusage)> {
    use std::os::unix::process::ExitStatusExt;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: all bytes zero are a value of this struct of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live values of the right types.
        let done = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
        if done == pid {
            return Ok((ExitStatus::from_raw(status), usage));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_measured() {
        let cost = run(
            Command::new("sh").args(["-c", "cat; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"]),
            "x",
            None,
        );
        let cost = cost.expect("it ends");
        assert!(cost.cpu > Duration::ZERO && cost.wall > Duration::ZERO && cost.peak > 100, "{cost:?}");
        let both = cost.and(Cost { peak: 1, ..cost });
        assert_eq!((both.wall, both.peak), (cost.wall * 2, cost.peak));
    }

    #[test]
    fn a_failure_shows_what_was_printed() {
        let error =
            run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]), "", None).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("out") && error.contains("err") && error.contains('3'), "{error}");
    }
}
