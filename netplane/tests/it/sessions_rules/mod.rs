//! Sessions with rules on a whole node: scapy's packets from outside say what passes, and how.

mod directions;
mod limits;

use crate::agent::{LIMIT, sandbox, until};
use crate::sessions::{POD, lab};
use netplane_bench::lab::cni::addresses;
use netplane_bench::lab::wires::mac;
use netplane_bench::lab::{GNB, Lab, Process, SERVER, wait_for};
use netplane_client::v1::{
    ApplyAction, FTeid, Far, ForwardingParameters, GtpuEventKind, Interface, OuterHeaderCreation, Pdi, Pdr,
    Qer, SdfFilter, Session, State, Urr, UsageReport, UsageTrigger, VolumeLimit, watch_response,
};
use netplane_client::{Client, Plain, Refused};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use tokio::runtime::Runtime;
use tonic::Code;

pub(crate) const TEID: u32 = 0x1001;
pub(crate) const PEER_TEID: u32 = 0x2001;
pub(crate) const UE: &str = "10.60.0.1";
/// A network that is dropped.
const OTHER: &str = "10.50.0.77";

/// A node whose agent runs, and a client.
pub(crate) struct Node {
    pub(crate) agent: Process,
    pub(crate) runtime: Runtime,
    pub(crate) client: Client,
    pub(crate) lab: Lab,
}

impl Node {
    fn new() -> Self {
        Self::with(&[])
    }

    /// The agent has these arguments, too.
    pub(crate) fn with(more: &[&str]) -> Self {
        Self::on(lab(), more)
    }

    pub(crate) fn on(lab: Lab, more: &[&str]) -> Self {
        sandbox(&lab).add(&lab).expect("attached");
        let agent = lab.start_agent_with(more).expect("an agent");
        until(&lab, &agent, "the agent knows its pods", |it| it["ready"] == true);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let socket = lab.session_folder().join("sessions.sock");
        let client = runtime.block_on(Client::connect(socket)).expect("connected");
        let n6 = address(&lab, "net2");
        lab.dn.ip(&format!("route add 10.60.0.0/16 via {n6}")).expect("a route to the users");
        Self { agent, runtime, client, lab }
    }

    /// Another agent, whose predecessor has been killed.
    pub(crate) fn restart(&mut self) {
        // The kernel has its lock until it has taken all of it down.
        wait_for("the end of the old agent", LIMIT, || self.agent.status()).expect("its end");
        self.agent = self.lab.start_agent().expect("another agent");
        until(&self.lab, &self.agent, "it knows its pods", |it| it["ready"] == true);
        self.restart_client();
    }

    fn restart_client(&mut self) {
        let socket = self.lab.session_folder().join("sessions.sock");
        self.client = self.runtime.block_on(Client::connect(socket)).expect("connected");
    }

    pub(crate) fn put(&mut self, session: &Session) -> Vec<Refused> {
        self.runtime.block_on(self.client.put(POD, 1, [session.clone()])).expect("an answer")
    }

    /// Puts it, and waits until it forwards.
    #[track_caller]
    pub(crate) fn forwards(&mut self, session: &Session) {
        assert_eq!(self.put(session), []);
        let Self { runtime, client, agent, .. } = self;
        let ready = || {
            let state = runtime.block_on(client.get(POD, &session.id))?;
            Ok((state.state() == State::Forwarding).then_some(()))
        };
        wait_for("the session forwards", LIMIT, ready)
            .unwrap_or_else(|error| panic!("{error}\n{}", agent.log_tail()));
    }

