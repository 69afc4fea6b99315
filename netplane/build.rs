//! Builds the packet programs, which `dataplane` embeds, with a toolchain for BPF; and how the binary is linked.

fn main() {
    // At a fixed address, as Go's plugins are: a process for each call need not relocate the binary first,
    // which took three milliseconds and two MiB of its own in each process of the tests' binary.
    println!("cargo:rustc-link-arg-bins=-no-pie");
    xtask::bpf::embed(xtask::bpf::PROGRAMS, "NETPLANE_BPF_OBJECT");
}
