//! What a device is like for the fast path: its driver, XDP, queues, MTU and the switches that matter.

use super::ethtool::Ethtool;
use super::netdev;
use super::socket::Netlink;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The largest MTU whose frames fit one buffer of a driver that gives each a page: less the headroom of XDP (256)
/// and what the kernel keeps behind a frame (`skb_shared_info`, 320), Ethernet and two tags. Drivers differ; each
/// refuses what it cannot.
const ONE_BUFFER: u32 = 4096 - 256 - 320 - 22;

/// A device now. What cannot be asked is absent: it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Largest network-layer packet in bytes.
    pub mtu: u32,
    /// Receive queues in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u32>,
    /// The driver runs XDP programs (Linux 6.3 tells).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub native_xdp: Option<bool>,
    /// It sends what other devices' XDP programs redirect to it (`ndo_xdp_xmit`), as it is set up now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub takes_redirects: Option<bool>,
    /// Its frames may need several buffers.
    pub needs_fragments: bool,
    /// It has and it sends frames of several buffers under XDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragments: Option<bool>,
    /// It takes VLAN tags off received frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strips_vlan: Option<bool>,
    /// It merges received TCP segments, for good (LRO).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lro: Option<bool>,
    /// It spreads GTP-U over its queues by TEID (Linux 6.9 tells).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_by_teid: Option<bool>,
}

impl Device {
    /// Asks kernel and driver, in the calling thread's namespace.
    pub fn probe(ifindex: u32) -> Self {
        let link = Netlink::here().ok().and_then(|it| it.link_at(ifindex).ok().flatten());
        let Some(link) = link else { return Self::default() };
        let features = netdev::xdp_features(ifindex).ok();
        let mut device = Self {
            mtu: link.mtu,
            native_xdp: features.map(netdev::XdpFeatures::native),
            takes_redirects: features.map(netdev::XdpFeatures::takes_redirects),
            needs_fragments: link.mtu > ONE_BUFFER,
            fragments: features.map(|it| it.fragments() && it.takes_fragments()),
            ..Self::default()
        };
        let Ok(ethtool) = Ethtool::here() else { return device };
        device.driver = ethtool.driver(&link.name).ok();
        device.queues = ethtool.receive_queues(&link.name).ok();
        device.rss_by_teid = ethtool.spreads_by_teid(&link.name).ok();
        if let Ok(switches) = ethtool.features(&link.name) {
            let is_on = |name: &str| switches.iter().find(|it| it.name == name).map(|it| it.active);
            device.strips_vlan = is_on("rx-vlan-hw-parse");
            device.lro = is_on("rx-lro");
        }
        device
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "driver {}, MTU {}", self.driver.as_deref().unwrap_or("unknown"), self.mtu)?;
        if let Some(queues) = self.queues {
            write!(f, ", {queues} receive queues")?;
        }
        let word = |is: Option<bool>, yes, no, unknown| match is {
            Some(true) => yes,
            Some(false) => no,
            None => unknown,
        };
        let native = word(self.native_xdp, "has native XDP", "no native XDP", "native XDP unknown");
        let target =
            word(self.takes_redirects, "takes redirects", "takes no redirects", "redirects to it unknown");
        write!(f, ", {native}, {target}")?;
        if self.needs_fragments {
            let has = word(self.fragments, "has them", "has none", "unknown");
            write!(f, ", frames need several buffers ({has})")?;
        }
        if self.strips_vlan == Some(true) {
            write!(f, ", takes VLAN tags off")?;
        }
        if self.lro == Some(true) {
            write!(f, ", LRO on")?;
        }
        if self.rss_by_teid == Some(true) {
            write!(f, ", spreads GTP-U by TEID")?;
        }
        Ok(())
    }
}
