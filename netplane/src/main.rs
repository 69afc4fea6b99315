//! The one binary: a CNI plugin when `CNI_COMMAND` is set, else the command line.

fn main() {}
