//! GTP-U paths: a thread that asks peers by Echo Requests from the pods' namespaces, and says who is there. The
//! answers come to the port that asked (TS 29.281 §4.4.2.2), so that the packet programs pass them and the pod's own
//! port 2152 stays its own.

mod path;

pub use path::PathState;

use self::path::{Path, request, response};
use super::{Fact, Send, Stop, chain};
use crate::nad::fast_path::PathCheck;
use crate::netlink::netns::Netns;
use crate::world::AttachmentKey;
use crate::world::paths::MOST_PEERS;
use netplane_common::wire::gtpu;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the order to stop is looked for.
const INTERVAL: Duration = Duration::from_secs(2);
/// Between turns at least: what is due meanwhile is sent together, and whoever floods the sockets costs no more than
/// what is read in a turn.
const TURN: Duration = Duration::from_millis(20);
/// Between the first requests to peers that come into use together.
const PACE: Duration = Duration::from_millis(5);
/// Datagrams that are read from one socket in a turn.
const MOST_READ: usize = 256;

/// The paths of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub netns: PathBuf,
    /// Name of the interface inside the pod: requests leave by it, whatever other ways the pod has.
    pub interface: String,
    pub check: PathCheck,
    /// The endpoint's address by peer.
    pub peers: BTreeMap<IpAddr, IpAddr>,
}

/// A path is in another state than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathNews {
    pub endpoint: AttachmentKey,
    pub peer: IpAddr,
    pub state: PathState,
}

/// Endpoints with their paths.
pub type Wanted = BTreeMap<AttachmentKey, Asked>;

/// The asking end of the thread.
#[derive(Clone)]
pub struct Paths(Arc<Shared>);

struct Shared {
    wanted: Mutex<Option<Wanted>>,
    wake: OwnedFd,
}

impl Paths {
    /// # Errors
    /// There are no more descriptors.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { wanted: Mutex::default(), wake })))
    }

    /// From now on these.
    pub fn want(&self, wanted: Wanted) {
        *self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
        // It is readable already where this fails.
        let _ = rustix::io::write(&self.0.wake, &1_u64.to_ne_bytes());
    }

    /// Asks until stopped, or until nobody listens any more.
    pub fn run(&self, send: &Send, stop: &Stop) {
        let (mut turns, mut turn) = (Turns::default(), Instant::now());
        while !stop.is_stopped() {
            turns.wait(&self.0.wake);
            std::thread::sleep(TURN.saturating_sub(turn.elapsed()));
            turn = Instant::now();
            if rustix::io::read(&self.0.wake, &mut [0; 8]).is_ok() {
                let wanted = self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(wanted) = wanted {
                    turns.want(wanted, Instant::now());
                }
            }
            // Answers before silence: this thread may have been late.
            turns.receive(Instant::now());
            turns.ask(Instant::now());
            let news = std::mem::take(&mut turns.news);
            if !news.is_empty() && !send(Fact::Paths(news)) {
                return;
            }
        }
    }
}

/// One endpoint's address, with the peers that are asked from it.
type End = (AttachmentKey, IpAddr);

/// What the thread keeps.
#[derive(Default)]
struct Turns {
    wanted: Wanted,
    paths: BTreeMap<End, BTreeMap<IpAddr, Path>>,
    sockets: BTreeMap<End, UdpSocket>,
    /// Ends that cannot be asked from, so that this is told once.
    failing: BTreeSet<End>,
    seed: RandomState,
    news: Vec<PathNews>,
}

impl Turns {
    /// Until something has come in, or something is due.
    fn wait(&self, wake: &OwnedFd) {
        let now = Instant::now();
        let due = self.paths.iter().filter_map(|(end, paths)| {
            let asked = self.wanted.get(&end.0)?;
            let is_asked = |peer: &IpAddr| asked.peers.get(peer) == Some(&end.1);
            paths.iter().filter(|(peer, _)| is_asked(peer)).map(|(_, path)| path.due()).min()
        });
        let until = due.min().map_or(INTERVAL, |it| it.saturating_duration_since(now));
        let timeout = Timespec::try_from(until.clamp(TURN, INTERVAL)).ok();
        let mut all = vec![PollFd::new(wake, PollFlags::IN)];
        all.extend(self.sockets.values().map(|it| PollFd::new(it, PollFlags::IN)));
        // A signal is a turn that finds nothing.
        let _ = poll(&mut all, timeout.as_ref());
    }

