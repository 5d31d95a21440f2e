//! Sequences: so many literals, then a match; and their execution.

use super::bits::Backward;
use super::fse::{Table, Walker};
use super::{Input, Output, Stop};

/// How a kind of code is coded, and its default distribution.
struct Kind {
    symbols: usize,
    max_log: u32,
    default: &'static [i16],
    default_log: u32,
}

const LITERAL_LENGTH: Kind = Kind {
    symbols: 36,
    max_log: 9,
    default: &[
        4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1,
        -1, -1, -1,
    ],
    default_log: 6,
};
const OFFSET: Kind = Kind {
    symbols: 32,
    max_log: 8,
    default: &[1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1],
    default_log: 5,
};
const MATCH_LENGTH: Kind = Kind {
    symbols: 53,
    max_log: 9,
    default: &[
        1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
    ],
    default_log: 6,
};

/// Extra bits of a length code; each code's lengths begin where the one before ends.
const LITERAL_BITS: [u8; 36] = [
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13,
    14, 15, 16,
];
const MATCH_BITS: [u8; 53] = [
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1,
    1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
];
const LITERAL_BASES: [u32; 36] = bases(&LITERAL_BITS, 0);
const MATCH_BASES: [u32; 53] = bases(&MATCH_BITS, 3);

const fn bases<const N: usize>(bits: &[u8; N], first: u32) -> [u32; N] {
    let mut bases = [0; N];
    let mut next = first;
    let mut code = 0;
    #[allow(clippy::indexing_slicing)] // evaluated by the compiler
    while code < N {
        bases[code] = next;
        next += 1 << bits[code];
        code += 1;
    }
    bases
}

/// What blocks of a frame share: the tables and the last three offsets.
pub(super) struct Sequences {
    literal_lengths: Table,
    offsets: Table,
    match_lengths: Table,
    recent: Recent,
}

impl Sequences {
    pub(super) fn new() -> Result<Self, Stop> {
        Ok(Self {
            literal_lengths: Table::new()?,
            offsets: Table::new()?,
            match_lengths: Table::new()?,
            recent: Recent::NEW,
        })
    }

    /// A new frame begins.
    pub(super) fn forget(&mut self) {
        self.literal_lengths.clear();
        self.offsets.clear();
        self.match_lengths.clear();
        self.recent = Recent::NEW;
    }

    /// Reads a block's sequences and executes them.
    pub(super) fn execute(
        &mut self,
        input: &mut Input<'_>,
        mut literals: &[u8],
        output: &mut Output<'_>,
    ) -> Result<(), Stop> {
        let count = count(input)?;
        if count == 0 {
            return output.append(literals);
        }
        self.read_tables(input)?;
        let mut bits = Backward::new(input.0)?;
        let mut literal = Walker::new(&self.literal_lengths, &mut bits)?;
        let mut offset = Walker::new(&self.offsets, &mut bits)?;
        let mut matched = Walker::new(&self.match_lengths, &mut bits)?;
        for left in (0..count).rev() {
            let offset_value = 1u64 << (offset.symbol() & 31) | bits.read(u32::from(offset.symbol() & 31))?;
            let match_len = length(matched.symbol(), &MATCH_BITS, &MATCH_BASES, &mut bits)?;
            let literal_len = length(literal.symbol(), &LITERAL_BITS, &LITERAL_BASES, &mut bits)?;
            let (part, rest) =
                literals.split_at_checked(literal_len).ok_or(Stop::Corrupt("too few literals"))?;
            output.append(part)?;
            literals = rest;
            output.repeat(self.recent.resolve(offset_value, literal_len == 0) as usize, match_len)?;
            if left > 0 {
                literal.step(&mut bits)?;
                matched.step(&mut bits)?;
                offset.step(&mut bits)?;
            }
        }
        if bits.left() != 0 {
            return Err(Stop::Corrupt("sequences left over"));
        }
        output.append(literals)
    }

    fn read_tables(&mut self, input: &mut Input<'_>) -> Result<(), Stop> {
        let modes = input.byte()?;
        if modes & 3 != 0 {
            return Err(Stop::Corrupt("reserved bits in the sequences"));
        }
        read_table(&mut self.literal_lengths, modes >> 6, &LITERAL_LENGTH, input)?;
        read_table(&mut self.offsets, modes >> 4 & 3, &OFFSET, input)?;
        read_table(&mut self.match_lengths, modes >> 2 & 3, &MATCH_LENGTH, input)
    }
}

/// The number of sequences: one to three bytes.
fn count(input: &mut Input<'_>) -> Result<u32, Stop> {
    let first = u32::from(input.byte()?);
    match first {
        0..128 => Ok(first),
        128..255 => Ok((first - 128) << 8 | u32::from(input.byte()?)),
        _ => Ok(input.number(2)? as u32 + 0x7f00),
    }
}

fn read_table(table: &mut Table, mode: u8, kind: &Kind, input: &mut Input<'_>) -> Result<(), Stop> {
    match mode {
        0 => table.build(kind.default, kind.default_log),
        1 => match input.byte()? {
            symbol if usize::from(symbol) < kind.symbols => {
                table.single(symbol);
                Ok(())
            }
            _ => Err(Stop::Corrupt("bad symbol")),
        },
        2 => table.read(input, kind.symbols, kind.max_log),
        _ if table.is_empty() => Err(Stop::Corrupt("no table to repeat")),
        _ => Ok(()),
    }
}

#[inline]
fn length(code: u8, extra: &[u8], bases: &[u32], bits: &mut Backward<'_>) -> Result<usize, Stop> {
    let code = usize::from(code);
    let (Some(&extra), Some(&base)) = (extra.get(code), bases.get(code)) else {
        return Err(Stop::Corrupt("bad length code"));
    };
    Ok(base as usize + bits.read(u32::from(extra))? as usize)
}

/// The last three offsets, the latest first.
#[derive(Clone, Copy)]
struct Recent([u64; 3]);

impl Recent {
    const NEW: Self = Self([1, 4, 8]);

    /// Values up to 3 name one of the last offsets; after no literals, the latest one makes no sense, and they name the
    /// next ones and the latest less one.
    #[inline]
    fn resolve(&mut self, value: u64, no_literals: bool) -> u64 {
        let [first, second, third] = self.0;
        let (offset, rest) = match value + u64::from(no_literals && value <= 3) {
            _ if value > 3 => (value - 3, [first, second]),
            1 => (first, [second, third]),
            2 => (second, [first, third]),
            3 => (third, [first, second]),
            _ => (first - 1, [first, second]), // an offset of zero is refused when it is used, so there is none here
        };
        self.0 = [offset, rest[0], rest[1]];
        offset
    }
}
