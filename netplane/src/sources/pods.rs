//! The pods' namespaces: one follower each for what is there, and one resolver for all that asks their
//! kernels for neighbours.

use super::{Fact, Send, Stop, chain};
use crate::netlink::netns::Netns;
use crate::netlink::observe::{Observer, Scope};
use crate::netlink::socket::Netlink;
use crate::world::ContainerKey;
use crate::world::end_marker::EndMarker;
use netplane_common::wire::gtpu;
use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// How often the order to stop is looked for.
const INTERVAL: Duration = Duration::from_secs(2);
/// How many times as long nothing may change until all is read anew: the kernel says when it has lost messages,
/// and 250 pods that are read for nothing cost more than all else that an idle agent does.
const QUIET: u32 = 15;

/// Sends the state of a container's namespace now and after each change, until stopped. A namespace that
/// cannot be seen is a fact too, and tried again.
pub fn follow(container: &ContainerKey, netns: &Path, send: &Send, stop: &Stop) {
    while !stop.is_stopped() {
        let Err(error) = follow_once(container, netns, send, stop) else { return };
        if !send(Fact::Pod(container.clone(), Err(error))) {
            return;
        }
        std::thread::sleep(INTERVAL);
    }
}

fn follow_once(container: &ContainerKey, netns: &Path, send: &Send, stop: &Stop) -> Result<(), String> {
    let netns = Netns::open(netns).map_err(|it| chain(&it))?;
    let mut observer = Observer::open(&netns, Scope::All).map_err(|it| chain(&it))?;
    // The observer's socket is all that is needed.
    drop(netns);
    let mut last = None;
    while !stop.is_stopped() {
        let snapshot = observer.snapshot().map_err(|it| chain(&it))?;
        if last.as_ref() != Some(&snapshot) {
            last = Some(snapshot.clone());
            if !send(Fact::Pod(container.clone(), Ok(snapshot))) {
                return Ok(());
            }
        }
        let mut quiet = 0;
        while !stop.is_stopped() && !observer.wait(INTERVAL) && quiet < QUIET {
            quiet += 1;
        }
    }
    Ok(())
}

/// What the resolver is told.
#[derive(Clone, Debug)]
pub enum Resolve {
    /// Ask the kernel of this container for `address` on the interface with this index inside it.
    Neighbour { container: ContainerKey, netns: PathBuf, ifindex: u32, address: IpAddr },
    /// Tell a GTP-U peer, from the container, that a tunnel has ended; not before this.
    EndMarker { container: ContainerKey, netns: PathBuf, marker: EndMarker, due: Instant },
    /// The container is gone.
    Forget(ContainerKey),
}

/// Carries out requests until nobody can send any more. One that fails is told in the log and asked again
/// by whoever needs it.
pub fn resolve(requests: &Receiver<Resolve>) {
    let mut sockets: BTreeMap<ContainerKey, Netlink> = BTreeMap::new();
    while let Ok(request) = requests.recv() {
        match request {
            Resolve::Forget(container) => drop(sockets.remove(&container)),
            Resolve::EndMarker { container, netns, marker, due } => {
                // All of one change are due at once: this waits for the first only.
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                match send(&netns, &marker) {
                    Ok(()) => tracing::debug!(container, ?marker, "End Marker"),
                    Err(error) => tracing::warn!(error, container, ?marker, "no End Marker"),
                }
            }
            Resolve::Neighbour { container, netns, ifindex, address } => {
                if !sockets.contains_key(&container) {
                    let opened = Netns::open(&netns).map_err(|it| chain(&it));
                    let opened = opened.and_then(|it| Netlink::open(&it).map_err(|it| chain(&it)));
                    match opened {
                        Ok(socket) => drop(sockets.insert(container.clone(), socket)),
                        Err(error) => tracing::debug!(error, container, "cannot resolve"),
                    }
                }
                let asked = sockets.get(&container).map(|it| it.resolve(ifindex, address));
                if let Some(Err(error)) = asked {
                    tracing::debug!(error = chain(&error), container, %address, "cannot resolve");
                }
            }
        }
    }
}

/// From the endpoint's own address, by the pod's routes and neighbours, as its processes would send it: also to a
/// peer under the same master. The source port is the sender's to choose (TS 29.281 §4.4.2).
fn send(netns: &Path, marker: &EndMarker) -> Result<(), String> {
    let netns = Netns::open(netns).map_err(|it| chain(&it))?;
    let socket = netns.visit(|| UdpSocket::bind((marker.local, 0))).map_err(|it| chain(&it))?;
    let socket = socket.map_err(|it| it.to_string())?;
    socket.send_to(&marker.message(), (marker.peer, gtpu::PORT.get())).map_err(|it| it.to_string())?;
    Ok(())
}
