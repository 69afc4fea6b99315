//! The pods' namespaces: one follower for what is there, and one resolver that asks their kernels for neighbours.

use super::{Fact, Send, chain};
use crate::netlink::netns::Netns;
use crate::netlink::observe::{Observer, Scope, Snapshot};
use crate::netlink::socket::Netlink;
use crate::world::ContainerKey;
use crate::world::end_marker::EndMarker;
use netplane_common::wire::gtpu;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

/// A namespace that cannot be seen is looked for again after this long.
const RETRY: Duration = Duration::from_secs(2);
/// How long nothing may change until all is read anew: the kernel says when it has lost messages, and 250 pods that
/// are read for nothing cost more than all else that an idle agent does.
const QUIET: Duration = Duration::from_secs(32);
/// Changes that are closer together are one, for at most so many times as long.
const SETTLE: Duration = Duration::from_millis(5);
const PATIENCE: u32 = 10;

enum Order {
    Follow(ContainerKey, PathBuf),
    Forget(ContainerKey),
}

/// Whom to follow: the ordering end.
pub struct Orders {
    orders: Sender<Order>,
    /// Behind `orders`: the last one to go wakes whoever finds that they have gone.
    wake: Wake,
}

/// Ends a wait.
#[derive(Clone)]
struct Wake(Arc<OwnedFd>);

impl Wake {
    fn wake(&self) {
        // It is full: then it is awake.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.wake();
    }
}

impl Orders {
    /// From now on this container's namespace, which is at this path.
    pub fn follow(&self, container: &ContainerKey, netns: &Path) {
        self.send(Order::Follow(container.clone(), netns.to_owned()));
    }

    /// No more.
    pub fn forget(&self, container: &ContainerKey) {
        self.send(Order::Forget(container.clone()));
    }

    /// Nobody listens any more: the agent is ending.
    fn send(&self, order: Order) {
        let _ = self.orders.send(order);
        self.wake.wake();
    }
}

/// Follows the namespaces of all containers, on one thread: reading one takes less than a millisecond, and a thread
/// of its own would be most of what an agent needs for a pod.
pub struct Followers {
    orders: Receiver<Order>,
    wake: Wake,
    followed: BTreeMap<ContainerKey, Followed>,
}

struct Followed {
    netns: PathBuf,
    /// Absent while it cannot be seen.
    observer: Option<Observer>,
    /// Hash of what was sent last.
    sent: Option<u64>,
    /// When to read it.
    due: Instant,
    /// Since when there are changes that were not read.
    changed: Option<Instant>,
}

