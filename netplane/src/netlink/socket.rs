//! Netlink sockets of one namespace: requests that block, alone or many in one message, and waiting for
//! changes. The plugin is a program of one thread, and the agent's threads have nothing else to do
//! meanwhile: neither gains from anything else.

use super::netns::{Netns, NetnsError};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

/// A request that the kernel refused, or that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}{}", hint.as_ref().map(|it| format!(" ({it})")).unwrap_or_default())]
pub struct NetlinkError {
    /// What was being done, with its object: `add 10.30.0.50/24 to net1`.
    pub operation: String,
    /// What the kernel says beside its number, if anything (`NLMSGERR_ATTR_MSG`).
    pub hint: Option<String>,
    #[source]
    pub source: io::Error,
}

impl NetlinkError {
    /// The kernel's error number.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// What went wrong when a socket was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
}

/// The socket. It stays in its namespace whichever thread uses it.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: Cell<u32>,
}

/// A request that changes something.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// As in [`NetlinkError::operation`].
    pub(super) operation: String,
    pub(super) message: RouteNetlinkMessage,
    /// `NLM_F_CREATE` and its like; what every request has comes by itself.
    pub(super) flags: u16,
    /// An error number that is as good as success.
    pub(super) tolerated: Option<i32>,
}

impl Request {
    /// The request, where this error number is as good as success.
    pub(super) fn or(self, tolerated: i32) -> Self {
        Self { tolerated: Some(tolerated), ..self }
    }
}

/// What the kernel says to one request.
type Answer = Result<Vec<RouteNetlinkMessage>, Refusal>;

struct Refusal {
    source: io::Error,
    hint: Option<String>,
}

/// The kernel fills at most this much in one go.
const BUFFER: usize = 32 << 10;

/// `NLM_F_DUMP_INTR` of linux/netlink.h: what was listed changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;

impl Netlink {
    /// Opens a socket in `netns`.
    ///
    /// # Errors
    /// The namespace cannot be entered, or there are no more file descriptors.
    pub fn open(netns: &Netns) -> Result<Self, OpenError> {
        netns.visit(Self::here)?
    }

    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// There are no more file descriptors.
    pub fn here() -> Result<Self, OpenError> {
        let socket = Socket::new(NETLINK_ROUTE).map_err(OpenError::Socket)?;
        // Kernels before 4.12 have neither; errors are shorter then.
        let _absent = socket.set_cap_ack(true).and_then(|()| socket.set_ext_ack(true));
        Ok(Self { socket, sequence: Cell::new(0) })
    }

