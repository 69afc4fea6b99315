//! Labs, traffic, baselines and benchmarks.

pub mod demo;

pub mod lab;

pub mod measure;
