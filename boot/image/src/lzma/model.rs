//! What LZMA decides with which probability, and the decoding of symbols.
#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)] // each index is masked or clamped where it is used

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::range::{EVEN, RangeDecoder};
use super::{Output, Stop};

/// States below this one follow a literal.
const LITERAL_STATES: usize = 7;
const STATES: usize = 12;
/// Largest number of position states.
const POSITIONS: usize = 16;
/// Literal coders of 0x300 probabilities: `lc + lp` is at most 4, as xz demands.
const LITERAL_CODERS: usize = 16;
const MIN_MATCH: usize = 2;

/// Lengths from 2 to 273: eight short ones and eight middle ones a position state, and the rest.
struct Lengths {
    choice: u16,
    choice2: u16,
    low: [[u16; 8]; POSITIONS],
    middle: [[u16; 8]; POSITIONS],
    high: [u16; 256],
}

impl Lengths {
    const EVEN: Self = Self {
        choice: EVEN,
        choice2: EVEN,
        low: [[EVEN; 8]; POSITIONS],
        middle: [[EVEN; 8]; POSITIONS],
        high: [EVEN; 256],
    };

    #[inline]
    fn decode(&mut self, range: &mut RangeDecoder<'_>, position: usize) -> usize {
        let (low, middle) = (&mut self.low[position & 15], &mut self.middle[position & 15]);
        let above = if range.bit(&mut self.choice) == 0 {
            range.tree(low)
        } else if range.bit(&mut self.choice2) == 0 {
            range.tree(middle).wrapping_add(8)
        } else {
            range.tree(&mut self.high).wrapping_add(16)
        };
        above.wrapping_add(MIN_MATCH)
    }
}

/// All probabilities but those of literals.
struct Probabilities {
    is_match: [[u16; POSITIONS]; STATES],
    is_repeat: [u16; STATES],
    is_not_repeat0: [u16; STATES],
    is_not_repeat1: [u16; STATES],
    is_not_repeat2: [u16; STATES],
    is_long_repeat0: [[u16; POSITIONS]; STATES],
    /// By length: the number of bits of a distance and its highest two.
    slot: [[u16; 64]; 4],
    /// By slot, from 4 to 13: the other bits.
    special: [[u16; 32]; 10],
    /// The lowest four bits of larger distances.
    align: [u16; 16],
    match_len: Lengths,
    repeat_len: Lengths,
}

impl Probabilities {
    const EVEN: Self = Self {
        is_match: [[EVEN; POSITIONS]; STATES],
        is_repeat: [EVEN; STATES],
        is_not_repeat0: [EVEN; STATES],
        is_not_repeat1: [EVEN; STATES],
        is_not_repeat2: [EVEN; STATES],
        is_long_repeat0: [[EVEN; POSITIONS]; STATES],
        slot: [[EVEN; 64]; 4],
        special: [[EVEN; 32]; 10],
        align: [EVEN; 16],
        match_len: Lengths::EVEN,
        repeat_len: Lengths::EVEN,
    };
}

/// A decoder between two symbols.
pub(super) struct Model {
    probabilities: Box<Probabilities>,
    literals: Vec<[u16; 0x300]>,
    state: usize,
    /// The last four distances, less one.
    repeats: [u32; 4],
    /// Bits of the last byte that choose the literal coder.
    lc: u32,
    /// Bits of the position that do.
    lp_mask: usize,
    pb_mask: usize,
}

/// A match, decoded and not copied.
struct Match {
    /// Less one.
    distance: u32,
    len: usize,
}

/// The distance that ends a stream.
const MARKER: u32 = u32::MAX;

impl Model {
    /// Bytes on the heap.
    pub(super) const HEAP: u64 =
        (size_of::<Probabilities>() + LITERAL_CODERS * size_of::<[u16; 0x300]>()) as u64;

    pub(super) fn new() -> Result<Self, Stop> {
        let mut literals = Vec::new();
        literals.try_reserve_exact(LITERAL_CODERS).map_err(|_| Stop::OutOfMemory)?;
        literals.resize(LITERAL_CODERS, [EVEN; 0x300]);
        let probabilities = Box::new(Probabilities::EVEN);
        Ok(Self { probabilities, literals, state: 0, repeats: [0; 4], lc: 0, lp_mask: 0, pb_mask: 0 })
    }

