//! The size of the packet program: in the object, through the verifier, and after the JIT.

use super::Counts;
use anyhow::{Context, Result, ensure};
use aya::EbpfLoader;
use aya::programs::Xdp;
use netplane::dataplane::{XDP_PROGRAM, object as bytes};
use object::{Object as _, ObjectSection as _};

pub(super) const INSTRUCTIONS: &str = "instructions";

/// `BPF_JMP | BPF_CALL` of linux/bpf_common.h and linux/bpf.h.
const CALL: u8 = 0x85;

/// Helpers that the program calls, by the numbers of linux/bpf.h.
fn helper(number: i32) -> String {
    let name = match number {
        1 => "bpf_map_lookup_elem",
        5 => "bpf_ktime_get_ns",
        8 => "bpf_get_smp_processor_id",
        11 => "bpf_l4_csum_replace",
        12 => "bpf_tail_call",
        18 => "bpf_skb_vlan_push",
        19 => "bpf_skb_vlan_pop",
        25 => "bpf_perf_event_output",
        26 => "bpf_skb_load_bytes",
        28 => "bpf_csum_diff",
        38 => "bpf_skb_change_tail",
        39 => "bpf_skb_pull_data",
        40 => "bpf_csum_update",
        44 => "bpf_xdp_adjust_head",
        50 => "bpf_skb_adjust_room",
        51 => "bpf_redirect_map",
        65 => "bpf_xdp_adjust_tail",
        130 => "bpf_ringbuf_output",
        131 => "bpf_ringbuf_reserve",
        132 => "bpf_ringbuf_submit",
        133 => "bpf_ringbuf_discard",
        188 => "bpf_xdp_get_buff_len",
        189 => "bpf_xdp_load_bytes",
        195 => "bpf_map_lookup_percpu_elem",
        _ => return format!("helper {number}"),
    };
    name.to_owned()
}

/// Instructions of the XDP programs and of all functions in the object, and how many places call each helper.
pub(super) fn object() -> Result<Counts> {
    let file = object::File::parse(bytes()).context("the product's BPF object is no ELF file")?;
    let mut counts = Counts::new();
    for section in file.sections().filter(|it| matches!(it.name(), Ok("xdp.frags" | ".text"))) {
        let data = section.data().context("a section of the object")?;
        // `struct bpf_insn`: code, registers, offset, immediate.
        for instruction in data.as_chunks::<8>().0 {
            *counts.entry(INSTRUCTIONS.to_owned()).or_default() += 1;
            let [code, registers, _, _, immediate @ ..] = *instruction;
            // A source register of 0 is a call of a helper, 1 one of a function in the object.
            if code == CALL && registers >> 4 == 0 {
                *counts.entry(helper(i32::from_le_bytes(immediate))).or_default() += 1;
            }
        }
    }
    ensure!(
        counts.contains_key("bpf_redirect_map"),
        "no program in the object's section xdp.frags: {counts:?}"
    );
    Ok(counts)
}

/// What this kernel makes of it.
pub(super) fn loaded() -> Result<Counts> {
    let mut ebpf = EbpfLoader::new().load(bytes()).context("load the product's object; it needs root")?;
    let program = ebpf.program_mut(XDP_PROGRAM).with_context(|| format!("no program {XDP_PROGRAM}"))?;
    let program: &mut Xdp = program.try_into()?;
    program.load().context("the kernel refuses the program")?;
    let info = program.info()?;
    let mut counts = Counts::new();
    // Linux 5.16.
    if let Some(verified) = info.verified_instruction_count() {
        counts.insert("verified instructions".to_owned(), verified);
    }
    if let Some(size) = info.size_translated() {
        counts.insert("translated bytes".to_owned(), size);
    }
    // 0 where the JIT is off.
    if info.size_jitted() > 0 {
        counts.insert("JIT bytes".to_owned(), info.size_jitted());
    }
    Ok(counts)
}

/// The kernel's series and the machine, which both count: `6.18 x86_64`.
pub(super) fn kernel() -> Result<String> {
    let name = nix::sys::utsname::uname()?;
    let release = name.release().to_string_lossy().into_owned();
    let series: Vec<_> = release.splitn(3, '.').take(2).collect();
    Ok(format!("{} {}", series.join("."), name.machine().to_string_lossy()))
}
