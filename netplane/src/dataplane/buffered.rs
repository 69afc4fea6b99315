//! Packets that the programs hand over to be kept, and their way back: through the offload wire, at whose far end they
//! are as if they had just come in by their master.

#![expect(unsafe_code, reason = "no crate that we have wraps packet sockets")]

use super::KernelError;
use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use aya::maps::{MapData, PerfEventArray};
use netplane_common::map::{Buffered, RELEASED};
use netplane_common::wire::ethernet::EtherType;
use rustix::event::epoll;
use std::borrow::Cow;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use zerocopy::FromBytes;

/// Of each CPU: what it may be ahead of the agent, 512 KiB.
const PAGES: usize = 128;
/// Destination and source address of a frame: a tag comes behind them.
const ADDRESSES: usize = 12;

/// What hands packets over, and takes them back.
pub(super) struct Keeper {
    array: PerfEventArray<MapData>,
    open: Option<Open>,
}

struct Open {
    cpus: Vec<PerfEventArrayBuffer<MapData>>,
    wakes: OwnedFd,
    socket: OwnedFd,
    /// What the socket marks with now.
    mark: u32,
}

impl Keeper {
    pub(super) fn new(array: PerfEventArray<MapData>) -> Self {
        Self { array, open: None }
    }

    /// From here on the programs' packets are taken.
    pub(super) fn start(&mut self) -> Result<(), KernelError> {
        if self.open.is_none() {
            self.open = Some(open(&mut self.array).map_err(|source| KernelError {
                operation: "take packets that are to be buffered".to_owned(),
                remedy: None,
                source,
            })?);
        }
        Ok(())
    }

    /// Packets that have come since the last call, of each CPU in order.
    pub(super) fn take(&mut self) -> Vec<(Buffered, Vec<u8>)> {
        let mut taken = Vec::new();
        for cpu in self.open.iter_mut().flat_map(|it| &mut it.cpus) {
            // What is lost here the programs have counted: the kernel tells them.
            cpu.for_each(|it| {
                if let PerfEvent::Sample { head, tail } = it {
                    taken.extend(frame(&[head, tail].concat()));
                }
            });
        }
        taken
    }

    /// Readable when there are packets.
    pub(super) fn wakes(&self) -> Option<OwnedFd> {
        self.open.as_ref()?.wakes.try_clone().ok()
    }

    /// Sends a frame into the wire, whose near end this is.
    pub(super) fn release(&mut self, near: u32, about: &Buffered, frame: &[u8]) -> io::Result<()> {
        let open = self.open.as_mut().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        open.mark(RELEASED | about.ifindex)?;
        // SAFETY: all zeros are an address of this type.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = i32::try_from(near).map_err(io::Error::other)?;
        let frame = as_on_wire(about, frame);
        to.sll_protocol = u16::from_ne_bytes([frame[ADDRESSES], frame[ADDRESSES + 1]]);
        // SAFETY: the buffer and the address live as long as the call, and have these lengths.
        let sent = unsafe {
            libc::sendto(
                open.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Open {
    fn mark(&mut self, mark: u32) -> io::Result<()> {
        if self.mark != mark {
            // SAFETY: the value lives as long as the call, and has this length.
            let done = unsafe {
                libc::setsockopt(
                    self.socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_MARK,
                    (&raw const mark).cast(),
                    size_of::<u32>() as libc::socklen_t,
                )
            };
            if done < 0 {
                return Err(io::Error::last_os_error());
            }
            self.mark = mark;
        }
        Ok(())
    }
}

fn open(array: &mut PerfEventArray<MapData>) -> Result<Open, Box<dyn std::error::Error + Send + Sync>> {
    let wakes = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut cpus = Vec::new();
    for cpu in aya::util::online_cpus().map_err(|(_, error)| error)? {
        let buffer = array.open(cpu, Some(PAGES))?;
        epoll::add(&wakes, &buffer, epoll::EventData::new_u64(cpu.into()), epoll::EventFlags::IN)?;
        cpus.push(buffer);
    }
    // SAFETY: the call takes numbers; what it returns is checked, and nobody else's.
    let socket = unsafe {
        // Of no protocol: it receives nothing.
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error().into());
        }
        OwnedFd::from_raw_fd(fd)
    };
    Ok(Open { cpus, wakes, socket, mark: 0 })
}

/// With the tag that was beside it where it was on the wire.
fn as_on_wire<'f>(about: &Buffered, frame: &'f [u8]) -> Cow<'f, [u8]> {
    if about.vlan == 0 {
        return frame.into();
    }
    let tag = [EtherType::VLAN.0.get().to_be_bytes(), about.vlan.to_be_bytes()].concat();
    let (addresses, rest) = frame.split_at(ADDRESSES);
    [addresses, &tag, rest].concat().into()
}

/// A sample without its padding; `None` for one that is not whole.
fn frame(sample: &[u8]) -> Option<(Buffered, Vec<u8>)> {
    let (about, rest) = Buffered::read_from_prefix(sample).ok()?;
    let frame = rest.get(..usize::try_from(about.len).ok()?)?;
    (frame.len() >= ADDRESSES + 2).then(|| (about, frame.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netplane_common::testing::packet;
    use zerocopy::IntoBytes;

    #[test]
    fn a_frame_goes_back_as_it_was_on_the_wire() {
        let (to, from, ipv4) = ([2; 6], [4; 6], packet::ETHERTYPE_IPV4);
        let untagged = [&to[..], &from, &ipv4.to_be_bytes(), b"packet"].concat();
        let len = u32::try_from(untagged.len()).expect("a length");
        for (vlan, wire) in [(0, untagged.clone()), (7, packet::tagged(to, from, 7, ipv4, b"packet"))] {
            let about = Buffered { vlan, len, ..Buffered::default() };
            // The kernel pads samples.
            let sample = [about.as_bytes(), &untagged, &[0xff; 6]].concat();
            let (read, frame) = frame(&sample).expect("a whole one");
            assert_eq!((read, &frame), (about, &untagged));
            assert_eq!(as_on_wire(&about, &frame), wire);
            assert_eq!(super::frame(&sample[..sample.len() - 7]), None, "half a frame is none");
        }
    }
}
