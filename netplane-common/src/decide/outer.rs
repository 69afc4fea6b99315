//! The outer IP header of a G-PDU, of either family, as the decision reads and answers it.

use crate::map::{Port, UplinkEntry, UplinkKey, UplinkKey6};
use crate::rewrite::{self, OuterIp};
use crate::tables::Tables;
use crate::wire::ip::{Ipv4, Ipv6, mapped, matches64};
use crate::wire::{Be16, Be32};

/// IPv4 without options, or IPv6 without extension headers.
pub(super) trait Received: OuterIp {
    const LEN: usize = size_of::<Self>();

    /// DSCP and ECN.
    fn traffic_class(&self) -> u8;

    /// Whether its length is that of one UDP datagram of so many bytes.
    fn carries(&self, udp_length: usize) -> bool;

    /// Source and destination as keys of tables that hold both families.
    fn source(&self) -> [Be32; 4];
    fn destination(&self) -> [Be32; 4];

    /// Whether the source is in a prefix as entries have it.
    fn is_from(&self, prefix: &[Be32; 2], mask: &[Be32; 2]) -> bool;

    /// Of the source, for a flow's hash.
    fn source_word(&self) -> u32;

    /// The session of a tunnel that ends here.
    fn session<'t, T: Tables>(&self, tables: &'t T, port: Port, teid: Be32) -> Option<&'t UplinkEntry>;

    /// The header of an answer with a UDP datagram of so many bytes.
    fn answer(&self, udp_length: u16) -> Self;
}

impl Received for Ipv4 {
    #[inline(always)]
    fn traffic_class(&self) -> u8 {
        self.tos
    }

    #[inline(always)]
    fn carries(&self, udp_length: usize) -> bool {
        usize::from(self.total_length.get()) == <Self as Received>::LEN + udp_length
    }

    #[inline(always)]
    fn source(&self) -> [Be32; 4] {
        mapped(self.source)
    }

    #[inline(always)]
    fn destination(&self) -> [Be32; 4] {
        mapped(self.destination)
    }

    #[inline(always)]
    fn is_from(&self, [prefix, _]: &[Be32; 2], [mask, _]: &[Be32; 2]) -> bool {
        self.source.raw() & mask.raw() == prefix.raw()
    }

    #[inline(always)]
    fn source_word(&self) -> u32 {
        self.source.raw()
    }

    #[inline(always)]
    fn session<'t, T: Tables>(&self, tables: &'t T, port: Port, teid: Be32) -> Option<&'t UplinkEntry> {
        tables.uplink(&UplinkKey { port, teid, local: self.destination })
    }

    #[inline(always)]
    fn answer(&self, udp_length: u16) -> Self {
        let total_length = Be16::new(udp_length.wrapping_add(<Self as Received>::LEN as u16));
        rewrite::outer_ipv4(self.tos, total_length, self.destination, self.source)
    }
}

impl Received for Ipv6 {
    #[inline(always)]
    fn traffic_class(&self) -> u8 {
        Self::traffic_class(self)
    }

    #[inline(always)]
    fn carries(&self, udp_length: usize) -> bool {
        usize::from(self.payload_length.get()) == udp_length
    }

    #[inline(always)]
    fn source(&self) -> [Be32; 4] {
        self.source
    }

    #[inline(always)]
    fn destination(&self) -> [Be32; 4] {
        self.destination
    }

    #[inline(always)]
    fn is_from(&self, prefix: &[Be32; 2], mask: &[Be32; 2]) -> bool {
        matches64(&[self.source[0], self.source[1]], prefix, mask)
    }

    #[inline(always)]
    fn source_word(&self) -> u32 {
        super::fold(self.source)
    }

    #[inline(always)]
    fn session<'t, T: Tables>(&self, tables: &'t T, port: Port, teid: Be32) -> Option<&'t UplinkEntry> {
        tables.uplink6(&UplinkKey6 { port, teid, local: self.destination })
    }

    #[inline(always)]
    fn answer(&self, udp_length: u16) -> Self {
        rewrite::outer_ipv6(Self::traffic_class(self), Be16::new(udp_length), self.destination, self.source)
    }
}
