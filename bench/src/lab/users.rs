//! The users of a lab: their addresses and tunnels, and the endpoints that serve them.

use super::endpoint::{EndpointConfig, Role, Teid, TunConfig, Tunnel};
use super::{GNB, UE_MTU};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// Where users' addresses come from.
pub const UE_POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 60, 0, 0), 16);

/// Data network behind the gateway.
pub const DATA_NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 50, 0, 0), 24);

/// N6 itself: hosts on it are on-link for the pod.
pub const N6: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 40, 0, 0), 24);

/// One user with one tunnel a direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub ue: Ipv4Addr,
    /// TEID at the UPF.
    pub uplink: Teid,
    /// TEID at the gNB.
    pub downlink: Teid,
    pub qfi: Option<u8>,
}

/// The first `count` users. The first three are those of `examples/nads/n3.yaml`: with QFI 9, with QFI 5,
/// and without a QFI as on S1-U; the others repeat that.
pub fn users(count: u32) -> Vec<User> {
    let user = |number: u32| User {
        ue: Ipv4Addr::from_bits(UE_POOL.network().to_bits() + number),
        uplink: Teid(0x1000 + number),
        downlink: Teid(0x2000 + number),
        qfi: [None, Some(9), Some(5)][number as usize % 3],
    };
    (1..=count).map(user).collect()
}

/// The gNB with these users behind it, for a UPF at `upf`.
pub fn gnb(users: &[User], upf: Ipv4Addr) -> EndpointConfig {
    let tunnel = |user: &User| Tunnel {
        ue: user.ue,
        local_teid: user.downlink,
        peer: upf,
        peer_teid: user.uplink,
        qfi: user.qfi,
    };
    EndpointConfig {
        role: Role::Gnb,
        local: GNB,
        tun: TunConfig {
            name: "ue0".to_owned(),
            mtu: UE_MTU,
            local: vec![UE_POOL],
            routes: vec![DATA_NETWORK, N6],
            source: users.first().map(|user| user.ue),
        },
        tunnels: users.iter().map(tunnel).collect(),
    }
}

/// The plain user-space UPF for these users in a pod whose address on N3 is `local`. The pod's kernel
/// forwards between its TUN device and N6.
pub fn upf(users: &[User], local: Ipv4Addr) -> EndpointConfig {
    let tunnel = |user: &User| Tunnel {
        ue: user.ue,
        local_teid: user.uplink,
        peer: GNB,
        peer_teid: user.downlink,
        qfi: user.qfi,
    };
    EndpointConfig {
        role: Role::Upf,
        local,
        tun: TunConfig {
            name: "upf0".to_owned(),
            mtu: UE_MTU,
            local: Vec::new(),
            routes: vec![UE_POOL],
            source: None,
        },
        tunnels: users.iter().map(tunnel).collect(),
    }
}
