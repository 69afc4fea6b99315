//! Packets that are kept for idle users: in queues, one for each session, until their FARs are others.

use super::Core;
use super::sessions::Hands;
use super::usage::Usages;
use crate::agent::sessions::Happened;
use crate::dataplane::Kernel;
use crate::sources::chain;
use crate::world::end_marker::EndMarker;
use crate::world::programmed::{Editor, Planned, Programmed};
use crate::world::tables::Tables;
use crate::world::{Buffering, buffering};
use netplane_client::v1::watch_response::Event as Watched;
use netplane_client::v1::{DownlinkDataReport, Session};
use netplane_common::map::{Buffered, Counter};
use netplane_common::verdict::Reason;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// So long packets wait for the next hop of their new tunnel.
const PATIENCE: Duration = Duration::from_secs(5);

/// What may be kept.
#[derive(Clone, Copy, Debug)]
pub(in crate::agent) struct BufferLimits {
    /// Packets of one session.
    pub(in crate::agent) per_session: usize,
    /// Bytes of frames in all.
    pub(in crate::agent) bytes: usize,
}

/// The queues by session.
#[derive(Debug)]
pub(super) struct Buffers {
    pub(super) limits: BufferLimits,
    queues: BTreeMap<u32, Queue>,
    /// The tunnels of sessions before they fell idle.
    tunnels: BTreeMap<u32, EndMarker>,
    /// Numbers and sessions of kept frames, oldest first, and of some that have left since.
    ages: VecDeque<(u64, u32)>,
    next: u64,
    frames: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Queue {
    pod: String,
    session: String,
    /// PDRs whose packets are kept.
    rules: BTreeMap<u32, Buffering>,
    frames: VecDeque<Kept>,
    /// PDRs of which a packet was reported.
    told: BTreeSet<u32>,
    /// The session is held until these frames are on their way: since then.
    held: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    about: Buffered,
    frame: Vec<u8>,
}

/// Who is told of a first packet.
pub(super) struct Told<'t> {
    pub(super) usages: &'t Usages,
    pub(super) happened: &'t broadcast::Sender<Happened>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            limits: BufferLimits { per_session: 0, bytes: 0 },
            queues: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            ages: VecDeque::new(),
            next: 0,
            frames: 0,
            bytes: 0,
        }
    }
}

impl Buffers {
    /// Packets that are kept.
    pub(super) fn len(&self) -> usize {
        self.frames
    }

    /// Takes in what the programs have handed over. What is not to be kept any more goes back at once.
    pub(super) fn take_in<K: Kernel>(&mut self, kernel: &mut K, programmed: &Programmed, told: &Told<'_>) {
        for (about, frame) in kernel.buffered() {
            let handle = programmed.limits.holder(about.counter);
            let Some(handle) = handle.filter(|it| self.has_queue(*it, programmed)) else {
                drop_one(kernel, &about, Reason::BufferDiscarded);
                continue;
            };
            let Some(queue) = self.queues.get_mut(&handle) else { continue };
            match queue.rules.get(&about.pdr) {
                None if queue.held.is_none() => {
                    give_back(kernel, &about, &frame);
                    if queue.rules.is_empty() {
                        self.queues.remove(&handle);
                    }
                    continue;
                }
                Some(rule) if rule.notifies => queue.tell(&about, rule.qfi, &frame, told),
                _ => {}
            }
            self.push(kernel, handle, about, frame);
        }
    }

    fn has_queue(&mut self, handle: u32, programmed: &Programmed) -> bool {
        if self.queues.contains_key(&handle) {
            return true;
        }
        let Some((pod, session)) = programmed.of_handle(handle) else { return false };
        let rules = buffering(&session);
        let (frames, told) = (VecDeque::new(), BTreeSet::new());
        self.queues.insert(handle, Queue { pod, session: session.id, rules, frames, told, held: None });
        true
    }

