//! What an agent of layout 2 left: the packet program of that time, with the tables of the lab's three
//! sessions, pinned where that agent pinned them. Values are written byte by byte from that layout.

use aya::maps::xdp::DevMap;
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::Xdp;
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, EbpfLoader, Pod};
use netplane_bench::lab::users::users;
use netplane_bench::lab::{GNB, Lab, MTU, UE_MTU};
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::PathBuf;

const OBJECT: &[u8] = include_bytes!("../../layouts/v2.o.gz");

const PINNED: [&str; 13] = [
    "UPLINK",
    "DOWNLINK4",
    "DOWNLINK6",
    "ENDPOINTS",
    "NEXT_HOPS",
    "ROUTES4",
    "PEERS",
    "ROUTERS",
    "PORTS",
    "SESSION_COUNTERS",
    "NETWORK_COUNTERS",
    "NETWORKS",
    "EVENTS",
];

const NO_INDEX: u32 = u32::MAX;
/// `namespace/name` behind its length.
type Name = [u8; 320];

/// The pod and its neighbours, as that agent saw them.
pub(super) struct Facts {
    pub(super) n3: Ipv4Addr,
    pub(super) n3_mac: [u8; 6],
    pub(super) n6_mac: [u8; 6],
    pub(super) gnb_mac: [u8; 6],
    pub(super) gateway_mac: [u8; 6],
}

/// Where that agent pinned.
pub(super) fn folder(lab: &Lab) -> PathBuf {
    lab.bpffs().join("v2")
}

/// Leaves everything as that agent would. From here on the fast path forwards.
pub(super) fn leave(lab: &Lab, facts: &Facts) {
    lab.node.run(|| load(lab, facts)).expect("the node's namespace");
}

fn load(lab: &Lab, facts: &Facts) {
    let mut object = Vec::new();
    flate2::read::GzDecoder::new(OBJECT).read_to_end(&mut object).expect("gzip");
    for kind in ["maps", "links"] {
        std::fs::create_dir_all(folder(lab).join(kind)).expect("a folder on bpffs");
    }
    let paths = PINNED.map(|name| (name, folder(lab).join("maps").join(name)));
    let mut loader = EbpfLoader::new();
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    let mut ebpf = loader.load(&object).expect("the object of layout 2");
    let index = |name: &str| nix::net::if_::if_nametoindex(name).expect("a master");
    let masters = [index("n3"), index("n6")];
    fill(&mut ebpf, facts, masters);
    let program: &mut Xdp = ebpf.program_mut("netplane_xdp").expect("in the object").try_into().expect("XDP");
    program.load().expect("the verifier accepts the program");
    for ifindex in masters {
        let id = program.attach_to_if_index(ifindex, XdpMode::Driver).expect("a veth has native XDP");
        let link = FdLink::try_from(program.take_link(id).expect("a link")).expect("a link by descriptor");
        link.pin(folder(lab).join("links").join(ifindex.to_string())).expect("pinned");
    }
}

fn map<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> T
where
    T: TryFrom<&'a mut Map>,
    T::Error: std::fmt::Debug,
{
    ebpf.map_mut(name).expect(name).try_into().expect(name)
}

/// Fields one behind the other; the rest is zero.
fn bytes<const N: usize>(fields: &[&[u8]]) -> [u8; N] {
    let fields = fields.concat();
    let mut bytes = [0; N];
    bytes[..fields.len()].copy_from_slice(&fields);
    bytes
}

fn put<const K: usize, const V: usize>(ebpf: &mut Ebpf, name: &str, key: [u8; K], value: [u8; V])
where
    [u8; K]: Pod,
    [u8; V]: Pod,
{
    let mut map: HashMap<&mut MapData, [u8; K], [u8; V]> = map(ebpf, name);
    map.insert(key, value, 0).expect(name);
}

fn fill(ebpf: &mut Ebpf, facts: &Facts, [n3, n6]: [u32; 2]) {
    let mut ports: DevMap<&mut MapData> = map(ebpf, "PORTS");
    ports.set(0, n3, None, 0).expect("PORTS");
    ports.set(1, n6, None, 0).expect("PORTS");
    let mut names: Array<&mut MapData, Name> = map(ebpf, "NETWORKS");
    for (index, name) in [(0, b"core/n3"), (1, b"core/n6")] {
        names.set(index, bytes::<320>(&[&7_u16.to_ne_bytes(), name]), 0).expect("NETWORKS");
    }
    // Both MACs, interface, port, MTU, no VLAN, resolved.
    let next_hop = |to: [u8; 6], from: [u8; 6], ifindex: u32, port: u32| {
        let link = [&to[..], &from, &ifindex.to_ne_bytes(), &port.to_ne_bytes(), &MTU.to_ne_bytes()].concat();
        bytes::<28>(&[&link, &[0, 0, 1]])
    };
    let mut next_hops: Array<&mut MapData, [u8; 28]> = map(ebpf, "NEXT_HOPS");
    next_hops.set(0, next_hop(facts.gateway_mac, facts.n6_mac, n6, 1), 0).expect("NEXT_HOPS");
    next_hops.set(1, next_hop(facts.gnb_mac, facts.n3_mac, n3, 0), 0).expect("NEXT_HOPS");
    let peers = [[10, 30, 0, 0], [255, 255, 255, 0]].concat();
    let local = facts.n3.octets();
    // Interface, VLAN, padding.
    let port = |ifindex: u32| [&ifindex.to_ne_bytes()[..], &[0; 4]].concat();
    let endpoint = bytes::<20>(&[&[0, 0, 0, 0], &facts.n3_mac, &[0, 0], &peers]);
    put(ebpf, "ENDPOINTS", bytes::<12>(&[&port(n3), &local]), endpoint);
    for (number, user) in (0_u32..).zip(users(3)) {
        // Forward, with a check of the user's address; network 0.
        let head = [&[1, 1, 0, 0], &facts.n3_mac[..], &[0, 0]].concat();
        let ways = [0, NO_INDEX, 2 * number].map(u32::to_ne_bytes).concat();
        // No destination is looked up: prefix 0 under a full mask.
        let nowhere = [[0; 4], [255; 4]].concat();
        let entry = bytes::<64>(&[&head, &peers, &user.ue.octets(), &[0; 8], &ways, &nowhere]);
        let key = bytes::<16>(&[&port(n3), &user.uplink.0.to_be_bytes(), &local]);
        put(ebpf, "UPLINK", key, entry);
        // Forward; the DSCP is copied, and there is a QFI or none; network 1.
        let flags = 4 | u8::from(user.qfi.is_some());
        let network = 1_u16.to_ne_bytes();
        let head = [&[1, flags], &network[..], &facts.n6_mac, &[0, user.qfi.unwrap_or(0)]].concat();
        let tunnel = [local, GNB.octets(), user.downlink.0.to_be_bytes()].concat();
        let ways = [1, 2 * number + 1].map(u32::to_ne_bytes).concat();
        let entry = bytes::<48>(&[&head, &tunnel, &ways, &UE_MTU.to_ne_bytes()]);
        put(ebpf, "DOWNLINK4", bytes::<12>(&[&port(n6), &user.ue.octets()]), entry);
    }
}
