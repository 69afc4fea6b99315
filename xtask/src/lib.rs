//! Developer verbs, and the BPF build that they share with `netplane/build.rs`.
