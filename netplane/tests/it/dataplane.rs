//! The real data plane in a namespace of its own: attaching, pins, taking over, refusing.

use aya::programs::{SchedClassifier, TcAttachType};
use netplane::dataplane::{AttachedMode, BpfKernel, Fragments, Kernel};
use netplane::world::tables::{Master, Operation, PeerPrefix, RoutePrefix, Tables, XdpMode};
use netplane_common::map::{DownlinkKey6, NO_INDEX};
use netplane_common::testing::cases;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs `test` on a thread in a fresh network namespace with a folder for pins. Both go with it.
fn in_namespace(test: impl FnOnce(&Path) + Send) {
    let folder = tempfile::tempdir().expect("a folder");
    let pins = Pins(folder.path().join("bpf"));
    std::thread::scope(|scope| {
        let inside = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, for a network namespace");
            test(&pins.0);
        };
        scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Where the data plane mounts a BPF file system.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.0);
    }
}

fn ip(arguments: &str) {
    let status =
        Command::new("ip").args(arguments.split_whitespace()).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect(name)
}

fn veth() -> u32 {
    ip("link add m0 type veth peer name p0");
    ip("link set m0 up");
    ip("link set p0 up");
    ifindex("m0")
}

fn attach(ifindex: u32, mode: XdpMode) -> Operation {
    Operation::Attach { ifindex, master: Master { name: "m0".to_owned(), mode, ..Master::default() } }
}

#[track_caller]
fn apply(kernel: &mut BpfKernel, operations: &[Operation]) {
    let failures = kernel.apply(operations);
    assert!(failures.is_empty(), "{failures:?}");
}

/// Every kind of entry once.
fn prefix(text: &str) -> ipnet::IpNet {
    text.parse().expect("a prefix")
}

fn operations(ifindex: u32) -> Vec<Operation> {
    let standard = cases::standard();
    let mut operations = vec![
        Operation::SetPort { index: 3, ifindex },
        Operation::SetNetwork { index: cases::N3, name: "core/n3".to_owned() },
        Operation::SetRoute {
            route: RoutePrefix { scope: 11, prefix: prefix("10.40.0.0/24") },
            next_hop: NO_INDEX,
        },
        Operation::SetRoute {
            route: RoutePrefix { scope: 11, prefix: prefix("2001:db8:40::/64") },
            next_hop: 6,
        },
        Operation::AddPeer(PeerPrefix { network: cases::N3, prefix: prefix("2001:db8:30::10/128") }),
        Operation::AddPeer(PeerPrefix { network: cases::N3, prefix: prefix("10.30.0.0/24") }),
    ];
    let next_hops = standard.next_hops.iter();
    operations.extend(next_hops.map(|(index, it)| Operation::SetNextHop { index: *index, next_hop: *it }));
    let endpoints = standard.endpoints.iter();
    operations.extend(endpoints.map(|(key, entry)| Operation::SetEndpoint { key: *key, entry: *entry }));
    let new_counter = true;
    let uplink = standard.uplink.iter();
    operations.extend(uplink.map(|(key, it)| Operation::SetUplink { key: *key, entry: *it, new_counter }));
    let uplink = standard.uplink6.iter();
    operations.extend(uplink.map(|(key, it)| Operation::SetUplink6 { key: *key, entry: *it, new_counter }));
    let downlink = standard.downlink4.iter();
    operations.extend(downlink.map(|(key, it)| Operation::SetDownlink4 {
        key: *key,
        entry: *it,
        new_counter,
    }));
    let downlink = standard.downlink6.iter();
    operations.extend(downlink.map(|(key, it)| Operation::SetDownlink6 {
        key: *key,
        entry: *it,
        new_counter,
    }));
    operations
}

