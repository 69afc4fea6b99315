//! Limits of sessions on a whole node: room in the tables, connections, and time.

use super::{Node, PEER_TEID, TCP, TEID, filter, next, session, up};
use crate::agent::LIMIT;
use crate::sessions::POD;
use netplane_bench::lab::{GNB, wait_for};
use netplane_client::v1::{Session, Urr, UsageReport, UsageTrigger};
use netplane_client::{Client, Plain};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixStream;
use tonic::Code;

/// One PDR a direction, no filter; the first is of the user whose packets scapy makes.
fn plain(number: u32, qfi: u32) -> Plain {
    Plain {
        ue: vec![format!("10.60.0.{}", number + 1)],
        access: "core/n3".to_owned(),
        data: "core/n6".to_owned(),
        teid: TEID + number,
        local: String::new(),
        peer: GNB.to_string(),
        peer_teid: PEER_TEID + number,
        qfi: Some(qfi),
    }
}

/// All that can be wrong with a session in one batch: each is refused for what is wrong with it, and the others of the
/// batch forward.
#[test]
fn a_full_table_of_sessions_is_an_error_of_those_that_do_not_fit() {
    let mut node = Node::with(&["--max-sessions", "3"]);
    let of = |number: u32| plain(number, 9).session(format!("ue-{number}"));
    let wrong = |id: &str, change: &dyn Fn(&mut Session)| {
        let mut session = Session { id: id.to_owned(), ..of(8) };
        change(&mut session);
        session
    };
    let twice = |it: &mut Session| {
        let more = netplane_client::v1::Pdr { id: 3, ..it.pdrs[1].clone() };
        it.pdrs.push(more);
    };
    let syntax = |it: &mut Session| {
        it.pdrs[0].pdi.as_mut().expect("a PDI").sdf_filters = filter("permit out 17 form any to assigned");
    };
    let batch = vec![
        of(0),
        wrong("precedence", &twice),
        of(1),
        wrong("network", &|it| it.pdrs[1].pdi.as_mut().expect("a PDI").network_instance = "core/n7".into()),
        wrong("filter", &syntax),
        of(2),
        of(3),
        plain(4, 9).session("no room"),
        // A change of one that is there takes no room.
        plain(0, 5).session("ue-0"),
    ];
    let refused = node.runtime.block_on(node.client.put(POD, 1, batch)).expect("an answer");
    let wanted = [
        ("precedence", Code::InvalidArgument, "PDR 3: precedence: 100 is that of PDR 2"),
        ("network", Code::NotFound, "core/n7"),
        ("filter", Code::InvalidArgument, "permit out 17 form any to assigned"),
        ("ue-3", Code::ResourceExhausted, "room for 3 sessions and they are taken (--max-sessions)"),
        ("no room", Code::ResourceExhausted, "room for 3 sessions and they are taken (--max-sessions)"),
    ];
    assert_eq!(refused.len(), wanted.len(), "{refused:#?}");
    for (it, (id, code, part)) in refused.iter().zip(wanted) {
        assert!(it.id == id && it.code == code && it.message.contains(part), "{it:?}, not {code:?} {part}");
    }
    node.forwards(&plain(0, 5).session("ue-0"));
    let packets = || json!([{ "way": "up", "name": "up" }, { "way": "down", "name": "down" }]);
    let seen = node.send(packets());
    assert_eq!((seen["up"], seen["down"]), ((1, None), (1, Some(5))), "{seen:?}");
    let listed = node.runtime.block_on(node.client.list(POD)).expect("a list");
    assert_eq!(listed.len(), 3, "{listed:#?}");

    // A place that is free again is the next one's, and those that stay do not notice.
    node.runtime.block_on(node.client.delete(POD, ["ue-1".to_owned()])).expect("deleted");
    assert_eq!(node.put(&of(3)), []);
    assert_eq!(node.send(packets())["down"], (1, Some(5)));
}

