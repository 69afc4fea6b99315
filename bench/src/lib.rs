//! Labs, traffic, baselines and benchmarks.
