//! WATCH: the stream of events of one request, from the history of the store.

use super::api::metadata_of;
use super::events::to_served;
use super::resources::Resource;
use super::selector::Selector;
use super::shared::{Order, Shared};
use super::status::Failure;
use super::store::{Change, Store};
use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// What a client asked for.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) resource: &'static Resource,
    /// Empty: all.
    pub(super) namespace: String,
    pub(super) selector: Selector,
    pub(super) metadata_only: bool,
    /// Events after this version; without it, what is there comes as ADDED first.
    pub(super) since: Option<u64>,
    /// The version at which it was opened.
    pub(super) now: u64,
    pub(super) bookmarks: bool,
    /// A bookmark says where the initial events end.
    pub(super) mark_end_of_initial: bool,
    pub(super) timeout_seconds: Option<u64>,
}

/// How long a watch lasts whose client names no time.
const LONG: Duration = Duration::from_secs(1800);

struct Watch {
    opening: Opening,
    shared: Arc<Shared>,
    /// Versions up to this one have been sent.
    position: u64,
    events: VecDeque<Value>,
    /// Nothing comes after `events`.
    last: bool,
    /// The rest of the connection is dropped after `events`.
    cut: bool,
    deadline: Instant,
    next_bookmark: Instant,
    versions: watch::Receiver<u64>,
    orders: watch::Receiver<(u64, Order)>,
    _open: Open,
}

/// Counts in the open watches while it lives.
struct Open(Arc<Shared>, &'static str);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.watch_closed(self.1);
    }
}

/// The body of a watch's answer: one JSON object a line.
pub(super) fn stream(
    opening: Opening,
    shared: Arc<Shared>,
) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    let mut watch = Watch::open(opening, shared);
    watch.begin();
    futures::stream::unfold(watch, |mut watch| async move {
        let chunk = watch.next().await?;
        Some((chunk, watch))
    })
}

impl Watch {
    fn open(opening: Opening, shared: Arc<Shared>) -> Self {
        let seconds = opening.timeout_seconds.map_or(LONG, Duration::from_secs);
        shared.watch_opened(opening.resource.plural);
        Self {
            position: opening.since.unwrap_or(opening.now),
            events: VecDeque::new(),
            last: false,
            cut: false,
            deadline: Instant::now() + seconds,
            next_bookmark: Instant::now() + shared.bookmark_every(),
            versions: shared.versions(),
            orders: shared.orders(),
            _open: Open(shared.clone(), opening.resource.plural),
            opening,
            shared,
        }
    }

    /// The state at the start, or that the version asked for is too old.
    fn begin(&mut self) {
        let shared = self.shared.clone();
        let store = shared.store();
        match self.opening.since {
            Some(since) if since < store.compacted() => {
                self.error(&Failure::expired(since, store.compacted()));
            }
            Some(_) => {}
            None => self.send_initial(&store),
        }
    }

    fn send_initial(&mut self, store: &Store) {
        self.position = store.version();
        let objects = store.snapshot(self.opening.resource, self.position).unwrap_or_default();
        for (key, object) in &objects {
            let of = self.opening.namespace.is_empty() || key.namespace == self.opening.namespace;
            let object = to_served(self.opening.resource, (**object).clone());
            if of && self.opening.selector.matches(&object) {
                self.events.push_back(json!({ "type": "ADDED", "object": self.shown(object) }));
            }
        }
        if self.opening.mark_end_of_initial {
            let mut bookmark = self.bookmark();
            bookmark["object"]["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
            self.events.push_back(bookmark);
        }
    }

    fn error(&mut self, failure: &Failure) {
        self.events.push_back(json!({ "type": "ERROR", "object": failure.to_value() }));
        self.last = true;
    }

    fn bookmark(&self) -> Value {
        let object = json!({
            "kind": self.opening.resource.kind, "apiVersion": self.opening.resource.api_version(),
            "metadata": { "resourceVersion": self.position.to_string(), "creationTimestamp": null },
        });
        json!({ "type": "BOOKMARK", "object": self.shown(object) })
    }

    /// A bookmark says that all up to its version has been sent: so that goes first.
    fn push_bookmark(&mut self) {
        self.read_history();
        self.events.push_back(self.bookmark());
    }

    /// The next line; nothing at the end.
    async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                let mut line = event.to_string();
                line.push('\n');
                if self.cut && self.events.is_empty() {
                    line.truncate(line.len() / 2);
                }
                return Some(Ok(Bytes::from(line)));
            }
            if self.cut {
                // What has been handed over is written first, else nothing of it would come.
                tokio::task::yield_now().await;
                return Some(Err(Error::new(ErrorKind::ConnectionAborted, "the test cuts the watch")));
            }
            if self.last {
                return None;
            }
            self.versions.borrow_and_update();
            self.read_history();
            if self.events.is_empty() {
                self.wait().await;
            }
        }
    }

    fn read_history(&mut self) {
        let shared = self.shared.clone();
        let store = shared.store();
        for change in store.since(self.position) {
            self.events.extend(self.event(change));
        }
        self.position = self.position.max(store.version());
    }

    /// A change as this client sees it: what comes to match is added, what ceases to match is deleted.
    fn event(&self, change: &Change) -> Option<Value> {
        let Opening { resource, namespace, selector, .. } = &self.opening;
        if !change.key.is_of(resource) || !(namespace.is_empty() || change.key.namespace == *namespace) {
            return None;
        }
        let served = |object: &Arc<Value>| to_served(resource, (**object).clone());
        let matches =
            |object: &Option<Arc<Value>>| object.as_ref().is_some_and(|it| selector.matches(&served(it)));
        let kind = match (matches(&change.before), matches(&change.after)) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        Some(json!({ "type": kind, "object": self.shown(served(&change.last)) }))
    }

    fn shown(&self, object: Value) -> Value {
        if self.opening.metadata_only { metadata_of(object) } else { object }
    }

    async fn wait(&mut self) {
        tokio::select! {
            // The server goes away.
            changed = self.versions.changed() => self.last = changed.is_err(),
            changed = self.orders.changed() => match changed {
                Ok(()) => self.obey(),
                Err(_) => self.last = true,
            },
            () = sleep_until(self.deadline) => {
                if self.opening.bookmarks {
                    self.push_bookmark();
                }
                self.last = true;
            }
            () = sleep_until(self.next_bookmark), if self.opening.bookmarks => {
                self.push_bookmark();
                self.next_bookmark = Instant::now() + self.shared.bookmark_every();
            }
        }
    }

    fn obey(&mut self) {
        let order = self.orders.borrow_and_update().1;
        match order {
            Order::None => {}
            Order::Bookmark if self.opening.bookmarks => self.push_bookmark(),
            Order::Bookmark => {}
            Order::End => self.last = true,
            Order::Expire => {
                let now = self.shared.store().version();
                self.error(&Failure::expired(self.position, now));
            }
            Order::Cut => {
                self.push_bookmark();
                self.cut = true;
            }
        }
    }
}
