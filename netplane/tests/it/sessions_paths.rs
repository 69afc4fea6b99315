//! GTP-U paths on a whole node: gNBs that answer Echo Requests, fall silent and answer again, and what the UPF is told
//! of that.

use crate::agent::{LIMIT, until};
use crate::agent_metrics::{count, over_socket};
use crate::sessions::{POD, lab};
use crate::sessions_rules::{Node, PEER_TEID, TEID, address};
use netplane_bench::lab::{GNB, Lab};
use netplane_client::Plain;
use netplane_client::v1::{RemoteGtpuPeer, Session, WatchResponse, watch_response};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Another gNB on the same wire.
const NEW: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 11);

/// An interval with its spread, and the requests that have no answer.
const SILENCE: Duration = Duration::from_secs(90);

/// A gNB's GTP-U: what it is asked, and whether it answers.
struct Peer {
    socket: UdpSocket,
    answers: AtomicBool,
    ended: AtomicBool,
    /// Requests: when, from where, and the bytes.
    asked: Mutex<Vec<(Instant, SocketAddr, Vec<u8>)>>,
}

impl Peer {
    fn new(lab: &Lab, address: Ipv4Addr) -> Self {
        let socket =
            lab.gnb.run(|| UdpSocket::bind((address, 2152))).expect("the namespace").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let (answers, ended) = (AtomicBool::new(true), AtomicBool::new(false));
        Self { socket, answers, ended, asked: Mutex::default() }
    }

    fn serve(&self) {
        let mut buffer = [0; 256];
        while !self.ended.load(Ordering::Relaxed) {
            let Ok((length, from)) = self.socket.recv_from(&mut buffer) else { continue };
            self.asked.lock().expect("no panic").push((Instant::now(), from, buffer[..length].to_vec()));
            let [_, 1, _, _, _, _, _, _, a, b, ..] = buffer[..length] else { continue };
            if self.answers.load(Ordering::Relaxed) {
                // With Recovery, as TS 29.281 §7.2.2 has it.
                let response = [0x32, 2, 0, 6, 0, 0, 0, 0, a, b, 0, 0, 14, 0];
                self.socket.send_to(&response, from).expect("answered");
            }
        }
    }

    fn answers(&self, does: bool) {
        self.answers.store(does, Ordering::Relaxed);
    }

    fn sequences(&self) -> Vec<(Instant, u16)> {
        let asked = self.asked.lock().expect("no panic");
        asked.iter().map(|(at, _, it)| (*at, u16::from_be_bytes([it[8], it[9]]))).collect()
    }
}

/// Ends a gNB, also on a panic.
struct End<'p>(&'p Peer);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

fn asking(gtpu: &str) -> Lab {
    let lab = lab();
    lab.gnb.ip(&format!("addr add {NEW}/24 dev n3")).expect("another address");
    let path = lab.nad_dir().join("n3.yaml");
    let text = std::fs::read_to_string(&path).expect("a NAD");
    let changed = text.replacen("\"gtpu\": {", &format!("\"gtpu\": {{ {gtpu}, "), 1);
    assert_ne!(changed, text);
    lab.write_nad("n3.yaml", changed.as_bytes()).expect("a NAD");
    lab
}

fn session(number: u8, peer: Ipv4Addr) -> Session {
    let plain = Plain {
        ue: vec![format!("10.60.0.{number}")],
        access: "core/n3".to_owned(),
        data: "core/n6".to_owned(),
        teid: TEID + u32::from(number),
        peer: peer.to_string(),
        peer_teid: PEER_TEID + u32::from(number),
        ..Plain::default()
    };
    plain.session(format!("ue-{number}"))
}

