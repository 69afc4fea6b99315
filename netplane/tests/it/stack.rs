//! The packet programs' stack as older verifiers count it: what loads here may not load there.

use netplane::dataplane::object as bytes;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SymbolKind};

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

/// A function of the object.
struct Function {
    name: String,
    /// The kernel calls it; else others here do.
    is_program: bool,
    depth: u32,
    /// Names of those that it calls.
    calls: Vec<String>,
}

/// `BPF_JMP | BPF_CALL`, and the source register of a call of a function in the object.
const CALL: u8 = 0x85;
const OF_FUNCTION: u8 = 1;

fn functions() -> Vec<Function> {
    let file = object::File::parse(bytes()).expect("an ELF file");
    let symbols: Vec<_> = file.symbols().filter(|it| it.kind() == SymbolKind::Text).collect();
    let name_at = |section, address| {
        let found = symbols.iter().find(|it| it.section_index() == Some(section) && it.address() == address);
        found.and_then(|it| it.name().ok()).map(str::to_owned)
    };
    let read = |symbol: &object::Symbol<'_, '_>| {
        let section = file.section_by_index(symbol.section_index()?).ok()?;
        let start = usize::try_from(symbol.address() - section.address()).ok()?;
        let code = section.data().ok()?.get(start..start + usize::try_from(symbol.size()).ok()?)?;
        let calls = (start..).step_by(8).zip(code.as_chunks::<8>().0);
        let calls = calls.filter(|(_, it)| it[0] == CALL && it[1] >> 4 == OF_FUNCTION).map(|(at, it)| {
            let distance = i64::from(i32::from_le_bytes([it[4], it[5], it[6], it[7]]));
            let relocation = section.relocations().find(|(offset, _)| *offset == at as u64);
            // The distance counts from the next instruction: in the section of a symbol, or from here.
            let (section, base) = match relocation.map(|(_, it)| it.target()) {
                Some(RelocationTarget::Symbol(target)) => {
                    let target = file.symbol_by_index(target).ok()?;
                    (
                        target.section_index()?,
                        target.address().cast_signed()
                            - 8 * i64::from(target.kind() == SymbolKind::Text) * (distance + 1),
                    )
                }
                _ => (section.index(), at as i64),
            };
            name_at(section, (base + 8 * (distance + 1)).cast_unsigned())
        });
        Some(Function {
            name: symbol.name().ok()?.to_owned(),
            is_program: section.name().ok()? != ".text",
            depth: depth(code),
            calls: calls.map(|it| it.expect("a call of a function")).collect(),
        })
    };
    symbols.iter().filter_map(read).collect()
}

/// The deepest chain of calls from a function: its bytes as the kernel rounds them, and the names on it.
fn deepest(functions: &[Function], function: &Function) -> (u32, String) {
    let callees = function.calls.iter().filter_map(|name| functions.iter().find(|it| it.name == *name));
    let (below, chain) = callees.map(|it| deepest(functions, it)).max().unwrap_or_default();
    // Even a function that uses none takes one byte, rounded up.
    let own = function.depth.max(1).next_multiple_of(ROUNDED_TO);
    (own + below, format!("{} {}, {chain}", function.name, function.depth))
}

#[test]
fn programs_and_what_they_call_fit_the_stack_of_older_kernels() {
    let functions = functions();
    let programs: Vec<_> = functions.iter().filter(|it| it.is_program).collect();
    // Tracing programs call nothing.
    let calling = programs.iter().filter(|it| !it.calls.is_empty()).count();
    assert!(calling >= 5 && programs.iter().all(|it| it.depth > 0), "{calling} of {}", programs.len());
    let chains: Vec<_> = programs.iter().map(|it| deepest(&functions, it)).collect();
    assert!(chains.iter().all(|(bytes, _)| *bytes <= MOST), "more than {MOST} bytes:\n{chains:#?}");
}
