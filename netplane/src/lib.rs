//! netplane in user space. Modules in the order in which data goes through them; `use crate::…` may
//! only point downwards in this list (`cargo xtask test` checks it).

pub mod cli;

pub mod agent;

pub mod install;

pub mod sources;

pub mod cni;

pub mod attach;

pub mod plugins;

pub mod devices;

pub mod cluster;

pub mod world;

pub mod dataplane;

pub mod nad;

pub mod netlink;
