//! Labs, traffic, baselines and benchmarks.

pub mod attach;

pub mod demo;

pub mod guard;

pub mod differential;

pub mod fuzz;

pub mod lab;

pub mod load;

pub mod measure;

pub mod rates;

pub mod report;

pub mod sessions;

pub mod soak;
