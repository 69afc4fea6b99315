//! The tables in force, read from the pinned maps: where a new agent starts from.

use super::KernelError;
use super::maps::{Maps, from_framed, from_trie};
use crate::world::tables::{Master, PeerPrefix, RoutePrefix, Tables};
use aya::maps::MapError;
use netplane_common::map::{NextHop, PeerKey, RouteKey, Router};

/// Reads everything but counters. `linked` are the interface indices with a pinned link; their names and
/// modes are not known here, so that the first comparison attaches them once more, which does nothing.
pub(super) fn tables(maps: &Maps, linked: &[u32]) -> Result<Tables, KernelError> {
    let mut tables = read(maps).map_err(|source| KernelError {
        operation: "read the pinned tables".to_owned(),
        remedy: Some("`netplane agent --detach` removes them".to_owned()),
        source: Box::new(source),
    })?;
    tables.masters = linked.iter().map(|ifindex| (*ifindex, Master::default())).collect();
    Ok(tables)
}

fn read(maps: &Maps) -> Result<Tables, MapError> {
    let mut tables = Tables {
        uplink: maps.uplink.iter().collect::<Result<_, _>>()?,
        uplink6: maps.uplink6.iter().collect::<Result<_, _>>()?,
        downlink4: maps.downlink4.iter().collect::<Result<_, _>>()?,
        downlink6: maps.downlink6.iter().collect::<Result<_, _>>()?,
        endpoints: maps.endpoints.iter().collect::<Result<_, _>>()?,
        pods: maps.pods.keys().collect::<Result<_, _>>()?,
        rules: maps.rules.iter().collect::<Result<_, _>>()?,
        meters: maps.meters.keys().collect::<Result<_, _>>()?,
        usages: maps.usages.keys().collect::<Result<_, _>>()?,
        ..Tables::default()
    };
    for index in 0..maps.ports.len() {
        // An element without a device reads as not found.
        if let Ok(port) = maps.ports.get(index, 0) {
            tables.ports.insert(index, port.if_index);
        }
    }
    for (index, name) in (0_u16..).zip(maps.networks.iter()) {
        if let Some(name) = name?.as_str() {
            tables.networks.insert(index, name.to_owned());
        }
    }
    for (index, next_hop) in (0_u32..).zip(maps.next_hops.iter()) {
        let next_hop = next_hop?;
        if next_hop != NextHop::default() {
            tables.next_hops.insert(index, next_hop);
        }
    }
    for route in maps.routes.iter() {
        let (key, next_hop) = route?;
        let RouteKey { scope, destination } = key.data();
        if let Some(prefix) = from_trie(key.prefix_len(), destination) {
            tables.routes.insert(RoutePrefix { scope, prefix }, next_hop);
        }
    }
    for framed in maps.framed.iter() {
        let (key, user) = framed?;
        if let Some(framed) = from_framed(&key) {
            tables.framed.insert(framed, user);
        }
    }
    for (scope, router) in (0_u32..).zip(maps.routers.iter()) {
        let router = router?;
        if router != Router::default() {
            tables.routers.insert(scope, router);
        }
    }
    for peer in maps.peers.iter() {
        let (key, _) = peer?;
        let PeerKey { network, address } = key.data();
        // The programs only ever see networks that fit 16 bits.
        if let (Ok(network), Some(prefix)) = (u16::try_from(network), from_trie(key.prefix_len(), address)) {
            tables.peers.insert(PeerPrefix { network, prefix });
        }
    }
    Ok(tables)
}
