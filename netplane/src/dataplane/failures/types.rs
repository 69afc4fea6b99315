//! Where a field is in a structure of the running kernel, by the kernel's own description of its types (BTF,
//! Documentation/bpf/btf.rst). aya reads the same, but does not say where fields are.

use std::path::Path;

/// Of the running kernel.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
/// Kinds of types that matter here, and those that something follows.
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// A type: name, kind and count, size or other type.
const HEADER: usize = 12;
const MEMBER: usize = 12;
/// A type of a type of a type: no kernel goes further.
const DEPTH: usize = 8;

/// All types of a kernel.
pub(super) struct Types {
    data: Vec<u8>,
    /// Where each type is; type 0 is `void`.
    types: Vec<usize>,
    strings: usize,
}

impl Types {
    /// # Errors
    /// A kernel without BTF, or one of another form.
    pub(super) fn of_kernel() -> Result<Self, String> {
        let data = std::fs::read(Path::new(KERNEL)).map_err(|it| format!("{KERNEL}: {it}"))?;
        Self::parse(data).ok_or_else(|| format!("{KERNEL}: cannot be understood"))
    }

    fn parse(data: Vec<u8>) -> Option<Self> {
        let word = |at| word(&data, at);
        if data.get(..2)? != MAGIC.to_ne_bytes() {
            return None;
        }
        let size = |at| usize::try_from(word(at)?).ok();
        let header = size(4)?;
        let (begin, length, strings) = (header + size(8)?, size(12)?, header + size(16)?);
        let (mut types, mut at) = (vec![0], begin);
        while at < begin + length {
            types.push(at);
            let info = word(at + 4)?;
            let count = usize::try_from(info & 0xffff).ok()?;
            at += HEADER
                + match info >> 24 & 0x1f {
                    INT | VAR | DECL_TAG => 4,
                    ARRAY => 12,
                    STRUCT | UNION | DATASEC | ENUM64 => count * 12,
                    ENUM | FUNC_PROTO => count * 8,
                    _ => 0,
                };
        }
        Some(Self { data, types, strings })
    }

    /// Bytes from the start of a structure to a field; further names are of fields in that field.
    ///
    /// # Errors
    /// The kernel has no such structure or field.
    pub(super) fn offset(&self, structure: &str, fields: &[&str]) -> Result<u32, String> {
        let missing = || format!("the kernel has no field {} in its {structure}", fields.join("."));
        let is_it = |at: &usize| self.kind(*at) == Some(STRUCT) && self.named(*at, structure);
        let mut at = *self.types.iter().skip(1).find(|it| is_it(it)).ok_or_else(missing)?;
        let mut bits = 0;
        for field in fields {
            let (offset, kind) = self.field(at, field, DEPTH).ok_or_else(missing)?;
            bits += offset;
            at = self.resolved(kind).unwrap_or(0);
        }
        Ok(bits / 8)
    }

    /// Bits to a field, and its type. Structures without a name are looked into.
    fn field(&self, at: usize, name: &str, depth: usize) -> Option<(u32, u32)> {
        let info = word(&self.data, at + 4)?;
        let count = usize::try_from(info & 0xffff).ok()?;
        for member in (0..count).map(|it| at + HEADER + it * MEMBER) {
            let (kind, offset) = (word(&self.data, member + 4)?, word(&self.data, member + 8)?);
            // With bit fields in the structure, their sizes are in the highest byte.
            let offset = if info >> 31 == 1 { offset & 0x00ff_ffff } else { offset };
            if self.named(member, name) {
                return Some((offset, kind));
            }
            if word(&self.data, member)? == 0 && depth > 0 {
                let inner = self.resolved(kind).filter(|it| matches!(self.kind(*it), Some(STRUCT | UNION)));
                if let Some((bits, kind)) = inner.and_then(|it| self.field(it, name, depth - 1)) {
                    return Some((offset + bits, kind));
                }
            }
        }
        None
    }

    /// A type without the names and qualifiers in front of it.
    fn resolved(&self, kind: u32) -> Option<usize> {
        let mut kind = kind;
        for _ in 0..DEPTH {
            let at = *self.types.get(usize::try_from(kind).ok()?)?;
            match self.kind(at)? {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => kind = word(&self.data, at + 8)?,
                _ => return Some(at),
            }
        }
        None
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some(word(&self.data, at + 4)? >> 24 & 0x1f)
    }

    /// Whether a type or member, which both begin with where their name is, has this one.
    fn named(&self, at: usize, name: &str) -> bool {
        let named = || {
            let begin = self.strings + usize::try_from(word(&self.data, at)?).ok()?;
            let text = self.data.get(begin..begin + name.len() + 1)?;
            Some(text.split_last() == Some((&0, name.as_bytes())))
        };
        named().unwrap_or(false)
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct s { union { int; struct { const int x } }; t y }` with `typedef struct { int z } t`.
    fn made() -> Types {
        let strings = b"\0s\0x\0y\0z\0t\0";
        let mut types = Vec::new();
        let mut add = |words: &[u32]| types.extend(words.iter().flat_map(|it| it.to_ne_bytes()));
        let kind = |kind: u32, count: u32| kind << 24 | count;
        add(&[0, kind(INT, 0), 4, 0]); // 1
        add(&[0, kind(CONST, 0), 1]); // 2
        add(&[0, kind(STRUCT, 1), 4, 3, 2, 32]); // 3: x
        add(&[0, kind(UNION, 2), 8, 0, 1, 0, 0, 3, 0]); // 4
        add(&[0, kind(STRUCT, 1), 4, 7, 1, 64]); // 5: z
        add(&[9, kind(TYPEDEF, 0), 5]); // 6
        add(&[1, kind(STRUCT, 2), 24, 0, 4, 64, 5, 6, 128]); // 7: s
        let length = u32::try_from(types.len()).expect("short");
        let mut data = MAGIC.to_ne_bytes().to_vec();
        data.extend([1, 0]);
        let header = [24, 0, length, length, u32::try_from(strings.len()).expect("short")];
        data.extend(header.iter().flat_map(|it| it.to_ne_bytes()));
        data.extend(types);
        data.extend(strings);
        Types::parse(data).expect("types")
    }

    #[test]
    fn fields_are_found_in_structures_without_a_name_and_through_others_names() {
        let types = made();
        assert_eq!(types.offset("s", &["x"]), Ok(12));
        assert_eq!(types.offset("s", &["y", "z"]), Ok(24));
        assert!(types.offset("s", &["z"]).is_err() && types.offset("t", &["z"]).is_err());
        let cut = types.data[..types.data.len() - 40].to_vec();
        assert!(Types::parse(cut).is_none_or(|it| it.offset("s", &["x"]).is_err()));
    }
}
