//! The session tables' arrays: what a packet finds without a hash. The hashed tables are the truth; an element of an
//! array is either nobody's or says the same as they.
//!
//! No element is written while a program may read it. Before a session's entry changes, its element is made nobody's, by
//! its key alone, and packets take the hashed table. After a grace period of the kernel's (RCU) no program looks at the
//! old entry any more, and the new one is written; after another one every program sees it, and the element gets its key.

use aya::Pod;
use aya::maps::{Array, HashMap, MapData, MapError};
use netplane_common::map::{Element, Slot};
use rustix::thread::{MembarrierCommand, membarrier};
use std::collections::HashMap as Map;
use std::time::Duration;
use zerocopy::FromZeros;

/// Elements that are written after one grace period: what the agent's loop does meanwhile is nothing else.
const ROUND: usize = 1024;

/// Waits until no program runs that ran when this was called. Takes some milliseconds and no CPU time.
pub fn grace() {
    // The kernel refuses it with `nohz_full`, and does nothing on one CPU: then a second, which no program takes.
    let is_one = std::thread::available_parallelism().is_ok_and(|it| it.get() == 1);
    if is_one || membarrier(MembarrierCommand::Global).is_err() {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The array of one table. It is not pinned: each object's programs have their own, which the agent that has loaded them
/// fills.
pub(super) struct Index<T: Element + Pod> {
    map: Array<MapData, T>,
    /// By slot, a bit: it is in force, or is to be.
    taken: Vec<u64>,
    in_force: u32,
    /// To be written after a grace period, and after the one that has begun.
    waiting: Map<u32, T::Key>,
    begun: Map<u32, T::Key>,
    /// To get their keys after the grace period that has begun.
    written: Map<u32, T>,
}

impl<T: Element + Pod> Index<T>
where
    T::Key: Pod,
    T::Entry: Pod,
{
    pub(super) fn new(map: Array<MapData, T>) -> Self {
        let words = (map.len() as usize).div_ceil(64);
        let (waiting, begun, written) = Default::default();
        Self { map, taken: vec![0; words], in_force: 0, waiting, begun, written }
    }

    /// Slots, a power of two; one: nothing is to be indexed.
    fn slot(&self, key: &T::Key) -> Option<u32> {
        let slots = self.map.len();
        (slots > 1).then(|| key.slot(slots - 1))
    }

    fn word(&mut self, slot: u32) -> (&mut u64, u64) {
        (&mut self.taken[slot as usize / 64], 1 << (slot % 64))
    }

    /// Whether this key would be indexed.
    pub(super) fn is_free(&self, key: &T::Key) -> bool {
        self.slot(key).is_none_or(|it| self.taken[it as usize / 64] & 1 << (it % 64) == 0)
    }

    /// Of the kernel's memory. It rounds elements up to eight bytes.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.map.len()) * (size_of::<T>() as u64).next_multiple_of(8)
    }

    pub(super) fn in_force(&self) -> u32 {
        self.in_force
    }

    /// Before the hashed table's entry is written: packets take that one, until this one follows.
    pub(super) fn change(&mut self, key: &T::Key) -> Result<(), MapError> {
        let Some(slot) = self.slot(key) else { return Ok(()) };
        if self.leave(slot, key)? {
            let (word, bit) = self.word(slot);
            *word |= bit;
            self.waiting.insert(slot, *key);
        }
        Ok(())
    }

    /// Before the hashed table's entry is removed.
    pub(super) fn remove(&mut self, key: &T::Key) -> Result<(), MapError> {
        let Some(slot) = self.slot(key) else { return Ok(()) };
        if self.leave(slot, key)? {
            self.free(slot);
        }
        Ok(())
    }

    fn free(&mut self, slot: u32) {
        let (word, bit) = self.word(slot);
        *word &= !bit;
    }

    /// Makes the key's element nobody's. Returns whether the slot is this key's or free: it is not another one's.
    fn leave(&mut self, slot: u32, key: &T::Key) -> Result<bool, MapError> {
        let (word, bit) = self.word(slot);
        if *word & bit == 0 {
            return Ok(true);
        }
        for waiting in [&mut self.waiting, &mut self.begun] {
            if let Some(its) = waiting.get(&slot) {
                let is_own = its == key;
                if is_own {
                    waiting.remove(&slot);
                }
                return Ok(is_own);
            }
        }
        if let Some(its) = self.written.get(&slot) {
            let is_own = its.key() == key;
            if is_own {
                self.written.remove(&slot);
            }
            return Ok(is_own);
        }
        let element = self.map.get(&slot, 0)?;
        let is_own = element.key() == key;
        if is_own {
            self.map.set(slot, T::new(T::Key::new_zeroed(), element.entry()), 0)?;
            self.in_force -= 1;
        }
        Ok(is_own)
    }

    /// A grace period is about to begin. Returns whether one is wanted.
    pub(super) fn begin(&mut self) -> bool {
        let slots: Vec<u32> = self.waiting.keys().take(ROUND).copied().collect();
        self.begun = slots.iter().filter_map(|it| Some((*it, self.waiting.remove(it)?))).collect();
        if self.waiting.is_empty() {
            self.waiting = Map::new();
        }
        !self.begun.is_empty() || !self.written.is_empty()
    }

    /// The grace period is over. `table` is the hashed one.
    pub(super) fn settle(&mut self, table: &HashMap<MapData, T::Key, T::Entry>) -> Result<(), MapError> {
        for (slot, element) in std::mem::take(&mut self.written) {
            self.map
                .set(slot, element, 0)
                .inspect_err(|_| self.taken[slot as usize / 64] &= !(1 << (slot % 64)))?;
            self.in_force += 1;
        }
        for (slot, key) in std::mem::take(&mut self.begun) {
            let entry = table.get(&key, 0);
            let written = entry.and_then(|entry| {
                self.map.set(slot, T::new(T::Key::new_zeroed(), entry), 0)?;
                Ok(T::new(key, entry))
            });
            match written {
                Ok(element) => drop(self.written.insert(slot, element)),
                // An entry for which there was no room.
                Err(MapError::KeyNotFound) => self.free(slot),
                Err(error) => {
                    self.free(slot);
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