    fn push<K: Kernel>(&mut self, kernel: &mut K, handle: u32, about: Buffered, frame: Vec<u8>) {
        let Some(queue) = self.queues.get_mut(&handle) else { return };
        let number = self.next;
        self.next += 1;
        self.frames += 1;
        self.bytes += frame.len();
        queue.frames.push_back(Kept { number, about, frame });
        self.ages.push_back((number, handle));
        let suggested = queue.rules.get(&about.pdr).map_or(0, |it| it.most);
        let is_own = |it: &&Kept| it.about.pdr == about.pdr;
        let own = if suggested == 0 { 0 } else { queue.frames.iter().filter(is_own).count() };
        let too_many = usize::try_from(suggested).is_ok_and(|it| it != 0 && own > it);
        let oldest = if queue.frames.len() > self.limits.per_session {
            Some(0)
        } else if too_many {
            queue.frames.iter().position(|it| is_own(&it))
        } else {
            None
        };
        if let Some(gone) = oldest.and_then(|it| queue.frames.remove(it)) {
            self.overflow(kernel, &gone);
        }
        while self.bytes > self.limits.bytes {
            let Some((number, handle)) = self.ages.pop_front() else { break };
            let queue = self.queues.get_mut(&handle);
            let Some(queue) = queue.filter(|it| it.frames.front().is_some_and(|it| it.number == number))
            else {
                continue;
            };
            if let Some(gone) = queue.frames.pop_front() {
                self.overflow(kernel, &gone);
            }
        }
        if self.ages.len() > 2 * self.frames + 1024 {
            let queues = &self.queues;
            let is_there = |(number, handle): &(u64, u32)| {
                let frames = queues.get(handle).map(|it| &it.frames);
                frames.is_some_and(|it| it.binary_search_by_key(number, |it| it.number).is_ok())
            };
            self.ages.retain(is_there);
        }
    }

    fn overflow<K: Kernel>(&mut self, kernel: &mut K, gone: &Kept) {
        self.left(gone);
        drop_one(kernel, &gone.about, Reason::BufferOverflow);
    }

    fn left(&mut self, gone: &Kept) {
        self.frames -= 1;
        self.bytes -= gone.frame.len();
    }

    /// Whether a session has to be held if it becomes this one: packets are kept that are not to be any more.
    pub(super) fn must_hold(&self, handle: u32, new: &Session) -> bool {
        let rules = buffering(new);
        let goes = |it: &Kept| !rules.contains_key(&it.about.pdr);
        self.queues.get(&handle).is_some_and(|it| it.frames.iter().any(goes))
    }

    /// A session is this one now.
    pub(super) fn changed(&mut self, handle: u32, new: &Session, is_held: bool) {
        let Some(queue) = self.queues.get_mut(&handle) else { return };
        queue.rules = buffering(new);
        let rules = &queue.rules;
        queue.told.retain(|it| rules.contains_key(it));
        queue.held = is_held.then(|| queue.held.unwrap_or_else(Instant::now));
        if queue.rules.is_empty() && queue.frames.is_empty() {
            self.queues.remove(&handle);
        }
    }

    /// A change of a session is in the kernel. Returns what the peer is to be told that it had before it fell idle.
    pub(super) fn carried_out(&mut self, planned: &Planned, current: &Tables) -> Option<EndMarker> {
        if let Some(tunnel) = planned.falls_idle(current) {
            self.tunnels.insert(planned.handle(), tunnel);
            return None;
        }
        if self.tunnels.is_empty() {
            return None;
        }
        let (new, is_asked) = planned.forwards(current)?;
        let old = self.tunnels.remove(&planned.handle())?;
        (is_asked && old.is_other(&new)).then_some(old)
    }

    /// A session has gone: its packets are dropped and counted.
    pub(super) fn discard<K: Kernel>(&mut self, kernel: &mut K, handle: u32) {
        self.tunnels.remove(&handle);
        for gone in self.queues.remove(&handle).into_iter().flat_map(|it| it.frames) {
            self.left(&gone);
            drop_one(kernel, &gone.about, Reason::BufferDiscarded);
        }
    }

    /// The agent ends.
    pub(super) fn discard_all<K: Kernel>(&mut self, kernel: &mut K) {
        let handles: Vec<u32> = self.queues.keys().copied().collect();
        handles.into_iter().for_each(|it| self.discard(kernel, it));
    }

    /// Gives a session's packets back, but for those that are to be kept still.
    pub(super) fn release<K: Kernel>(&mut self, kernel: &mut K, handle: u32) {
        let Some(queue) = self.queues.get_mut(&handle) else { return };
        for kept in std::mem::take(&mut queue.frames) {
            if queue.rules.contains_key(&kept.about.pdr) {
                queue.frames.push_back(kept);
            } else {
                self.frames -= 1;
                self.bytes -= kept.frame.len();
                give_back(kernel, &kept.about, &kept.frame);
            }
        }
    }

