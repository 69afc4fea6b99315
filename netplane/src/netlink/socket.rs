//! A netlink socket of one namespace, with requests that block. The plugin is a program of one thread,
//! and the agent has a thread for each namespace it watches: neither gains from anything else.

use super::netns::{Netns, NetnsError};
use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup};
use std::io;
use std::time::Duration;
use tokio::runtime::Runtime;

/// A request that the kernel refused, or that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}")]
pub struct NetlinkError {
    /// What was being done, with its object: `add 10.30.0.50/24 to net1`.
    pub operation: String,
    #[source]
    pub source: io::Error,
}

impl NetlinkError {
    /// The kernel's error number.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// What went wrong when a socket was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
}

/// The socket. It stays in its namespace whichever thread uses it.
#[derive(Debug)]
pub struct Netlink {
    runtime: Runtime,
    pub(super) handle: Handle,
    events: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
}

impl Netlink {
    /// Opens a socket in `netns`.
    ///
    /// # Errors
    /// The namespace cannot be entered, or there are no more file descriptors.
    pub fn open(netns: &Netns) -> Result<Self, OpenError> {
        Self::open_with(netns, &[])
    }

    /// Opens a socket that also hears of changes in these groups.
    pub(super) fn open_with(netns: &Netns, groups: &[MulticastGroup]) -> Result<Self, OpenError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(OpenError::Socket)?;
        let opened = netns.run(|| {
            let _guard = runtime.enter();
            rtnetlink::new_multicast_connection(groups)
        })?;
        let (connection, handle, events) = opened.map_err(OpenError::Socket)?;
        // Runs whenever this runtime runs, that is while a request or an event is waited for.
        runtime.spawn(connection);
        Ok(Self { runtime, handle, events })
    }

    /// Waits for a request's end.
    pub(super) fn wait<T>(
        &self,
        operation: impl FnOnce() -> String,
        request: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, NetlinkError> {
        let result = self.runtime.block_on(request);
        result.map_err(|error| NetlinkError { operation: operation(), source: io_error(error) })
    }

    /// Waits until something changes in the groups, or for `at_most`. Changes that are a few milliseconds
    /// apart are one. `false`: nothing changed.
    pub(super) fn wait_for_change(&mut self, at_most: Duration) -> bool {
        const SETTLE: Duration = Duration::from_millis(5);
        let Self { runtime, events, .. } = self;
        runtime.block_on(async {
            let first = tokio::time::timeout(at_most, events.next()).await;
            if first.is_err() {
                return false;
            }
            // What exactly changed, or was lost to an overrun (ENOBUFS), does not matter: all is read anew.
            while let Ok(Some(_)) = tokio::time::timeout(SETTLE, events.next()).await {}
            true
        })
    }
}

fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
