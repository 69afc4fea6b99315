//! Builds the packet programs, which `dataplane` embeds, with a toolchain for BPF.

fn main() {
    xtask::bpf::embed(xtask::bpf::PROGRAMS, "NETPLANE_BPF_OBJECT");
}
