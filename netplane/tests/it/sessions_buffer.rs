//! Packets of idle users on a whole node: they are kept, told of once, and released in order through the new tunnel;
//! all that are sent have arrived or are counted.

use crate::agent::{LIMIT, until};
use crate::sessions::{POD, lab};
use crate::sessions_rules::{DNS, Node, PEER_TEID, TEID, UE, down, filter, qfi, session, up, volume};
use netplane_bench::lab::{GNB, Lab, SERVER, wait_for};
use netplane_client::v1::{
    ApplyAction, DownlinkDataReport, FTeid, Session, Urr, WatchResponse, watch_response,
};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Another gNB on the same wire, and its tunnel.
const NEW: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 11);
const NEW_TEID: u32 = 0x3001;
pub(crate) const QFI: u32 = 9;

/// A data network that sends numbered packets to users, and a gNB that has two addresses.
struct Ends {
    server: UdpSocket,
    gnb: UdpSocket,
    new_gnb: UdpSocket,
}

impl Ends {
    fn new(lab: &Lab) -> Self {
        lab.gnb.ip(&format!("addr add {NEW}/24 dev n3")).expect("another address");
        let bind = |address: Ipv4Addr| {
            let socket =
                lab.gnb.run(|| UdpSocket::bind((address, 2152))).expect("the namespace").expect("a socket");
            socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(1 << 22))
                .expect("room");
            socket
        };
        let server = lab.dn.run(|| UdpSocket::bind((SERVER, 0))).expect("the namespace").expect("a socket");
        Self { server, gnb: bind(GNB), new_gnb: bind(NEW) }
    }

    /// Packets with these numbers, of so many bytes.
    fn send_to(&self, user: &str, numbers: std::ops::Range<u32>, length: usize) {
        for number in numbers {
            let mut payload = vec![0; length];
            payload[length - 4..].copy_from_slice(&number.to_be_bytes());
            self.server.send_to(&payload, (user, 9)).expect("sent");
        }
    }

    fn send(&self, numbers: std::ops::Range<u32>) {
        self.send_to(UE, numbers, 100);
    }
}

/// TEID and number of the next packet that arrives; `None` if there is none in time.
fn receive(socket: &UdpSocket) -> Option<(u32, u32)> {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).ok()?;
    let word = |at: usize| u32::from_be_bytes(buffer[at..at + 4].try_into().expect("four bytes"));
    Some((word(4), word(length - 4)))
}

/// The numbers of so many packets that arrive, all of them in this tunnel.
#[track_caller]
pub(crate) fn numbers(node: &Node, socket: &UdpSocket, teid: u32, count: usize) -> Vec<u32> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let Some((tunnel, number)) = receive(socket) else {
            let status = node.lab.status().unwrap_or_default();
            panic!("{numbers:?} of {count}\n{:#}\n{}", status["networks"], node.agent.log_tail());
        };
        assert_eq!(tunnel, teid, "number {number}");
        numbers.push(number);
    }
    numbers
}

/// One PDR a direction, whose packets to the user have a QFI and count.
pub(crate) fn plain() -> Session {
    let urr = Urr { id: 7, volume: true, volume_threshold: volume(1 << 40), ..Urr::default() };
    let mut to_user = down(2, 1, 2, Vec::new());
    (to_user.qer_ids, to_user.urr_ids) = (vec![QFI], vec![7]);
    session(vec![up(1, 1, 1, Vec::new()), to_user], vec![qfi(QFI, QFI)], vec![urr])
}

/// The same, idle.
pub(crate) fn idle() -> Session {
    with_action(plain(), ApplyAction::Buff)
}

fn with_action(mut session: Session, action: ApplyAction) -> Session {
    let far = &mut session.fars[1];
    far.apply_action = action.into();
    far.notify_cp = action == ApplyAction::Buff;
    if action != ApplyAction::Forw {
        far.forwarding_parameters = None;
    }
    session
}

/// The same with the tunnel to the other gNB.
fn moved() -> Session {
    let mut session = plain();
    let parameters = session.fars[1].forwarding_parameters.as_mut().expect("parameters");
    parameters.send_end_marker = true;
    let outer = parameters.outer_header_creation.as_mut().expect("a tunnel");
    (outer.teid, outer.address) = (NEW_TEID, NEW.to_string());
    session
}

