//! The state of a namespace, and waiting for it to change. All is read anew after each change: a lost
//! message costs nothing, and there is no state to get wrong.

use super::addr::Address;
use super::link::Link;
use super::neigh::Neighbour;
use super::netns::Netns;
use super::route::Route;
use super::socket::{Changes, Netlink, NetlinkError, OpenError};
use rtnetlink::MulticastGroup;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// What the fast path needs to know of a namespace, each list sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Snapshot {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
    pub neighbours: Vec<Neighbour>,
}

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Links only: masters.
    Links,
    /// Links, addresses, routes and neighbours: pods.
    All,
}

/// Follows one namespace.
#[derive(Debug)]
pub struct Observer {
    netlink: Netlink,
    changes: Changes,
    scope: Scope,
}

impl Observer {
    /// Starts to follow `netns`: what changes from here on is not missed.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn open(netns: &Netns, scope: Scope) -> Result<Self, OpenError> {
        let groups: &[MulticastGroup] = match scope {
            Scope::Links => &[MulticastGroup::Link],
            Scope::All => &[
                MulticastGroup::Link,
                MulticastGroup::Neigh,
                MulticastGroup::Ipv4Ifaddr,
                MulticastGroup::Ipv4Route,
                MulticastGroup::Ipv6Ifaddr,
                MulticastGroup::Ipv6Route,
            ],
        };
        // Two sockets: answers must not be lost when changes overrun.
        netns.visit(|| Ok(Self { changes: Changes::here(groups)?, netlink: Netlink::here()?, scope }))?
    }

    /// Requests in the same namespace.
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Reads everything.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn snapshot(&self) -> Result<Snapshot, NetlinkError> {
        let mut snapshot = Snapshot { links: self.netlink.links()?, ..Snapshot::default() };
        snapshot.links.sort_by_key(|it| it.index);
        if self.scope == Scope::All {
            snapshot.addresses = self.netlink.addresses()?;
            snapshot.addresses.sort_unstable();
            snapshot.routes = self.netlink.routes()?;
            snapshot.routes.sort_unstable();
            snapshot.neighbours = self.netlink.neighbours()?;
            snapshot.neighbours.sort_unstable();
        }
        Ok(snapshot)
    }

    /// Forgets changes until now, before all is read.
    pub fn catch_up(&self) {
        self.changes.forget();
    }

    /// Waits until something may have changed, or for `at_most`.
    pub fn wait(&mut self, at_most: Duration) -> bool {
        self.changes.wait(at_most)
    }
}

/// Readable when something may have changed.
impl AsFd for Observer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// Messages that the kernel has thrown away for sockets of this thread's namespace: the column Drops.
    fn overruns() -> u64 {
        let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").expect("sockets");
        let drops =
            sockets.lines().skip(1).filter_map(|it| it.split_whitespace().nth(8)?.parse::<u64>().ok());
        drops.sum()
    }

    fn ip(script: &str) {
        let mut command = Command::new("ip");
        let mut child = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip");
        child.stdin.take().expect("piped").write_all(script.as_bytes()).expect("written");
        assert!(child.wait().expect("ip").success());
    }

    /// In a namespace that ends with the thread.
    #[test]
    fn what_an_overrun_has_lost_is_read_anew() {
        let test = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            let netns = Netns::current().expect("this one");
            ip("link set lo up\n");
            let mut observer = Observer::open(&netns, Scope::All).expect("an observer");
            let before = observer.snapshot().expect("read").addresses.len();
            // More changes than the socket has room for, and nobody reads.
            let add = |it: u32| format!("address add 10.9.{}.{}/32 dev lo\n", it / 250, it % 250 + 1);
            ip(&(0..2000).map(add).collect::<String>());
            assert!(overruns() > 0, "the socket has overrun");
            assert!(observer.wait(Duration::from_secs(10)), "an overrun is a change");
            assert_eq!(observer.snapshot().expect("read").addresses.len(), before + 2000);
            // And what changes after an overrun is heard of.
            assert!(!observer.wait(Duration::ZERO), "all is read");
            ip("address del 10.9.0.1/32 dev lo\n");
            assert!(observer.wait(Duration::from_secs(10)), "a single change");
            assert_eq!(observer.snapshot().expect("read").addresses.len(), before + 1999);
        };
        std::thread::scope(|scope| scope.spawn(test).join().expect("the test"));
    }
}
