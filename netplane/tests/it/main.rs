//! The integration tests of netplane, in one binary. They need root, and make and remove their own
//! network namespaces.

mod cases_bpf;
mod dataplane;