    /// Sends packets. Returns what has arrived: how often, and with which QFI.
    #[track_caller]
    pub(crate) fn send(&self, packets: Value) -> BTreeMap<String, (u64, Option<u64>)> {
        let lab = &self.lab;
        let world = json!({
            "gnb_netns": lab.gnb.path(), "dn_netns": lab.dn.path(),
            "pod_n3_mac": mac(&lab.pod, "net1").expect("a MAC"), "pod_n6_mac": mac(&lab.pod, "net2").expect("a MAC"),
            "gnb_mac": mac(&lab.gnb, "n3").expect("a MAC"), "dn_mac": mac(&lab.dn, "n6").expect("a MAC"),
            "gnb": GNB.to_string(), "pod_n3": address(lab, "net1"), "server": SERVER.to_string(), "ue": UE,
            "teid": TEID, "peer_teid": PEER_TEID, "packets": packets,
        });
        // Debian's interpreter, which is the one that has Debian's scapy.
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", include_str!("traffic.py")]);
        python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = python.spawn().expect("python3 is installed");
        child.stdin.take().expect("stdin").write_all(world.to_string().as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaints} (Debian: python3-scapy)");
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(said["missing"], json!([]), "{said:#}\n{}", self.agent.log_tail());
        let seen = said["seen"].as_object().expect("what was seen");
        seen.iter()
            .map(|(name, it)| (name.clone(), (it["times"].as_u64().unwrap_or(0), it["qfi"].as_u64())))
            .collect()
    }

    /// Packets that were dropped for this reason, on both networks.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        let status = self.lab.status().expect("a status");
        let networks = status["networks"].as_array().cloned().unwrap_or_default();
        networks.iter().filter_map(|it| it["counters"][reason]["packets"].as_u64()).sum()
    }
}

pub(crate) fn address(lab: &Lab, interface: &str) -> String {
    let addresses = addresses(&lab.pod, interface).expect("an interface");
    addresses[0].split('/').next().unwrap_or_default().to_owned()
}

pub(crate) fn filter(description: &str) -> Vec<SdfFilter> {
    vec![SdfFilter { flow_description: description.to_owned(), ..SdfFilter::default() }]
}

/// FARs 1 to the data network, 2 to the gNB, 3 nowhere.
pub(crate) fn fars() -> Vec<Far> {
    let to = |interface: Interface, network: &str, outer_header_creation| {
        let (destination_interface, network_instance) = (interface.into(), network.to_owned());
        let send_end_marker = false;
        Some(ForwardingParameters {
            destination_interface,
            network_instance,
            outer_header_creation,
            send_end_marker,
        })
    };
    let outer = OuterHeaderCreation { teid: PEER_TEID, address: GNB.to_string() };
    let far = |id, action: ApplyAction, forwarding_parameters| Far {
        id,
        apply_action: action.into(),
        forwarding_parameters,
        ..Far::default()
    };
    vec![
        far(1, ApplyAction::Forw, to(Interface::Core, "core/n6", None)),
        far(2, ApplyAction::Forw, to(Interface::Access, "core/n3", Some(outer))),
        far(3, ApplyAction::Drop, None),
    ]
}

/// A PDR from the access side.
pub(crate) fn up(id: u32, precedence: u32, far_id: u32, sdf_filters: Vec<SdfFilter>) -> Pdr {
    let pdi = Pdi {
        source_interface: Interface::Access.into(),
        network_instance: "core/n3".to_owned(),
        local_f_teid: Some(FTeid { teid: TEID, ..FTeid::default() }),
        ue_ip_addresses: vec![UE.to_owned()],
        sdf_filters,
        ..Pdi::default()
    };
    Pdr { id, precedence, pdi: Some(pdi), outer_header_removal: true, far_id, ..Pdr::default() }
}

/// A PDR from the core side.
pub(crate) fn down(id: u32, precedence: u32, far_id: u32, sdf_filters: Vec<SdfFilter>) -> Pdr {
    let pdi = Pdi {
        source_interface: Interface::Core.into(),
        network_instance: "core/n6".to_owned(),
        ue_ip_addresses: vec![UE.to_owned()],
        sdf_filters,
        ..Pdi::default()
    };
    Pdr { id, precedence, pdi: Some(pdi), far_id, ..Pdr::default() }
}

pub(crate) fn session(pdrs: Vec<Pdr>, qers: Vec<Qer>, urrs: Vec<Urr>) -> Session {
    Session { id: "ue-1".to_owned(), pdrs, fars: fars(), qers, urrs }
}

pub(crate) fn qfi(id: u32, qfi: u32) -> Qer {
    Qer { id, qfi: Some(qfi), ..Qer::default() }
}

