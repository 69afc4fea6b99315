//! The kernel's pktgen as the benches' generator: its frames are the scenario's, all of them, and the fast path
//! forwards them.

use netplane_bench::lab::pair::{INTERFACE, Pair};
use netplane_bench::load::scenario::{Mac, Scenario};
use netplane_bench::load::sink::Sink;
use netplane_bench::load::template::Arrival;
use netplane_bench::load::{Generator, Kind, Load};
use netplane_bench::rates::{self, Cores, Direction, Effort, Plan, Subject};
use netplane_bench::report::model::Row;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const UPLINK: &str = include_str!("../../../bench/scenarios/uplink.yaml");
const DOWNLINK: &str = include_str!("../../../bench/scenarios/downlink.yaml");
const IMIX: &str = include_str!("../../../bench/scenarios/uplink-imix.yaml");

/// As docs/benchmarking.md tells a user to.
fn load_module() {
    let status = Command::new("modprobe").arg("pktgen").status().expect("modprobe runs");
    assert!(status.success(), "modprobe pktgen: {status}");
}

#[test]
fn its_frames_are_the_scenarios_and_nothing_of_it_stays() {
    load_module();
    let pair = Pair::new().expect("two namespaces");
    // At a rate that a guest without KVM can take.
    let load = Load { rate: Some(5_000.0), frames: Some(3_000), time: Duration::from_secs(60) };
    for text in [UPLINK, DOWNLINK, IMIX] {
        let mut scenario = Scenario::parse(text).expect("a scenario");
        scenario.ethernet.destination = Some(Mac([2, 0, 0, 0, 0, 9]));
        scenario.sessions = 100;
        let attach = || Sink::attach(INTERFACE, &scenario, Arrival::AsSent, true, false);
        let mut sink = pair.far.run(attach).expect("the namespace").expect("a sink");
        let send = || Generator::new(Kind::Pktgen, INTERFACE, &scenario)?.run(load);
        let sent = pair.near.run(send).expect("the namespace").expect("frames are sent");
        let received = sink.received().expect("a count");
        assert_eq!((sent.frames, received.frames), (3_000, 3_000), "{}", scenario.name);
        assert_eq!(sent.bytes, received.bytes, "{}", scenario.name);
        let by_session = sink.by_session().expect("counts");
        assert_eq!(by_session.iter().sum::<u64>(), 3_000, "{}", scenario.name);
        if text != IMIX {
            assert_eq!(by_session, vec![30; 100], "{}", scenario.name);
        }
        let devices = || std::fs::read_to_string("/proc/thread-self/net/pktgen/kpktgend_0");
        let devices = pair.near.run(devices).expect("the namespace").expect("pktgen's first thread");
        assert!(!devices.contains(INTERFACE), "{devices}");
    }
}

#[test]
fn the_fast_path_and_the_kernels_gtp_forward_it_and_every_frame_is_accounted_for() {
    load_module();
    let uplink = [Subject::Native, Subject::KernelGtp, Subject::BareRedirect];
    // Without KVM the verifier takes long for each agent, so netplane has one direction.
    for (direction, subjects) in
        [(Direction::Uplink, &uplink[..]), (Direction::Downlink, &[Subject::KernelGtp])]
    {
        let plan = Plan {
            netplane: PathBuf::from(env!("CARGO_BIN_EXE_netplane")),
            subjects: subjects.to_vec(),
            directions: vec![direction],
            sizes: vec![64],
            sessions: vec![100],
            generator: Kind::Pktgen,
            cores: Cores::of_this_machine().expect("CPUs"),
            effort: Effort { trial: Duration::from_millis(300), overloads: 1, steps: 0 },
        };
        // An error where sent is not received and what was counted as dropped.
        let rows = rates::run(&plan, |_| {}).expect("rates");
        for subject in subjects {
            let of_subject = |it: &&Row| it.subject == subject.name() && it.what == "overload";
            let passed = rows.iter().find(of_subject).and_then(Row::median);
            assert!(passed.is_some_and(|it| it > 0.0), "{}: {passed:?}", subject.name());
        }
    }
}