/// Nothing is measured here: an event is waited for, and what is asserted holds however long it takes.
#[test]
fn time_is_reported_by_period_and_threshold_and_ends_at_its_quota() {
    let mut node = Node::new();
    let urrs = vec![
        Urr { id: 1, volume: true, measurement_period: 1, ..Urr::default() },
        Urr { id: 2, duration: true, time_threshold: 1, ..Urr::default() },
        Urr { id: 3, duration: true, time_quota: 1, ..Urr::default() },
    ];
    let mut measured = up(1, 2, 1, Vec::new());
    measured.urr_ids = vec![1, 2, 3];
    let mut used = session(vec![up(2, 1, 1, filter(TCP)), measured], Vec::new(), urrs);
    node.forwards(&used);
    let mut watch = node.runtime.block_on(node.client.watch(POD)).expect("a watch");
    let packets = |node: &Node, times: u64| {
        let last = json!({ "way": "up", "name": "last", "protocol": "tcp" });
        let seen = node.send(json!([{ "way": "up", "name": "up", "times": times }, last]));
        seen.get("up").map_or(0, |it| it.0)
    };
    let triggers = |it: &UsageReport| it.triggers().collect::<Vec<_>>();

    // The period goes on without packets; time is measured from the first one on.
    let mut periods = Vec::new();
    for _ in 0..2 {
        let report = next(&mut node, &mut watch);
        assert_eq!((report.urr_id, triggers(&report)), (1, vec![UsageTrigger::Periodic]), "{report:?}");
        periods.push(report);
    }
    assert_eq!(packets(&node, 1), 1);
    let mut of_time = BTreeMap::new();
    while of_time.len() < 2 {
        let report = next(&mut node, &mut watch);
        match report.urr_id {
            1 => periods.push(report),
            urr => _ = of_time.entry(urr).or_insert(report),
        }
    }
    assert_eq!(triggers(&of_time[&2]), [UsageTrigger::TimeThreshold]);
    assert_eq!(triggers(&of_time[&3]), [UsageTrigger::TimeQuota]);
    assert!(of_time.values().all(|it| it.duration >= 1 && it.sequence == 0), "{of_time:?}");

    // Out of time, nothing passes nor counts; a quota of another value is a new one.
    assert_eq!(packets(&node, 3), 0);
    assert_eq!(node.dropped("quota-exhausted"), 3);
    used.urrs[2].time_quota = 3600;
    node.forwards(&used);
    assert_eq!(packets(&node, 2), 2);

    // No report of a period is missing, and together they have each packet once.
    let volume =
        |reports: &[UsageReport]| reports.iter().map(|it| it.uplink.unwrap_or_default().packets).sum::<u64>();
    while volume(&periods) < 3 {
        let report = next(&mut node, &mut watch);
        if report.urr_id == 1 {
            periods.push(report);
        }
    }
    assert_eq!(volume(&periods), 3);
    let sequences: Vec<_> = periods.iter().map(|it| it.sequence).collect();
    assert_eq!(sequences, (0..periods.len() as u32).collect::<Vec<_>>());
}

/// One that opens connections without end is not let in any more, and is again once they have gone.
#[test]
fn a_caller_has_no_more_connections_than_its_share() {
    let mut node = Node::new();
    let socket = node.lab.session_folder().join("sessions.sock");
    let describe = |node: &mut Node| node.runtime.block_on(node.client.describe(POD)).map(|it| it.pod);
    assert_eq!(describe(&mut node).expect("a pod"), POD);
    // With the client's there are as many as there may be: only the next one is closed, and at once.
    let mut held: Vec<_> = (0..32).map(|_| UnixStream::connect(&socket).expect("connected")).collect();
    let mut last = held.pop().expect("a connection");
    last.set_read_timeout(Some(LIMIT)).expect("a limit");
    let mut byte = [0];
    let closed = last.read(&mut byte);
    assert!(matches!(closed, Ok(0)), "{closed:?}");
    let refused = node.runtime.block_on(async {
        let mut client = Client::connect(&socket).await?;
        client.describe(POD).await
    });
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(describe(&mut node).expect("who is in stays in"), POD);

    drop(held);
    let runtime = &node.runtime;
    let again = || {
        let described = runtime.block_on(async {
            let mut client = Client::connect(&socket).await?;
            client.describe(POD).await
        });
        Ok(described.ok())
    };
    wait_for("a place", LIMIT, again).unwrap_or_else(|error| panic!("{error}\n{}", node.agent.log_tail()));
}