/// Waits until so many packets are kept.
pub(crate) fn keeps(node: &Node, packets: u64) {
    let what = format!("{packets} packets are kept");
    until(&node.lab, &node.agent, &what, |it| it["programmed"]["bufferedPackets"] == packets);
}

/// Waits until so many were dropped for this reason.
fn drops(node: &Node, packets: u64, reason: &str) {
    let probe = || Ok((node.dropped(reason) == packets).then_some(()));
    wait_for(&format!("{packets} packets of {reason}"), LIMIT, probe)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", node.dropped(reason), node.agent.log_tail()));
}

/// The next report of downlink data, and whether there is another one before the session is put.
fn reports(node: &Node, watch: &mut tonic::Streaming<WatchResponse>) -> Vec<DownlinkDataReport> {
    let mut reports = Vec::new();
    loop {
        let event = node.runtime.block_on(async { tokio::time::timeout(LIMIT, watch.message()).await });
        match event.expect("events in time").expect("the watch goes on").expect("an event").event {
            Some(watch_response::Event::DownlinkData(it)) => reports.push(it),
            Some(watch_response::Event::Put(_)) => return reports,
            _ => {}
        }
    }
}

#[track_caller]
pub(crate) fn downlink(node: &mut Node) -> (u64, u64) {
    let state = node.runtime.block_on(node.client.get(POD, "ue-1")).expect("the session");
    let used = state.usage[0].downlink.unwrap_or_default();
    let forwarded = state.downlink.unwrap_or_default();
    assert_eq!((used.packets, used.bytes), (forwarded.packets, forwarded.bytes), "{state:?}");
    (forwarded.packets, forwarded.bytes)
}

/// Kept, told of once, and released in order to the new gNB, for which there is no neighbour yet.
fn idle_user_is_paged(lab: Lab) {
    let mut node = Node::on(lab, &[]);
    let ends = Ends::new(&node.lab);
    node.forwards(&plain());
    ends.send(0..10);
    assert_eq!(numbers(&node, &ends.gnb, PEER_TEID, 10), (0..10).collect::<Vec<_>>());

    assert_eq!(node.put(&idle()), []);
    let mut watch = node.runtime.block_on(node.client.watch(POD)).expect("a watch");
    ends.send(10..40);
    keeps(&node, 30);
    assert_eq!(downlink(&mut node).0, 10, "what is kept does not count yet");
    assert_eq!(node.put(&moved()), []);
    let told = reports(&node, &mut watch);
    let report = DownlinkDataReport { session_id: "ue-1".to_owned(), pdr_id: 2, qfi: Some(QFI), dscp: 0 };
    assert_eq!(told, [report]);
    assert_eq!(numbers(&node, &ends.new_gnb, NEW_TEID, 30), (10..40).collect::<Vec<_>>());
    keeps(&node, 0);
    node.forwards(&moved());
    ends.send(40..50);
    assert_eq!(numbers(&node, &ends.new_gnb, NEW_TEID, 10), (40..50).collect::<Vec<_>>());
    // The gNB that it was at gets one End Marker: a header and nothing else.
    assert_eq!(numbers(&node, &ends.gnb, PEER_TEID, 1), [PEER_TEID]);
    ends.gnb.set_nonblocking(true).expect("a socket");
    assert_eq!(receive(&ends.gnb), None);
    // Each once: 100 bytes behind UDP and IP.
    assert_eq!(downlink(&mut node), (50, 50 * 128));
    let dropped =
        ["not-buffered", "buffer-overflow", "buffer-discarded", "session-drop", "next-hop-unresolved"];
    assert_eq!(dropped.map(|it| node.dropped(it)), [0; 5]);
}

#[test]
fn packets_of_an_idle_user_are_told_of_once_and_released_in_order() {
    idle_user_is_paged(lab());
}