    /// Carries out all requests in order, in one message to the kernel. The kernel goes on after one that it
    /// refuses; the first refusal is the error.
    pub(super) fn change(&self, requests: Vec<Request>) -> Result<(), NetlinkError> {
        if requests.is_empty() {
            return Ok(());
        }
        let (mut labels, mut messages) = (Vec::new(), Vec::new());
        for Request { operation, message, flags, tolerated } in requests {
            labels.push((operation, tolerated));
            messages.push((message, flags | NLM_F_REQUEST | NLM_F_ACK));
        }
        let answers = match self.exchange(messages) {
            Ok(answers) => answers,
            Err(source) => {
                let operation = labels.into_iter().map(|it| it.0).next().unwrap_or_default();
                return Err(NetlinkError { operation, hint: None, source });
            }
        };
        for ((operation, tolerated), answer) in labels.into_iter().zip(answers) {
            match answer {
                Err(it) if tolerated.is_some() && it.source.raw_os_error() == tolerated => {}
                Err(Refusal { source, hint }) => return Err(NetlinkError { operation, hint, source }),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// Asks for one thing.
    pub(super) fn get(
        &self,
        operation: impl Fn() -> String,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.ask(operation, message, NLM_F_REQUEST | NLM_F_ACK)
    }

    /// Asks for a list. One that changed while it was read is read again.
    pub(super) fn list(
        &self,
        operation: impl Fn() -> String,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.ask(operation, message, NLM_F_REQUEST | NLM_F_DUMP)
    }

    fn ask(
        &self,
        operation: impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        /// Something that changes this fast is not waited for.
        const ATTEMPTS: usize = 20;
        let failed = |source, hint| NetlinkError { operation: operation(), hint, source };
        for _ in 0..ATTEMPTS {
            let mut answers =
                self.exchange(vec![(message.clone(), flags)]).map_err(|source| failed(source, None))?;
            match answers.pop() {
                Some(Err(it)) if it.source.raw_os_error() == Some(libc::EAGAIN) => {}
                Some(Err(Refusal { source, hint })) => return Err(failed(source, hint)),
                Some(Ok(messages)) => return Ok(messages),
                None => break,
            }
        }
        Err(failed(io::Error::other("it changes all the time"), None))
    }

    /// Sends all messages as one and reads until each is answered.
    fn exchange(&self, messages: Vec<(RouteNetlinkMessage, u16)>) -> io::Result<Vec<Answer>> {
        let first = self.sequence.get().wrapping_add(1);
        let mut answers: Vec<Option<Answer>> = messages.iter().map(|_| None).collect();
        let mut lists: Vec<(Vec<RouteNetlinkMessage>, bool)> =
            messages.iter().map(|_| Default::default()).collect();
        let mut buffer = Vec::new();
        for (message, flags) in messages {
            let mut header = NetlinkHeader::default();
            self.sequence.set(self.sequence.get().wrapping_add(1));
            header.sequence_number = self.sequence.get();
            header.flags = flags;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
            message.finalize();
            let start = buffer.len();
            // Each begins at a multiple of four bytes (NLMSG_ALIGN).
            buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut buffer[start..]);
        }
        // Not `send`: this one binds nothing, and goes to the kernel whatever was connected.
        self.socket.send_to(&buffer, &SocketAddr::new(0, 0), 0)?;
        while answers.iter().any(Option::is_none) {
            for message in self.receive()? {
                let (header, payload) = message.into_parts();
                let at = usize::try_from(header.sequence_number.wrapping_sub(first)).unwrap_or(usize::MAX);
                // Of an earlier exchange that was given up.
                let (Some(answer), Some((list, interrupted))) = (answers.get_mut(at), lists.get_mut(at))
                else {
                    continue;
                };
                *interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match payload {
                    NetlinkPayload::InnerMessage(message) => list.push(message),
                    NetlinkPayload::Error(ErrorMessage { code: None, .. }) => {
                        *answer = Some(Ok(std::mem::take(list)))
                    }
                    NetlinkPayload::Error(error) => {
                        let hint = error_text(&error.header);
                        *answer = Some(Err(Refusal { source: error.to_io(), hint }));
                    }
                    NetlinkPayload::Done(done) => {
                        let code = if *interrupted { -libc::EAGAIN } else { done.code };
                        *answer = Some(match code {
                            0.. => Ok(std::mem::take(list)),
                            code => Err(Refusal { source: io::Error::from_raw_os_error(-code), hint: None }),
                        });
                    }
                    _ => {}
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// The messages of one datagram.
    fn receive(&self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let mut buffer = Vec::with_capacity(BUFFER);
        // With MSG_TRUNC the length is the datagram's, also where it did not fit.
        let length = loop {
            match self.socket.recv(&mut buffer, libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => break done?,
            }
        };
        if length > buffer.len() {
            return Err(io::Error::other(format!("an answer of {length} bytes does not fit {BUFFER}")));
        }
        let mut messages = Vec::new();
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
            messages.push(message);
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(messages)
    }
}

/// `NLMSGERR_ATTR_MSG` behind the header of the request that an error repeats.
fn error_text(repeated: &[u8]) -> Option<String> {
    const HEADER: usize = 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let mut rest = repeated.get(HEADER..)?;
    while let [l0, l1, t0, t1, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([t0, t1]) == NLMSGERR_ATTR_MSG {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// A socket that hears of changes in its namespace.
#[derive(Debug)]
pub(super) struct Changes {
    socket: Socket,
}

impl Changes {
    /// Starts to listen in the calling thread's namespace: what changes from here on is not missed.
    pub(super) fn here(groups: &[MulticastGroup]) -> Result<Self, OpenError> {
        let listen = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            groups.iter().try_for_each(|it| socket.add_membership(*it as u32))?;
            socket.set_non_blocking(true)?;
            Ok(Self { socket })
        };
        listen().map_err(OpenError::Socket)
    }

    /// Waits until something changes in the groups, or for `at_most`. Changes that are a few milliseconds
    /// apart are one. `false`: nothing changed.
    pub(super) fn wait(&self, at_most: Duration) -> bool {
        const SETTLE: Duration = Duration::from_millis(5);
        if !self.is_heard(at_most) {
            return false;
        }
        // What exactly changed, or was lost to an overrun (ENOBUFS), does not matter: all is read anew.
        loop {
            self.forget();
            if !self.is_heard(SETTLE) {
                return true;
            }
        }
    }

    /// Forgets what was heard until now, and that something was lost.
    pub(super) fn forget(&self) {
        loop {
            match self.socket.recv(&mut Vec::with_capacity(64), 0) {
                Ok(_) => {}
                // An overrun is told once, and what was heard before it is still there.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    fn is_heard(&self, at_most: Duration) -> bool {
        let socket = self.as_fd();
        let mut sockets = [PollFd::new(&socket, PollFlags::IN)];
        let limit = Timespec::try_from(at_most).ok();
        poll(&mut sockets, limit.as_ref()).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open as long as this borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_found_behind_the_header() {
        let mut repeated = vec![0_u8; 16];
        assert_eq!(error_text(&repeated), None);
        // An attribute of another type and a length that is no multiple of four, then the text.
        repeated.extend([5, 0, 2, 0, 9, 0, 0, 0]);
        repeated.extend([8, 0, 1, 0, b'n', b'o', b'!', 0]);
        assert_eq!(error_text(&repeated).as_deref(), Some("no!"));
        assert_eq!(error_text(&repeated[..30]), None);
    }

    #[test]
    fn a_list_is_longer_than_one_datagram() {
        // Every namespace has `lo`; the answer ends with NLMSG_DONE in a datagram of its own.
        let links = Netlink::here().expect("a socket").links().expect("links");
        assert!(links.iter().any(|it| it.name == "lo"), "{links:?}");
    }
}
