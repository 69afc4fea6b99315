//! End Markers on a path switch: the old gNB gets one, after its last packet, and the new one none.

use crate::agent::{LIMIT, N3, forwarding, lab, problems, until};
use crate::sessions::POD;
use crate::tc::attach_pod;
use netplane_bench::lab::capture::Capture;
use netplane_bench::lab::tshark::{CHECKSUM_GOOD, Dissection, dissect};
use netplane_bench::lab::{GNB, Lab, SERVER, wait_for};
use netplane_client::v1::Session;
use netplane_client::{Client, Plain};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Another gNB on the same wire.
const NEW: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 11);
const USER: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 1);
const DOWNLINK: &str = r#""downlink": { "peer": "10.30.0.10", "teid": "0x2001", "qfi": 9 }"#;
const G_PDU: u8 = 0xff;
const END_MARKER: u8 = 0xfe;

fn n3(downlink: &str) -> String {
    let nad = N3.replace(DOWNLINK, &format!("\"downlink\": {{ {downlink}, \"qfi\": 9 }}"));
    assert_ne!(nad, N3);
    nad
}

/// A gNB that takes whatever comes, and remembers the message and the TEID.
struct Gnb<'s> {
    seen: &'s Mutex<BTreeSet<(u8, u32)>>,
}

impl<'s> Gnb<'s> {
    fn start<'a>(
        scope: &'a std::thread::Scope<'a, '_>,
        (lab, address): (&Lab, Ipv4Addr),
        (seen, ended): (&'a Mutex<BTreeSet<(u8, u32)>>, &'a AtomicBool),
    ) -> Gnb<'a> {
        let bound = lab.gnb.run(|| UdpSocket::bind((address, 2152)));
        let socket = bound.expect("the namespace").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        scope.spawn(move || {
            let mut buffer = [0; 2048];
            while !ended.load(Ordering::Relaxed) {
                let length = socket.recv(&mut buffer).unwrap_or(0);
                if let [_, message, _, _, a, b, c, d, ..] = buffer[..length] {
                    seen.lock().expect("no panic").insert((message, u32::from_be_bytes([a, b, c, d])));
                }
            }
        });
        Gnb { seen }
    }

    /// Waits for a message of this type and TEID.
    fn receives(&self, message: u8, teid: u32) {
        let probe = || Ok(self.seen.lock().expect("no panic").contains(&(message, teid)).then_some(()));
        wait_for(&format!("message {message:#x} of TEID {teid:#x}"), LIMIT, probe).expect("received");
    }
}

/// The user is sent packets all the time while `during` runs with the old and the new gNB.
fn with_traffic(lab: &Lab, during: impl FnOnce(&Gnb<'_>, &Gnb<'_>)) {
    let socket = lab.dn.run(|| UdpSocket::bind((SERVER, 0))).expect("the namespace").expect("a socket");
    let ended = AtomicBool::new(false);
    let seen = [Mutex::default(), Mutex::default()];
    std::thread::scope(|scope| {
        let end = End(&ended);
        let old = Gnb::start(scope, (lab, GNB), (&seen[0], &ended));
        let new = Gnb::start(scope, (lab, NEW), (&seen[1], &ended));
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let _lost = socket.send_to(&[0; 100], (USER, 9));
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        during(&old, &new);
        drop(end);
    });
}

