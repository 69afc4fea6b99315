//! Builds the programs that the benchmark compares with, which `measure` embeds.

fn main() {
    xtask::bpf::embed(xtask::bpf::BENCH_PROGRAMS, "NETPLANE_BENCH_BPF_OBJECT");
}