impl Followers {
    /// # Errors
    /// There are no more file descriptors.
    pub fn new() -> io::Result<(Orders, Self)> {
        let (send, orders) = channel();
        let wake = Wake(Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?));
        Ok((Orders { orders: send, wake: wake.clone() }, Self { orders, wake, followed: BTreeMap::new() }))
    }

    /// Sends the state of each container's namespace now and after each change, until nobody orders or listens any
    /// more. A namespace that cannot be seen is a fact too, and tried again.
    pub fn run(mut self, send: &Send) {
        loop {
            loop {
                match self.orders.try_recv() {
                    Ok(Order::Follow(container, netns)) => {
                        let followed = Followed {
                            netns,
                            observer: None,
                            sent: None,
                            due: Instant::now(),
                            changed: None,
                        };
                        self.followed.insert(container, followed);
                    }
                    Ok(Order::Forget(container)) => drop(self.followed.remove(&container)),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            for (container, followed) in &mut self.followed {
                if followed.due <= Instant::now()
                    && let Some(fact) = followed.look()
                    && !send(Fact::Pod(container.clone(), fact))
                {
                    return;
                }
            }
            self.wait();
        }
    }

    /// Until a namespace has changed or is due, or there are orders.
    fn wait(&mut self) {
        let due = self.followed.values().map(|it| it.due).min();
        let limit = due.map(|it| it.saturating_duration_since(Instant::now()));
        let limit = limit.and_then(|it| Timespec::try_from(it).ok());
        let seen = self.followed.values().filter_map(|it| it.observer.as_ref());
        let mut sockets: Vec<PollFd<'_>> = seen.map(|it| PollFd::new(it, PollFlags::IN)).collect();
        sockets.push(PollFd::new(&self.wake.0, PollFlags::IN));
        if poll(&mut sockets, limit.as_ref()).is_err() {
            // A signal: what is there is still there.
            return;
        }
        let heard: Vec<bool> = sockets.iter().map(|it| !it.revents().is_empty()).collect();
        let _ = rustix::io::read(&*self.wake.0, &mut [0; 8]);
        let seen = self.followed.values_mut().filter(|it| it.observer.is_some());
        seen.zip(heard).filter(|(_, heard)| *heard).for_each(|(it, _)| it.hear());
    }
}

impl Followed {
    /// Puts reading off until a burst of changes is over.
    fn hear(&mut self) {
        let now = Instant::now();
        let first = *self.changed.get_or_insert(now);
        self.due = (now + SETTLE).min(first + SETTLE * PATIENCE);
        self.observer.iter().for_each(Observer::catch_up);
    }

    /// What is there, where it is not what was sent before.
    fn look(&mut self) -> Option<Result<Snapshot, String>> {
        self.changed = None;
        match self.read() {
            Ok(snapshot) => {
                self.due = Instant::now() + QUIET;
                let mut hasher = DefaultHasher::new();
                snapshot.hash(&mut hasher);
                let new = hasher.finish();
                (self.sent.replace(new) != Some(new)).then_some(Ok(snapshot))
            }
            Err(error) => {
                self.due = Instant::now() + RETRY;
                (self.observer, self.sent) = (None, None);
                Some(Err(error))
            }
        }
    }

    fn read(&mut self) -> Result<Snapshot, String> {
        if self.observer.is_none() {
            let netns = Netns::open(&*self.netns).map_err(|it| chain(&it))?;
            // The observer's sockets are all that is needed of it.
            self.observer = Some(Observer::open(&netns, Scope::All).map_err(|it| chain(&it))?);
        }
        let Some(observer) = &self.observer else { return Ok(Snapshot::default()) };
        observer.snapshot().map_err(|it| chain(&it))
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use nix::unistd::gettid;
    use std::process::Command;

    const LIMIT: Duration = Duration::from_secs(20);

    fn ip(arguments: &str) {
        let done = Command::new("ip").args(arguments.split(' ')).status().expect("ip");
        assert!(done.success(), "ip {arguments}");
    }

    /// In a namespace that ends with the thread.
    #[test]
    fn each_namespace_is_told_of_when_it_changes() {
        let test = || {
            let home = PathBuf::from(format!("/proc/self/task/{}/ns/net", gettid()));
            let (orders, followers) = Followers::new().expect("a descriptor");
            let (facts, told) = channel();
            let send: Send = Arc::new(move |fact| facts.send(fact).is_ok());
            let thread = std::thread::spawn(move || followers.run(&send));
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            let (own, none) = ("own".to_owned(), "none".to_owned());
            orders.follow(&none, Path::new("/nonexistent"));
            orders.follow(&own, &home);
            let next = |of: &ContainerKey| loop {
                match told.recv_timeout(LIMIT).expect("news") {
                    Fact::Pod(container, snapshot) if container == *of => {
                        return snapshot.map(|it| it.links.len());
                    }
                    _ => {}
                }
            };
            assert!(next(&none).expect_err("no namespace").contains("/nonexistent"));
            assert_eq!(next(&own), Ok(1));
            ip("link add name one type veth peer name two");
            assert_eq!(next(&own), Ok(3));
            // Anew: it is told of again.
            orders.forget(&own);
            orders.follow(&own, &home);
            assert_eq!(next(&own), Ok(3));
            drop(orders);
            thread.join().expect("it ends with the orders");
        };
        std::thread::scope(|scope| scope.spawn(test).join().expect("the test"));
    }
}
