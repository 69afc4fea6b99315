//! Gratuitous ARP (RFC 5227 §3, announcement): switches and neighbours learn of a new address at once.

use super::Mac;
use super::netns::{Netns, NetnsError};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

/// What went wrong with an announcement.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("cannot announce {address}")]
    Send { address: Ipv4Addr, source: io::Error },
}

const ETHERTYPE_ARP: u16 = 0x0806;
const BROADCAST: [u8; 6] = [0xff; 6];

/// Broadcasts that `address` is at `mac`, out of the interface with this index in `netns`.
///
/// # Errors
/// The namespace cannot be entered, or the interface is down.
pub fn announce(netns: &Netns, index: u32, mac: Mac, address: Ipv4Addr) -> Result<(), AnnounceError> {
    let sent = netns.run(|| send(index, &request(mac, address)))?;
    sent.map_err(|errno| AnnounceError::Send { address, source: errno.into() })
}

/// An ARP request whose sender and target are the same (RFC 826 for the layout).
fn request(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mac = mac.octets();
    let hardware_ethernet_protocol_ipv4 = [0, 1, 8, 0, 6, 4];
    let operation_request = [0, 1];
    [
        &BROADCAST[..],
        &mac,
        &ETHERTYPE_ARP.to_be_bytes(),
        &hardware_ethernet_protocol_ipv4,
        &operation_request,
        &mac,
        &address.octets(),
        &[0; 6],
        &address.octets(),
    ]
    .concat()
}

fn send(index: u32, frame: &[u8]) -> nix::Result<()> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    sendto(socket.as_raw_fd(), frame, &link_address(index)?, MsgFlags::empty())?;
    Ok(())
}

/// `struct sockaddr_ll` of packet(7) for the broadcast address.
fn link_address(index: u32) -> nix::Result<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ETHERTYPE_ARP.to_be(),
        sll_ifindex: i32::try_from(index).map_err(|_| nix::Error::ENODEV)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: a complete `sockaddr_ll` of this length, whose family is the one that `LinkAddr` takes.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(len)) };
    address.ok_or(nix::Error::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_an_arp_request_for_its_own_sender() {
        let frame = request(Mac::new([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 30, 0, 50));
        assert_eq!(frame.len(), 42);
        assert_eq!(&frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6]);
        assert_eq!(&frame[28..32], [10, 30, 0, 50]);
        assert_eq!(&frame[38..], [10, 30, 0, 50]);
    }
}