/// Of the endpoint on N3.
fn paths(status: &Value) -> &Value {
    let endpoints = status["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    endpoints.iter().find(|it| it["network"] == "core/n3").map_or(&Value::Null, |it| &it["paths"])
}

/// The next event of a path: whether it has failed, and the peers.
#[track_caller]
fn next(
    node: &Node,
    watch: &mut tonic::Streaming<WatchResponse>,
    limit: Duration,
) -> (bool, Vec<RemoteGtpuPeer>) {
    let event = async {
        loop {
            let event = watch.message().await.expect("the watch goes on").expect("an event").event;
            match event {
                Some(watch_response::Event::UserPlanePathFailure(it)) => return (true, it.remote_gtpu_peers),
                Some(watch_response::Event::UserPlanePathRecovery(it)) => {
                    return (false, it.remote_gtpu_peers);
                }
                _ => {}
            }
        }
    };
    let limited = node.runtime.block_on(async { tokio::time::timeout(limit, event).await });
    limited.unwrap_or_else(|_| panic!("no event in {limit:?}\n{}", node.agent.log_tail()))
}

#[test]
fn gnbs_that_fall_silent_and_answer_again_are_told_of() {
    let lab = asking(r#""echoInterval": 60, "echoTimeout": 1, "echoRequests": 2"#);
    let mut node = Node::on(lab, &[]);
    let gnb = Peer::new(&node.lab, GNB);
    std::thread::scope(|scope| {
        let _end = End(&gnb);
        scope.spawn(|| gnb.serve());
        told(&mut node, &gnb);
    });
}

/// The peer on N3, as it is told.
fn remote(node: &Node, peer: Ipv4Addr) -> RemoteGtpuPeer {
    RemoteGtpuPeer {
        address: peer.to_string(),
        network_instance: "core/n3".to_owned(),
        local_address: address(&node.lab, "net1"),
    }
}

fn told(node: &mut Node, gnb: &Peer) {
    let mut watch = node.runtime.block_on(node.client.watch(POD)).expect("a watch");
    let sessions = [session(1, GNB), session(2, GNB), session(3, NEW)];
    assert_eq!(node.runtime.block_on(node.client.put(POD, 1, sessions)).expect("an answer"), []);
    // Nobody listens at the second: its kernel says so, which is no answer. Of the first nothing is said.
    let told = next(node, &mut watch, LIMIT);
    assert_eq!(told, (true, vec![remote(node, NEW)]));
    let status = until(&node.lab, &node.agent, "a path is up and one down", |it| {
        let paths = paths(it);
        paths["up"] == 1 && paths["unknown"] == 0 && paths["down"] == serde_json::json!(["10.30.0.11"])
    });
    assert_eq!(crate::agent::problems(&status), Vec::<String>::new());
    let described = node.runtime.block_on(node.client.describe(POD)).expect("a pod");
    let failed: BTreeMap<_, _> =
        described.endpoints.into_iter().map(|it| (it.network_instance, it.failed_peers)).collect();
    assert_eq!((&failed["core/n3"], &failed["core/n6"]), (&vec![NEW.to_string()], &Vec::new()));
    let metrics = over_socket(&node.lab);
    for (sample, value) in [
        (r#"netplane_gtpu_paths{network="core/n3",state="up"}"#, 1),
        (r#"netplane_gtpu_paths{network="core/n3",state="down"}"#, 1),
        (r#"netplane_gtpu_path_failures_total{network="core/n3"}"#, 1),
    ] {
        assert_eq!(count(&metrics, sample), value, "{sample}");
    }
    // What was asked is what the clauses say, from the endpoint's address; the pod's own port is free.
    let local: IpAddr = address(&node.lab, "net1").parse().expect("an address");
    {
        let asked = gnb.asked.lock().expect("no panic");
        let (_, from, message) = &asked[0];
        assert_eq!((from.ip(), asked.len()), (local, 1), "one answer is enough");
        assert_ne!(from.port(), 2152);
        assert_eq!((&message[..8], message.len()), (&[0x32, 1, 0, 4, 0, 0, 0, 0][..], 12));
    }
    node.lab.pod.run(|| UdpSocket::bind((local, 2152))).expect("the namespace").expect("the pod's own port");

    // The second one begins to answer.
    let second = Peer::new(&node.lab, NEW);
    std::thread::scope(|scope| {
        let _end = End(&second);
        scope.spawn(|| second.serve());
        assert_eq!(next(node, &mut watch, LIMIT), (false, vec![remote(node, NEW)]));
        silent_and_back(node, gnb, &mut watch);

        // Of a path that no session uses nothing is known, nor is it asked any more.
        node.runtime.block_on(node.client.delete(POD, ["ue-3".to_owned()])).expect("deleted");
        until(&node.lab, &node.agent, "one path is left", |it| paths(it)["up"] == 1);
        restarted(node, gnb, &mut watch);
    });
}

/// The first falls silent: after its interval it is asked so often, and then told of; and is told of again.
fn silent_and_back(node: &Node, gnb: &Peer, watch: &mut tonic::Streaming<WatchResponse>) {
    gnb.answers(false);
    assert_eq!(next(node, watch, SILENCE), (true, vec![remote(node, GNB)]));
    gnb.answers(true);
    assert_eq!(next(node, watch, LIMIT), (false, vec![remote(node, GNB)]));
    let asked = gnb.sequences();
    let mut new: Vec<(Instant, u16)> = Vec::new();
    for (at, sequence) in asked {
        if new.last().is_none_or(|it| it.1 != sequence) {
            new.push((at, sequence));
        }
    }
    assert_eq!(new.len(), 2, "{new:?}");
    let between = new[1].0 - new[0].0;
    assert!(between >= Duration::from_secs(59), "{between:?}: no more than one new request a minute");
}

/// An agent that starts anew knows nothing, and says nothing of those who answer.
fn restarted(node: &mut Node, gnb: &Peer, watch: &mut tonic::Streaming<WatchResponse>) {
    let before = gnb.sequences().len();
    node.agent.kill().expect("killed");
    node.restart();
    until(&node.lab, &node.agent, "the path is up", |it| paths(it)["up"] == 1);
    assert!(gnb.sequences().len() > before, "it was asked at once");
    *watch = node.runtime.block_on(node.client.watch(POD)).expect("a watch");
    let metrics = over_socket(&node.lab);
    assert_eq!(count(&metrics, r#"netplane_gtpu_path_failures_total{network="core/n3"}"#), 0);
    // Without the key nobody is asked.
    let path = node.lab.nad_dir().join("n3.yaml");
    let text = std::fs::read_to_string(&path).expect("a NAD");
    let plain = text.replacen("\"echoInterval\": 60, \"echoTimeout\": 1, \"echoRequests\": 2, ", "", 1);
    assert_ne!(plain, text);
    node.lab.write_nad("n3.yaml", plain.as_bytes()).expect("a NAD");
    until(&node.lab, &node.agent, "no paths", |it| paths(it).is_null());
}
