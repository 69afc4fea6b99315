//! The pods' namespaces: one follower each for what is there, and one resolver for all that asks their
//! kernels for neighbours.

use super::{Fact, Send, Stop, chain};
use crate::netlink::netns::Netns;
use crate::netlink::observe::{Observer, Scope};
use crate::netlink::socket::Netlink;
use crate::world::ContainerKey;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::Duration;

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