/// Not measured, so that a test's last packet is sure to pass.
const TCP: &str = "permit out 6 from any to assigned";
pub(crate) const DNS: &str = "permit out 17 from any 53 to assigned";
const TELNET: &str = "permit out 6 from any 23 to assigned";

/// DNS in a flow of its own, one network and telnet nowhere, all else in the default flow.
fn by_precedence() -> Session {
    let other = format!("permit out ip from {OTHER}/32 to assigned");
    let nowhere = || [filter(TELNET), filter(&other)].concat();
    let flow = |pdr: Pdr, qer: u32| Pdr { qer_ids: vec![qer], ..pdr };
    session(
        vec![
            up(3, 300, 1, Vec::new()),
            up(1, 100, 1, filter(DNS)),
            up(2, 200, 3, nowhere()),
            flow(down(11, 100, 2, filter(DNS)), 5),
            down(12, 200, 3, nowhere()),
            flow(down(13, 300, 2, Vec::new()), 9),
        ],
        vec![qfi(5, 5), qfi(9, 9)],
        Vec::new(),
    )
}

#[test]
fn scapys_packets_go_by_filters_and_precedence() {
    let mut node = Node::new();
    node.forwards(&by_precedence());
    let seen = node.send(json!([
        { "way": "up", "name": "dns", "port": 53 },
        { "way": "up", "name": "dns to the other", "port": 53, "other": OTHER },
        { "way": "up", "name": "other", "port": 54, "other": OTHER },
        { "way": "up", "name": "telnet", "port": 23, "protocol": "tcp" },
        { "way": "up", "name": "udp 23", "port": 23 },
        { "way": "up", "name": "ping", "protocol": "icmp", "qfi": 1 },
        { "way": "down", "name": "answer", "port": 53 },
        { "way": "down", "name": "answer of the other", "port": 53, "other": OTHER },
        { "way": "down", "name": "from the other", "port": 54, "other": OTHER },
        { "way": "down", "name": "from telnet", "port": 23, "protocol": "tcp" },
        { "way": "down", "name": "esp", "protocol": "esp" },
        { "way": "up", "name": "last up" },
        { "way": "down", "name": "last down" },
    ]));
    let wanted = [
        ("dns", None),
        ("dns to the other", None),
        ("udp 23", None),
        ("ping", None),
        ("answer", Some(5)),
        ("answer of the other", Some(5)),
        ("esp", Some(9)),
        ("last up", None),
        ("last down", Some(9)),
    ];
    let wanted = wanted.map(|(name, qfi)| (name.to_owned(), (1, qfi)));
    assert_eq!(seen, BTreeMap::from(wanted));
    assert_eq!(node.dropped("session-drop"), 4);

    // Of the session that is left there is no rule for anything else.
    node.forwards(&session(vec![up(1, 1, 1, filter(DNS)), down(2, 1, 2, Vec::new())], vec![], vec![]));
    let seen = node.send(json!([
        { "way": "up", "name": "not dns" },
        { "way": "up", "name": "dns", "port": 53 },
        { "way": "down", "name": "all", "port": 23, "protocol": "tcp" },
    ]));
    assert_eq!(seen, BTreeMap::from([("dns".to_owned(), (1, None)), ("all".to_owned(), (1, None))]));
    assert_eq!(node.dropped("no-rule"), 1);

    // What an agent that is killed leaves is its successor's, without a rule too many.
    node.agent.kill().expect("killed");
    node.restart();
    let seen = node.send(json!([
        { "way": "up", "name": "not dns" },
        { "way": "up", "name": "dns", "port": 53 },
        { "way": "down", "name": "all" },
    ]));
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[test]
fn rules_that_are_wrong_are_refused_by_name_and_others_done() {
    let mut node = Node::new();
    let with = |id: &str, change: &dyn Fn(&mut Session)| {
        let mut session = Session { id: id.to_owned(), ..by_precedence() };
        // Each has a tunnel and a user of its own.
        change(&mut session);
        session
    };
    let wrong = [
        with("precedence", &|it| it.pdrs[1].precedence = 300),
        with("filter", &|it| it.pdrs[1].pdi.as_mut().expect("a PDI").sdf_filters = filter("permit out foo")),
        with("far", &|it| it.pdrs[0].far_id = 77),
        with("qer", &|it| it.pdrs[0].qer_ids = vec![78]),
        with("urr", &|it| it.pdrs[0].urr_ids = vec![79]),
        with("rate", &|it| it.qers[0].uplink_mbr = Some(0)),
        with("many", &|it| {
            let many = "permit out 17 from any 1,2,3,4,5 to assigned 1,2,3,4";
            it.pdrs[1].pdi.as_mut().expect("a PDI").sdf_filters = filter(many);
        }),
        by_precedence(),
    ];
    let refused = node.runtime.block_on(node.client.put(POD, 1, wrong)).expect("an answer");
    let said: Vec<_> = refused.iter().map(|it| (it.id.as_str(), it.message.as_str())).collect();
    let wanted = [
        ("precedence", "PDR 1: precedence: 300 is that of PDR 3, too"),
        ("filter", "\"permit out foo\": \"foo\" should be \"ip\" or a protocol number"),
        ("far", "PDR 3: far_id: there is no FAR 77"),
        ("qer", "PDR 3: qer_ids: there is no QER 78"),
        ("urr", "PDR 3: urr_ids: there is no URR 79"),
        ("rate", "QER 5: uplink_mbr: 0 should be 1 to 100000000 kbit/s"),
        ("many", "filters from one side"),
    ];
    assert_eq!(said.len(), wanted.len(), "{said:#?}");
    for ((id, message), (wanted_id, part)) in said.iter().zip(wanted) {
        assert!(*id == wanted_id && message.contains(part), "{id}: {message}, not {part}");
    }
    assert_eq!(node.runtime.block_on(node.client.list(POD)).expect("a list").len(), 1);
}

/// 20 packets fit the least burst, of 400 some, and what does not is counted.
#[test]
fn a_maximum_bit_rate_is_held_for_a_flow_and_for_the_session() {
    let mut node = Node::new();
    let slow = Qer { id: 1, downlink_mbr: Some(8), uplink_mbr: Some(8), ..Qer::default() };
    let measured = |pdr: Pdr| Pdr { qer_ids: vec![1], ..pdr };
    let flows = vec![
        up(5, 0, 1, filter(TCP)),
        measured(up(1, 1, 1, filter(DNS))),
        measured(up(2, 2, 1, Vec::new())),
        measured(down(3, 1, 2, filter(DNS))),
        down(4, 2, 2, Vec::new()),
    ];
    node.forwards(&session(flows, vec![slow], Vec::new()));
    let seen = node.send(json!([
        { "way": "up", "name": "flow", "port": 53, "length": 972, "times": 100 },
        { "way": "up", "name": "another of the session", "length": 972, "times": 100 },
        { "way": "down", "name": "flow down", "port": 53, "length": 972, "times": 100 },
        { "way": "down", "name": "not measured", "length": 972, "times": 100 },
        { "way": "up", "name": "last up", "protocol": "tcp" },
        { "way": "down", "name": "last down" },
    ]));
    let times = |name: &str| seen.get(name).map_or(0, |it| it.0);
    // 12,000 bytes at once, then 1,000 a second.
    assert!((12..=40).contains(&times("flow")), "{seen:?}");
    assert!(times("another of the session") < 30, "{seen:?}");
    assert!((12..=40).contains(&times("flow down")), "{seen:?}");
    assert_eq!(times("not measured"), 100);
    let passed = times("flow") + times("another of the session") + times("flow down");
    assert_eq!(node.dropped("rate-exceeded"), 300 - passed);
}

pub(crate) fn volume(total: u64) -> Option<VolumeLimit> {
    Some(VolumeLimit { total: Some(total), ..VolumeLimit::default() })
}

/// The next report of the watch.
fn next(node: &mut Node, watch: &mut tonic::Streaming<netplane_client::v1::WatchResponse>) -> UsageReport {
    let report = async {
        loop {
            let event = watch.message().await.expect("the watch goes on").expect("an event");
            if let Some(watch_response::Event::UsageReport(it)) = event.event {
                return it;
            }
        }
    };
    let limited = async { tokio::time::timeout(LIMIT, report).await };
    node.runtime.block_on(limited).expect("a report in time")
}

#[test]
fn usage_is_exact_reported_and_ends_at_its_quota() {
    let mut node = Node::new();
    // IP, UDP and the data.
    let bytes = 1000;
    let urr = Urr {
        id: 7,
        volume: true,
        volume_threshold: volume(10 * bytes),
        volume_quota: volume(24 * bytes),
        ..Urr::default()
    };
    let counted = |pdr: Pdr| Pdr { urr_ids: vec![7], ..pdr };
    let pdrs = vec![
        up(4, 0, 1, filter(TCP)),
        counted(up(1, 1, 1, Vec::new())),
        counted(down(2, 1, 2, filter(DNS))),
        down(3, 2, 2, Vec::new()),
    ];
    let mut used = session(pdrs, Vec::new(), vec![urr]);
    node.forwards(&used);
    let mut watch = node.runtime.block_on(node.client.watch(POD)).expect("a watch");
    let packets = |node: &Node, up: u64, down: u64| {
        node.send(json!([
            { "way": "up", "name": "up", "length": 972, "times": up },
            { "way": "down", "name": "down", "port": 53, "length": 972, "times": down },
            { "way": "up", "name": "last up", "protocol": "tcp" },
            { "way": "down", "name": "last down" },
        ]))
    };
    let volumes = |it: &UsageReport| {
        let (up, down) = (it.uplink.unwrap_or_default(), it.downlink.unwrap_or_default());
        ((up.packets, up.bytes), (down.packets, down.bytes))
    };
    packets(&node, 4, 5);
    packets(&node, 1, 0);
    let first = next(&mut node, &mut watch);
    assert_eq!((first.session_id.as_str(), first.urr_id, first.sequence), ("ue-1", 7, 0));
    assert_eq!(first.triggers().collect::<Vec<_>>(), [UsageTrigger::VolumeThreshold]);
    assert_eq!(volumes(&first), ((5, 5 * bytes), (5, 5 * bytes)));

    // Another ten: the threshold counts from the report. Then the quota, after which nothing passes.
    packets(&node, 10, 0);
    let second = next(&mut node, &mut watch);
    assert_eq!((second.sequence, volumes(&second).0), (1, (10, 10 * bytes)));
    let seen = packets(&node, 3, 0);
    assert_eq!(seen["up"].0, 3);
    let seen = packets(&node, 9, 5);
    let passed = seen.get("up").map_or(0, |it| it.0) + seen.get("down").map_or(0, |it| it.0);
    assert_eq!(passed, 1, "of 24 there were 23 used: {seen:?}");
    let last = next(&mut node, &mut watch);
    assert_eq!(last.triggers().collect::<Vec<_>>(), [UsageTrigger::VolumeQuota]);
    let of_both = volumes(&second).0.1 + volumes(&second).1.1 + volumes(&last).0.1 + volumes(&last).1.1;
    assert_eq!(of_both, 14 * bytes);
    assert_eq!(node.dropped("quota-exhausted"), 13);

    // A quota of another value is a new one.
    used.urrs[0].volume_quota = volume(100 * bytes);
    node.forwards(&used);
    assert_eq!(packets(&node, 3, 0)["up"].0, 3);

    // Killed and started anew, the agent goes on counting; what is left is told at the end.
    node.agent.kill().expect("killed");
    assert_eq!(packets(&node, 1, 1)["up"].0, 1);
    node.restart();
    let state = node.runtime.block_on(node.client.get(POD, "ue-1")).expect("the session");
    let in_all = volumes(&state.usage[0]);
    assert_eq!(in_all.0.0 + in_all.1.0, 29, "{state:?}");
    let mut watch = node.runtime.block_on(node.client.watch(POD)).expect("a watch");
    node.runtime.block_on(node.client.delete(POD, ["ue-1".to_owned()])).expect("deleted");
    let end = next(&mut node, &mut watch);
    assert_eq!(end.triggers().collect::<Vec<_>>(), [UsageTrigger::Termination]);
    assert_eq!(volumes(&end), ((4, 4 * bytes), (1, bytes)));
}

#[test]
fn teids_that_the_agent_gives_stay_and_are_no_sequence() {
    let mut node = Node::new();
    let plain = |number: u8| {
        let plain = Plain {
            ue: vec![format!("10.60.1.{number}")],
            access: "core/n3".to_owned(),
            data: "core/n6".to_owned(),
            ..Plain::default()
        };
        plain.session(format!("ue-{number}"))
    };
    let teids = |node: &mut Node| -> BTreeMap<String, u32> {
        let list = node.runtime.block_on(node.client.list(POD)).expect("a list");
        let teid =
            |it: &Session| it.pdrs[0].pdi.clone().and_then(|it| it.local_f_teid).unwrap_or_default().teid;
        list.into_iter().filter_map(|it| it.session).map(|it| (it.id.clone(), teid(&it))).collect()
    };
    let all = || (1..=200).map(plain);
    assert_eq!(node.runtime.block_on(node.client.put(POD, 1, all())).expect("an answer"), []);
    let given = teids(&mut node);
    let different: BTreeSet<u32> = given.values().copied().collect();
    assert!(different.len() == 200 && !different.contains(&0));
    // A bit that is always the same could be guessed.
    let (all_ones, any_ones) = different.iter().fold((u32::MAX, 0), |(and, or), it| (and & it, or | it));
    assert_eq!((all_ones, any_ones), (0, u32::MAX));
    assert_eq!(node.runtime.block_on(node.client.put(POD, 2, all())).expect("an answer"), []);
    assert_eq!(teids(&mut node), given);
    let mut both = plain(1);
    both.pdrs[0].pdi.as_mut().expect("a PDI").local_f_teid =
        Some(FTeid { teid: 7, choose: true, ..FTeid::default() });
    let refused = node.put(&both);
    assert!(refused[0].message.contains("is 0x7, should be 0 with choose"), "{refused:?}");
}

/// More rules than the tables hold: that session is refused and leaves nothing, the others are as they were.
#[test]
fn a_full_table_of_rules_is_an_error_of_its_session_only() {
    let mut node = Node::with(&["--max-rules", "3"]);
    let numbered = |number: u32| {
        let mut session = session(vec![up(1, 1, 1, filter(DNS)), up(2, 2, 1, Vec::new())], vec![], vec![]);
        session.id = format!("ue-{number}");
        for pdi in session.pdrs.iter_mut().filter_map(|it| it.pdi.as_mut()) {
            pdi.local_f_teid = Some(FTeid { teid: TEID + number, ..FTeid::default() });
            pdi.ue_ip_addresses = vec![format!("10.60.0.{}", number + 1)];
        }
        session
    };
    let mut plain = numbered(2);
    plain.pdrs.truncate(1);
    plain.pdrs[0].pdi.as_mut().expect("a PDI").sdf_filters.clear();
    let batch = [numbered(0), numbered(1), plain];
    let refused = node.runtime.block_on(node.client.put(POD, 1, batch)).expect("an answer");
    assert_eq!(
        refused.iter().map(|it| (it.id.as_str(), it.code)).collect::<Vec<_>>(),
        [("ue-1", Code::ResourceExhausted)]
    );
    let seen = node.send(json!([
        { "way": "up", "name": "dns", "port": 53 },
        { "way": "up", "name": "rest" },
    ]));
    assert_eq!(seen.len(), 2, "{seen:?}");
    node.runtime.block_on(node.client.delete(POD, ["ue-0".to_owned()])).expect("deleted");
    assert_eq!(node.put(&numbered(1)), [], "what was refused has left nothing");
}

#[test]
fn a_bulk_load_survives_an_agent_and_a_client_that_go_in_the_middle() {
    let mut node = Node::new();
    const SESSIONS: u32 = 6000;
    let plain = |number: u32| {
        let ue = vec![std::net::Ipv4Addr::from(0x0a3c_0001 + number).to_string()];
        let (access, data) = ("core/n3".to_owned(), "core/n6".to_owned());
        let peer = GNB.to_string();
        Plain { ue, access, data, teid: 0x10_0000 + number, peer, peer_teid: 1 + number, ..Plain::default() }
            .session(format!("ue-{number}"))
    };
    // The agent is killed when half is on its way.
    let victim = node.agent.id();
    let half = (0..SESSIONS).map(plain).inspect(move |it| {
        if it.id == format!("ue-{}", SESSIONS / 2) {
            let pid = nix::unistd::Pid::from_raw(victim.cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
        }
    });
    let broken = node.runtime.block_on(node.client.put(POD, 1, half));
    assert!(broken.is_err(), "{broken:?}");
    node.restart();
    let known = node.runtime.block_on(node.client.describe(POD)).expect("a pod");
    assert!((1..SESSIONS).contains(&known.sessions), "{} are left", known.sessions);
    assert_eq!(
        node.runtime.block_on(node.client.put(POD, 1, (0..SESSIONS).map(plain))).expect("an answer"),
        []
    );
    let known = node.runtime.block_on(node.client.describe(POD)).expect("a pod");
    assert_eq!(known.sessions, SESSIONS);

    // A client goes in the middle of what it wanted, and the next one wants something else.
    let (gone, goes) = tokio::sync::oneshot::channel();
    let mut gone = Some(gone);
    let half = (0..SESSIONS).map(plain).inspect(move |it| {
        if it.id == format!("ue-{}", SESSIONS / 2) {
            gone.take().map(|it| it.send(()));
        }
    });
    let mut client = node.client.clone();
    node.runtime.block_on(async {
        tokio::select! {
            done = client.put(POD, 2, half) => panic!("it is through: {done:?}"),
            _ = goes => {}
        }
    });
    node.restart_client();
    let wanted = |it: &u32| it.is_multiple_of(3);
    let next = (0..SESSIONS).filter(wanted).map(plain);
    assert_eq!(node.runtime.block_on(node.client.put(POD, 3, next)).expect("an answer"), []);
    let removed = node.runtime.block_on(node.client.sweep(POD, 3)).expect("swept");
    assert_eq!(removed, SESSIONS - SESSIONS / 3);
    let left = node.runtime.block_on(node.client.list(POD)).expect("a list");
    assert!(left.iter().all(|it| it.generation == 3 && it.state() != State::NotProgrammed));
    assert_eq!(left.len() as u32, SESSIONS / 3);
}

#[test]
fn a_watch_tells_of_messages_to_the_pods_endpoints() {
    let mut node = Node::new();
    node.forwards(&by_precedence());
    let mut watch = node.runtime.block_on(node.client.watch(POD)).expect("a watch");
    let local = address(&node.lab, "net1");
    node.send(json!([
        { "way": "gtpu", "type": 255, "teid": 0x7777, "elements": "450000140000400040110000" },
        { "way": "gtpu", "type": 254, "teid": TEID },
        // TEID Data I, and GTP-U Peer Address.
        { "way": "gtpu", "type": 26, "teid": 0, "sequence": 9, "elements": "10000020018500040a1e000a" },
        { "way": "gtpu", "type": 2, "teid": 0, "sequence": 9, "elements": "0e00" },
        { "way": "up", "name": "last up" },
        { "way": "down", "name": "last down" },
    ]));
    let mut told = BTreeSet::new();
    while told.len() < 4 {
        let event = node.runtime.block_on(async { tokio::time::timeout(LIMIT, watch.message()).await });
        let event = event.expect("events in time").expect("the watch goes on").expect("an event").event;
        let Some(watch_response::Event::Gtpu(it)) = event else { continue };
        assert_eq!((it.network_instance.as_str(), &it.local_address), ("core/n3", &local));
        assert_eq!(it.peer_address, GNB.to_string());
        told.insert((it.kind() as i32, it.teid));
    }
    let wanted = [
        (GtpuEventKind::UnknownTeid as i32, 0x7777),
        (GtpuEventKind::EndMarker as i32, TEID),
        (GtpuEventKind::ErrorIndication as i32, 0x2001),
        (GtpuEventKind::EchoResponse as i32, 0),
    ];
    assert_eq!(told, BTreeSet::from(wanted));
}
