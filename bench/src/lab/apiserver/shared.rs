//! What the server's thread and the test share.

use super::faults::{Entry, Fault, Rule};
use super::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// What all open watches are told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    None,
    Bookmark,
    End,
    Expire,
    Cut,
}

/// State behind locks that are held for moments only.
#[derive(Debug)]
pub(super) struct Shared {
    store: Mutex<Store>,
    versions: watch::Sender<u64>,
    orders: watch::Sender<(u64, Order)>,
    watches: Mutex<BTreeMap<&'static str, usize>>,
    bookmark_every: Mutex<Duration>,
    rules: Mutex<Vec<Rule>>,
    delay: Mutex<Duration>,
    journal: Mutex<(usize, Vec<Entry>)>,
    /// Without a set anybody may do anything.
    tokens: Mutex<Option<BTreeSet<String>>>,
}

/// A test that panicked elsewhere does not spoil the state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(tokens: Option<BTreeSet<String>>) -> Self {
        Self {
            store: Mutex::new(Store::new()),
            versions: watch::Sender::new(0),
            orders: watch::Sender::new((0, Order::None)),
            watches: Mutex::default(),
            bookmark_every: Mutex::new(Duration::from_secs(60)),
            rules: Mutex::default(),
            delay: Mutex::default(),
            journal: Mutex::default(),
            tokens: Mutex::new(tokens),
        }
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// Works on the store and wakes the watches.
    pub(super) fn change<T>(&self, f: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store();
        let result = f(&mut store);
        let version = store.version();
        drop(store);
        self.versions.send_if_modified(|it| std::mem::replace(it, version) != version);
        result
    }

    pub(super) fn versions(&self) -> watch::Receiver<u64> {
        self.versions.subscribe()
    }

    pub(super) fn orders(&self) -> watch::Receiver<(u64, Order)> {
        self.orders.subscribe()
    }

    pub(super) fn order(&self, order: Order) {
        self.orders.send_modify(|it| *it = (it.0 + 1, order));
    }

    pub(super) fn watch_opened(&self, plural: &'static str) {
        *lock(&self.watches).entry(plural).or_default() += 1;
    }

    pub(super) fn watch_closed(&self, plural: &'static str) {
        *lock(&self.watches).entry(plural).or_default() -= 1;
    }

    pub(super) fn watches(&self, plural: &str) -> usize {
        lock(&self.watches).get(plural).copied().unwrap_or_default()
    }

    pub(super) fn bookmark_every(&self) -> Duration {
        *lock(&self.bookmark_every)
    }

    pub(super) fn set_bookmark_every(&self, every: Duration) {
        *lock(&self.bookmark_every) = every;
    }

    pub(super) fn add_rule(&self, rule: Rule) {
        lock(&self.rules).push(rule);
    }

    pub(super) fn clear_rules(&self) {
        lock(&self.rules).clear();
    }

    /// The first fault for this request; it counts as used.
    pub(super) fn fault(&self, verb: &str, path: &str) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        let rule = rules.iter_mut().find(|it| it.hits(verb, path))?;
        rule.left -= 1;
        Some(rule.fault)
    }

    pub(super) fn delay(&self) -> Duration {
        *lock(&self.delay)
    }

    pub(super) fn set_delay(&self, delay: Duration) {
        *lock(&self.delay) = delay;
    }

    /// Notes a request; the number is for [`Shared::answered`].
    pub(super) fn note(&self, entry: Entry) -> usize {
        let mut journal = lock(&self.journal);
        journal.1.push(entry);
        journal.0 + journal.1.len() - 1
    }

    pub(super) fn answered(&self, number: usize, code: u16) {
        let mut journal = lock(&self.journal);
        let first = journal.0;
        if let Some(entry) = number.checked_sub(first).and_then(|it| journal.1.get_mut(it)) {
            entry.code = Some(code);
        }
    }

    pub(super) fn journal(&self) -> Vec<Entry> {
        lock(&self.journal).1.clone()
    }

    pub(super) fn take_journal(&self) -> Vec<Entry> {
        let mut journal = lock(&self.journal);
        journal.0 += journal.1.len();
        std::mem::take(&mut journal.1)
    }

    pub(super) fn set_tokens(&self, tokens: Option<BTreeSet<String>>) {
        *lock(&self.tokens) = tokens;
    }

    /// Whether a request with this `Authorization` header may pass.
    pub(super) fn admits(&self, authorization: Option<&str>) -> bool {
        let tokens = lock(&self.tokens);
        let token = authorization.and_then(|it| it.strip_prefix("Bearer "));
        tokens.as_ref().is_none_or(|it| token.is_some_and(|token| it.contains(token.trim())))
    }
}
