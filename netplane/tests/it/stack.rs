//! The packet programs' stack as older verifiers count it: what loads here may not load there.

use netplane::dataplane::object as bytes;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

/// MAX_BPF_STACK of linux/filter.h: a program with all functions that are called at one time.
const MOST: u32 = 512;

/// Kernels up to 6.7 round the stack of each function up to 32 bytes; later ones to 16 where there is a JIT
/// (`round_up_stack_depth` in kernel/bpf/verifier.c).
const ROUNDED_TO: u32 = 32;

const FRAME_POINTER: u8 = 10;
/// Instruction classes and operations of RFC 9669 §3 and §4.
const LOAD: u8 = 0x01;
const STORES: [u8; 2] = [0x02, 0x03];
const CLASS: u8 = 0x07;
const MOVE_REGISTER: u8 = 0xbf;
const ADD_CONSTANT: u8 = 0x07;

/// Where an instruction reaches below the frame pointer: by itself, or by the address that it completes.
fn reach(before: Option<&[u8; 8]>, instruction: &[u8; 8]) -> i32 {
    let [code, registers, offset0, offset1, immediate @ ..] = *instruction;
    let (destination, source) = (registers & 0xf, registers >> 4);
    let class = code & CLASS;
    if class == LOAD && source == FRAME_POINTER || STORES.contains(&class) && destination == FRAME_POINTER {
        return i32::from(i16::from_le_bytes([offset0, offset1]));
    }
    let copies = |it: &[u8; 8]| it[0] == MOVE_REGISTER && it[1] == FRAME_POINTER << 4 | destination;
    if code == ADD_CONSTANT && before.is_some_and(copies) { i32::from_le_bytes(immediate) } else { 0 }
}

/// Bytes of stack that a function uses.
fn depth(code: &[u8]) -> u32 {
    let instructions = code.as_chunks::<8>().0;
    let before = std::iter::once(None).chain(instructions.iter().map(Some));
    let reaches = before.zip(instructions).map(|(before, instruction)| reach(before, instruction));
    reaches.map(|it| it.min(0).unsigned_abs()).max().unwrap_or(0)
}

/// Functions of the object: name, whether the kernel calls it, bytes of stack.
fn functions() -> Vec<(String, bool, u32)> {
    let file = object::File::parse(bytes()).expect("an ELF file");
    let functions = file.symbols().filter(|it| it.kind() == SymbolKind::Text);
    let read = |symbol: object::Symbol<'_, '_>| {
        let section = file.section_by_index(symbol.section_index()?).ok()?;
        let start = usize::try_from(symbol.address() - section.address()).ok()?;
        let code = section.data().ok()?.get(start..start + usize::try_from(symbol.size()).ok()?)?;
        Some((symbol.name().ok()?.to_owned(), section.name().ok()? != ".text", depth(code)))
    };
    functions.filter_map(read).collect()
}

#[test]
fn programs_and_what_they_call_fit_the_stack_of_older_kernels() {
    let functions = functions();
    // Functions call no other but those of memory, which need no stack.
    let called: Vec<_> = functions.iter().filter(|(_, is_program, _)| !is_program).collect();
    let deepest = called.iter().map(|(_, _, depth)| *depth).max().expect("functions that are not inlined");
    let programs: Vec<_> = functions.iter().filter(|(_, is_program, _)| *is_program).collect();
    assert!(!programs.is_empty() && deepest > 0, "{functions:?}");
    for (name, _, depth) in programs {
        assert!(*depth > 0, "{name}");
        let together = depth.next_multiple_of(ROUNDED_TO) + deepest.next_multiple_of(ROUNDED_TO);
        assert!(together <= MOST, "{together} bytes: {name} {depth}, {called:?}");
    }
}
