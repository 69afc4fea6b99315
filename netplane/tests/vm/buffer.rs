//! Packets of an idle user whose networks are on VLAN devices: what is kept and released has its tag.

use super::masters::{NETWORKS, n3_addresses, n6_addresses, nad, vlans};
use netplane_bench::lab::cni::Sandbox;
use netplane_bench::lab::upf_pod::LIMIT;
use netplane_bench::lab::{GATEWAY, GNB, Lab, Process, SERVER, nads, wait_for};
use netplane_client::v1::{ApplyAction, Session, State};
use netplane_client::{Client, Plain};
use serde_json::json;
use std::net::UdpSocket;
use std::path::Path;
use tokio::runtime::Runtime;

const POD: &str = "core/upf-0";
const UE: &str = "10.60.0.1";
const PEER_TEID: u32 = 0x2001;

/// A client that waits for what it has asked for.
struct Upf<'l> {
    lab: &'l Lab,
    agent: &'l Process,
    runtime: Runtime,
    client: Client,
}

impl<'l> Upf<'l> {
    fn connect(lab: &'l Lab, agent: &'l Process) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let socket = lab.session_folder().join("sessions.sock");
        let client = runtime.block_on(Client::connect(socket)).expect("connected");
        Self { lab, agent, runtime, client }
    }

    fn put(&mut self, session: &Session) {
        let refused = self.runtime.block_on(self.client.put(POD, 1, [session.clone()])).expect("an answer");
        assert_eq!(refused, []);
    }

    fn forwards(&mut self, session: &Session) {
        self.put(session);
        let Self { runtime, client, agent, .. } = self;
        let ready = || {
            let state = runtime.block_on(client.get(POD, &session.id))?;
            Ok((state.state() == State::Forwarding).then_some(()))
        };
        wait_for("the session forwards", LIMIT, ready)
            .unwrap_or_else(|error| panic!("{error}\n{}", agent.log_tail()));
    }

    fn keeps(&self, packets: u64) {
        let probe = || Ok((self.lab.status()?["programmed"]["bufferedPackets"] == packets).then_some(()));
        wait_for("packets are kept", LIMIT, probe).unwrap_or_else(|error| {
            panic!("{error}\n{:#}\n{}", self.lab.status().unwrap_or_default(), self.agent.log_tail())
        });
    }
}

fn sessions() -> [Session; 2] {
    let plain = Plain {
        ue: vec![UE.to_owned()],
        access: "core/n3".to_owned(),
        data: "core/n6".to_owned(),
        teid: 0x1001,
        peer: GNB.to_string(),
        peer_teid: PEER_TEID,
        ..Plain::default()
    };
    let forwarding = plain.session("ue-1");
    let mut idle = forwarding.clone();
    let far = idle
        .fars
        .iter_mut()
        .find(|it| it.forwarding_parameters.as_ref().is_some_and(|it| it.outer_header_creation.is_some()));
    far.expect("a FAR with a tunnel").apply_action = ApplyAction::Buff.into();
    [forwarding, idle]
}

#[test]
fn packets_of_an_idle_user_on_vlans_are_kept_and_released_with_their_tags() {
    let lab = Lab::new(Path::new(env!("CARGO_BIN_EXE_netplane"))).expect("a lab");
    nads::apply(&lab, 3).expect("the default network");
    vlans(&lab, &lab.gnb, "n3", &format!("{GNB}/24")).expect("VLANs on N3");
    vlans(&lab, &lab.dn, "n6", &format!("{GATEWAY}/24")).expect("VLANs on N6");
    let (letter, _) = NETWORKS[0];
    // Untagged and on the other tag are the same addresses: answers must come by the VLAN.
    for (host, name, address) in [(&lab.gnb, "n3", GNB), (&lab.dn, "n6", GATEWAY)] {
        host.ip(&format!(
            "address del {address}/24 dev {name}\naddress del {address}/24 dev v{}",
            NETWORKS[1].0
        ))
        .expect("one way");
    }
    let data = json!({ "role": "data", "uePools": ["10.60.0.0/16"] });
    let n3 = nad("n3", &format!("n3{letter}"), &json!({ "role": "access" }), &n3_addresses());
    let n6 = nad("n6", &format!("n6{letter}"), &data, &n6_addresses());
    lab.write_nad("n3.yaml", &n3).expect("a NAD");
    lab.write_nad("n6.yaml", &n6).expect("a NAD");
    let container_id = format!("{}-sandbox", lab.pod.name());
    Sandbox { container_id, namespace: &lab.pod, networks: "n3, n6" }.add(&lab).expect("attached");
    lab.dn.ip("route add 10.60.0.0/16 via 10.40.0.50").expect("a route to the users");
    let agent = lab.start_agent().expect("an agent");
    let ready = || Ok(lab.status().ok().filter(|it| it["ready"] == true));
    wait_for("the agent knows its pods", LIMIT, ready).expect("ready");
    let mut upf = Upf::connect(&lab, &agent);
    let [forwarding, idle] = sessions();
    upf.forwards(&forwarding);
    upf.put(&idle);
    let gnb = lab.gnb.run(|| UdpSocket::bind((GNB, 2152))).expect("the namespace").expect("a socket");
    gnb.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let server = lab.dn.run(|| UdpSocket::bind((SERVER, 0))).expect("the namespace").expect("a socket");
    for number in 0_u32..20 {
        server.send_to(&number.to_be_bytes(), (UE, 9)).expect("sent");
    }
    upf.keeps(20);
    upf.forwards(&forwarding);
    upf.keeps(0);
    // The socket is behind the VLAN device: what comes without its tag never gets there.
    for number in 0_u32..20 {
        let mut buffer = [0; 2048];
        let length = gnb.recv(&mut buffer).expect("a packet in time");
        let word = |at: usize| u32::from_be_bytes(buffer[at..at + 4].try_into().expect("four bytes"));
        assert_eq!((word(4), word(length - 4)), (PEER_TEID, number));
    }
    agent.terminate().expect("the agent ends");
}