    /// Forgets everything but the properties.
    pub(super) fn reset(&mut self) {
        *self.probabilities = Probabilities::EVEN;
        self.literals.fill([EVEN; 0x300]);
        self.state = 0;
        self.repeats = [0; 4];
    }

    /// `(pb * 5 + lp) * 9 + lc`; forgets everything else.
    pub(super) fn set_properties(&mut self, byte: u8) -> Result<(), Stop> {
        let (lc, lp, pb) = (byte % 9, byte / 9 % 5, byte / 45);
        if pb > 4 || lc.wrapping_add(lp) > 4 {
            return Err(Stop::Corrupt("unsupported properties"));
        }
        self.lc = u32::from(lc);
        self.lp_mask = (1usize << lp).wrapping_sub(1);
        self.pb_mask = (1usize << pb).wrapping_sub(1);
        self.reset();
        Ok(())
    }

    /// Decodes until `end` bytes of output are there; no symbol may reach over it.
    pub(super) fn decode(
        &mut self,
        range: &mut RangeDecoder<'_>,
        output: &mut Output<'_>,
        end: usize,
    ) -> Result<(), Stop> {
        while output.pos < end {
            if let Some(found) = self.symbol(range, output)? {
                if found.distance == MARKER {
                    return Err(Stop::Corrupt("stream ends early"));
                }
                copy(output, found, end).map_err(|stop| match stop {
                    Stop::Full => Stop::Corrupt("match over the end"),
                    other => other,
                })?;
            }
            if range.overrun() {
                return Err(Stop::Truncated);
            }
        }
        Ok(())
    }

    /// Decodes until the stream says that it ends.
    pub(super) fn decode_to_marker(
        &mut self,
        range: &mut RangeDecoder<'_>,
        output: &mut Output<'_>,
    ) -> Result<(), Stop> {
        let end = output.bytes.len();
        loop {
            if let Some(found) = self.symbol(range, output)? {
                if found.distance == MARKER {
                    return if range.overrun() { Err(Stop::Truncated) } else { Ok(()) };
                }
                copy(output, found, end)?;
            }
            if range.overrun() {
                return Err(Stop::Truncated);
            }
        }
    }

    /// Decodes a symbol: writes a literal, or returns a match.
    #[inline(always)]
    fn symbol(
        &mut self,
        range: &mut RangeDecoder<'_>,
        output: &mut Output<'_>,
    ) -> Result<Option<Match>, Stop> {
        let position = output.pos.wrapping_sub(output.start) & self.pb_mask & 15;
        let probabilities = &mut *self.probabilities;
        // Every state is below 12: see the assignments.
        let state = self.state.min(STATES - 1);
        if range.bit(&mut probabilities.is_match[state][position]) == 0 {
            self.literal(range, output)?;
            return Ok(None);
        }
        let after_literal = state < LITERAL_STATES;
        if range.bit(&mut probabilities.is_repeat[state]) == 0 {
            self.state = if after_literal { 7 } else { 10 };
            let len = probabilities.match_len.decode(range, position);
            let distance = distance(probabilities, range, len);
            let [first, second, third, _] = self.repeats;
            self.repeats = [distance, first, second, third];
            return Ok(Some(Match { distance, len }));
        }
        let [first, second, third, fourth] = self.repeats;
        if range.bit(&mut probabilities.is_not_repeat0[state]) == 0 {
            if range.bit(&mut probabilities.is_long_repeat0[state][position]) == 0 {
                self.state = if after_literal { 9 } else { 11 };
                return Ok(Some(Match { distance: first, len: 1 }));
            }
        } else if range.bit(&mut probabilities.is_not_repeat1[state]) == 0 {
            self.repeats = [second, first, third, fourth];
        } else if range.bit(&mut probabilities.is_not_repeat2[state]) == 0 {
            self.repeats = [third, first, second, fourth];
        } else {
            self.repeats = [fourth, first, second, third];
        }
        self.state = if after_literal { 8 } else { 11 };
        let len = probabilities.repeat_len.decode(range, position);
        // A distance that an end marker left behind is refused by the copy: it is larger than any output.
        Ok(Some(Match { distance: self.repeats[0], len }))
    }