#[test]
fn a_new_agent_finds_what_the_old_one_left() {
    in_namespace(|bpffs| {
        let master = veth();
        let mut old = BpfKernel::open(bpffs).expect("a data plane");
        apply(&mut old, &[attach(master, XdpMode::Native)]);
        apply(&mut old, &operations(master));
        let before = old.read_back().expect("tables").tables;
        assert_eq!(old.attached(master).mode, AttachedMode::Native);
        drop(old);
        assert!(program_id("m0").is_some(), "forwarding goes on without an agent");

        let mut new = BpfKernel::open(bpffs).expect("a data plane over the same pins");
        let after = new.read_back().expect("tables").tables;
        assert_eq!(after, before);
        assert_eq!(after.masters.keys().copied().collect::<Vec<_>>(), [master]);
        assert_eq!(after.networks.get(&cases::N3).map(String::as_str), Some("core/n3"));
        assert_eq!(after.uplink, cases::standard().uplink);
        assert_eq!(after.uplink6, cases::standard().uplink6);
        assert_eq!(after.downlink4, cases::standard().downlink4);
        let prefixes: Vec<_> = after.routes.keys().map(|it| it.prefix).collect();
        assert_eq!(prefixes, [prefix("10.40.0.0/24"), prefix("2001:db8:40::/64")]);
        let peers: Vec<_> = after.peers.iter().map(|it| it.prefix).collect();
        assert_eq!(peers, [prefix("10.30.0.0/24"), prefix("2001:db8:30::10/128")]);
        assert_eq!(new.attached(master).mode, AttachedMode::Native);
        new.detach_all().expect("all removed");
        assert_eq!(new.attached(master).mode, AttachedMode::None);
        assert!(bpffs.exists() && !bpffs.join("v1").exists(), "the mount is left, the pins are gone");
    });
}

#[test]
fn deleting_leaves_empty_tables_and_deleting_again_is_no_error() {
    in_namespace(|bpffs| {
        let mut kernel = BpfKernel::open(bpffs).expect("a data plane");
        apply(&mut kernel, &operations(ifindex("lo")));
        let standard = cases::standard();
        let mut deletions: Vec<_> =
            standard.uplink.keys().map(|it| Operation::DeleteUplink { key: *it }).collect();
        deletions.extend(standard.uplink6.keys().map(|it| Operation::DeleteUplink6 { key: *it }));
        deletions.extend(standard.downlink4.keys().map(|it| Operation::DeleteDownlink4 { key: *it }));
        deletions.extend(
            standard.downlink6.keys().map(|it: &DownlinkKey6| Operation::DeleteDownlink6 { key: *it }),
        );
        deletions.extend(standard.endpoints.keys().map(|it| Operation::DeleteEndpoint { key: *it }));
        let route = RoutePrefix { scope: 11, prefix: prefix("10.40.0.0/24") };
        deletions.push(Operation::DeleteRoute { route });
        let peer = PeerPrefix { network: cases::N3, prefix: prefix("10.30.0.0/24") };
        deletions.push(Operation::RemovePeer(peer));
        let route = RoutePrefix { scope: 11, prefix: prefix("2001:db8:40::/64") };
        deletions.push(Operation::DeleteRoute { route });
        let peer = PeerPrefix { network: cases::N3, prefix: prefix("2001:db8:30::10/128") };
        deletions.push(Operation::RemovePeer(peer));
        deletions.push(Operation::ClearNetwork { index: cases::N3 });
        for _ in 0..2 {
            apply(&mut kernel, &deletions);
            let tables = kernel.read_back().expect("tables").tables;
            let kept = Tables {
                ports: tables.ports.clone(),
                next_hops: tables.next_hops.clone(),
                ..Tables::default()
            };
            assert_eq!(tables, kept);
        }
    });
}

#[test]
fn somebody_elses_program_is_named_and_left_alone() {
    in_namespace(|bpffs| {
        let master = veth();
        let other = bpffs.with_file_name("other");
        let _unmount = Pins(other.clone());
        let mut owner = BpfKernel::open(&other).expect("another owner");
        apply(&mut owner, &[attach(master, XdpMode::Native)]);
        let before = program_id("m0");
        let mut kernel = BpfKernel::open(bpffs).expect("a data plane");
        let failures = kernel.apply(&[attach(master, XdpMode::Native)]);
        let (index, error) = failures.first().expect("refused");
        assert_eq!(*index, 0);
        assert_eq!(error.operation, "attach XDP to master m0");
        let cause = error.source.to_string();
        assert!(cause.contains("netplane_xdp") && cause.contains("somebody else"), "{cause}");
        assert_eq!(program_id("m0"), before);

        apply(&mut kernel, &[attach(master, XdpMode::Auto)]);
        let attached = kernel.attached(master);
        assert_eq!(attached.mode, AttachedMode::Tc);
        let problem = attached.problem.expect("somebody should do something about it");
        assert!(problem.contains("netplane_xdp") && problem.contains("somebody else"), "{problem}");
        assert_eq!(program_id("m0"), before);
        kernel.detach_all().expect("all removed");
        assert_eq!(program_id("m0"), before);
    });
}

