//! Packets for a random world: to its endpoints and users, and to nobody.

use super::super::cases::IFINDEX;
use super::super::mutate::{self, mutated};
use super::super::numbers::Numbers;
use super::super::packet::{self, Ipv4, Ipv6};
use super::{
    BEHIND, BEHIND6, LOCALS, LOCALS6, PEERS, PEERS6, SERVERS, SERVERS6, TEIDS, USERS, USERS6, VLANS, World,
    host, mac,
};
use crate::wire::{ethernet::Mac, ip};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

impl World {
    /// A packet for this world, often changed a little.
    #[must_use]
    pub fn packet(&self, numbers: &mut Numbers) -> Vec<u8> {
        let to = match numbers.below(8) {
            0..4 => self.to_endpoint(numbers),
            4..6 => self.to_user4(numbers),
            _ => self.to_user6(numbers),
        };
        let mac = if numbers.one_in(20) { mac(numbers) } else { to.mac };
        let vlan = if numbers.one_in(20) { numbers.pick(&VLANS) } else { to.vlan };
        let (destination, source) = (mac.octets(), [2, 0, 0, 0, 0, 0x10]);
        let mut frame = match vlan {
            0 => packet::ethernet(destination, source, to.ether_type, &to.packet),
            _ => packet::tagged(destination, source, vlan, to.ether_type, &to.packet),
        };
        frame.truncate(mutate::MAX_LEN);
        if numbers.one_in(2) { mutated(&frame, numbers) } else { frame }
    }

    /// A GTP-U message to one of the sessions, or to nobody.
    fn to_endpoint(&self, numbers: &mut Numbers) -> Addressed {
        let v4 = self.tables.uplink.iter().map(|(it, entry)| {
            let local = IpAddr::from(Ipv4Addr::from(it.local));
            (local, it.port, it.teid, entry)
        });
        let v6 =
            self.tables.uplink6.iter().map(|(it, entry)| (ip::unmapped(it.local), it.port, it.teid, entry));
        let sessions: Vec<_> = v4.chain(v6).filter(|it| it.1.ifindex == IFINDEX).collect();
        let Some(index) = numbers.below(sessions.len() + 1).checked_sub(1) else {
            let user = numbers.pick(&USERS);
            let message = message(numbers.pick(&TEIDS), &from_user4(user, numbers), 9, numbers);
            let local =
                if numbers.one_in(2) { numbers.pick(&LOCALS).into() } else { numbers.pick(&LOCALS6).into() };
            return Addressed::new(mac(numbers), numbers.pick(&VLANS), from_peer(local, &message, numbers));
        };
        let (local, port, teid, entry) = sessions[index];
        let inner = if numbers.one_in(2) {
            let user = if numbers.one_in(8) { numbers.pick(&BEHIND) } else { entry.ue4.into() };
            from_user4(user, numbers)
        } else {
            let user = if numbers.one_in(8) { numbers.pick(&BEHIND6) } else { host(entry.ue6) };
            from_user6(user, numbers)
        };
        let message = message(teid.get(), &inner, entry.qfi, numbers);
        Addressed::new(entry.mac, port.vlan, from_peer(local, &message, numbers))
    }

    fn to_user4(&self, numbers: &mut Numbers) -> Addressed {
        let users = self.tables.downlink4.iter().filter(|it| it.0.port.ifindex == IFINDEX);
        let users: Vec<_> = users.map(|(key, entry)| (key.ue.into(), key.port.vlan, entry.mac)).collect();
        let anybody = (numbers.pick(&USERS), 0, mac(numbers));
        let (user, vlan, mac) = users.get(numbers.below(users.len() + 1)).copied().unwrap_or(anybody);
        let user = if numbers.one_in(8) { numbers.pick(&BEHIND) } else { user };
        Addressed::new(mac, vlan, packet4(numbers.pick(&SERVERS), user, numbers))
    }

