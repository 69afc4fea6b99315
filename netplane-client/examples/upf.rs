//! The user plane's side of a small UPF: programs users' sessions through the mounted socket, lets the agent choose
//! the F-TEIDs, limits one flow, and follows what happens. `cargo run -p netplane-client --example upf -- --help`.

use netplane_client::v1::{Qer, SdfFilter, Session, State, Urr, VolumeLimit, watch_response::Event};
use netplane_client::{Client, DEFAULT_SOCKET, Error, Plain};
use std::net::Ipv4Addr;

const HELP: &str = "upf [SOCKET [POD [USERS [FIRST_UE]]]]: in a pod, without POD; root of the node names one";

/// What the control plane would tell: here all users are behind one gNB.
const PEER: &str = "10.30.0.10";

fn plain(number: u32, first: Ipv4Addr) -> Plain {
    Plain {
        ue: vec![Ipv4Addr::from_bits(first.to_bits() + number).to_string()],
        access: "core/n3".to_owned(),
        data: "core/n6".to_owned(),
        // CHOOSE: the agent gives one.
        teid: 0,
        local: String::new(),
        peer: PEER.to_owned(),
        peer_teid: 0x2001 + number,
        qfi: Some(9),
    }
}

/// A plain session, with DNS in a flow of its own of at most 1 Mbit/s, and a report of each 10 MB.
fn with_rules(mut session: Session) -> Session {
    let mut dns = session.pdrs[1].clone();
    (dns.id, dns.precedence, dns.qer_ids) = (3, 10, vec![5]);
    let flow_description = "permit out 17 from any 53 to assigned".to_owned();
    dns.pdi.get_or_insert_default().sdf_filters =
        vec![SdfFilter { flow_description, ..SdfFilter::default() }];
    session.pdrs.push(dns);
    session.qers.push(Qer { id: 5, qfi: Some(5), downlink_mbr: Some(1000), ..Qer::default() });
    let volume_threshold = Some(VolumeLimit { total: Some(10_000_000), ..VolumeLimit::default() });
    session.urrs.push(Urr { id: 1, volume: true, volume_threshold, ..Urr::default() });
    session.pdrs.iter_mut().for_each(|it| it.urr_ids = vec![1]);
    session
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
async fn run(socket: &str, pod: &str, users: u32, first: Ipv4Addr) -> Result<(), Error> {
    let mut client = Client::connect(socket).await?;
    // Who am I, and what of mine has an earlier life left? Its sessions forward until the sweep.
    let known = client.describe(pod).await?;
    let generation = known.generation + 1;
    println!("pod {}: {} of {} sessions, generation {generation}", known.pod, known.sessions, known.quota);
    for endpoint in &known.endpoints {
        println!("  {} {} {}", endpoint.network_instance, endpoint.interface, endpoint.addresses.join(" "));
    }

    // Before the sessions, so that nothing is missed.
    let mut watch = client.watch(pod).await?;
    let mut sessions: Vec<_> = (0..users).map(|it| plain(it, first).session(format!("ue-{it}"))).collect();
    if let Some(it) = sessions.pop() {
        sessions.push(with_rules(it));
    }
    for refused in client.put(pod, generation, sessions).await? {
        println!("{}: {:?}: {}", refused.id, refused.code, refused.message);
    }
    println!("{} of an earlier life removed", client.sweep(pod, generation).await?);

    // The F-TEIDs are what the SMF tells the gNB.
    for state in client.list(pod).await? {
        let forwarding = state.state() == State::Forwarding;
        let Some(session) = state.session else { continue };
        let uplink = session.pdrs.first().and_then(|it| it.pdi.as_ref()?.local_f_teid.as_ref());
        let teid = uplink.map_or(0, |it| it.teid);
        println!("{}: TEID {teid:#x}, forwarding: {forwarding} {}", session.id, state.reason);
    }
    while let Some(happened) = watch.message().await? {
        match happened.event {
            // Too slow to take them all: look at all sessions again.
            Some(Event::Lost(events)) => println!("{events} events lost"),
            Some(Event::UsageReport(it)) => println!("{}: URR {}: {it:?}", it.session_id, it.urr_id),
            Some(other) => println!("{other:?}"),
            None => {}
        }
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "errors are for the person who waits")]
fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = |at: usize| arguments.get(at).map(String::as_str);
    let users = given(2).map_or(Ok(3), str::parse);
    let first = given(3).map_or(Ok(Ipv4Addr::new(10, 60, 0, 1)), str::parse);
    let (Ok(users), Ok(first), false) = (users, first, given(0).is_some_and(|it| it.starts_with('-'))) else {
        eprintln!("{HELP}");
        return std::process::ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(|it| it.to_string()).and_then(|it| {
        let run = run(given(0).unwrap_or(DEFAULT_SOCKET), given(1).unwrap_or(""), users, first);
        it.block_on(run).map_err(|it| it.to_string())
    });
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("upf: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