    /// A byte; behind a match it is coded with the byte that the match would have gone on with.
    #[inline(always)]
    fn literal(&mut self, range: &mut RangeDecoder<'_>, output: &mut Output<'_>) -> Result<(), Stop> {
        let done = output.pos.wrapping_sub(output.start);
        let (before, rest) = output.bytes.split_at_mut_checked(output.pos).ok_or(Stop::Full)?;
        let target = rest.first_mut().ok_or(Stop::Full)?;
        let last = if done == 0 { 0 } else { before.last().copied().unwrap_or(0) };
        let coder = (done & self.lp_mask) << self.lc | usize::from(last) >> (8u32.wrapping_sub(self.lc));
        let coder = self.literals.get_mut(coder).ok_or(Stop::Corrupt("bad literal"))?;
        *target = if self.state < LITERAL_STATES {
            let mut symbol = 1usize;
            while symbol < 0x100 {
                symbol = symbol << 1 | range.bit(&mut coder[symbol & 0xff]) as usize;
            }
            symbol as u8
        } else {
            let distance = self.repeats[0] as usize;
            if distance >= done {
                return Err(Stop::Corrupt("match before the beginning"));
            }
            let matched = before.len().wrapping_sub(distance).wrapping_sub(1);
            literal_after_match(range, coder, before.get(matched).copied().unwrap_or(0))
        };
        output.pos = output.pos.wrapping_add(1);
        self.state = match self.state {
            0..4 => 0,
            state @ 4..10 => state - 3,
            state => state.wrapping_sub(6),
        };
        Ok(())
    }
}

/// As long as the bits are those of `matched`, they have probabilities of their own for each of its bits.
#[inline]
fn literal_after_match(range: &mut RangeDecoder<'_>, coder: &mut [u16; 0x300], matched: u8) -> u8 {
    let mut matched = usize::from(matched);
    let mut offset = 0x100usize;
    let mut symbol = 1usize;
    while symbol < 0x100 {
        matched <<= 1;
        let matched_bit = matched & offset;
        // Below 0x300: `offset` and `matched_bit` are 0 or 0x100, and `symbol` is below 0x100.
        let index = offset.wrapping_add(matched_bit).wrapping_add(symbol);
        let Some(probability) = coder.get_mut(index) else { break };
        let bit = range.bit(probability);
        symbol = symbol << 1 | bit as usize;
        offset &= if bit == 0 { !matched_bit } else { matched_bit };
    }
    symbol as u8
}

/// A distance less one: a slot, which gives the number of bits and the highest two, then the others.
#[inline]
fn distance(probabilities: &mut Probabilities, range: &mut RangeDecoder<'_>, len: usize) -> u32 {
    let slot = range.tree(&mut probabilities.slot[len.wrapping_sub(MIN_MATCH).min(3)]) as u32;
    if slot < 4 {
        return slot;
    }
    let bits = (slot >> 1).wrapping_sub(1);
    let high = (2 | slot & 1) << bits;
    match probabilities.special.get_mut(slot as usize - 4) {
        Some(tree) => high | range.reverse_tree(tree, bits),
        None => {
            let middle = range.direct(bits.wrapping_sub(4)) << 4;
            high | middle | range.reverse_tree(&mut probabilities.align, 4)
        }
    }
}

/// Copies a match, which may overlap what it writes.
#[inline]
fn copy(output: &mut Output<'_>, found: Match, end: usize) -> Result<(), Stop> {
    let distance = (found.distance as usize).wrapping_add(1);
    if distance > output.pos.wrapping_sub(output.start) {
        return Err(Stop::Corrupt("match before the beginning"));
    }
    if found.len > end.wrapping_sub(output.pos) {
        return Err(Stop::Full);
    }
    let from = output.pos.wrapping_sub(distance);
    let to = output.pos.wrapping_add(found.len);
    if found.len <= 16 {
        // A call costs more than so few bytes.
        let bytes = output.bytes.get_mut(from..to).ok_or(Stop::Full)?;
        for at in distance..bytes.len() {
            bytes[at] = bytes[at.wrapping_sub(distance)];
        }
        output.pos = to;
        return Ok(());
    }
    while output.pos < to {
        // What has been written repeats with the same distance, so each turn can copy more.
        let count = to.wrapping_sub(output.pos).min(output.pos.wrapping_sub(from));
        output.bytes.copy_within(from..from.wrapping_add(count), output.pos);
        output.pos = output.pos.wrapping_add(count);
    }
    Ok(())
}
