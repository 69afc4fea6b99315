//! Masters whose device computes a checksum over each packet that it receives (`CHECKSUM_COMPLETE`).

use crate::agent::problems;
use crate::tc::{agent_in, attach_pod, lab_with};
use netplane_bench::lab::checksums::Watched;
use netplane_bench::lab::endpoint::Endpoint;
use netplane_bench::lab::traffic::{Host, ping, tcp};
use netplane_bench::lab::users::{gnb, users};
use netplane_bench::lab::{GNB, Lab, MTU, SERVER};

const PINGS: u32 = 50;

/// N3 through a VXLAN tunnel: the kernel has verified its outer UDP checksum by a sum over all bytes, which it
/// then says of the packets inside.
fn n3_by_vxlan(lab: &Lab) {
    let outer = MTU + 100;
    for (namespace, own, other) in [(&lab.node, 1, 2), (&lab.gnb, 2, 1)] {
        namespace
            .ip(&format!(
                "link set n3 down\nlink set n3 name under\nlink set under mtu {outer} up\n\
                 address flush dev under\naddress add 192.168.3.{own}/24 dev under\n\
                 link add n3 mtu {MTU} type vxlan id 3 dstport 4789 local 192.168.3.{own} remote 192.168.3.{other} \
                 udpcsum\nlink set n3 up"
            ))
            .expect("a tunnel");
    }
    lab.gnb.ip(&format!("address add {GNB}/24 dev n3")).expect("an address");
}

#[test]
fn sums_over_whole_packets_do_not_outlive_a_change() {
    let lab = lab_with("tc");
    n3_by_vxlan(&lab);
    let upf = attach_pod(&lab);
    let (agent, status) = agent_in(&lab, "tc");
    assert_eq!(problems(&status), Vec::<String>::new());
    let config = gnb(&users(3), upf);
    let _gnb = lab.gnb.run(|| Endpoint::start(&config)).expect("the namespace").expect("a gNB");
    let watched = Watched::start([(&lab.node, "n3"), (&lab.dn, "n6")]).expect("Linux 6.6 or newer");
    let user = Host { namespace: &lab.gnb, address: users(1)[0].ue };
    let server = Host { namespace: &lab.dn, address: SERVER };
    let trouble = || format!("{:#}\n{}", lab.status().unwrap_or_default(), agent.log_tail());

    let report = ping(user, SERVER, PINGS, 1000).expect("ping");
    assert!(report.is_complete(), "{report:?}\n{}", trouble());
    tcp::echo(user, server, 1 << 20).unwrap_or_else(|error| panic!("{error:#}\n{}", trouble()));
    let [into, out_of] = watched.seen().expect("counts");
    let enough = u64::from(PINGS) + 700;
    assert!(into.complete > enough, "the device does not compute sums: {into:?}");
    assert!(out_of.others > enough && out_of.complete == 0, "{out_of:?}, of {into:?}");
    agent.terminate().expect("a clean end");
}
