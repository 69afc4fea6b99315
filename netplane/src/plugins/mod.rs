//! Plugins that run inside the process instead of being exec'd: macvlan, and host-local for addresses.
//! Same configuration keys and same state on disk as the reference plugins, so that both can be used on
//! one node.

pub mod ipam;
pub mod macvlan;
