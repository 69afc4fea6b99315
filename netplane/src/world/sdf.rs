//! SDF filters into what packets are compared with. A flow description is an IPFilterRule (RFC 6733 §4.3.1) as far as
//! TS 29.212 §5.4.2 allows it: `permit`, no options, no inverted addresses.

use super::refusal::{Kind, Refusal};
use ipnet::IpNet;
use netplane_client::v1::SdfFilter;
use netplane_common::map::{Filter, filter_has};
use netplane_common::wire::{Be32, ip};
use std::net::IpAddr;

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(Kind::InvalidArgument, message)
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    /// `None`: any.
    prefix: Option<IpNet>,
    /// Ranges, first and last; none: all, and packets without ports.
    ports: Vec<(u16, u16)>,
}

/// A flow description.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    protocol: Option<u8>,
    remote: End,
    user: End,
}

/// The filters for packets from the access side (else to the user): one for each combination of ranges of ports.
///
/// # Errors
/// What is wrong, with the text.
pub(super) fn filters(sdf: &SdfFilter, is_uplink: bool) -> Result<Vec<Filter>, Refusal> {
    let mut base = Filter::default();
    if let Some(it) = &sdf.tos_traffic_class {
        let byte = |what: &str, it: u32| {
            u8::try_from(it)
                .map_err(|_| invalid(format!("tos_traffic_class.{what}: {it} should be 0 to 255")))
        };
        base.tos_mask = byte("mask", it.mask)?;
        base.tos = byte("value", it.value)? & base.tos_mask;
    }
    match (sdf.security_parameter_index, sdf.flow_label) {
        (Some(_), Some(_)) => {
            let message = "security_parameter_index and flow_label: one of them can be looked at, not both";
            return Err(Refusal::new(Kind::Unimplemented, message));
        }
        (Some(spi), None) => (base.word, base.has) = (spi, filter_has::SPI),
        (None, Some(label)) if label <= 0xf_ffff => (base.word, base.has) = (label, filter_has::FLOW_LABEL),
        (None, Some(label)) => return Err(invalid(format!("flow_label: {label} should be 0 to 1048575"))),
        (None, None) => {}
    }
    if sdf.flow_description.is_empty() {
        if base == Filter::default() {
            return Err(invalid("sdf_filters: one says nothing: leave it out for all packets"));
        }
        return Ok(vec![base]);
    }
    let flow = parse(&sdf.flow_description)
        .map_err(|wrong| invalid(format!("flow_description: \"{}\": {wrong}", sdf.flow_description)))?;
    Ok(flow.filters(base, is_uplink))
}

impl Flow {
    fn filters(&self, base: Filter, is_uplink: bool) -> Vec<Filter> {
        let (source, destination) =
            if is_uplink { (&self.user, &self.remote) } else { (&self.remote, &self.user) };
        let mut filter = base;
        if let Some(protocol) = self.protocol {
            filter.protocol = protocol;
            filter.has |= filter_has::PROTOCOL;
        }
        (filter.source, filter.source_mask) = words(source.prefix);
        (filter.destination, filter.destination_mask) = words(destination.prefix);
        if let Some(prefix) = source.prefix.or(destination.prefix) {
            filter.version = if prefix.addr().is_ipv4() { 4 } else { 6 };
            filter.has |= filter_has::VERSION;
        }
        if source.ports.is_empty() && destination.ports.is_empty() {
            return vec![filter];
        }
        filter.has |= filter_has::PORTS;
        let all = [(0, u16::MAX)];
        let or_all = |ports: &'_ Vec<(u16, u16)>| if ports.is_empty() { all.to_vec() } else { ports.clone() };
        let mut filters = Vec::new();
        for (a, b) in or_all(&source.ports) {
            for (c, d) in or_all(&destination.ports) {
                filters.push(Filter { ports: [a, b, c, d], ..filter });
            }
        }
        filters
    }
}

fn words(prefix: Option<IpNet>) -> ([Be32; 4], [Be32; 4]) {
    let zero = [Be32::new(0); 4];
    let Some(prefix) = prefix else { return (zero, zero) };
    let mut mask = ip::mapped_address(prefix.netmask());
    if prefix.addr().is_ipv4() {
        mask[..3].fill(Be32::new(u32::MAX));
    }
    (ip::mapped_address(prefix.network()), mask)
}

fn parse(text: &str) -> Result<Flow, String> {
    let mut words = text.split_whitespace().peekable();
    let mut next = |what: &str| words.next().ok_or_else(|| format!("ends where {what} should be"));
    match next("\"permit\"")? {
        "permit" => {}
        other => return Err(format!("begins with \"{other}\", should with \"permit\"")),
    }
    let to_user = match next("\"out\" or \"in\"")? {
        "out" => true,
        "in" => false,
        other => return Err(format!("\"{other}\" should be \"out\" or \"in\"")),
    };
    let protocol = protocol(next("a protocol")?)?;
    let from = next("\"from\"")?;
    if from != "from" {
        return Err(format!("\"{from}\" should be \"from\""));
    }
    let first = address(next("an address")?)?;
    let mut first = End { prefix: first, ports: Vec::new() };
    let mut word = next("\"to\"")?;
    if word != "to" {
        first.ports = ports(word)?;
        word = next("\"to\"")?;
    }
    if word != "to" {
        return Err(format!("\"{word}\" should be \"to\""));
    }
    let mut second = End { prefix: address(next("an address")?)?, ports: Vec::new() };
    if let Some(word) = words.next() {
        second.ports = ports(word)?;
    }
    if let Some(word) = words.next() {
        return Err(format!("\"{word}\": options are not for SDF filters (TS 29.212 §5.4.2)"));
    }
    if let (Some(a), Some(b)) = (first.prefix, second.prefix)
        && a.addr().is_ipv4() != b.addr().is_ipv4()
    {
        return Err(format!("{a} and {b} are of two families"));
    }
    let has_ports = !first.ports.is_empty() || !second.ports.is_empty();
    if has_ports && protocol.is_some_and(|it| !matches!(it, 6 | 17 | 33 | 132 | 136)) {
        return Err("has ports, which only TCP, UDP, SCTP, DCCP and UDP-Lite have".to_owned());
    }
    let (remote, user) = if to_user { (first, second) } else { (second, first) };
    Ok(Flow { protocol, remote, user })
}

