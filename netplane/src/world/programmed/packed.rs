//! Messages in little memory. The sessions of a pod are alike: each is kept as what it has otherwise than one of a few
//! of them (LZ4 with that one as its dictionary), which is less than half.

use lz4_flex::block::{compress_into_with_dict, decompress_into_with_dict, get_maximum_output_size};
use prost::encoding::{decode_varint, encode_varint};

/// Messages of one pod that others are like; more than these are not looked for.
const MOST: usize = 8;
/// Lengths of messages that may be patterns.
const LENGTHS: std::ops::RangeInclusive<usize> = 64..=4096;

/// What a pod's messages are packed with. One that was given stays.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    all: Vec<Box<[u8]>>,
    /// Which one was the best for the last message.
    last: usize,
}

/// A message in few bytes. It is nothing without its pod's patterns.
///
/// The first byte is one more than the pattern's index; behind it are the message's length as a varint and the message
/// packed. Or it is 0, and the message follows.
#[derive(Debug)]
pub(super) struct Packed(Box<[u8]>);

impl Patterns {
    pub(super) fn pack(&mut self, message: &[u8]) -> Packed {
        let is_good = |it: &Packed| it.0.len() <= message.len() * 2 / 3;
        let is_less = |it: &Packed, other: &Packed| it.0.len() < other.0.len();
        let mut best = Packed([&[0][..], message].concat().into());
        let others = (0..self.all.len()).filter(|it| *it != self.last);
        for index in std::iter::once(self.last).chain(others) {
            best = self.pack_with(index, message).filter(|it| is_less(it, &best)).unwrap_or(best);
            if is_good(&best) {
                break;
            }
        }
        if !is_good(&best) && self.all.len() < MOST && LENGTHS.contains(&message.len()) {
            // Those that follow are likely to be like this one.
            self.all.push(message.into());
            let packed = self.pack_with(self.all.len() - 1, message);
            best = packed.filter(|it| is_less(it, &best)).unwrap_or(best);
        }
        self.last = best.parts().0.unwrap_or(self.last);
        best
    }

    fn pack_with(&self, index: usize, message: &[u8]) -> Option<Packed> {
        let mut bytes = vec![u8::try_from(index + 1).ok()?];
        encode_varint(u64::try_from(message.len()).ok()?, &mut bytes);
        let head = bytes.len();
        bytes.resize(head + get_maximum_output_size(message.len()), 0);
        let length = compress_into_with_dict(message, &mut bytes[head..], self.all.get(index)?).ok()?;
        bytes.truncate(head + length);
        Some(Packed(bytes.into()))
    }

    /// What was packed with these patterns.
    pub(super) fn unpack(&self, packed: &Packed) -> Vec<u8> {
        let (index, mut rest) = packed.parts();
        let Some(index) = index else { return rest.to_vec() };
        let length = decode_varint(&mut rest).ok().and_then(|it| usize::try_from(it).ok());
        let mut message = vec![0; length.unwrap_or(0)];
        let pattern = self.all.get(index).map(|it| &**it).unwrap_or_default();
        // It was packed here.
        let unpacked = decompress_into_with_dict(rest, &mut message, pattern);
        debug_assert!(unpacked.is_ok(), "{unpacked:?}");
        message
    }
}

impl Packed {
    /// The pattern's index, if there is one, and what is behind it.
    fn parts(&self) -> (Option<usize>, &[u8]) {
        let Some((pattern, rest)) = self.0.split_first() else { return (None, &[]) };
        (usize::from(*pattern).checked_sub(1), rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_that_are_alike_take_less_than_half() {
        let mut patterns = Patterns::default();
        let text = |it: u32| {
            let (third, fourth) = (it / 250, it % 250);
            format!(
                "{it:x} on core/n3 has 10.60.{third}.{fourth} on core/n6 and what all of them have, {it:08x}"
            )
        };
        let (mut packed, mut plain) = (0, 0);
        for number in 0..1000 {
            let message = text(number * 7);
            let it = patterns.pack(message.as_bytes());
            assert_eq!(patterns.unpack(&it), message.as_bytes());
            (packed, plain) = (packed + it.0.len(), plain + message.len());
        }
        assert!(packed * 2 < plain, "{packed} of {plain} bytes");
        assert_eq!(patterns.all.len(), 1);
    }

    proptest! {
        /// Whatever comes: alike, of several kinds, and like nothing.
        #[test]
        fn what_is_packed_is_had_back(
            kinds in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..12),
            messages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..400_usize), 0..60),
        ) {
            let mut patterns = Patterns::default();
            let mut all = Vec::new();
            for (kind, byte, length) in messages {
                let mut message = kind.get(&kinds).clone();
                let middle = message.len() / 2;
                message.insert(middle, byte);
                message.extend(std::iter::repeat_n(byte, length));
                all.push((patterns.pack(&message), message));
                for (packed, message) in &all {
                    prop_assert_eq!(&patterns.unpack(packed), message);
                    prop_assert!(packed.0.len() <= message.len() + 1);
                }
            }
            prop_assert!(patterns.all.len() <= MOST);
        }
    }
}
