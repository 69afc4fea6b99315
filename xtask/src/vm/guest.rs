//! One guest, from its start to its end: qemu without KVM, the host's files as its root, one shared folder.

use super::initramfs;
use super::kernel::Kernel;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use xtask::process::shown;
use xtask::target_dir;

const QEMU: &str = "qemu-system-x86_64";
const RUN: &str = include_str!("run.sh");

/// What a guest is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job<'a> {
    pub(crate) kernel: &'a Kernel,
    /// For bash, in the working folder of this process.
    pub(crate) command: &'a str,
    /// The guest is killed after so long.
    pub(crate) deadline: Duration,
}

/// Boots a guest, hands each line that the command prints to `say`, and returns the command's exit code.
///
/// # Errors
/// There is no qemu, the guest does not come up, or its time is over; then the folder with the consoles' logs
/// is left and named.
pub(crate) fn run(job: Job<'_>, say: &mut dyn FnMut(&str)) -> Result<i32> {
    let folder = SharedFolder::new(&job.kernel.release)?;
    let code = folder.run(job, say).with_context(|| format!("guest with kernel {}", job.kernel.release))?;
    fs::remove_dir_all(&folder.0).with_context(|| format!("remove {}", folder.0.display()))?;
    Ok(code)
}

/// The folder that the guest can write to; each guest has its own.
struct SharedFolder(PathBuf);

impl SharedFolder {
    fn new(release: &str) -> Result<Self> {
        static GUESTS: AtomicU32 = AtomicU32::new(0);
        let guest = GUESTS.fetch_add(1, Ordering::Relaxed);
        let folder = target_dir().join("vm").join(format!("{release}-{}-{guest}", std::process::id()));
        let shared = folder.join("share");
        fs::create_dir_all(&shared).with_context(|| format!("make folder {}", shared.display()))?;
        Ok(Self(folder))
    }

    fn shared(&self, name: &str) -> PathBuf {
        self.0.join("share").join(name)
    }

    fn run(&self, job: Job<'_>, say: &mut dyn FnMut(&str)) -> Result<i32> {
        let archive = initramfs::make(job.kernel, &self.0)?;
        fs::write(self.shared("command.sh"), job.command)?;
        fs::write(self.shared("run.sh"), script(job)?)?;
        let mut qemu = self.qemu(job.kernel, &archive);
        let mut child = qemu
            .spawn()
            .with_context(|| format!("start {QEMU}; remedy: cargo xtask setup (Debian: qemu-system-x86)"))?;
        let in_time = follow(&mut child, job.deadline, say);
        // After its end this only says that it has ended.
        let _killed = child.kill();
        let status = child.wait().with_context(|| format!("wait for `{}`", shown(&qemu)))?;
        if !in_time {
            bail!("not at its end after {} s\n{}", job.deadline.as_secs(), self.last_words());
        }
        let code = fs::read_to_string(self.shared("code")).ok().and_then(|it| it.trim().parse().ok());
        code.with_context(|| format!("it did not run the command ({QEMU}: {status})\n{}", self.last_words()))
    }

    /// The end of what its kernel said.
    fn last_words(&self) -> String {
        let path = self.0.join("console.log");
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(20)..];
        format!("--- {} ---\n{}", path.display(), tail.join("\n"))
    }

    fn qemu(&self, kernel: &Kernel, archive: &Path) -> Command {
        let mut qemu = Command::new(QEMU);
        // KVM is not asked for: where this runs, there is mostly none, and results must not depend on it.
        qemu.args(["-machine", "pc,hpet=off,vmport=off,usb=off", "-accel", "tcg,thread=multi"]);
        qemu.args(["-cpu", "max", "-smp", "2", "-m", "2G"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"]);
        qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(archive);
        qemu.args(["-append", &kernel_arguments()]);
        qemu.arg("-serial").arg(format!("file:{}", self.0.join("console.log").display()));
        qemu.args(["-chardev", "stdio,id=out,signal=off"]);
        qemu.args(["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=out"]);
        qemu.args(["-device", "virtio-rng-pci"]);
        let shared = self.0.join("share");
        for (tag, path, read_only) in [("host", Path::new("/"), ",readonly=on"), ("share", &shared, "")] {
            // The host's root holds several file systems, whose inode numbers are the same.
            let what = format!("local,id={tag},path={},security_model=none,multidevs=remap", path.display());
            qemu.args(["-fsdev", &format!("{what}{read_only}")]);
            qemu.args(["-device", &format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}")]);
        }
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        qemu
    }
}

/// `run.sh` with what it must know.
fn script(job: Job<'_>) -> Result<String> {
    let working_dir = std::env::current_dir().context("where are we?")?;
    // Later than ours: it is for when nobody is there any more.
    let deadline = job.deadline.as_secs() + 30;
    Ok(format!(
        "RELEASE={}\nMODULES={}\nWORKING_DIR={}\nDEADLINE={deadline}\n{RUN}",
        quoted(&job.kernel.release),
        quoted(&job.kernel.modules().display().to_string()),
        quoted(&working_dir.display().to_string()),
    ))
}

/// One word for a shell.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Hands on the guest's output until it closes it; false if the time was over before.
fn follow(child: &mut Child, limit: Duration, say: &mut dyn FnMut(&str)) -> bool {
    let (sender, receiver) = mpsc::channel();
    let output = child.stdout.take();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output?);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).ok()? > 0 {
            sender.send(String::from_utf8_lossy(line.trim_ascii_end()).into_owned()).ok()?;
            line.clear();
        }
        Some(())
    });
    let deadline = Instant::now() + limit;
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => say(&line),
            Err(RecvTimeoutError::Disconnected) => return true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
    }
}

fn kernel_arguments() -> String {
    let fixed = "console=ttyS0 loglevel=4 panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check \
                 random.trust_cpu=on audit=0 selinux=0 apparmor=0 rcupdate.rcu_expedited=1 8250.nr_uarts=1";
    // Without KVM the guest reads the host's time stamp counter. On a busy host it measures that wrongly at
    // boot, and its clock then runs twice as fast; so it is told the frequency.
    let clock = match time_stamp_khz() {
        Some(khz) => format!("tsc_early_khz={khz}"),
        None => "clocksource=acpi_pm".to_owned(),
    };
    format!("{fixed} {clock}")
}

/// What the host's kernel found, or else what it shows for the first processor.
fn time_stamp_khz() -> Option<u64> {
    let said = Command::new("dmesg").output().map(|it| it.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let detected = said.lines().rev().find_map(|it| it.split_once("tsc: Detected ")?.1.split(' ').next());
    let shown = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let shown = shown.lines().find_map(|it| it.strip_prefix("cpu MHz")?.split(": ").nth(1));
    detected.or(shown).and_then(khz)
}

/// Of a number of megahertz with three decimals.
fn khz(mhz: &str) -> Option<u64> {
    let (whole, decimals) = mhz.trim().split_once('.')?;
    (decimals.len() == 3).then(|| format!("{whole}{decimals}").parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_shell_as_they_are() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn megahertz_are_read() {
        assert_eq!(khz("2596.992"), Some(2_596_992));
        assert_eq!((khz("2596"), khz("fast")), (None, None));
    }

    #[test]
    fn a_guest_that_says_nothing_is_left_at_its_deadline() {
        let mut child = Command::new("sh")
            .args(["-c", "echo one; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = Vec::new();
        let in_time = follow(&mut child, Duration::from_secs(1), &mut |line| lines.push(line.to_owned()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!in_time);
        assert_eq!(lines, ["one"]);
    }
}