/// Ends the traffic, also on a panic.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_old_gnb_gets_one_end_marker_after_its_last_packet() {
    let lab = lab();
    lab.gnb.ip(&format!("address add {NEW}/24 dev n3")).expect("another gNB");
    let upf = attach_pod(&lab);
    let agent = lab.start_agent().expect("an agent");
    until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
    let capture = Capture::start(&lab.gnb, "n3").expect("a capture");
    with_traffic(&lab, |old, new| {
        old.receives(G_PDU, 0x2001);
        // It is asked for with the switch.
        let switched = n3(r#""peer": "10.30.0.11", "teid": "0x3001", "endMarker": true"#);
        lab.write_nad("n3.yaml", switched.as_bytes()).expect("a NAD");
        new.receives(G_PDU, 0x3001);
        old.receives(END_MARKER, 0x2001);
        // Another tunnel of the same gNB is another path.
        let switched = n3(r#""peer": "10.30.0.11", "teid": "0x3002", "endMarker": true"#);
        lab.write_nad("n3.yaml", switched.as_bytes()).expect("a NAD");
        new.receives(END_MARKER, 0x3001);
        new.receives(G_PDU, 0x3002);
        // And one where nobody asks.
        let switched = n3(r#""peer": "10.30.0.10", "teid": "0x2003""#);
        lab.write_nad("n3.yaml", switched.as_bytes()).expect("a NAD");
        old.receives(G_PDU, 0x2003);
    });
    assert_eq!(problems(&lab.status().expect("a status")), Vec::<String>::new());
    let frames: Vec<_> = capture.stop().expect("frames").into_iter().filter(|it| !it.outgoing).collect();
    let fields = dissect(&frames, &lab.folder().join("end-marker.pcap")).expect("tshark");
    let tunnel = |peer: Ipv4Addr, teid: u32| -> Vec<&Dissection> {
        let is_its = |it: &&Dissection| {
            let number = it.first("gtp.teid").trim_start_matches("0x");
            it.first("ip.dst") == peer.to_string() && u32::from_str_radix(number, 16) == Ok(teid)
        };
        fields.iter().filter(is_its).collect()
    };
    for (peer, teid, markers) in [(GNB, 0x2001, 1), (NEW, 0x3001, 1), (NEW, 0x3002, 0), (GNB, 0x2003, 0)] {
        let seen = tunnel(peer, teid);
        let messages: Vec<_> = seen.iter().map(|it| it.first("gtp.message")).collect();
        assert!(messages.contains(&"0xff"), "{peer} {teid:#x}: {messages:?}");
        let at: Vec<_> = (0..messages.len()).filter(|it| messages[*it] == "0xfe").collect();
        assert_eq!(at.len(), markers, "{peer} {teid:#x}: {messages:?}");
        for at in at {
            assert_eq!(at + 1, messages.len(), "{peer} {teid:#x}: packets come after it: {messages:?}");
            let marker = seen[at];
            assert_eq!(marker.first("ip.src"), upf.to_string());
            assert_eq!((marker.first("gtp.length"), marker.first("udp.dstport")), ("0", "2152"));
            assert_eq!(marker.first("udp.checksum.status"), CHECKSUM_GOOD);
            assert_eq!(marker.all("_ws.malformed"), "");
        }
    }
    agent.terminate().expect("a clean end");
}

#[test]
fn a_session_of_the_api_asks_for_one_with_its_switch() {
    let lab = lab();
    lab.gnb.ip(&format!("address add {NEW}/24 dev n3")).expect("another gNB");
    attach_pod(&lab);
    let agent = lab.start_agent().expect("an agent");
    until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
    let plain = |peer: Ipv4Addr, peer_teid| Plain {
        ue: vec!["10.60.0.9".to_owned()],
        access: "core/n3".to_owned(),
        data: "core/n6".to_owned(),
        teid: 0x1009,
        peer: peer.to_string(),
        peer_teid,
        ..Plain::default()
    };
    let asking = |peer, peer_teid| {
        let mut session = plain(peer, peer_teid).session("ue-9");
        let parameters = session.fars.iter_mut().filter_map(|it| it.forwarding_parameters.as_mut());
        parameters.for_each(|it| it.send_end_marker = true);
        session
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let put = |session: Session| {
        let socket = lab.session_folder().join("sessions.sock");
        let put = async { Client::connect(socket).await?.put(POD, 1, [session]).await };
        assert_eq!(runtime.block_on(put).expect("an answer"), []);
    };
    with_traffic(&lab, |old, new| {
        put(asking(GNB, 0x4001));
        put(asking(NEW, 0x5001));
        old.receives(END_MARKER, 0x4001);
        put(asking(GNB, 0x4002));
        new.receives(END_MARKER, 0x5001);
        // Where nobody asks there is none; and the next one that is asked for comes after it would have.
        put(plain(NEW, 0x5002).session("ue-9"));
        put(asking(GNB, 0x4003));
        new.receives(END_MARKER, 0x5002);
        let seen = old.seen.lock().expect("no panic");
        assert!(!seen.contains(&(END_MARKER, 0x4002)), "{seen:?}");
    });
    agent.terminate().expect("a clean end");
}
