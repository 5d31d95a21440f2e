//! Finite state entropy: tables, their descriptions, and the state that walks a table.

use alloc::vec::Vec;

use super::bits::{Backward, Forward};
use super::{Input, Stop};

/// Symbols of the largest alphabet, which is that of Huffman weights and match lengths together.
const MAX_SYMBOLS: usize = 64;
/// The largest table of the format: 512 states.
const MAX_LOG: u32 = 9;

#[derive(Clone, Copy, Default)]
struct State {
    /// Added to the bits read: the next state.
    base: u16,
    bits: u8,
    symbol: u8,
}

/// A decoding table.
pub(super) struct Table {
    states: Vec<State>,
    /// Binary logarithm of the number of states.
    log: u32,
}

impl Table {
    /// An empty table; there is room for any to come.
    pub(super) fn new() -> Result<Self, Stop> {
        let mut states = Vec::new();
        states.try_reserve_exact(1 << MAX_LOG).map_err(|_| Stop::OutOfMemory)?;
        Ok(Self { states, log: 0 })
    }

    pub(super) fn clear(&mut self) {
        self.states.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// One state that always gives the same symbol.
    pub(super) fn single(&mut self, symbol: u8) {
        self.states.clear();
        self.states.push(State { base: 0, bits: 0, symbol });
        self.log = 0;
    }

    /// Reads a table's description; `symbols` and `max_log` are the limits of the alphabet.
    pub(super) fn read(&mut self, input: &mut Input<'_>, symbols: usize, max_log: u32) -> Result<(), Stop> {
        let mut bits = Forward::new(input.0);
        let log = bits.read(4) + 5;
        if log > max_log {
            return Err(Stop::Corrupt("table too large"));
        }
        let mut counts = [0i16; MAX_SYMBOLS];
        let mut used = 0;
        let mut left = 1i32 << log;
        while left > 0 {
            let count = read_count(&mut bits, left);
            *counts.get_mut(used).filter(|_| used < symbols).ok_or(Stop::Corrupt("too many symbols"))? =
                count;
            used += 1;
            left -= i32::from(count.abs());
            if count == 0 {
                used += more_zeros(&mut bits, symbols);
            }
        }
        input.take(bits.bytes_read()?)?;
        self.build(counts.get(..used.min(symbols)).unwrap_or_default(), log)
    }

    /// Builds the table of a distribution whose counts add up to `1 << log`; -1 is a symbol of "less than one".
    pub(super) fn build(&mut self, counts: &[i16], log: u32) -> Result<(), Stop> {
        let size = 1usize << log;
        let total: i32 = counts.iter().map(|&count| i32::from(count.abs())).sum();
        if log > MAX_LOG || total != 1 << log {
            return Err(Stop::Corrupt("bad distribution of symbols"));
        }
        self.log = log;
        self.states.clear();
        self.states.resize(size, State::default());
        self.spread(counts);
        let mut next = [0u16; MAX_SYMBOLS];
        for (next, count) in next.iter_mut().zip(counts) {
            *next = count.unsigned_abs();
        }
        for state in &mut self.states {
            let next = next.get_mut(usize::from(state.symbol)).ok_or(Stop::Corrupt("bad symbol"))?;
            // The counts of a symbol and its states are the same, so `next` ends below twice the table's size.
            let bits = log.saturating_sub(next.checked_ilog2().unwrap_or(0));
            state.bits = bits as u8;
            state.base = ((u32::from(*next) << bits) - size as u32) as u16;
            *next += 1;
        }
        Ok(())
    }

    /// Gives each symbol its states: rare ones at the end, the others in the format's steps.
    fn spread(&mut self, counts: &[i16]) {
        let size = self.states.len();
        let mut end = size;
        for (symbol, _) in counts.iter().enumerate().filter(|(_, count)| **count < 0) {
            end -= 1;
            self.set(end, symbol);
        }
        let step = (size >> 1) + (size >> 3) + 3;
        let mut at = 0;
        for (symbol, &count) in counts.iter().enumerate() {
            for _ in 0..count.max(0) {
                self.set(at, symbol);
                // `step` is odd, so every position comes once; those behind `end` are taken.
                at = (at + step) & (size - 1);
                while at >= end && end > 0 {
                    at = (at + step) & (size - 1);
                }
            }
        }
    }

    fn set(&mut self, at: usize, symbol: usize) {
        if let Some(state) = self.states.get_mut(at) {
            state.symbol = symbol as u8;
        }
    }
}

/// Behind a count of zero: how many more follow, two bits at a time while these are set; `limit` ends a hostile run.
fn more_zeros(bits: &mut Forward<'_>, limit: usize) -> usize {
    let mut zeros = 0;
    loop {
        let more = bits.read(2);
        zeros += more as usize;
        if more < 3 || zeros > limit {
            return zeros;
        }
    }
}

/// A count is written in as few bits as those left to be given out allow, plus one for -1.
fn read_count(bits: &mut Forward<'_>, left: i32) -> i16 {
    let max = left as u32 + 1;
    let width = max.ilog2() + 1;
    let short = (1 << width) - 1 - max;
    let value = bits.peek(width);
    let low = value & ((1 << (width - 1)) - 1);
    let value = if low < short {
        bits.skip(width - 1);
        low
    } else {
        bits.skip(width);
        if value >= 1 << (width - 1) { value - short } else { value }
    };
    value as i16 - 1
}

/// A position in a table.
#[derive(Clone, Copy)]
pub(super) struct Walker<'a> {
    table: &'a Table,
    state: State,
}

impl<'a> Walker<'a> {
    #[inline]
    pub(super) fn new(table: &'a Table, bits: &mut Backward<'_>) -> Result<Self, Stop> {
        let first = bits.read(table.log)?;
        let state = *table.states.get(first as usize).ok_or(Stop::Corrupt("no table"))?;
        Ok(Self { table, state })
    }

    #[inline]
    pub(super) fn symbol(&self) -> u8 {
        self.state.symbol
    }

    /// How many bits the next step reads.
    pub(super) fn bits(&self) -> u32 {
        u32::from(self.state.bits)
    }

    #[inline]
    pub(super) fn step(&mut self, bits: &mut Backward<'_>) -> Result<(), Stop> {
        let next = u64::from(self.state.base) + bits.read(u32::from(self.state.bits))?;
        self.state = *self.table.states.get(next as usize).ok_or(Stop::Corrupt("bad state"))?;
        Ok(())
    }
}
