//! Ranges of addresses as host-local's configuration describes them.

use crate::plugins::lenient;
use ipnet::IpNet;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One range as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RangeConfig {
    pub subnet: String,
    #[serde(default, deserialize_with = "lenient::address")]
    pub range_start: Option<IpAddr>,
    #[serde(default, deserialize_with = "lenient::address")]
    pub range_end: Option<IpAddr>,
    #[serde(default, deserialize_with = "lenient::address")]
    pub gateway: Option<IpAddr>,
}

/// Why a range cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("ipam: subnet \"{subnet}\" is not ADDRESS/LENGTH")]
    Subnet { subnet: String },
    #[error("ipam: subnet {subnet} has host bits set; {network} would be right")]
    HostBits { subnet: IpNet, network: IpNet },
    #[error("ipam: subnet {subnet} is too small to give addresses from")]
    TooSmall { subnet: IpNet },
    #[error("ipam: {key} {address} is not in subnet {subnet}")]
    Outside { key: &'static str, address: IpAddr, subnet: IpNet },
    #[error("ipam: rangeStart {start} is behind rangeEnd {end}")]
    Backwards { start: IpAddr, end: IpAddr },
}

/// A range that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub subnet: IpNet,
    pub start: IpAddr,
    pub end: IpAddr,
    /// Never given out.
    pub gateway: IpAddr,
}

impl Range {
    /// Checks a range and fills in what is not said: all usable addresses, and the first one as gateway.
    ///
    /// # Errors
    /// As [`RangeError`] says.
    pub fn new(config: &RangeConfig) -> Result<Self, RangeError> {
        let subnet: IpNet =
            config.subnet.parse().map_err(|_| RangeError::Subnet { subnet: config.subnet.clone() })?;
        if subnet.trunc() != subnet {
            return Err(RangeError::HostBits { subnet, network: subnet.trunc() });
        }
        if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
            return Err(RangeError::TooSmall { subnet });
        }
        let inside = |key, address: Option<IpAddr>, default| match address {
            Some(address) if !subnet.contains(&address) => Err(RangeError::Outside { key, address, subnet }),
            Some(address) => Ok(address),
            None => Ok(default),
        };
        let first = next(subnet.network());
        // Only IPv4 has a broadcast address at the end.
        let last = if subnet.addr().is_ipv4() { previous(subnet.broadcast()) } else { subnet.broadcast() };
        let start = inside("rangeStart", config.range_start, first)?;
        let end = inside("rangeEnd", config.range_end, last)?;
        let gateway = inside("gateway", config.gateway, first)?;
        if number(start) > number(end) {
            return Err(RangeError::Backwards { start, end });
        }
        Ok(Self { subnet, start, end, gateway })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.start.is_ipv4()
            && (number(self.start)..=number(self.end)).contains(&number(address))
    }

    /// Whether an address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start.is_ipv4() == other.start.is_ipv4()
            && number(self.start) <= number(other.end)
            && number(other.start) <= number(self.end)
    }

    /// The range's addresses but the gateway, starting behind `last` and going around once.
    pub fn round_robin(&self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + '_ {
        let (start, end) = (number(self.start), number(self.end));
        let last = last.filter(|it| self.contains(*it)).map(number);
        let from = match last {
            Some(last) if last < end => last + 1,
            _ => start,
        };
        let v4 = self.start.is_ipv4();
        (from..=end).chain(start..from).map(move |it| address(it, v4)).filter(|it| *it != self.gateway)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(it) => u128::from(it.to_bits()),
        IpAddr::V6(it) => it.to_bits(),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(bits) if v4 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(number).into(),
    }
}

fn next(it: IpAddr) -> IpAddr {
    address(number(it) + 1, it.is_ipv4())
}

fn previous(it: IpAddr) -> IpAddr {
    address(number(it) - 1, it.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(json: &str) -> Result<Range, RangeError> {
        Range::new(&serde_json::from_str(json).expect("a range"))
    }

    #[test]
    fn defaults_leave_out_network_broadcast_and_gateway() {
        let range = range(r#"{"subnet":"10.30.0.0/29"}"#).expect("a range");
        let addresses: Vec<_> = range.round_robin(None).map(|it| it.to_string()).collect();
        assert_eq!(addresses, ["10.30.0.2", "10.30.0.3", "10.30.0.4", "10.30.0.5", "10.30.0.6"]);
        let after: Vec<_> = range.round_robin("10.30.0.4".parse().ok()).map(|it| it.to_string()).collect();
        assert_eq!(after, ["10.30.0.5", "10.30.0.6", "10.30.0.2", "10.30.0.3", "10.30.0.4"]);
    }

    #[test]
    fn ipv6() {
        let range = range(r#"{"subnet":"2001:db8::/126"}"#).expect("a range");
        let addresses: Vec<_> = range.round_robin(None).map(|it| it.to_string()).collect();
        assert_eq!(addresses, ["2001:db8::2", "2001:db8::3"]);
    }

    #[test]
    fn wrong_ranges_are_named() {
        for (json, part) in [
            (r#"{"subnet":"10.30.0.0"}"#, "not ADDRESS/LENGTH"),
            (r#"{"subnet":"10.30.0.7/24"}"#, "10.30.0.0/24 would be right"),
            (r#"{"subnet":"10.30.0.0/31"}"#, "too small"),
            (r#"{"subnet":"10.30.0.0/24","rangeStart":"10.31.0.1"}"#, "rangeStart 10.31.0.1 is not in"),
            (r#"{"subnet":"10.30.0.0/24","gateway":"10.31.0.1"}"#, "gateway 10.31.0.1 is not in"),
            (
                r#"{"subnet":"10.30.0.0/24","rangeStart":"10.30.0.9","rangeEnd":"10.30.0.8"}"#,
                "behind rangeEnd",
            ),
        ] {
            let error = range(json).expect_err(json).to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
