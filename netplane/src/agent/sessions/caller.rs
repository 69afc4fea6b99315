//! Who is at the other end of a connection: the kernel says which process has connected, and its cgroup which pod
//! that is in. A process that has ended meanwhile is nobody: its number may be another's by now.

use super::cgroup::{self, Found};
use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use tokio::net::UnixStream;

/// Whose request it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// Root outside of all pods and containers.
    Node,
    /// In a pod or container.
    Pod { uid: Option<String>, container: Option<String> },
    /// Nobody who may do anything, and why.
    Nobody(String),
}

impl Caller {
    /// The process that has connected.
    pub(super) fn of(stream: &UnixStream) -> Self {
        identify(stream).unwrap_or_else(Self::Nobody)
    }
}

fn identify(stream: &UnixStream) -> Result<Caller, String> {
    let credentials =
        stream.peer_cred().map_err(|it| format!("the kernel does not name the caller: {it}"))?;
    let number = credentials.pid().filter(|it| *it > 0);
    let number =
        number.ok_or("the caller is not in the agent's PID namespace: run the agent with hostPID")?;
    let gone = || format!("process {number} has ended");
    let process = match peer_pidfd(stream) {
        Ok(process) => process,
        // Linux before 6.5. The number could be another's already, if its holder ended right after it connected.
        Err(Errno::ENOPROTOOPT) => {
            let pid = Pid::from_raw(number).ok_or_else(gone)?;
            pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?
        }
        Err(_) => return Err(gone()),
    };
    let path = format!("/proc/{number}/cgroup");
    let text = fs::read_to_string(path).map_err(|_| gone())?;
    // Alive after its file was read: so the file was its own.
    if !is_alive(&process).unwrap_or(false) {
        return Err(gone());
    }
    let found = cgroup::find(&text).map_err(|it| format!("process {number}: {it}"))?;
    if !found.is_node() {
        let Found { pod_uid: uid, container } = found;
        return Ok(Caller::Pod { uid, container });
    }
    match credentials.uid() {
        0 => Ok(Caller::Node),
        uid => Err(format!("process {number} of user {uid} is in no pod, and not root")),
    }
}

/// The process that has connected, whatever has become of its number (SO_PEERPIDFD, Linux 6.5).
fn peer_pidfd(stream: &UnixStream) -> Result<OwnedFd, Errno> {
    let mut fd: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes to `fd`, which is that long, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    // SAFETY: the kernel has just opened it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A pidfd is readable once its process has ended.
fn is_alive(process: &OwnedFd) -> io::Result<bool> {
    let mut waiting = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    Ok(poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_has_ended_is_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&path).expect("bound");
        // Connects and ends before it is looked at; the connection waits in the listener's queue.
        let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])";
        let status = std::process::Command::new("python3").args(["-c", script]).arg(&path).status();
        assert!(status.expect("python3").success());
        let (stream, _) = listener.accept().await.expect("its connection");
        let Caller::Nobody(why) = Caller::of(&stream) else { panic!("identified") };
        assert!(why.contains("has ended"), "{why}");
    }

    #[tokio::test]
    async fn this_process_is_alive_and_somebody() {
        let (near, _far) = UnixStream::pair().expect("a pair");
        assert!(!matches!(Caller::of(&near), Caller::Nobody(why) if why.contains("has ended")));
    }
}
