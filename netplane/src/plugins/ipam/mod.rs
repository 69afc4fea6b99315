//! Address management inside the process.

pub mod audit;
pub mod host_local;
mod ranges;
mod store;

pub use ranges::{Range, RangeError};
pub use store::StoreError;
