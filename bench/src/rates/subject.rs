//! What is compared, and the traffic that each of them is to forward.

use super::nads;
use crate::lab::endpoint::Teid;
use crate::lab::{GNB, SERVER};
use crate::load::scenario::{Ethernet, Mac, Order, Scenario, Sending, Sizes, Tunnel, User, UserPacket};
use crate::load::template::Arrival;
use std::net::{IpAddr, Ipv4Addr};

/// A device under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Subject {
    /// netplane's fast path, native XDP on the masters.
    Native,
    /// The same in generic XDP.
    Generic,
    /// netplane's TC programs on the masters.
    Tc,
    /// A user-space UPF in the pod, on its macvlan interfaces: sockets, batches of system calls.
    UserSpaceUpf,
    /// The kernel forwards plain IP from one master to the other: no tunnel, no pod.
    KernelForwarding,
    /// The kernel's own GTP device (module `gtp`) and its router: no pod.
    KernelGtp,
    /// An XDP program that redirects every frame as it is: the most that XDP can do here.
    BareRedirect,
}

impl Subject {
    /// Those that every kernel has.
    pub const ALL: [Self; 6] = [
        Self::Native,
        Self::Generic,
        Self::Tc,
        Self::UserSpaceUpf,
        Self::KernelForwarding,
        Self::BareRedirect,
    ];

    /// All that this kernel has: its GTP device where the module is loaded.
    pub fn of_this_kernel() -> Vec<Self> {
        let gtp = std::path::Path::new("/sys/module/gtp").is_dir().then_some(Self::KernelGtp);
        Self::ALL.into_iter().chain(gtp).collect()
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "netplane, native XDP",
            Self::Generic => "netplane, generic XDP",
            Self::Tc => "netplane, TC",
            Self::UserSpaceUpf => "user-space UPF",
            Self::KernelForwarding => "kernel forwarding, no tunnel",
            Self::KernelGtp => "kernel GTP device",
            Self::BareRedirect => "bare XDP redirect",
        }
    }

    /// The metadata's key `xdp`, where netplane is what is measured.
    pub(super) const fn mode(self) -> Option<&'static str> {
        match self {
            Self::Native => Some("native"),
            Self::Generic => Some("generic"),
            Self::Tc => Some("tc"),
            _ => None,
        }
    }

    pub(super) const fn has_pod(self) -> bool {
        matches!(self, Self::Native | Self::Generic | Self::Tc | Self::UserSpaceUpf)
    }

    /// What becomes of a frame.
    pub(super) fn arrival(self, direction: Direction) -> Arrival {
        match (self, direction) {
            (Self::KernelForwarding | Self::BareRedirect, _) => Arrival::AsSent,
            (_, Direction::Uplink) => Arrival::Decapsulated,
            (Self::KernelGtp, Direction::Downlink) => {
                Arrival::Encapsulated { is_v4: true, with_container: false }
            }
            (_, Direction::Downlink) => Arrival::Encapsulated { is_v4: true, with_container: true },
        }
    }

    /// Traffic of one gNB for this device, to be sent from this CPU. `pod` is the endpoint's address.
    pub(super) fn scenario(self, traffic: Traffic, pod: Ipv4Addr, destination: Mac, cpu: usize) -> Scenario {
        let Traffic { direction, size, sessions } = traffic;
        let tunnel = Tunnel {
            source: IpAddr::V4(GNB),
            destination: IpAddr::V4(pod),
            source_port: crate::lab::endpoint::GTPU_PORT,
            teid: Teid(nads::FIRST_UPLINK),
            // The kernel's GTP knows no QFI, and before Linux 6.8 takes no packet that has one.
            qfi: (self != Self::KernelGtp).then_some(nads::QFI),
            downlink: false,
            dscp: 0,
        };
        let is_tunnelled = direction == Direction::Uplink && self != Self::KernelForwarding;
        let (user, server) = (IpAddr::V4(nads::FIRST_USER), IpAddr::V4(SERVER));
        let (source, destination_address, is) = match direction {
            Direction::Uplink => (user, server, User::Source),
            Direction::Downlink => (server, user, User::Destination),
        };
        Scenario {
            name: format!("{} {}", self.name(), direction.name()),
            ethernet: Ethernet { source: None, destination: Some(destination) },
            gtpu: is_tunnelled.then_some(tunnel),
            user: UserPacket {
                source,
                destination: destination_address,
                source_port: 40_000,
                destination_port: 9,
                is,
            },
            sessions,
            flows: 1,
            order: Order::Uniform,
            sizes: Sizes::One(size),
            send: Sending { cpus: vec![cpu], ..Sending::default() },
        }
    }
}

/// Which way the traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Direction {
    /// From the gNB to the data network.
    Uplink,
    /// From the data network to the gNB.
    Downlink,
}

impl Direction {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Downlink => "downlink",
        }
    }
}

/// One kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traffic {
    pub direction: Direction,
    /// Bytes of the user's IP packet.
    pub size: u16,
    pub sessions: u32,
}
