//! How many connections each caller may have: a pod that opens many has none of the others' room. A connection may
//! be silent for as long as it likes, since a watch is; so this is no listener of `agent::limit`.

use super::caller::Caller;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of one pod, of root on the node, and of all together who may do nothing.
pub(super) const CONNECTIONS: usize = 32;

/// Who has connections.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<Caller, Share>);

/// Of one caller.
#[derive(Debug)]
struct Share {
    free: Arc<Semaphore>,
    /// Once it is enough to say so until all its connections have gone.
    is_told: bool,
}

impl Places {
    /// A place for as long as it is held; `None` if the caller has as many as it may have.
    pub(super) fn take(&mut self, caller: &Caller) -> Option<OwnedSemaphorePermit> {
        self.0.retain(|_, it| it.free.available_permits() < CONNECTIONS);
        let places = self.0.entry(whose(caller));
        let places =
            places.or_insert_with(|| Share { free: Arc::new(Semaphore::new(CONNECTIONS)), is_told: false });
        let place = places.free.clone().try_acquire_owned().ok();
        if place.is_none() && !std::mem::replace(&mut places.is_told, true) {
            tracing::warn!(
                ?caller,
                most = CONNECTIONS,
                "more connections to the session API are closed at once"
            );
        }
        place
    }
}

/// The containers of a pod share its places, and so do all who may do nothing: their numbers are many.
fn whose(caller: &Caller) -> Caller {
    match caller {
        Caller::Pod { uid: uid @ Some(_), .. } => Caller::Pod { uid: uid.clone(), container: None },
        Caller::Nobody(_) => Caller::Nobody(String::new()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, container: &str) -> Caller {
        Caller::Pod { uid: Some(uid.to_owned()), container: Some(container.to_owned()) }
    }

    #[test]
    fn a_pods_containers_share_its_places_and_take_nobody_elses() {
        let mut places = Places::default();
        let mut held: Vec<_> = (0..CONNECTIONS).map(|it| places.take(&pod("a", &it.to_string()))).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(places.take(&pod("a", "one more")).is_none());
        assert!(places.take(&pod("b", "0")).is_some(), "another pod has its own");
        assert!(places.take(&Caller::Node).is_some(), "and so has root");
        held.pop();
        assert!(places.take(&pod("a", "again")).is_some(), "a place that was given back");
    }

    #[test]
    fn who_may_do_nothing_has_one_share_and_leaves_nothing() {
        let mut places = Places::default();
        let nobody = |number: usize| Caller::Nobody(format!("process {number} has ended"));
        let held: Vec<_> = (0..CONNECTIONS).map(|it| places.take(&nobody(it))).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(places.take(&nobody(CONNECTIONS)).is_none());
        drop(held);
        let _node = places.take(&Caller::Node);
        assert_eq!(places.0.len(), 1, "{places:?}");
    }
}
