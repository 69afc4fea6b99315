//! Builds the packet programs that the binary embeds.

fn main() -> anyhow::Result<()> {
    xtask::bpf::build_for_crate(xtask::bpf::PRODUCT, "NETPLANE_BPF_OBJECT")
}
