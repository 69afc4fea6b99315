//! The only place that touches netlink: links, addresses, routes and neighbours of one namespace at
//! a time, under the names that people and the kernel use.

pub mod netns;
pub mod xdp;