#[test]
fn packets_of_an_idle_user_are_kept_where_masters_are_on_tc() {
    let lab = lab();
    for name in ["n3.yaml", "n6.yaml"] {
        let path = lab.nad_dir().join(name);
        let text = std::fs::read_to_string(&path).expect("a NAD");
        let changed = text.replacen("\"role\":", "\"xdp\": \"tc\", \"role\":", 1);
        assert_ne!(changed, text);
        lab.write_nad(name, changed.as_bytes()).expect("a NAD");
    }
    idle_user_is_paged(lab);
}

/// Packets come all the time while the session goes idle and wakes up, again and again.
#[test]
fn all_packets_of_a_user_that_comes_and_goes_have_arrived() {
    let mut node = Node::with(&["--max-buffered-packets", "100000"]);
    let ends = Ends::new(&node.lab);
    node.forwards(&plain());
    let stop = AtomicBool::new(false);
    let (sent, received) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                ends.send(number..number + 1);
                number += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
            number
        });
        for _ in 0..10 {
            assert_eq!(node.put(&idle()), []);
            until(&node.lab, &node.agent, "some are kept", |it| {
                it["programmed"]["bufferedPackets"].as_u64() > Some(20)
            });
            node.forwards(&plain());
            keeps(&node, 0);
        }
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().expect("no panic");
        let received = numbers(&node, &ends.gnb, PEER_TEID, sent as usize);
        (sent, received)
    });
    let late = received.windows(2).filter(|it| it[0] > it[1]).count();
    // Only what comes in the very moment of a change may overtake.
    assert!(late <= 20, "{late} of {sent} packets are behind later ones");
    let mut sorted = received;
    sorted.sort_unstable();
    assert_eq!(sorted, (0..sent).collect::<Vec<_>>());
    assert_eq!(downlink(&mut node).0, u64::from(sent));
}

/// A second session, which is another user's.
fn other(mut session: Session) -> Session {
    session.id = "ue-2".to_owned();
    for pdi in session.pdrs.iter_mut().filter_map(|it| it.pdi.as_mut()) {
        pdi.ue_ip_addresses = vec!["10.60.0.2".to_owned()];
        pdi.local_f_teid = pdi.local_f_teid.take().map(|it| FTeid { teid: TEID + 1, ..it });
    }
    let tunnel =
        session.fars[1].forwarding_parameters.as_mut().and_then(|it| it.outer_header_creation.as_mut());
    tunnel.into_iter().for_each(|it| it.teid = PEER_TEID + 1);
    session
}

#[test]
fn a_full_buffer_drops_the_oldest_and_counts_them() {
    let mut node = Node::with(&["--max-buffered-packets", "20"]);
    let ends = Ends::new(&node.lab);
    node.forwards(&plain());
    assert_eq!(node.put(&idle()), []);
    assert_eq!(node.put(&other(idle())), []);
    ends.send(0..50);
    drops(&node, 30, "buffer-overflow");
    ends.send_to("10.60.0.2", 100..105, 100);
    keeps(&node, 25);
    node.forwards(&plain());
    assert_eq!(numbers(&node, &ends.gnb, PEER_TEID, 20), (30..50).collect::<Vec<_>>());
    node.forwards(&other(plain()));
    assert_eq!(numbers(&node, &ends.gnb, PEER_TEID + 1, 5), (100..105).collect::<Vec<_>>());

    // The control plane suggests less.
    let mut few = idle();
    few.fars[1].dl_buffering_suggested_packet_count = 5;
    assert_eq!(node.put(&few), []);
    ends.send(50..60);
    drops(&node, 35, "buffer-overflow");
    keeps(&node, 5);
    node.forwards(&plain());
    assert_eq!(numbers(&node, &ends.gnb, PEER_TEID, 5), (55..60).collect::<Vec<_>>());
}

