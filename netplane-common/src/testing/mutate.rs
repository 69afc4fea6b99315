//! Packets that nobody thought of, from packets that somebody did: changes that know where the headers
//! are, so that most results get past the first checks.

use super::numbers::Numbers;
use super::packet::checksum;

/// No packet is made longer than this, so that BPF_PROG_TEST_RUN takes it in one page.
pub const MAX_LEN: usize = 2048;

/// Where the layers of a packet start, as far as they are there.
#[derive(Clone, Copy, Debug, Default)]
struct Layers {
    l3: usize,
    /// Behind an IP header without extension headers.
    l4: Option<usize>,
    gtpu: Option<usize>,
    inner: Option<usize>,
}

impl Layers {
    fn of(packet: &[u8]) -> Self {
        let l3 = if packet.get(12..14) == Some(&[0x81, 0]) { 18 } else { 14 };
        let mut layers = Self { l3, ..Self::default() };
        let Some((l4, protocol)) = transport(packet, l3) else { return layers };
        layers.l4 = Some(l4);
        let port = packet.get(l4 + 2..l4 + 4);
        if protocol == 17 && port == Some(&2152_u16.to_be_bytes()) && packet.len() >= l4 + 16 {
            layers.gtpu = Some(l4 + 8);
            layers.inner = t_pdu(packet, l4 + 8);
        }
        layers
    }
}

/// Offset behind the IP header at `at`, and the protocol there.
fn transport(packet: &[u8], at: usize) -> Option<(usize, u8)> {
    match packet.get(at)? >> 4 {
        4 => Some((at + usize::from(packet[at] & 15).max(5) * 4, *packet.get(at + 9)?)),
        6 => Some((at + 40, *packet.get(at + 6)?)),
        _ => None,
    }
}

fn t_pdu(packet: &[u8], at: usize) -> Option<usize> {
    if packet[at] & 7 == 0 {
        return Some(at + 8);
    }
    let mut kind = if packet[at] & 4 == 0 { 0 } else { *packet.get(at + 11)? };
    let mut offset = at + 12;
    while kind != 0 {
        let len = usize::from(*packet.get(offset)?) * 4;
        offset += if len == 0 { return None } else { len };
        kind = *packet.get(offset - 1)?;
    }
    (offset < packet.len()).then_some(offset)
}

/// The packet with a few changes; in half of the cases lengths and sums are put right again.
#[must_use]
pub fn mutated(packet: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut packet = packet.to_vec();
    for _ in 0..numbers.below(4) {
        change(&mut packet, numbers);
    }
    if numbers.one_in(2) {
        repair(&mut packet);
    }
    for _ in 0..numbers.below(3) {
        scribble(&mut packet, 0, numbers);
    }
    match numbers.below(12) {
        0 => packet.truncate(14 + numbers.below(packet.len().saturating_sub(13))),
        1 => packet.extend(std::iter::repeat_n(0xee, numbers.below(40))),
        _ => {}
    }
    packet.truncate(MAX_LEN);
    packet
}

fn change(packet: &mut Vec<u8>, numbers: &mut Numbers) {
    let layers = Layers::of(packet);
    let ip = if numbers.one_in(2) { layers.inner.unwrap_or(layers.l3) } else { layers.l3 };
    match numbers.below(9) {
        0 => scribble(packet, layers.l3, numbers),
        1 => scribble(packet, layers.inner.unwrap_or(0), numbers),
        2 => ip_field(packet, ip, numbers),
        3 => gtpu_field(packet, layers, numbers),
        4 => extension(packet, layers, numbers),
        5 => tag(packet, layers, numbers),
        6 => resize(packet, numbers),
        7 => options(packet, ip, numbers),
        _ => port(packet, layers, numbers),
    }
}

/// One byte of the headers behind `from`, seldom one of the payload.
fn scribble(packet: &mut [u8], from: usize, numbers: &mut Numbers) {
    let headers = if numbers.one_in(5) { packet.len() } else { packet.len().min(from + 60) };
    let at = from + numbers.below(headers.saturating_sub(from));
    if let Some(byte) = packet.get_mut(at) {
        *byte = match numbers.below(3) {
            0 => *byte ^ 1 << numbers.below(8),
            1 => numbers.pick(&[0, 1, 4, 0x30, 0x34, 0x45, 0x60, 0x85, 0xff]),
            _ => numbers.draw() as u8,
        };
    }
}

/// Class, hops, protocol, fragment or an address's last byte of the IP header at `at`.
fn ip_field(packet: &mut [u8], at: usize, numbers: &mut Numbers) {
    let is_4 = packet.get(at).is_some_and(|it| it >> 4 == 4);
    let offsets: &[usize] = if is_4 { &[1, 6, 7, 8, 9, 15, 19] } else { &[0, 1, 6, 7, 15, 23, 31, 39] };
    let offset = numbers.pick(offsets);
    let value = numbers.pick(&[0, 1, 2, 3, 6, 17, 44, 58, 64, 0x40, 0x60, 0x63, 0xb8, 0xff]);
    if let Some(byte) = packet.get_mut(at + offset) {
        *byte = value;
    }
}

fn gtpu_field(packet: &mut [u8], layers: Layers, numbers: &mut Numbers) {
    let Some(at) = layers.gtpu else { return };
    match numbers.below(4) {
        0 => packet[at] = numbers.pick(&[0x30, 0x31, 0x32, 0x34, 0x36, 0x37, 0x38, 0x20, 0x48]),
        1 => packet[at + 1] = numbers.pick(&[1, 2, 26, 31, 254, 255, 255]),
        2 => packet[at + 7] ^= 1 << numbers.below(8),
        _ => packet[at + 3] = packet[at + 3].wrapping_add(numbers.pick(&[1, 4, 255])),
    }
}