    fn to_user6(&self, numbers: &mut Numbers) -> Addressed {
        let users = self.tables.downlink6.iter().filter(|it| it.0.port.ifindex == IFINDEX);
        let users: Vec<_> = users.map(|(key, entry)| (host(key.ue), key.port.vlan, entry.mac)).collect();
        let anybody = (numbers.pick(&USERS6), 0, mac(numbers));
        let (user, vlan, mac) = users.get(numbers.below(users.len() + 1)).copied().unwrap_or(anybody);
        let user = if numbers.one_in(8) { numbers.pick(&BEHIND6) } else { user };
        Addressed::new(mac, vlan, packet6(numbers.pick(&SERVERS6), user, numbers))
    }
}

/// A packet and the link that it belongs on.
struct Addressed {
    mac: Mac,
    vlan: u16,
    ether_type: u16,
    packet: Vec<u8>,
}

impl Addressed {
    fn new(mac: Mac, vlan: u16, packet: Vec<u8>) -> Self {
        let is_4 = packet.first().is_some_and(|it| it >> 4 == 4);
        let ether_type = if is_4 { packet::ETHERTYPE_IPV4 } else { packet::ETHERTYPE_IPV6 };
        Self { mac, vlan, ether_type, packet }
    }
}

fn message(teid: u32, inner: &[u8], qfi: u8, numbers: &mut Numbers) -> Vec<u8> {
    let (sequence, unknown) = ([0x12, 0x34, 0, 0], [0, 0, 0, 0xc1, 1, 0, 0, 0]);
    match numbers.below(20) {
        0..2 => packet::gtpu(0x32, numbers.pick(&[1, 1, 2, 26]), 0, &sequence),
        2 => packet::gtpu(0x30, 254, teid, &[]),
        3 => packet::gtpu(0x34, 255, teid, &[&unknown, inner].concat()),
        4..7 => packet::gtpu(0x32, 255, teid, &[&sequence, inner].concat()),
        7..11 => packet::gtpu(0x30, 255, teid, inner),
        _ => packet::gtpu_with_container(teid, 1, qfi, inner),
    }
}

fn from_peer(local: IpAddr, message: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let udp = packet::udp(numbers.pick(&[2152, 2152, 33_000]), 2152, message);
    match local {
        IpAddr::V4(local) => {
            Ipv4 { tos: class(numbers), ..Ipv4::new(numbers.pick(&PEERS), local, udp) }.bytes()
        }
        IpAddr::V6(local) => {
            Ipv6 { traffic_class: class(numbers), ..Ipv6::new(numbers.pick(&PEERS6), local, udp) }.bytes()
        }
    }
}

fn class(numbers: &mut Numbers) -> u8 {
    numbers.pick(&[0, 0, 1, 2, 3, 3, 0xb8, 0xbb])
}

fn payload(numbers: &mut Numbers) -> Vec<u8> {
    let len = numbers.pick(&[0, 1, 20, 60, 500, 1180, 1350, 1430, 1460, 1480]);
    let ports = (numbers.pick(&[53, 443, 2152]), numbers.pick(&[40_000, 2152]));
    packet::udp(ports.0, ports.1, &vec![numbers.draw() as u8; len])
}

fn packet4(source: Ipv4Addr, destination: Ipv4Addr, numbers: &mut Numbers) -> Vec<u8> {
    let (ttl, protocol) = (numbers.pick(&[64, 64, 64, 64, 64, 2, 1, 0]), numbers.pick(&[17, 17, 6, 1, 47]));
    let packet =
        Ipv4 { tos: class(numbers), ttl, protocol, ..Ipv4::new(source, destination, payload(numbers)) };
    packet.bytes()
}

fn packet6(source: Ipv6Addr, destination: Ipv6Addr, numbers: &mut Numbers) -> Vec<u8> {
    let hop_limit = numbers.pick(&[64, 64, 64, 64, 64, 2, 1, 0]);
    let packet =
        Ipv6 { traffic_class: class(numbers), hop_limit, ..Ipv6::new(source, destination, payload(numbers)) };
    packet.bytes()
}

fn from_user4(user: Ipv4Addr, numbers: &mut Numbers) -> Vec<u8> {
    packet4(user, numbers.pick(&SERVERS), numbers)
}

fn from_user6(user: Ipv6Addr, numbers: &mut Numbers) -> Vec<u8> {
    packet6(user, numbers.pick(&SERVERS6), numbers)
}