/// Interfaces of this namespace but `lo`.
fn devices() -> Vec<String> {
    let output = Command::new("ip").args(["-j", "link"]).output().expect("iproute2");
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON of ip");
    let names = links.as_array().into_iter().flatten().filter_map(|it| it["ifname"].as_str());
    names.filter(|it| *it != "lo").map(str::to_owned).collect()
}

/// Whether a device merges received packets.
fn merges(device: &str) -> bool {
    let features =
        netplane::netlink::ethtool::Ethtool::here().and_then(|it| it.features(device)).expect(device);
    features.iter().any(|it| it.name == "rx-gro" && it.active)
}

#[test]
fn tc_outlives_the_agent_and_leaves_nothing_behind() {
    in_namespace(|bpffs| {
        ip("link add m0 type bridge");
        let master = ifindex("m0");
        assert!(merges("m0"));
        let mut old = BpfKernel::open(bpffs).expect("a data plane");
        apply(&mut old, &[attach(master, XdpMode::Auto)]);
        let attached = old.attached(master);
        assert_eq!(attached.mode, AttachedMode::Tc);
        assert_eq!(attached.why.as_deref(), Some("the driver has no native XDP"));
        assert_eq!(attached.problem, None);
        assert!(!merges("m0"), "what is merged would only be taken apart again");
        assert_eq!(devices(), ["m0", "netplane-wirep", "netplane-wire"]);
        let before = tc_programs("m0");
        assert_eq!(before.len(), 1);
        drop(old);
        assert_eq!(tc_programs("m0"), before, "forwarding goes on without an agent");

        let mut new = BpfKernel::open(bpffs).expect("a data plane over the same pins");
        assert_eq!(new.attached(master).mode, AttachedMode::Tc);
        let after = tc_programs("m0");
        assert!(
            after.len() == 1 && after != before,
            "the new program in the same link: {before:?} {after:?}"
        );
        assert!(new.read_back().expect("tables").tables.masters.contains_key(&master));
        apply(&mut new, &[attach(master, XdpMode::Auto)]);
        assert_eq!(tc_programs("m0"), after, "once more does nothing");
        apply(&mut new, &[Operation::Detach { ifindex: master }]);
        assert_eq!(new.attached(master).mode, AttachedMode::None);
        assert!(merges("m0"), "as it was");
        assert_eq!((devices(), tc_programs("m0")), (vec!["m0".to_owned()], Vec::new()));
    });
}

#[test]
fn detaching_all_takes_tc_off_as_well() {
    in_namespace(|bpffs| {
        let master = veth();
        let mut old = BpfKernel::open(bpffs).expect("a data plane");
        let native = Master { name: "m0".to_owned(), local: true, ..Master::default() };
        apply(&mut old, &[Operation::Attach { ifindex: master, master: native.clone() }]);
        let attached = old.attached(master);
        assert_eq!((attached.mode, attached.local), (AttachedMode::Native, true));
        assert_eq!(tc_programs("m0").len(), 1);
        let alone = Master { local: false, ..native.clone() };
        apply(&mut old, &[Operation::Attach { ifindex: master, master: alone }]);
        assert!(!old.attached(master).local);
        apply(&mut old, &[Operation::Attach { ifindex: master, master: native }]);
        drop(old);
        let mut new = BpfKernel::open(bpffs).expect("a data plane over the same pins");
        assert!(new.attached(master).local);
        new.detach_all().expect("all removed");
        assert_eq!(program_id("m0"), None);
        assert_eq!(tc_programs("m0"), Vec::<u32>::new());
        assert!(devices().iter().all(|it| !it.starts_with("netplane")), "{:?}", devices());
    });
}

/// The kernel's identifiers of the tcx programs on a device.
fn tc_programs(device: &str) -> Vec<u32> {
    let (_, programs) = SchedClassifier::query_tcx(device, TcAttachType::Ingress).expect("tcx");
    programs.iter().map(aya::programs::ProgramInfo::id).collect()
}

