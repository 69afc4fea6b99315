//! The integration tests of netplane, in one binary. They need root, and make and remove their own
//! network namespaces.

mod agent;
mod agent_cluster;
mod agent_metrics;
mod attach;
mod attach_burst;
mod attach_claims;
mod attach_debian;
mod attach_default_route;
mod attach_devices;
mod attach_exec;
mod attach_foreign;
mod attach_keys;
mod attach_killed;
mod attach_multus;
mod attach_select;
mod attach_power_cut;
mod attach_trouble;
mod attach_upkeep;
mod attach_verbs;
mod attach_versions;
mod builtin;
mod builtin_reference;
mod cases_bpf;
mod cluster;
mod containerd;
mod dataplane;
mod demo;
mod harness;
mod install;
mod ipv6;
mod kubelet;
mod program;
mod lint;
mod recorded;
mod router;
