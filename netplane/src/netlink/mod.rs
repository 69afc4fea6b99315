//! The only place that touches netlink: links, addresses, routes and neighbours of one namespace at
//! a time, under the names that people and the kernel use.

pub mod addr;
pub mod configure;
pub mod device;
pub mod ethtool;
pub mod link;
pub mod neigh;
pub mod netdev;
pub mod netns;
pub mod observe;
pub mod route;
pub mod socket;
pub mod xdp;

pub use netplane_common::wire::ethernet::Mac;
