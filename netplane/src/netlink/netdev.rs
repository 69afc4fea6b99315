//! What a driver can do for XDP, as it tells by generic netlink (family `netdev`, Linux 6.3;
//! Documentation/netlink/specs/netdev.yaml).

use rtnetlink::packet_core::{DefaultNla, Emitable, NlaBuffer, NlasIterator};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};
use std::io;

/// Numbers of linux/genetlink.h and linux/netdev.h.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const VERSION: u8 = 1;

const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// `nlmsghdr`, and with `genlmsghdr` behind it.
const HEADER: usize = 16;
const HEADERS: usize = HEADER + 4;
/// No answer about one device or family is larger.
const BUFFER: usize = 16 << 10;

/// `enum netdev_xdp_act`, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    const BASIC: u64 = 1 << 0;
    const NDO_XMIT: u64 = 1 << 2;
    const RX_SG: u64 = 1 << 5;
    const NDO_XMIT_SG: u64 = 1 << 6;

    /// The driver runs XDP programs.
    pub fn native(self) -> bool {
        self.0 & Self::BASIC != 0
    }

    /// It sends frames that programs of other devices redirect to it (`ndo_xdp_xmit`), as it is set up now.
    pub fn takes_redirects(self) -> bool {
        self.0 & Self::NDO_XMIT != 0
    }

    /// Programs may have frames of several buffers.
    pub fn fragments(self) -> bool {
        self.0 & Self::RX_SG != 0
    }

    /// It sends such frames, when they are redirected to it.
    pub fn takes_fragments(self) -> bool {
        self.0 & Self::NDO_XMIT_SG != 0
    }
}

/// The features of the device with this index, in the calling thread's namespace.
///
/// # Errors
/// `NotFound`: the kernel has no such family, or there is no such device.
pub fn xdp_features(ifindex: u32) -> io::Result<XdpFeatures> {
    let socket = Socket::new(NETLINK_GENERIC)?;
    let name = DefaultNla::new(CTRL_ATTR_FAMILY_NAME, b"netdev\0".to_vec());
    let family = ask(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name, CTRL_ATTR_FAMILY_ID)?;
    let family = number(&family).and_then(|it| u16::try_from(it).ok()).ok_or(io::ErrorKind::InvalidData)?;
    let index = DefaultNla::new(NETDEV_A_DEV_IFINDEX, ifindex.to_ne_bytes().to_vec());
    let features = ask(&socket, family, NETDEV_CMD_DEV_GET, &index, NETDEV_A_DEV_XDP_FEATURES)?;
    Ok(XdpFeatures(number(&features).ok_or(io::ErrorKind::InvalidData)?))
}

/// One attribute of the answer to a request with one attribute.
fn ask(
    socket: &Socket,
    family: u16,
    command: u8,
    attribute: &DefaultNla,
    wanted: u16,
) -> io::Result<Vec<u8>> {
    let mut request = vec![0; HEADERS + attribute.buffer_len()];
    let length = u32::try_from(request.len()).map_err(io::Error::other)?;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&family.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    request[HEADER..HEADER + 2].copy_from_slice(&[command, VERSION]);
    attribute.emit(&mut request[HEADERS..]);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut answer = Vec::with_capacity(BUFFER);
    while let Err(error) = socket.recv(&mut answer, 0) {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let kind = answer.get(4..6).and_then(number).ok_or_else(short)?;
    if kind == u64::from(NLMSG_ERROR) {
        let error = answer.get(HEADER..HEADERS).and_then(|it| it.try_into().ok()).map(i32::from_ne_bytes);
        return Err(io::Error::from_raw_os_error(-error.ok_or_else(short)?));
    }
    let length =
        answer.get(..4).and_then(number).and_then(|it| usize::try_from(it).ok()).ok_or_else(short)?;
    let attributes = NlasIterator::new(answer.get(HEADERS..length).ok_or_else(short)?);
    let found = attributes.filter_map(Result::ok).find(|it: &NlaBuffer<&[u8]>| it.kind() == wanted);
    found.map(|it| it.value().to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// In the machine's byte order.
fn number(bytes: &[u8]) -> Option<u64> {
    Some(match bytes.len() {
        2 => u16::from_ne_bytes(bytes.try_into().ok()?).into(),
        4 => u32::from_ne_bytes(bytes.try_into().ok()?).into(),
        _ => u64::from_ne_bytes(bytes.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_no_native_xdp() {
        // The family is there since Linux 6.3.
        match xdp_features(1) {
            Ok(it) => assert!(!it.native() && !it.takes_redirects(), "{it:?}"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}"),
        }
        assert!(xdp_features(u32::MAX >> 1).is_err());
    }
}