/// Puts an extension header in front of those that are there.
fn extension(packet: &mut Vec<u8>, layers: Layers, numbers: &mut Numbers) {
    let Some(at) = layers.gtpu.filter(|at| packet.len() > at + 12) else { return };
    if packet[at] & 7 == 0 {
        packet.splice(at + 8..at + 8, [0; 4]);
    }
    let next = if packet[at] & 4 == 0 { 0 } else { packet[at + 11] };
    packet[at] |= 4;
    packet[at + 11] = numbers.pick(&[0x20, 0x40, 0x85, 0x85, 0xc0, 0xc1, 0x03]);
    let words = 1 + numbers.below(3);
    let mut header = vec![0x11; words * 4];
    header[0] = words as u8;
    header[words * 4 - 1] = next;
    packet.splice(at + 12..at + 12, header);
}

/// Takes the VLAN tag off, or puts one on.
fn tag(packet: &mut Vec<u8>, layers: Layers, numbers: &mut Numbers) {
    if layers.l3 == 18 && packet.len() > 18 {
        packet.drain(12..16);
    } else if packet.len() > 14 {
        packet.splice(12..12, [0x81, 0, numbers.pick(&[0, 0x20]), numbers.pick(&[0, 100, 200])]);
    }
}

fn resize(packet: &mut Vec<u8>, numbers: &mut Numbers) {
    let len = if numbers.one_in(2) {
        packet.len().saturating_sub(numbers.below(30)).max(14)
    } else {
        packet.len() + numbers.below(1500)
    };
    packet.resize(len.min(MAX_LEN), 0x5a);
}

/// Puts IPv4 options into the header at `at`.
fn options(packet: &mut Vec<u8>, at: usize, numbers: &mut Numbers) {
    if packet.get(at).is_some_and(|it| it >> 4 == 4 && it & 15 < 15) && packet.len() > at + 20 {
        packet[at] += 1;
        packet.splice(at + 20..at + 20, [numbers.pick(&[1, 0, 0x94]), 1, 1, 0]);
    }
}

fn port(packet: &mut [u8], layers: Layers, numbers: &mut Numbers) {
    let Some(at) = layers.l4.filter(|at| packet.len() >= at + 8) else { return };
    let end = numbers.pick(&[0, 2]);
    packet[at + end..at + end + 2].copy_from_slice(&numbers.pick(&[2152_u16, 2123, 53, 0]).to_be_bytes());
}

/// Puts lengths and header sums right from the outside in, as if the frame's end were the packet's.
pub fn repair(packet: &mut [u8]) {
    let layers = Layers::of(packet);
    if let Some(inner) = layers.inner {
        repair_ip(packet, inner);
    }
    if let Some(at) = layers.gtpu {
        set(packet, at + 2, packet.len() - at - 8);
    }
    repair_ip(packet, layers.l3);
}

fn set(packet: &mut [u8], at: usize, length: usize) {
    if let Some(two) = packet.get_mut(at..at + 2) {
        two.copy_from_slice(&(length as u16).to_be_bytes());
    }
}

fn repair_ip(packet: &mut [u8], at: usize) {
    let Some((l4, protocol)) = transport(packet, at) else { return };
    if packet.len() < l4 {
        return;
    }
    if protocol == 17 {
        set(packet, l4 + 4, packet.len() - l4);
    }
    if packet[at] >> 4 == 6 {
        set(packet, at + 4, packet.len() - at - 40);
        return;
    }
    set(packet, at + 2, packet.len() - at);
    set(packet, at + 10, 0);
    let sum = checksum(&packet[at..l4]);
    set(packet, at + 10, usize::from(sum));
}

#[cfg(test)]
mod tests {
    use super::super::cases;
    use super::super::view::{Ip, Link};
    use super::*;

    #[test]
    fn what_is_whole_is_not_changed_by_repair() {
        for case in cases::all() {
            let rest = Link::read(&case.packet).map(|it| it.rest);
            let padded = rest.is_none_or(|it| Ip::read(it).is_none_or(|ip| ip.whole.len() != it.len()));
            if case.name.starts_with("decapsulate") && !padded && !case.name.contains("T-PDU are padding") {
                let mut repaired = case.packet.clone();
                repair(&mut repaired);
                assert_eq!(repaired, case.packet, "{}", case.name);
            }
        }
    }

    #[test]
    fn a_cut_packet_is_whole_again() {
        let mut cut = cases::from_gnb(&super::super::packet::gtpu(0x30, 255, 1, &[7; 60]));
        cut.truncate(cut.len() - 9);
        assert!(Ip::read(&cut[14..]).is_none());
        repair(&mut cut);
        let ip = Ip::read(&cut[14..]).expect("whole");
        assert!(ip.sum_is_right() && ip.udp().and_then(|it| it.gtpu()).is_some());
    }

    #[test]
    fn no_input_is_too_strange() {
        let mut numbers = Numbers::new(1);
        for len in 0..80 {
            for _ in 0..50 {
                let bytes: Vec<u8> = (0..len).map(|_| numbers.draw() as u8).collect();
                assert!(mutated(&bytes, &mut numbers).len() <= MAX_LEN);
            }
        }
    }
}
