//! The manifests in `deploy/` and `examples/cluster/`: that they are what the API takes, that its server's double
//! takes them from kubectl, and that roles and policy are no more and no less than what is needed.

mod manifests;
mod policy;
mod roles;
