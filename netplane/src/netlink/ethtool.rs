//! What a device and its driver can do (ethtool): features by their names, the driver, its queues. By ioctl:
//! the netlink interface is younger than the oldest kernel served and has no crate that blocks.

#![expect(unsafe_code, reason = "no crate wraps SIOCETHTOOL")]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Commands and the string set of linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GRXFH: u32 = 0x29;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;

/// `GTPU_V4_FLOW` and `RXH_GTP_TEID` of linux/ethtool.h (Linux 6.9).
const GTPU_V4_FLOW: u32 = 0x13;
const RXH_GTP_TEID: u64 = 1 << 8;

/// One switch of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// As in `ethtool -k`'s source: `rx-gro`, `rx-lro`, `rx-vlan-hw-parse`.
    pub name: String,
    pub active: bool,
    /// Whether it can be changed at all.
    pub changeable: bool,
}

/// Requests in the namespace of the thread that made this.
#[derive(Debug)]
pub struct Ethtool {
    socket: UdpSocket,
}

impl Ethtool {
    /// # Errors
    /// No more file descriptors.
    pub fn here() -> io::Result<Self> {
        // Any socket will do; this one is bound to nothing that anybody can reach.
        Ok(Self { socket: UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))? })
    }

    /// One command; `data` begins with its number, and is what the kernel makes of it afterwards.
    fn call(&self, device: &str, data: &mut [u8]) -> io::Result<()> {
        if device.len() >= libc::IFNAMSIZ {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // SAFETY: a C structure of plain numbers and pointers: all zero is a valid one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = data.as_mut_ptr().cast();
        // SAFETY: request and data live through the call; each caller has made data as long as its command says.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// All switches of a device.
    ///
    /// # Errors
    /// There is no such device.
    pub fn features(&self, device: &str) -> io::Result<Vec<Feature>> {
        let names = self.feature_names(device)?;
        let blocks = names.len().div_ceil(32);
        let mut data = words(&[ETHTOOL_GFEATURES, to_u32(blocks)]);
        data.resize(8 + blocks * 16, 0);
        self.call(device, &mut data)?;
        let bit = |index: usize, word: usize| {
            word_at(&data, 8 + index / 32 * 16 + word * 4) & 1 << (index % 32) != 0
        };
        let feature = |(index, name): (usize, String)| {
            // available, requested, active, never_changed
            let (available, active, never) = (bit(index, 0), bit(index, 2), bit(index, 3));
            Feature { name, active, changeable: available && !never }
        };
        Ok(names.into_iter().enumerate().map(feature).collect())
    }

    /// Switches one on or off.
    ///
    /// # Errors
    /// `NotFound` for a name that this kernel does not know, `Unsupported` where the device keeps it as it is.
    pub fn set_feature(&self, device: &str, feature: &str, on: bool) -> io::Result<()> {
        let names = self.feature_names(device)?;
        let index = names.iter().position(|it| it == feature);
        let index = index.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let blocks = names.len().div_ceil(32);
        let mut data = words(&[ETHTOOL_SFEATURES, to_u32(blocks)]);
        data.resize(8 + blocks * 8, 0);
        let (at, bit) = (8 + index / 32 * 8, 1_u32 << (index % 32));
        data[at..at + 4].copy_from_slice(&bit.to_ne_bytes());
        data[at + 4..at + 8].copy_from_slice(&if on { bit } else { 0 }.to_ne_bytes());
        self.call(device, &mut data)?;
        let now = self.features(device)?.into_iter().find(|it| it.name == feature);
        match now {
            Some(it) if it.active == on => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
    }

    /// Name of the driver.
    ///
    /// # Errors
    /// There is no such device, or its driver does not say.
    pub fn driver(&self, device: &str) -> io::Result<String> {
        let mut data = words(&[ETHTOOL_GDRVINFO]);
        data.resize(196, 0);
        self.call(device, &mut data)?;
        Ok(text(&data[4..4 + ETH_GSTRING_LEN]))
    }

    /// Receive queues in use, by the driver's channels.
    ///
    /// # Errors
    /// The driver does not say.
    pub fn receive_queues(&self, device: &str) -> io::Result<u32> {
        let mut data = words(&[ETHTOOL_GCHANNELS]);
        data.resize(36, 0);
        self.call(device, &mut data)?;
        // After the four limits: rx, tx, other, combined.
        Ok(word_at(&data, 20) + word_at(&data, 32))
    }

    /// Whether the device spreads GTP-U over IPv4 by its TEID.
    ///
    /// # Errors
    /// Driver or kernel cannot say.
    pub fn spreads_by_teid(&self, device: &str) -> io::Result<bool> {
        let mut data = words(&[ETHTOOL_GRXFH, GTPU_V4_FLOW]);
        // The longest form of `struct ethtool_rxnfc`.
        data.resize(192, 0);
        self.call(device, &mut data)?;
        let fields = u64::from(word_at(&data, 8)) | u64::from(word_at(&data, 12)) << 32;
        Ok(fields & RXH_GTP_TEID != 0)
    }

    fn feature_names(&self, device: &str) -> io::Result<Vec<String>> {
        let mut data = words(&[ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0]);
        self.call(device, &mut data)?;
        let count = word_at(&data, 16) as usize;
        let mut data = words(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, to_u32(count)]);
        data.resize(12 + count * ETH_GSTRING_LEN, 0);
        self.call(device, &mut data)?;
        Ok(data[12..].chunks(ETH_GSTRING_LEN).map(text).collect())
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|it| it.to_ne_bytes()).collect()
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn word_at(data: &[u8], at: usize) -> u32 {
    let bytes = data.get(at..at + 4).and_then(|it| it.try_into().ok());
    bytes.map_or(0, u32::from_ne_bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|it| *it == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_features_and_no_queues() {
        let ethtool = Ethtool::here().expect("a socket");
        let features = ethtool.features("lo").expect("loopback");
        let checksum = features.iter().find(|it| it.name == "tx-checksum-ip-generic").expect("known");
        assert!(checksum.active, "{features:?}");
        assert!(ethtool.receive_queues("lo").is_err());
        let absent = ethtool.set_feature("lo", "no-such-feature", true).expect_err("unknown");
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        assert!(ethtool.features("no-such-device").is_err());
    }
}