#[test]
fn generic_xdp_only_where_it_is_asked_for() {
    in_namespace(|bpffs| {
        ip("link add m0 type bridge");
        let master = ifindex("m0");
        let mut kernel = BpfKernel::open(bpffs).expect("a data plane");
        let failures = kernel.apply(&[attach(master, XdpMode::Native)]);
        let (_, error) = failures.first().expect("a bridge has no native XDP");
        let remedy = error.remedy.as_deref().unwrap_or_default();
        assert!(remedy.contains("\"tc\"") && remedy.contains("generic"), "{error}: {remedy}");
        assert_eq!(kernel.attached(master).mode, AttachedMode::None);
        apply(&mut kernel, &[attach(master, XdpMode::Auto)]);
        assert_eq!(kernel.attached(master).mode, AttachedMode::Tc, "not generic");
        apply(&mut kernel, &[Operation::Detach { ifindex: master }]);
        apply(&mut kernel, &[attach(master, XdpMode::Generic)]);
        assert_eq!(kernel.attached(master).mode, AttachedMode::Generic);
        apply(&mut kernel, &[Operation::Detach { ifindex: master }]);
        assert_eq!(kernel.attached(master).mode, AttachedMode::None);
    });
}

/// As on kernels before 5.18, whose programs take no frames in fragments.
#[test]
fn an_mtu_that_xdp_cannot_take_is_a_reason_for_tc() {
    in_namespace(|bpffs| {
        let master = veth();
        ip("link set m0 mtu 9000");
        ip("link set p0 mtu 9000");
        let sizes = (1 << 10, 1 << 10);
        let open = |fragments| BpfKernel::open_for(bpffs, sizes, fragments).expect("a data plane");
        let mut kernel = open(Fragments::Refused);
        let failures = kernel.apply(&[attach(master, XdpMode::Native)]);
        let (_, error) = failures.first().expect("refused");
        let remedy = error.remedy.as_deref().unwrap_or_default();
        assert!(remedy.contains("MTU of 9000") && remedy.contains("5.18"), "{error}: {remedy}");
        assert_eq!(kernel.attached(master).mode, AttachedMode::None);
        apply(&mut kernel, &[attach(master, XdpMode::Auto)]);
        let attached = kernel.attached(master);
        assert_eq!(attached.mode, AttachedMode::Tc);
        let problem = attached.problem.expect("somebody should do something about it");
        assert!(problem.contains("MTU of 9000"), "{problem}");

        ip("link set p0 mtu 1500");
        ip("link set m0 mtu 1500");
        apply(&mut kernel, &[attach(master, XdpMode::Auto)]);
        assert_eq!(kernel.attached(master).mode, AttachedMode::Native, "frames of one page");
        kernel.detach_all().expect("all removed");
        drop(kernel);

        ip("link set m0 mtu 9000");
        ip("link set p0 mtu 9000");
        let mut kernel = open(Fragments::Taken);
        apply(&mut kernel, &[attach(master, XdpMode::Auto)]);
        assert_eq!(kernel.attached(master).mode, AttachedMode::Native);
        kernel.detach_all().expect("all removed");
    });
}

#[test]
fn loading_tc_can_be_tried_again() {
    in_namespace(|_| {
        let mut ebpf = aya::Ebpf::load(netplane::dataplane::object()).expect("programs");
        // As if the second program had been refused.
        let first = ebpf.program_mut(netplane::dataplane::TC_PROGRAM).expect("a program");
        let first: &mut SchedClassifier = first.try_into().expect("a TC program");
        first.load().expect("loaded");
        netplane::dataplane::load_tc(&mut ebpf).expect("the rest");
        netplane::dataplane::load_tc(&mut ebpf).expect("all");
    });
}

#[test]
fn a_master_that_vanished_does_not_stop_a_new_agent() {
    in_namespace(|bpffs| {
        let master = veth();
        let mut old = BpfKernel::open(bpffs).expect("a data plane");
        apply(&mut old, &[attach(master, XdpMode::Native)]);
        drop(old);
        ip("link del m0");
        let mut new = BpfKernel::open(bpffs).expect("a data plane over the same pins");
        assert!(new.read_back().expect("tables").tables.masters.is_empty());
    });
}

#[test]
fn pins_of_a_newer_layout_are_refused() {
    in_namespace(|bpffs| {
        drop(BpfKernel::open(bpffs).expect("a data plane"));
        std::fs::create_dir(bpffs.join("v9999")).expect("a folder on bpffs");
        let Err(error) = BpfKernel::open(bpffs) else {
            panic!("opened pins of a layout from the future");
        };
        assert!(error.source.to_string().contains("layout 9999"), "{}", error.source);
        assert!(error.remedy.is_some());
    });
}

/// The kernel's identifier of the XDP program on a device, as `ip` tells it.
fn program_id(device: &str) -> Option<u64> {
    let output = Command::new("ip").args(["-j", "link", "show", "dev", device]).output().expect("iproute2");
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON of ip");
    links.pointer("/0/xdp/prog/id").and_then(serde_json::Value::as_u64)
}
