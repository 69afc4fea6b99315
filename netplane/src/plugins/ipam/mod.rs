//! Address management inside the process.

pub mod audit;
pub mod host_local;
mod ranges;
pub mod resolv_conf;
mod store;

pub use ranges::{Range, RangeError};
pub use store::StoreError;