    /// Sessions that are held, and whether they have been for too long.
    fn held(&self) -> Vec<(u32, bool)> {
        let queues = self.queues.iter();
        queues.filter_map(|(handle, it)| Some((*handle, it.held?.elapsed() > PATIENCE))).collect()
    }
}

impl Queue {
    /// Reports the first packet of a PDR to those who watch; without them the next is the first.
    fn tell(&mut self, about: &Buffered, qfi: Option<u32>, frame: &[u8], told: &Told<'_>) {
        if self.told.contains(&about.pdr) || !told.usages.is_watched(&self.pod) {
            return;
        }
        self.told.insert(about.pdr);
        let (session_id, pdr_id) = (self.session.clone(), about.pdr);
        let report = DownlinkDataReport { session_id, pdr_id, qfi, dscp: dscp(frame).into() };
        let event = Watched::DownlinkData(report);
        let _ = told.happened.send(Happened { pod: self.pod.clone(), event });
    }
}

/// Of the IP packet in a frame, whether or not a tag is in front of it.
fn dscp(frame: &[u8]) -> u8 {
    let is_tagged = matches!(frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]));
    let at = if is_tagged { 18 } else { 14 };
    match frame.get(at..at + 2) {
        Some([first, second]) if first >> 4 == 4 => second >> 2,
        Some([first, second]) => (first << 4 | second >> 4) >> 2,
        _ => 0,
    }
}

fn drop_one<K: Kernel>(kernel: &mut K, about: &Buffered, reason: Reason) {
    kernel.count_dropped(about.network, reason, Counter { packets: 1, bytes: about.len.into() });
}

/// To the programs, which decide and count anew.
fn give_back<K: Kernel>(kernel: &mut K, about: &Buffered, frame: &[u8]) {
    if let Err(error) = kernel.release(about, frame) {
        tracing::warn!(error = chain(&error), "a buffered packet cannot be released");
        drop_one(kernel, about, Reason::BufferDiscarded);
    }
}

impl<K: Kernel> Core<K> {
    /// Takes in packets to be kept, and lets held sessions go on whose packets have a way.
    pub(in crate::agent) fn buffer(&mut self) {
        self.take_in();
        let held = self.buffers.held();
        // A next hop that is resolved in the world only is not yet in the kernel.
        if held.is_empty() || self.stale {
            return;
        }
        self.change(|editor, hands| {
            for (handle, is_late) in held {
                let resolved = editor.resolved(handle);
                if resolved == Some(true) || is_late {
                    hands.let_go(editor, handle);
                }
            }
        });
        // What came in meanwhile goes right behind.
        self.take_in();
    }

    pub(super) fn take_in(&mut self) {
        let told = Told { usages: &self.usages, happened: &self.happened };
        self.buffers.take_in(&mut self.kernel, &self.programmed, &told);
    }

    /// Sessions that are gone.
    pub(super) fn discard_buffered(&mut self, handles: impl IntoIterator<Item = u32>) {
        handles.into_iter().for_each(|it| self.buffers.discard(&mut self.kernel, it));
    }

    /// What an agent that ends has kept is lost.
    pub(in crate::agent) fn end(&mut self) {
        self.take_in();
        self.buffers.discard_all(&mut self.kernel);
    }

    /// Sessions of an earlier agent may buffer.
    pub(super) fn buffer_again(&mut self) {
        let mut sessions = self.programmed.kept().filter_map(|it| self.programmed.of_handle(it.handle));
        if sessions.any(|(_, it)| !buffering(&it).is_empty())
            && let Err(error) = self.kernel.start_buffering()
        {
            tracing::error!(error = chain(&error), "packets are dropped that should be buffered");
        }
    }
}

impl<K: Kernel> Hands<'_, K> {
    /// Releases what a session has kept, and lets it go on: packets in order, but for those of the moment in between.
    fn let_go(&mut self, editor: &mut Editor<'_, '_, '_, '_, '_>, handle: u32) {
        self.buffers.release(self.kernel, handle);
        let Some((_, session)) = editor.programmed().of_handle(handle) else { return };
        let went_on = editor.go_on(handle, self.current).map(|planned| self.carry_out(editor, planned?));
        match went_on {
            Some(Err(refusal)) => tracing::warn!(%refusal, session = session.id, "goes on buffering"),
            _ => self.buffers.changed(handle, &session, false),
        }
    }
}
