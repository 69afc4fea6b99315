//! The links of the node's own namespace: masters appear, change their name or MTU, and vanish.

use super::{Fact, Send, Stop, chain};
use crate::netlink::netns::Netns;
use crate::netlink::observe::{Observer, Scope};
use std::time::Duration;

/// How often the order to stop is looked for, and all is read anew.
const INTERVAL: Duration = Duration::from_secs(2);

/// Sends all links now and after each change, until stopped.
///
/// # Errors
/// The namespace cannot be watched.
pub fn run(netns: &Netns, send: &Send, stop: &Stop) -> Result<(), String> {
    let mut observer = Observer::open(netns, Scope::Links).map_err(|it| chain(&it))?;
    let mut last = None;
    while !stop.is_stopped() {
        match observer.snapshot() {
            Ok(snapshot) if last.as_ref() != Some(&snapshot.links) => {
                last = Some(snapshot.links.clone());
                if !send(Fact::Masters(snapshot.links)) {
                    break;
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(error = chain(&error), "links of the node"),
        }
        observer.wait(INTERVAL);
    }
    Ok(())
}
