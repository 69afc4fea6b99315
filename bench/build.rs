//! Builds the programs that the benchmark compares with, which `measure` embeds.

fn main() -> anyhow::Result<()> {
    xtask::bpf::embed(xtask::bpf::BENCH_PROGRAMS, "NETPLANE_BENCH_BPF_OBJECT")
}
