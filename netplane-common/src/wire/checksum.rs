//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use super::{Be16, Wire};

/// Folds a sum of 16-bit words (any byte order, as long as it is one) and complements it.
#[inline(always)]
pub const fn finish(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// The checksum of a header after one of its 16-bit words went from `old` to `new` (RFC 1624, eqn. 3).
#[inline(always)]
pub const fn replace(checksum: Be16, old: Be16, new: Be16) -> Be16 {
    let sum = !checksum.raw() as u32 + !old.raw() as u32 + new.raw() as u32;
    Be16::from_raw(finish(sum))
}

/// The two halves of a 32-bit word added up, for a sum of 16-bit words.
#[inline(always)]
pub const fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

/// The sum of the 16-bit words of a header or address, for [`finish`]. Its size is a multiple of four.
#[inline(always)]
pub fn sum<T: Wire>(value: &T) -> u32 {
    let (words, _) = value.as_bytes().as_chunks::<4>();
    words.iter().map(|it| halves(u32::from_ne_bytes(*it))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_rfc_1624() {
        // Section 4: HC = DD2F, m = 5555, m' = 3285 gives 0000.
        assert_eq!(replace(Be16::new(0xdd2f), Be16::new(0x5555), Be16::new(0x3285)), Be16::new(0));
    }

    #[test]
    fn example_of_rfc_1071() {
        // Section 3: the words 0001 f203 f4f5 f6f7 sum to ddf2.
        assert_eq!(finish(0x0001 + 0xf203 + 0xf4f5 + 0xf6f7), !0xddf2);
    }
}