#[test]
fn the_memory_for_all_sessions_is_bounded() {
    let mut node = Node::with(&["--max-buffered-packets", "10000", "--max-buffered-mib", "1"]);
    let ends = Ends::new(&node.lab);
    node.forwards(&plain());
    assert_eq!(node.put(&idle()), []);
    assert_eq!(node.put(&other(idle())), []);
    for round in 0..10 {
        ends.send_to(UE, round * 100..(round + 1) * 100, 1400);
        ends.send_to("10.60.0.2", round * 100..(round + 1) * 100, 1400);
        // In time: the kernel's own buffer is smaller.
        let all = u64::from(200 * (round + 1));
        let probe = || {
            let status = node.lab.status()?;
            let kept = status["programmed"]["bufferedPackets"].as_u64().unwrap_or(0);
            Ok((kept + node.dropped("buffer-overflow") == all).then_some(()))
        };
        wait_for("all packets are kept or counted", LIMIT, probe).expect("all");
    }
    let frame = 14 + 28 + 1400;
    let kept = (1 << 20) / frame;
    keeps(&node, kept);
    drops(&node, 2000 - kept, "buffer-overflow");
    // The oldest of both have gone.
    node.forwards(&plain());
    let first = receive(&ends.gnb).expect("a packet in time");
    assert!(first.0 == PEER_TEID && first.1 > 500, "{first:?}");
}

#[test]
fn what_is_not_released_is_counted() {
    let mut node = Node::with(&[]);
    let ends = Ends::new(&node.lab);
    node.forwards(&plain());
    // A FAR to DROP.
    assert_eq!(node.put(&idle()), []);
    ends.send(0..5);
    keeps(&node, 5);
    assert_eq!(node.put(&with_action(plain(), ApplyAction::Drop)), []);
    drops(&node, 5, "session-drop");
    // The session goes.
    assert_eq!(node.put(&idle()), []);
    ends.send(5..12);
    keeps(&node, 7);
    node.runtime.block_on(node.client.delete(POD, ["ue-1".to_owned()])).expect("deleted");
    drops(&node, 7, "buffer-discarded");
    // The agent ends, and another one comes.
    assert_eq!(node.put(&idle()), []);
    ends.send(12..20);
    keeps(&node, 8);
    node.agent.kill().expect("killed");
    ends.send(20..23);
    node.restart();
    drops(&node, 3, "not-buffered");
    ends.send(23..25);
    keeps(&node, 2);
    node.forwards(&plain());
    assert_eq!(numbers(&node, &ends.gnb, PEER_TEID, 2), [23, 24]);
}

/// DNS wakes the user up, all else is dropped meanwhile.
#[test]
fn pdrs_of_one_session_buffer_and_forward_side_by_side() {
    let mut node = Node::with(&[]);
    let ends = Ends::new(&node.lab);
    let mut two = session(
        vec![up(1, 1, 1, Vec::new()), down(2, 1, 3, filter(DNS)), down(3, 2, 2, Vec::new())],
        Vec::new(),
        Vec::new(),
    );
    node.forwards(&two);
    two.fars[2].apply_action = ApplyAction::Buff.into();
    assert_eq!(node.put(&two), []);
    let dns = node.lab.dn.run(|| UdpSocket::bind((SERVER, 53))).expect("the namespace").expect("a socket");
    for number in 0_u32..4 {
        dns.send_to(&number.to_be_bytes(), (UE, 9)).expect("sent");
        ends.send(100 + number..101 + number);
    }
    assert_eq!(numbers(&node, &ends.gnb, PEER_TEID, 4), [100, 101, 102, 103]);
    keeps(&node, 4);
    two.pdrs[1].far_id = 2;
    node.forwards(&two);
    assert_eq!(numbers(&node, &ends.gnb, PEER_TEID, 4), [0, 1, 2, 3]);

    // Neither is there anything to wake up for packets from the access side, nor to tell of others.
    let wrong = |change: &dyn Fn(&mut Session)| {
        let mut session = plain();
        change(&mut session);
        session
    };
    let buffers_up = wrong(&|it| it.fars[0].apply_action = ApplyAction::Buff.into());
    let tells = wrong(&|it| it.fars[1].notify_cp = true);
    let refused: Vec<_> =
        [buffers_up, tells].iter().flat_map(|it| node.put(it)).map(|it| it.message).collect();
    assert!(refused[0].contains("FAR 1: apply_action: BUFF is for PDRs from CORE"), "{refused:?}");
    assert!(refused[1].contains("FAR 2: notify_cp: is for apply_action BUFF"), "{refused:?}");
}
