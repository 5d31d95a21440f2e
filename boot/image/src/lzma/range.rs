//! The range coder.

use super::Stop;

/// Bits of a probability.
const PROBABILITY_BITS: u32 = 11;
/// How fast a probability follows what comes.
const SHIFT: u32 = 5;
/// Even odds.
pub(super) const EVEN: u16 = 1 << (PROBABILITY_BITS - 1);

/// Decodes bits from bytes. Behind the end it reads zeros, which [`RangeDecoder::finish`] notices.
pub(super) struct RangeDecoder<'a> {
    input: &'a [u8],
    next: usize,
    range: u32,
    code: u32,
}

impl<'a> RangeDecoder<'a> {
    pub(super) fn new(input: &mut &'a [u8]) -> Result<Self, Stop> {
        let (&[first, a, b, c, d], rest) = input.split_first_chunk::<5>().ok_or(Stop::Truncated)?;
        if first != 0 {
            return Err(Stop::Corrupt("bad first byte of a stream"));
        }
        Ok(Self { input: rest, next: 0, range: u32::MAX, code: u32::from_be_bytes([a, b, c, d]) })
    }

    /// Whether more was read than there is.
    #[inline]
    pub(super) fn overrun(&self) -> bool {
        self.next > self.input.len()
    }

    /// Ends a stream whose data must be used up.
    pub(super) fn finish(mut self) -> Result<(), Stop> {
        self.normalize();
        if self.overrun() {
            return Err(Stop::Truncated);
        }
        if self.code != 0 || self.next != self.input.len() {
            Err(Stop::Corrupt("stream does not end"))
        } else {
            Ok(())
        }
    }

    #[inline(always)]
    fn normalize(&mut self) {
        if self.range < 1 << 24 {
            let byte = self.input.get(self.next).copied().unwrap_or(0);
            self.next = self.next.wrapping_add(1);
            self.range <<= 8;
            self.code = self.code << 8 | u32::from(byte);
        }
    }

    /// A bit of a probability that it is 0, which it changes.
    #[inline(always)]
    pub(super) fn bit(&mut self, probability: &mut u16) -> u32 {
        self.normalize();
        // `range` has at least 24 bits and the probability at most 11: no product overflows.
        let bound = (self.range >> PROBABILITY_BITS).wrapping_mul(u32::from(*probability));
        if self.code < bound {
            self.range = bound;
            *probability =
                probability.wrapping_add((1u16 << PROBABILITY_BITS).wrapping_sub(*probability) >> SHIFT);
            0
        } else {
            self.range = self.range.wrapping_sub(bound);
            self.code = self.code.wrapping_sub(bound);
            *probability = probability.wrapping_sub(*probability >> SHIFT);
            1
        }
    }

    /// `N` is the number of leaves, a power of two: a symbol below it, the highest bit first.
    #[inline(always)]
    pub(super) fn tree<const N: usize>(&mut self, tree: &mut [u16; N]) -> usize {
        let mut symbol = 1usize;
        while symbol < N {
            // Below `N` by the condition.
            let Some(probability) = tree.get_mut(symbol) else { break };
            symbol = symbol << 1 | self.bit(probability) as usize;
        }
        symbol.wrapping_sub(N)
    }

    /// `bits` bits, the lowest first; the tree's root is at `tree[1]`.
    #[inline]
    pub(super) fn reverse_tree(&mut self, tree: &mut [u16], bits: u32) -> u32 {
        let (mut symbol, mut value) = (1usize, 0u32);
        for position in 0..bits {
            let Some(probability) = tree.get_mut(symbol) else { break };
            let bit = self.bit(probability);
            symbol = symbol << 1 | bit as usize;
            value |= bit << position;
        }
        value
    }

    /// `bits` bits of even odds, the highest first.
    #[inline]
    pub(super) fn direct(&mut self, bits: u32) -> u32 {
        let mut value = 0u32;
        for _ in 0..bits {
            self.normalize();
            self.range >>= 1;
            let one = self.code >= self.range;
            self.code = self.code.wrapping_sub(if one { self.range } else { 0 });
            value = value << 1 | u32::from(one);
        }
        value
    }
}
