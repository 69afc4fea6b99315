//! Builds the packet programs that the benches embed.

fn main() -> anyhow::Result<()> {
    xtask::bpf::build_for_crate(xtask::bpf::BENCH, "NETPLANE_BENCH_BPF_OBJECT")
}