    fn want(&mut self, wanted: Wanted, now: Instant) {
        let before = std::mem::replace(&mut self.wanted, wanted);
        let mut new = 0;
        for (key, asked) in &self.wanted {
            let old = before.get(key).map(|it| &it.peers);
            for (peer, local) in &asked.peers {
                if old.is_some_and(|it| it.get(peer) == Some(local)) {
                    continue;
                }
                let paths = self.paths.entry((key.clone(), *local)).or_default();
                match paths.get_mut(peer) {
                    Some(path) => {
                        path.comes_back(now);
                        let state = path.state();
                        if state != PathState::Unknown {
                            self.news.push(PathNews { endpoint: key.clone(), peer: *peer, state });
                        }
                    }
                    None => {
                        let seed = self.seed.hash_one((key, peer, new));
                        paths.insert(*peer, Path::new(now + PACE * new, seed, &asked.check));
                        new += 1;
                    }
                }
            }
        }
        let wanted = &self.wanted;
        let is_used = |(key, local): &End| {
            wanted.get(key).is_some_and(|it| it.peers.values().any(|used| used == local))
        };
        // A namespace that has gone, or another one of the same container, takes its sockets with it.
        let is_same =
            |key: &AttachmentKey| before.get(key).map(|it| &it.netns) == wanted.get(key).map(|it| &it.netns);
        self.sockets.retain(|end, _| is_used(end) && is_same(&end.0));
        self.failing.retain(is_used);
    }

    fn receive(&mut self, now: Instant) {
        let mut buffer = [0; 64];
        for (end, socket) in &self.sockets {
            let Some((asked, paths)) = self.wanted.get(&end.0).zip(self.paths.get_mut(end)) else { continue };
            for _ in 0..MOST_READ {
                // Errors are those of requests that had no answer: silence, like all others.
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { break };
                let answer = buffer.get(..length).and_then(response);
                let Some((sequence, path)) = answer.zip(paths.get_mut(&from.ip().to_canonical())) else {
                    continue;
                };
                let before = path.state();
                path.answered(sequence, now, &asked.check);
                if path.state() != before {
                    let (endpoint, peer) = (end.0.clone(), from.ip().to_canonical());
                    self.news.push(PathNews { endpoint, peer, state: path.state() });
                }
            }
        }
    }

    /// Sends what is due, and forgets paths that nobody uses.
    fn ask(&mut self, now: Instant) {
        let Self { wanted, paths, sockets, failing, news, .. } = self;
        paths.retain(|end, paths| {
            let asked = wanted.get(&end.0);
            let mut resting = 0;
            paths.retain(|peer, path| {
                let Some(asked) = asked.filter(|it| it.peers.get(peer) == Some(&end.1)) else {
                    resting += 1;
                    return resting <= MOST_PEERS && !path.is_forgotten(now);
                };
                let before = path.state();
                if let Some(ask) = path.turn(now, &asked.check) {
                    let sent = send(sockets, (end, asked), (*peer, &request(ask)));
                    match sent {
                        Ok(()) => drop(failing.remove(end)),
                        // Whatever is wrong with the socket: the next request has another one.
                        Err(error) => {
                            sockets.remove(end);
                            if failing.insert(end.clone()) {
                                let (container, interface) = (&end.0.container, &end.0.interface);
                                tracing::warn!(error, container, interface, %peer, "no Echo Request");
                            }
                        }
                    }
                }
                if path.state() != before {
                    news.push(PathNews { endpoint: end.0.clone(), peer: *peer, state: path.state() });
                }
                true
            });
            !paths.is_empty()
        });
    }
}

fn send(
    sockets: &mut BTreeMap<End, UdpSocket>,
    (end, asked): (&End, &Asked),
    (peer, message): (IpAddr, &[u8]),
) -> Result<(), String> {
    if !sockets.contains_key(end) {
        let netns = Netns::open(&asked.netns).map_err(|it| chain(&it))?;
        let open = || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind((end.1, 0))?;
            setsockopt(&socket, sockopt::BindToDevice, &OsString::from(&asked.interface))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = netns.visit(open).map_err(|it| chain(&it))?.map_err(|it| it.to_string())?;
        sockets.insert(end.clone(), socket);
    }
    let Some(socket) = sockets.get(end) else { return Ok(()) };
    match socket.send_to(message, (peer, gtpu::PORT.get())) {
        // A full queue is silence.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error.to_string()),
        _ => Ok(()),
    }
}
