//! Faults that tests order, and the journal of requests.

use std::time::{Duration, Instant};

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A Status object with this code; `Retry-After` in seconds.
    Answer { code: u16, retry_after: Option<u32> },
    /// An answer with this code that is no Status object, as a proxy in between gives it.
    Text { code: u16 },
    /// Carried out and answered, but so much later.
    Delay(Duration),
    /// The connection is reset before anything is done.
    Reset,
    /// Carried out, but the connection is reset instead of the answer.
    ResetAfter,
    /// Carried out; half of the answer comes, then the connection ends.
    HalfAnswer,
    /// Never answered.
    Hang,
}

/// Which requests a fault hits, and how many of them.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) verb: String,
    pub(super) path: String,
    pub(super) left: usize,
    pub(super) fault: Fault,
}

impl Rule {
    pub(super) fn hits(&self, verb: &str, path: &str) -> bool {
        self.left > 0 && (self.verb.is_empty() || self.verb == verb) && path.contains(&self.path)
    }
}

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Entry {
    pub at: Instant,
    /// As RBAC names it: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'static str,
    pub method: String,
    pub path: String,
    pub query: String,
    pub user_agent: String,
    /// Which connection it came on, counted from 1.
    pub connection: u64,
    /// The answer's; nothing yet, or for ever where a fault kept it.
    pub code: Option<u16>,
}
