//! GTP-U paths that are looked after (`gtpu.echoInterval`): which peers the sessions of an endpoint send to, and from
//! which of its addresses.

use super::compile::pod_name;
use super::endpoint::Endpoint;
use super::programmed::Programmed;
use super::{AttachmentKey, Compiled, World};
use crate::nad::NetworkName;
use crate::nad::fast_path::PathCheck;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// So many paths of one endpoint are looked after: more gNBs than a UPF has, and no more packets than one pod may
/// cause on a node.
pub const MOST_PEERS: usize = 4096;

/// The paths of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    pub network: NetworkName,
    /// As an endpoint names it: `pod core/upf-0`.
    pub pod: String,
    pub check: PathCheck,
    /// The endpoint's address by peer.
    pub peers: BTreeMap<IpAddr, IpAddr>,
    /// Peers that there is no room for.
    pub left_out: usize,
}

/// The paths in use: of a peer that no session sends to there is none.
pub fn wanted(world: &World, compiled: &Compiled, programmed: &Programmed) -> BTreeMap<AttachmentKey, Paths> {
    let mut wanted = BTreeMap::new();
    for (key, attachment) in &world.attachments {
        let Some(fast_path) = world.networks.get(&attachment.network) else { continue };
        let Some(check) = fast_path.gtpu.path_check else { continue };
        let Ok(Some(endpoint)) = Endpoint::find(world, key, attachment, fast_path) else { continue };
        let of_nads = compiled.peers.get(key).into_iter().flatten().copied();
        let all: BTreeSet<IpAddr> = of_nads.chain(programmed.peers(key)).collect();
        let all: Vec<_> =
            all.into_iter().filter_map(|peer| Some((peer, endpoint.local(peer).ok()?))).collect();
        let left_out = all.len().saturating_sub(MOST_PEERS);
        let paths = Paths {
            network: attachment.network.clone(),
            pod: pod_name(key, attachment),
            check,
            peers: all.into_iter().take(MOST_PEERS).collect(),
            left_out,
        };
        wanted.insert(key.clone(), paths);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nad::fast_path::FastPath;
    use crate::world::programmed::edit;
    use crate::world::tests::{name, session, world};
    use crate::world::{Slots, compile};
    use netplane_client::Plain;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn peers_of_both_kinds_of_sessions_are_asked_for_as_long_as_they_are_used() {
        let mut world = world(&[]);
        let n3 = |gtpu: &str| {
            let relay = r#"{"name":"n9","uplink":{"teid":7,"relay":{"network":"core/n3","peer":"10.30.0.12","teid":9}}}"#;
            let text = format!(
                r#"{{"role":"access","gtpu":{gtpu},"sessions":[{},{},{relay}]}}"#,
                session(1),
                session(2)
            );
            FastPath::parse(&text).expect("a network")
        };
        world.networks.insert(name("core/n3"), n3("{}"));
        let mut slots = Slots::default();
        let compiled = compile(&world, &mut slots);
        let mut programmed = Programmed::default();
        assert_eq!(wanted(&world, &compiled, &programmed), BTreeMap::new(), "nobody wants it");

        world.networks.insert(name("core/n3"), n3(r#"{"echoInterval":60}"#));
        let compiled = compile(&world, &mut slots);
        let peers = |programmed: &Programmed| {
            let wanted = wanted(&world, &compiled, programmed);
            let (key, paths) = wanted.first_key_value().expect("an endpoint");
            assert_eq!(
                (wanted.len(), key.interface.as_str(), paths.pod.as_str()),
                (1, "net1", "pod core/upf-0")
            );
            assert!(paths.peers.values().all(|it| *it == address("10.30.0.50")), "{paths:?}");
            paths.peers.keys().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(peers(&programmed), ["10.30.0.10", "10.30.0.12"]);

        let plain = |number: u8, peer: &str| Plain {
            ue: vec![format!("10.60.9.{number}")],
            access: "core/n3".to_owned(),
            data: "core/n6".to_owned(),
            teid: 0x9000 + u32::from(number),
            peer: peer.to_owned(),
            peer_teid: 1,
            ..Plain::default()
        };
        let mut put = |programmed: &mut Programmed, number: u8, peer: &str| {
            edit(&world, &mut slots, &compiled, programmed, |editor| {
                let session = plain(number, peer).session(number.to_string());
                let tables = crate::world::tables::Tables::default();
                let planned =
                    editor.put(("core/upf-0", "uid"), 1, &session, (&tables, false)).expect("a session");
                editor.commit(planned);
            });
        };
        put(&mut programmed, 1, "10.30.0.11");
        let changed = programmed.peers_changed();
        assert_eq!(peers(&programmed), ["10.30.0.10", "10.30.0.11", "10.30.0.12"]);
        put(&mut programmed, 2, "10.30.0.11");
        assert_eq!(programmed.peers_changed(), changed, "another session with the same peer");
        put(&mut programmed, 1, "10.30.0.10");
        put(&mut programmed, 2, "10.30.0.13");
        assert_ne!(programmed.peers_changed(), changed);
        assert_eq!(peers(&programmed), ["10.30.0.10", "10.30.0.12", "10.30.0.13"]);
    }
}
