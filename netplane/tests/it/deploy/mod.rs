//! The manifests in `deploy/` and `examples/cluster/`: that they are what the API takes, that its server's double
//! takes them from kubectl, that roles and policy are no more and no less than what is needed, and that what they
//! make of a node works.

mod api;
mod end_to_end;
mod manifests;
mod policy;
mod roles;

pub(crate) use manifests::examples;
