//! Whether sessions forward: of some all over the table, users' packets go to the data network and come back, and
//! each session has counted its own.

use super::{POOL, name, ue};
use crate::lab::cni::addresses;
use crate::lab::endpoint::{Endpoint, EndpointConfig, Role, Teid, TunConfig, Tunnel};
use crate::lab::traffic::Host;
use crate::lab::traffic::ping::ping;
use crate::lab::users::{DATA_NETWORK, N6};
use crate::lab::{GNB, Lab, SERVER, UE_MTU, wait_for};
use anyhow::{Context, Result, ensure};
use netplane_client::Client;
use netplane_client::v1::State;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Users whose packets are sent.
pub(super) const SAMPLES: u32 = 64;
/// Echo requests of each.
pub(super) const PACKETS: u32 = 3;
const LIMIT: Duration = Duration::from_secs(30);

/// `SAMPLES` numbers below `sessions`, evenly spread, with the first and the last.
pub(super) fn samples(sessions: u32) -> Vec<u32> {
    let parts = SAMPLES.min(sessions).saturating_sub(1).max(1);
    let nth = |it: u32| u64::from(it) * u64::from(sessions - 1) / u64::from(parts);
    let mut numbers: Vec<u32> = (0..=parts).filter_map(|it| nth(it).try_into().ok()).collect();
    numbers.dedup();
    numbers
}

/// Sends for sessions of the first pod, each with its number, its TEID and the peer's. `counted` packets have gone in
/// each direction since a session was made, with these.
///
/// # Errors
/// A packet does not arrive, or a counter is wrong: says whose.
pub(super) fn forwards(
    lab: &Lab,
    runtime: &Runtime,
    client: &mut Client,
    sessions: &[(u32, u32, u32)],
    counted: u32,
) -> Result<()> {
    let address = |interface: &str| -> Result<Ipv4Addr> {
        let addresses = addresses(&lab.pod, interface)?;
        let address = addresses.first().and_then(|it| it.split('/').next()).context("no address")?;
        Ok(address.parse()?)
    };
    let (n3, n6) = (address("net1")?, address("net2")?);
    lab.dn.ip(&format!("route replace {POOL} via {n6}"))?;
    let tunnel = |&(number, teid, peer_teid): &(u32, u32, u32)| Tunnel {
        ue: ue(number),
        local_teid: Teid(peer_teid),
        peer: n3,
        peer_teid: Teid(teid),
        qfi: Some(9),
    };
    let tun = TunConfig {
        name: "ue0".to_owned(),
        mtu: UE_MTU,
        local: vec![POOL.parse()?],
        routes: vec![DATA_NETWORK, N6],
        source: sessions.first().map(|it| ue(it.0)),
    };
    let tunnels = sessions.iter().map(tunnel).collect();
    let config = EndpointConfig { role: Role::Gnb, local: GNB, tun, tunnels };
    let _gnb = lab.gnb.run(|| Endpoint::start(&config))??;
    for (number, teid, _) in sessions {
        let id = format!("{number:x}");
        let mut state = || runtime.block_on(client.get(&name(0), &id));
        wait_for("a session forwards", LIMIT, || Ok((state()?.state() == State::Forwarding).then_some(())))
            .with_context(|| format!("session {id}"))?;
        let from = Host { namespace: &lab.gnb, address: ue(*number) };
        let report = ping(from, SERVER, PACKETS, 100)?;
        ensure!(report.is_complete(), "session {id}, {} with TEID {teid:#x}: {report:?}", ue(*number));
        let state = state()?;
        let packets = [state.uplink, state.downlink].map(|it| it.unwrap_or_default().packets);
        ensure!(packets == [u64::from(counted); 2], "session {id} has counted {packets:?}, not {counted}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_all_over_the_table() {
        assert_eq!(samples(1), [0]);
        assert_eq!(samples(3), [0, 1, 2]);
        let many = samples(1_000_000);
        assert_eq!((many.len(), many.first(), many.last()), (64, Some(&0), Some(&999_999)));
    }
}
