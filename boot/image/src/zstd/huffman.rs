//! The prefix code of literals.

use alloc::vec::Vec;

use super::bits::Backward;
use super::fse::{Table, Walker};
use super::{Input, Stop};

/// The longest code, in bits.
const MAX_BITS: u32 = 11;
const MAX_SYMBOLS: usize = 256;
/// Symbols and accuracy of the table that weights are coded with.
const WEIGHTS: usize = 13;
const WEIGHT_LOG: u32 = 6;

#[derive(Clone, Copy, Default)]
struct Code {
    symbol: u8,
    bits: u8,
}

/// A decoding table: one entry for each possible next `bits` bits.
pub(super) struct Huffman {
    codes: Vec<Code>,
    bits: u32,
    weights: Table,
}

impl Huffman {
    pub(super) fn new() -> Result<Self, Stop> {
        let mut codes = Vec::new();
        codes.try_reserve_exact(1 << MAX_BITS).map_err(|_| Stop::OutOfMemory)?;
        Ok(Self { codes, bits: 0, weights: Table::new()? })
    }

    /// A new frame does not know the last one's code.
    pub(super) fn forget(&mut self) {
        self.codes.clear();
    }

    /// Reads the description of a code.
    pub(super) fn read(&mut self, input: &mut Input<'_>) -> Result<(), Stop> {
        let mut weights = [0u8; MAX_SYMBOLS];
        let header = usize::from(input.byte()?);
        let known = if header < 128 {
            let data = input.take(header)?;
            self.coded_weights(data, &mut weights)?
        } else {
            let count = header - 127;
            let data = input.take(count.div_ceil(2))?;
            let nibbles = data.iter().flat_map(|byte| [byte >> 4, byte & 15]);
            weights.iter_mut().zip(nibbles).take(count).for_each(|(weight, nibble)| *weight = nibble);
            count
        };
        self.build(&mut weights, known)
    }

    /// Weights in a bit stream of two interleaved states, which ends when a step would need more bits than are left.
    fn coded_weights(&mut self, data: &[u8], weights: &mut [u8]) -> Result<usize, Stop> {
        let mut input = Input(data);
        self.weights.read(&mut input, WEIGHTS, WEIGHT_LOG)?;
        let mut bits = Backward::new(input.0)?;
        let mut walker = Walker::new(&self.weights, &mut bits)?;
        let mut other = Walker::new(&self.weights, &mut bits)?;
        // The last symbol's weight is not written.
        let limit = weights.len() - 1;
        let mut count = 0;
        let mut put = |weight: u8| -> Result<usize, Stop> {
            *weights.get_mut(count).filter(|_| count < limit).ok_or(Stop::Corrupt("too many weights"))? =
                weight;
            count += 1;
            Ok(count)
        };
        loop {
            put(walker.symbol())?;
            if bits.left() < walker.bits() as usize {
                return put(other.symbol());
            }
            walker.step(&mut bits)?;
            core::mem::swap(&mut walker, &mut other);
        }
    }

    /// The sum of `2^(weight - 1)` is a power of two; what is missing to it is the last symbol's.
    fn build(&mut self, weights: &mut [u8; MAX_SYMBOLS], known: usize) -> Result<(), Stop> {
        let bad = Stop::Corrupt("bad prefix code");
        if weights.iter().any(|&weight| u32::from(weight) > MAX_BITS) {
            return Err(bad);
        }
        let share = |weight: u8| if weight == 0 { 0 } else { 1u32 << (weight - 1) };
        let sum: u32 = weights.iter().map(|&weight| share(weight)).sum();
        let bits = sum.checked_ilog2().ok_or(bad)? + 1;
        let missing = (1 << bits) - sum;
        if bits > MAX_BITS || !missing.is_power_of_two() {
            return Err(bad);
        }
        *weights.get_mut(known).ok_or(bad)? = missing.ilog2() as u8 + 1;
        self.bits = bits;
        self.codes.clear();
        for weight in 1..=bits as u8 {
            for (symbol, _) in weights.iter().enumerate().filter(|(_, w)| **w == weight) {
                let code = Code { symbol: symbol as u8, bits: bits as u8 + 1 - weight };
                let len = self.codes.len() + share(weight) as usize;
                self.codes.resize(len.min(1 << bits), code);
            }
        }
        if self.codes.len() == 1 << bits { Ok(()) } else { Err(bad) }
    }

    /// Decodes a stream, which must give exactly `target`.
    pub(super) fn decode(&self, data: &[u8], target: &mut [u8]) -> Result<(), Stop> {
        let mut bits = Backward::new(data)?;
        for byte in target {
            let code =
                self.codes.get(bits.peek(self.bits) as usize).ok_or(Stop::Corrupt("no prefix code"))?;
            bits.skip(u32::from(code.bits))?;
            *byte = code.symbol;
        }
        if bits.left() == 0 { Ok(()) } else { Err(Stop::Corrupt("literals left over")) }
    }
}
