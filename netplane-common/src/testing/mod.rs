//! Cases, packet builders and tables in memory, shared by unit tests, kernel runs, benches and fuzzers.
//! The builders know nothing of the crate's own wire types, so that one can check the other.

pub mod answers;
pub mod cases;
mod downlink;
mod found;
mod framed;
pub mod fuzz;
pub mod invariants;
mod ipv6;
pub mod jumbo;
mod known;
pub mod mutate;
pub mod numbers;
pub mod packet;
pub mod rules;
pub mod tables;
mod uplink;
mod view;
pub mod worlds;