fn protocol(word: &str) -> Result<Option<u8>, String> {
    let known =
        [("icmp", 1), ("tcp", 6), ("udp", 17), ("esp", 50), ("ah", 51), ("ipv6-icmp", 58), ("sctp", 132)];
    if word == "ip" {
        return Ok(None);
    }
    if let Some((_, number)) = known.iter().find(|it| it.0 == word) {
        return Ok(Some(*number));
    }
    word.parse().map(Some).map_err(|_| format!("\"{word}\" should be \"ip\" or a protocol number"))
}

fn address(word: &str) -> Result<Option<IpNet>, String> {
    // Whose packets these are has been looked at already: the user's own address is any.
    if matches!(word, "any" | "assigned") {
        return Ok(None);
    }
    if word.starts_with('!') {
        return Err(format!("\"{word}\": inverted addresses are not for SDF filters (TS 29.212 §5.4.2)"));
    }
    let prefix = word.parse::<IpNet>().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from));
    let prefix =
        prefix.ok_or_else(|| format!("\"{word}\" should be an address, a prefix, any or assigned"))?;
    Ok(Some(prefix))
}

fn ports(word: &str) -> Result<Vec<(u16, u16)>, String> {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
        range.filter(|it| it.0 <= it.1)
    };
    let wrong = |text: &str| format!("\"{text}\" should be a port or a range of ports");
    word.split(',').map(|text| range(text).ok_or_else(|| wrong(text))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<Filter> {
        let sdf = SdfFilter { flow_description: text.to_owned(), ..SdfFilter::default() };
        filters(&sdf, false).expect(text)
    }

    fn wrong(text: &str) -> String {
        let sdf = SdfFilter { flow_description: text.to_owned(), ..SdfFilter::default() };
        filters(&sdf, true).expect_err(text).to_string()
    }

    #[test]
    fn a_flow_description_is_read_for_either_direction() {
        let text = "permit out 17 from 10.50.0.0/24 53 to assigned 1000-2000";
        let [down] = of(text)[..] else { panic!("one filter") };
        assert_eq!(down.ports, [53, 53, 1000, 2000]);
        assert_eq!(down.has, filter_has::PROTOCOL | filter_has::VERSION | filter_has::PORTS);
        assert_eq!((down.protocol, down.version), (17, 4));
        assert_eq!(ip::unmapped(down.source), IpAddr::from([10, 50, 0, 0]));
        assert_eq!(down.source_mask[3], Be32::new(0xffff_ff00));
        let sdf = SdfFilter { flow_description: text.to_owned(), ..SdfFilter::default() };
        let up = filters(&sdf, true).expect("for the uplink, too")[0];
        assert_eq!((up.destination, up.destination_mask), (down.source, down.source_mask));
        assert_eq!(up.ports, [1000, 2000, 53, 53]);
        // The user first.
        assert_eq!(of("permit in 17 from any 1000-2000 to 10.50.0.0/24 53"), vec![down]);
        assert_eq!(of("permit out ip from any to assigned"), vec![Filter::default()]);
        assert_eq!(of("permit out ip from 0.0.0.0/0 to any")[0].version, 4);
        assert_eq!(of("permit out tcp from 2001:db8::/32 80,443 to any 1,2-3").len(), 4);
        assert_eq!(of("permit out 6 from 2001:db8::1 to any")[0].version, 6);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, message) in [
            ("deny out ip from any to any", "begins with \"deny\", should with \"permit\""),
            ("permit both ip from any to any", "\"both\" should be \"out\" or \"in\""),
            ("permit out foo from any to any", "\"foo\" should be \"ip\" or a protocol number"),
            ("permit out 300 from any to any", "\"300\" should be \"ip\" or a protocol number"),
            ("permit out ip from 10.0.0.0/40 to any", "\"10.0.0.0/40\" should be an address"),
            ("permit out ip from !10.0.0.1 to any", "inverted addresses"),
            ("permit out ip from any 9-1 to any", "\"9-1\" should be a port or a range"),
            ("permit out ip from any 1,x to any", "\"x\" should be a port or a range"),
            ("permit out ip from any to any 70000", "\"70000\" should be a port"),
            ("permit out ip from any", "ends where \"to\" should be"),
            ("permit out 1 from any 7 to any", "only TCP, UDP, SCTP"),
            ("permit out ip from 10.0.0.1 to 2001:db8::1", "of two families"),
            ("permit out 6 from any to any 5 established", "options are not for SDF filters"),
        ] {
            let said = wrong(text);
            assert!(said.contains(message) && said.contains(text), "{text}: {said}");
        }
    }
}
