//! What the kernel says of XDP on a device (IFLA_XDP).

use super::socket::Netlink;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp, XdpAttached};
use std::io;

/// XDP on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// A program runs in the driver (native).
    pub driver: bool,
    /// A program runs on socket buffers (generic).
    pub generic: bool,
    /// The kernel's identifier of the program.
    pub program: Option<u32>,
}

/// What is attached to the device with this index, in the calling thread's namespace.
///
/// # Errors
/// No netlink, or no such device.
pub fn attached(ifindex: u32) -> io::Result<Attached> {
    let netlink = Netlink::here().map_err(io::Error::other)?;
    let request = RouteNetlinkMessage::GetLink(LinkUnspec::new_with_index(ifindex).build());
    let answer = netlink.get(|| format!("find link number {ifindex}"), request);
    let messages = answer.map_err(|error| error.source)?;
    let link = messages.into_iter().find_map(|it| match it {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    let link = link.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let attributes = link.attributes.iter().find_map(|it| match it {
        LinkAttribute::Xdp(attributes) => Some(attributes.as_slice()),
        _ => None,
    });
    let mut attached = Attached::default();
    for attribute in attributes.unwrap_or_default() {
        match attribute {
            LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Hardware) => attached.driver = true,
            LinkXdp::Attached(XdpAttached::SocketBuffer) => attached.generic = true,
            LinkXdp::ProgId(id) if *id != 0 => attached.program = Some(*id),
            _ => {}
        }
    }
    Ok(attached)
}
