//! Running a program with bounds: input goes in, output of a bounded size comes out, and all is over at a
//! deadline whatever the program and its children do.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// After its end, how long to wait for output that its children still have in hand.
const GRACE: Duration = Duration::from_secs(5);
/// Of stderr, so much is passed on.
const MAX_LOG: usize = 64 << 10;

/// How long, how much.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) time: Duration,
    /// Bytes on stdout.
    pub(super) output: usize,
}

/// What a program left.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    /// The first bytes of it; our own stderr has them as well.
    pub(super) stderr: Vec<u8>,
}

/// Why there is no end to tell of. The program and its process group have been killed then.
#[derive(Debug)]
pub(super) enum ProcessError {
    Start(io::Error),
    Talk(io::Error),
    Deadline,
    TooMuch,
}

/// Runs `command` to its end. Children that go on and keep its stdout open are waited for only until
/// `enough` says so of what has been printed.
pub(super) fn run(
    command: &mut Command,
    input: &[u8],
    bounds: Bounds,
    enough: impl Fn(&[u8]) -> bool,
) -> Result<Ended, ProcessError> {
    let until = Instant::now() + bounds.time;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = spawn(command).map_err(ProcessError::Start)?;
    let mut talk = Talk { input, stdout: Vec::new(), stderr: Vec::new(), dropped: 0, max: bounds.output };
    let done = talk.until_end(&mut child, until, enough);
    if done.is_err() {
        // Not reaped yet, so the number is still its own; children that it started go with it.
        if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
    // At once: it has ended, or was killed.
    let status = child.wait().map_err(ProcessError::Talk)?;
    if talk.dropped > 0 {
        tracing::warn!(bytes = talk.dropped, "more on a plugin's stderr, left out");
    }
    done.map(|()| Ended { status, stdout: talk.stdout, stderr: talk.stderr })
}

/// Starts the program, after a while where an installer is just writing it (`ETXTBSY`).
fn spawn(command: &mut Command) -> io::Result<Child> {
    for _ in 0..5 {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(100));
            }
            done => return done,
        }
    }
    command.spawn()
}

/// What goes over the program's three streams.
struct Talk<'a> {
    /// Still to be written.
    input: &'a [u8],
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    dropped: usize,
    max: usize,
}

impl Talk<'_> {
    fn until_end(
        &mut self,
        child: &mut Child,
        until: Instant,
        enough: impl Fn(&[u8]) -> bool,
    ) -> Result<(), ProcessError> {
        let pid = Pid::from_child(child);
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(talk)?;
        let (mut stdin, mut stdout, mut stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        for fd in [
            stdin.as_ref().map(AsFd::as_fd),
            stdout.as_ref().map(AsFd::as_fd),
            stderr.as_ref().map(AsFd::as_fd),
        ]
        .into_iter()
        .flatten()
        {
            ioctl_fionbio(fd, true).map_err(talk)?;
        }
        let mut ended: Option<Instant> = None;
        loop {
            self.write(&mut stdin);
            self.read_stderr(&mut stderr);
            self.read_stdout(&mut stdout)?;
            if let Some(ended) = ended {
                // What it had printed itself is in the pipe by now, and has been read.
                let late = Instant::now() >= until.min(ended + GRACE);
                if stdout.is_none() || late || enough(&self.stdout) {
                    return Ok(());
                }
            } else if Instant::now() >= until {
                return Err(ProcessError::Deadline);
            }
            let limit = ended.map_or(until, |it| until.min(it + GRACE));
            let mut fds = Vec::with_capacity(4);
            fds.extend(stdin.as_ref().map(|it| PollFd::new(it, PollFlags::OUT)));
            fds.extend(stdout.as_ref().map(|it| PollFd::new(it, PollFlags::IN)));
            fds.extend(stderr.as_ref().map(|it| PollFd::new(it, PollFlags::IN)));
            if ended.is_none() {
                fds.push(PollFd::new(&process, PollFlags::IN));
            }
            wait(&mut fds, limit)?;
            let over = ended.is_none() && fds.last().is_some_and(|it| !it.revents().is_empty());
            drop(fds);
            if over {
                ended = Some(Instant::now());
            }
        }
    }

    /// A program that does not read its input says by its output what it thinks of that.
    fn write(&mut self, stdin: &mut Option<ChildStdin>) {
        while let Some(pipe) = stdin {
            match pipe.write(self.input) {
                Ok(written) => self.input = self.input.get(written..).unwrap_or_default(),
                Err(error) if would_block(&error) => return,
                Err(_) => self.input = &[],
            }
            if self.input.is_empty() {
                *stdin = None;
            }
        }
    }

    fn read_stdout(&mut self, stdout: &mut Option<ChildStdout>) -> Result<(), ProcessError> {
        let read = drain(stdout, |bytes| self.stdout.extend_from_slice(bytes), self.max + 1);
        read.map_err(ProcessError::Talk)?;
        if self.stdout.len() > self.max { Err(ProcessError::TooMuch) } else { Ok(()) }
    }

    fn read_stderr(&mut self, stderr: &mut Option<ChildStderr>) {
        let (kept, dropped) = (&mut self.stderr, &mut self.dropped);
        let pass = |bytes: &[u8]| {
            let passed = bytes.get(..MAX_LOG.saturating_sub(kept.len()).min(bytes.len())).unwrap_or_default();
            kept.extend_from_slice(passed);
            *dropped += bytes.len() - passed.len();
            let _ = io::stderr().write_all(passed);
        };
        if drain(stderr, pass, MAX_LOG).is_err() {
            *stderr = None;
        }
    }
}

/// Reads what is there, about `most` bytes; the pipe is gone after its end.
fn drain<R: Read>(pipe: &mut Option<R>, mut take: impl FnMut(&[u8]), most: usize) -> io::Result<()> {
    let mut buffer = [0; 8192];
    let mut taken = 0;
    while let Some(open) = pipe
        && taken < most
    {
        match open.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(length) => {
                taken += length;
                take(buffer.get(..length).unwrap_or_default());
            }
            Err(error) if would_block(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn wait(fds: &mut [PollFd<'_>], until: Instant) -> Result<(), ProcessError> {
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(|_| talk(Errno::INVAL))?;
    match poll(fds, Some(&left)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(talk(errno)),
    }
}

fn talk(errno: Errno) -> ProcessError {
    ProcessError::Talk(errno.into())
}
