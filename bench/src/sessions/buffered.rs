//! What the agent takes for packets of an idle user: to keep them, and to give them back.

use super::{POOL, name, session, ue};
use crate::lab::cni::addresses;
use crate::lab::{GNB, Lab, Process, SERVER, wait_for};
use anyhow::{Context, Result, ensure};
use netplane_client::Client;
use netplane_client::v1::{ApplyAction, State};
use std::net::UdpSocket;
use std::time::Duration;
use tokio::runtime::Runtime;

const LIMIT: Duration = Duration::from_secs(60);
/// Packets that are sent together: less than the kernel's buffers for the agent hold.
const BURST: u32 = 64;
/// The user's packet, with IP and UDP.
const LENGTH: usize = 128;

/// Microseconds of the agent's CPU for each packet.
#[derive(Clone, Copy, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Buffered {
    pub packets: u32,
    pub kept_us: f64,
    pub released_us: f64,
}

/// Lets the first session of the first pod fall idle, sends it packets, and wakes it up.
///
/// # Errors
/// A packet is not kept, or not released.
pub(super) fn measure(
    lab: &Lab,
    agent: &Process,
    (runtime, client): (&Runtime, &mut Client),
    packets: u32,
) -> Result<Buffered> {
    let addresses = addresses(&lab.pod, "net2")?;
    let n6 = addresses.first().and_then(|it| it.split('/').next()).context("no address")?;
    lab.dn.ip(&format!("route replace {POOL} via {n6}"))?;
    let awake = session(0, super::FIRST_PEER_TEID);
    let mut idle = awake.clone();
    let to_user = |it: &&mut netplane_client::v1::Far| {
        it.forwarding_parameters.as_ref().is_some_and(|it| it.outer_header_creation.is_some())
    };
    idle.fars.iter_mut().find(to_user).context("no tunnel")?.apply_action = ApplyAction::Buff.into();
    // So that its kernel says nothing of a port.
    let _gnb = lab.gnb.run(|| UdpSocket::bind((GNB, 2152)))??;
    let server = lab.dn.run(|| UdpSocket::bind((SERVER, 0)))??;
    let mut put = |wanted: &netplane_client::v1::Session| -> Result<()> {
        let refused = runtime.block_on(client.put(&name(0), 1, [wanted.clone()]))?;
        ensure!(refused.is_empty(), "{refused:?}");
        Ok(())
    };
    let kept = || -> Result<u64> { Ok(lab.status()?["programmed"]["bufferedPackets"].as_u64().unwrap_or(0)) };
    put(&awake)?;
    put(&idle)?;
    let before = cpu_ns(agent)?;
    for burst in 0..packets.div_ceil(BURST) {
        for _ in 0..BURST.min(packets - burst * BURST) {
            server.send_to(&[0; LENGTH - 28], (ue(0), 9))?;
        }
        // A status costs the agent as much as many packets: time is cheaper.
        std::thread::sleep(Duration::from_millis(1));
    }
    let all = || Ok((kept()? == u64::from(packets)).then_some(()));
    wait_for("all packets are kept", LIMIT, all)
        .with_context(|| format!("{} of {packets}\n{}", kept().unwrap_or(0), agent.log_tail()))?;
    let keeping = cpu_ns(agent)? - before;
    let before = cpu_ns(agent)?;
    put(&awake)?;
    wait_for("all packets are released", LIMIT, || Ok((kept()? == 0).then_some(())))?;
    let releasing = cpu_ns(agent)? - before;
    let state = runtime.block_on(client.get(&name(0), "0"))?;
    ensure!(state.state() == State::Forwarding, "{state:?}");
    let sent = state.downlink.unwrap_or_default().packets;
    ensure!(sent >= u64::from(packets), "{sent} of {packets} packets were forwarded");
    let each = |ns: u64| ns as f64 / 1e3 / f64::from(packets);
    Ok(Buffered { packets, kept_us: each(keeping), released_us: each(releasing) })
}

/// Time that all threads of a process have run, in nanoseconds: the first number of each one's schedstat.
fn cpu_ns(process: &Process) -> Result<u64> {
    let folder = format!("/proc/{}/task", process.id());
    let mut sum = 0;
    for task in std::fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
        // A thread that has ended meanwhile has none.
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        sum +=
            text.split(' ').next().and_then(|it| it.parse::<u64>().ok()).context("no time in schedstat")?;
    }
    Ok(sum)
}
