//! Writes of a guest's kernel to its own page tables, which are mapped read-only: what the instruction would store.
//!
//! Linux lets the fault happen instead of asking by hypercall, nearly always with a plain MOV of eight bytes. The
//! caller reads the entry, asks [`EntryWrite::entry`] for the new one, has the core check and exchange it, repeats
//! while the entry changes in between, and ends with [`EntryWrite::retire`].

use hv_types::{GuestVa, PAGE_SHIFT};

use crate::emulate::decode::Segment;
use crate::regs::{Regs, flags};

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

/// Why the fault is given to the guest after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotEmulated {
    /// Another instruction, or its bytes could not be read.
    Unknown,
    /// It does not write a naturally aligned operand in the page that faulted.
    Elsewhere,
}

/// Two-operand arithmetic on the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arithmetic {
    Add,
    Or,
    And,
    Sub,
    Xor,
}

/// One-operand arithmetic on the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unary {
    Not,
    Negate,
    Increment,
    Decrement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BitChange {
    Set,
    Reset,
    Complement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Store(u64),
    Exchange { value: u64, gpr: u8 },
    ExchangeAdd { value: u64, gpr: u8 },
    CompareExchange { expected: u64, value: u64 },
    Arithmetic(Arithmetic, u64),
    Unary(Unary),
    Bit(BitChange, u8),
}

/// A decoded write: an aligned operand of 1, 2, 4 or 8 bytes within one page-table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryWrite {
    address: GuestVa,
    bytes: u8,
    length: u8,
    operation: Operation,
}

impl EntryWrite {
    /// A store of `value` that another decoder found; the operand is aligned. Its end is that decoder's business.
    pub(crate) const fn store(address: GuestVa, bytes: u8, value: u64) -> EntryWrite {
        EntryWrite { address, bytes, length: 0, operation: Operation::Store(value) }
    }

    /// Where the operand is.
    #[inline(always)]
    pub const fn address(&self) -> GuestVa {
        self.address
    }

    /// Index of the entry in its page table.
    #[inline(always)]
    pub const fn index(&self) -> usize {
        (self.address.0 >> 3 & 511) as usize
    }

    /// The new entry, if it does not depend on the old one: a plain store of eight bytes.
    #[inline(always)]
    pub const fn unconditional(&self) -> Option<u64> {
        match self.operation {
            Operation::Store(value) if self.bytes == 8 => Some(value),
            _ => None,
        }
    }

    /// The new entry where the old one is `old`. `None` if a comparison fails, so that nothing is stored.
    #[inline]
    pub fn entry(&self, old: u64) -> Option<u64> {
        let result = self.result(self.operand(old))?;
        let mask = mask(self.bytes) << self.shift();
        Some(old & !mask | (result << self.shift()) & mask)
    }

    /// Registers, flags and `rip` after the instruction, which found `old`. True if a single-step trap follows.
    #[inline]
    pub fn retire(&self, old: u64, regs: &mut Regs) -> bool {
        let before = self.operand(old);
        match self.operation {
            Operation::Store(_) => {}
            Operation::Exchange { gpr, .. } => regs.set_gpr_sized(gpr, self.bytes, before),
            Operation::ExchangeAdd { value, gpr } => {
                regs.set_gpr_sized(gpr, self.bytes, before);
                set_flags(regs, ARITHMETIC, self.add_flags(before, value));
            }
            Operation::CompareExchange { expected, .. } => {
                set_flags(regs, ARITHMETIC, self.sub_flags(expected, before));
                if before != expected {
                    regs.set_gpr_sized(0, self.bytes, before);
                }
            }
            Operation::Arithmetic(kind, operand) => {
                set_flags(regs, ARITHMETIC, self.arithmetic_flags(kind, before, operand));
            }
            Operation::Unary(kind) => self.unary_flags(kind, before, regs),
            Operation::Bit(_, bit) => set_flags(regs, CF, before >> bit & 1),
        }
        regs.rip = regs.rip.wrapping_add(self.length as u64);
        regs.rflags &= !flags::RF;
        regs.single_steps()
    }

    #[inline(always)]
    const fn shift(&self) -> u32 {
        (self.address.0 & 7) as u32 * 8
    }

    /// The part of the entry that the instruction sees.
    #[inline(always)]
    const fn operand(&self, entry: u64) -> u64 {
        entry >> self.shift() & mask(self.bytes)
    }

    #[inline(always)]
    fn result(&self, before: u64) -> Option<u64> {
        Some(match self.operation {
            Operation::Store(value) | Operation::Exchange { value, .. } => value,
            Operation::ExchangeAdd { value, .. } => before.wrapping_add(value),
            Operation::CompareExchange { expected, value } if before == expected => value,
            Operation::CompareExchange { .. } => return None,
            Operation::Arithmetic(kind, operand) => kind.apply(before, operand),
            Operation::Unary(kind) => kind.apply(before),
            Operation::Bit(BitChange::Set, bit) => before | 1 << bit,
            Operation::Bit(BitChange::Reset, bit) => before & !(1 << bit),
            Operation::Bit(BitChange::Complement, bit) => before ^ 1 << bit,
        })
    }

    fn arithmetic_flags(&self, kind: Arithmetic, before: u64, operand: u64) -> u64 {
        match kind {
            Arithmetic::Add => self.add_flags(before, operand),
            Arithmetic::Sub => self.sub_flags(before, operand),
            Arithmetic::And | Arithmetic::Or | Arithmetic::Xor => {
                self.result_flags(kind.apply(before, operand))
            }
        }
    }

    fn unary_flags(&self, kind: Unary, before: u64, regs: &mut Regs) {
        match kind {
            Unary::Not => {}
            Unary::Negate => set_flags(regs, ARITHMETIC, self.sub_flags(0, before)),
            // The carry survives a count.
            Unary::Increment => set_flags(regs, ARITHMETIC & !CF, self.add_flags(before, 1)),
            Unary::Decrement => set_flags(regs, ARITHMETIC & !CF, self.sub_flags(before, 1)),
        }
    }

    /// Sign, zero and parity of a result.
    const fn result_flags(&self, result: u64) -> u64 {
        let result = result & mask(self.bytes);
        let zero = if result == 0 { ZF } else { 0 };
        let sign = if result & self.sign() != 0 { SF } else { 0 };
        let parity = if (result as u8).count_ones() & 1 == 0 { PF } else { 0 };
        zero | sign | parity
    }

    const fn sign(&self) -> u64 {
        1 << (self.bytes as u32 * 8 - 1)
    }

    const fn add_flags(&self, a: u64, b: u64) -> u64 {
        let (a, b) = (a & mask(self.bytes), b & mask(self.bytes));
        let sum = a.wrapping_add(b) & mask(self.bytes);
        let carry = if sum < a { CF } else { 0 };
        let overflow = if !(a ^ b) & (a ^ sum) & self.sign() != 0 { OF } else { 0 };
        carry | overflow | (a ^ b ^ sum) & AF | self.result_flags(sum)
    }

    const fn sub_flags(&self, a: u64, b: u64) -> u64 {
        let (a, b) = (a & mask(self.bytes), b & mask(self.bytes));
        let difference = a.wrapping_sub(b) & mask(self.bytes);
        let borrow = if a < b { CF } else { 0 };
        let overflow = if (a ^ b) & (a ^ difference) & self.sign() != 0 { OF } else { 0 };
        borrow | overflow | (a ^ b ^ difference) & AF | self.result_flags(difference)
    }
}

impl Arithmetic {
    /// By the number that opcodes and ModRM bytes have; CMP stores nothing, ADC and SBB are nobody's.
    const fn numbered(number: u8) -> Option<Arithmetic> {
        match number & 7 {
            0 => Some(Arithmetic::Add),
            1 => Some(Arithmetic::Or),
            4 => Some(Arithmetic::And),
            5 => Some(Arithmetic::Sub),
            6 => Some(Arithmetic::Xor),
            _ => None,
        }
    }

    const fn apply(self, before: u64, operand: u64) -> u64 {
        match self {
            Arithmetic::Add => before.wrapping_add(operand),
            Arithmetic::Or => before | operand,
            Arithmetic::And => before & operand,
            Arithmetic::Sub => before.wrapping_sub(operand),
            Arithmetic::Xor => before ^ operand,
        }
    }
}

impl Unary {
    const fn apply(self, before: u64) -> u64 {
        match self {
            Unary::Not => !before,
            Unary::Negate => before.wrapping_neg(),
            Unary::Increment => before.wrapping_add(1),
            Unary::Decrement => before.wrapping_sub(1),
        }
    }
}

impl BitChange {
    const fn numbered(number: u8) -> Option<BitChange> {
        match number & 7 {
            5 => Some(BitChange::Set),
            6 => Some(BitChange::Reset),
            7 => Some(BitChange::Complement),
            _ => None,
        }
    }
}

#[inline(always)]
const fn mask(bytes: u8) -> u64 {
    u64::MAX >> (64 - 8 * bytes as u32)
}

const fn set_flags(regs: &mut Regs, which: u64, values: u64) {
    regs.rflags = regs.rflags & !which | values & which;
}

/// Bytes of an instruction, consumed from the front.
struct Cursor<'a> {
    code: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    #[inline(always)]
    fn byte(&mut self) -> Result<u8, NotEmulated> {
        let byte = *self.code.get(self.at).ok_or(NotEmulated::Unknown)?;
        self.at += 1;
        Ok(byte)
    }

    /// A sign-extended immediate or displacement of 1, 2 or 4 bytes.
    #[inline(always)]
    fn signed(&mut self, bytes: u8) -> Result<u64, NotEmulated> {
        let end = self.at + bytes as usize;
        let raw = self.code.get(self.at..end).ok_or(NotEmulated::Unknown)?;
        self.at = end;
        Ok(match *raw {
            [a] => a as i8 as u64,
            [a, b] => i16::from_le_bytes([a, b]) as u64,
            [a, b, c, d] => i32::from_le_bytes([a, b, c, d]) as u64,
            _ => return Err(NotEmulated::Unknown),
        })
    }
}

#[derive(Clone, Copy, Default)]
struct Prefixes {
    rex: u8,
    operand: bool,
    segment: Option<Segment>,
}

impl Prefixes {
    const fn wide(&self) -> bool {
        self.rex & 8 != 0
    }

    /// Operand size of an opcode whose lowest bit says "not a byte".
    #[inline(always)]
    const fn operand_bytes(&self, opcode: u8) -> u8 {
        match (opcode & 1, self.wide(), self.operand) {
            (0, _, _) => 1,
            (_, true, _) => 8,
            (_, false, true) => 2,
            (_, false, false) => 4,
        }
    }
}

/// The ModRM byte and what follows it up to the displacement.
struct Operands {
    /// The register, or the opcode's extension.
    reg: u8,
    address: u64,
    /// The address counts from the next instruction.
    rip_relative: bool,
}

/// Decodes the instruction at the start of `code` (64-bit mode), which faulted writing to `fault`. `base` gives the
/// base of FS or GS, if a prefix asks for it.
#[inline]
pub fn decode(
    code: &[u8],
    regs: &Regs,
    fault: GuestVa,
    base: impl FnOnce(Segment) -> u64,
) -> Result<EntryWrite, NotEmulated> {
    if let Some(write) = plain_move(code, regs, fault) {
        return Ok(write);
    }
    decode_any(code, regs, fault, base)
}

/// MOV of a 64-bit register through a base register with at most a byte of displacement: how compilers store an
/// entry.
#[inline(always)]
fn plain_move(code: &[u8], regs: &Regs, fault: GuestVa) -> Option<EntryWrite> {
    let [rex, 0x89, modrm, displacement, ..] = *code else { return None };
    let (mode, low) = (modrm >> 6, modrm & 7);
    // REX.W without an index; no SIB byte, no address relative to rip.
    if rex & 0xfa != 0x48 || mode > 1 || low == 4 || mode == 0 && low == 5 {
        return None;
    }
    let displacement = if mode == 0 { 0 } else { displacement as i8 as u64 };
    let address = regs.gpr(low | (rex & 1) << 3).wrapping_add(displacement);
    // For an aligned operand the processor reports its first byte.
    if address != fault.0 || address & 7 != 0 {
        return None;
    }
    let value = regs.gpr(modrm >> 3 & 7 | (rex & 4) << 1);
    let (length, operation) = (3 + mode, Operation::Store(value));
    Some(EntryWrite { address: fault, bytes: 8, length, operation })
}

fn decode_any(
    code: &[u8],
    regs: &Regs,
    fault: GuestVa,
    base: impl FnOnce(Segment) -> u64,
) -> Result<EntryWrite, NotEmulated> {
    let mut cursor = Cursor { code, at: 0 };
    let (prefixes, opcode) = prefixes(&mut cursor)?;
    let (operands, operation, bytes) = if opcode == 0x0f {
        two_bytes(&mut cursor, prefixes, regs)?
    } else {
        one_byte(opcode, &mut cursor, prefixes, regs)?
    };
    if cursor.at > crate::emulate::decode::MAX_LENGTH {
        return Err(NotEmulated::Unknown);
    }
    let length = cursor.at as u8;
    let mut address = operands.address;
    if operands.rip_relative {
        address = address.wrapping_add(regs.rip).wrapping_add(length as u64);
    }
    if let Some(segment) = prefixes.segment {
        address = address.wrapping_add(base(segment));
    }
    if (address ^ fault.0) >> PAGE_SHIFT != 0 || address & (bytes as u64 - 1) != 0 {
        return Err(NotEmulated::Elsewhere);
    }
    Ok(EntryWrite { address: GuestVa(address), bytes, length, operation })
}

/// Prefixes and the first byte of the opcode. LOCK needs no notice: every update is atomic.
#[inline(always)]
fn prefixes(cursor: &mut Cursor) -> Result<(Prefixes, u8), NotEmulated> {
    let mut prefixes = Prefixes::default();
    loop {
        match cursor.byte()? {
            rex @ 0x40..=0x4f => {
                prefixes.rex = rex;
                continue;
            }
            0xf0 | 0x26 | 0x2e | 0x36 | 0x3e => {}
            0x66 => prefixes.operand = true,
            0x64 => prefixes.segment = Some(Segment::Fs),
            0x65 => prefixes.segment = Some(Segment::Gs),
            0x67 | 0xf2 | 0xf3 => return Err(NotEmulated::Unknown),
            opcode => return Ok((prefixes, opcode)),
        }
        prefixes.rex = 0;
    }
}

type Partial = Result<(Operands, Operation, u8), NotEmulated>;

#[inline(always)]
fn one_byte(opcode: u8, cursor: &mut Cursor, prefixes: Prefixes, regs: &Regs) -> Partial {
    let bytes = prefixes.operand_bytes(opcode);
    let operands = operands(cursor, prefixes.rex, regs)?;
    let operation = match opcode {
        0x88 | 0x89 => Operation::Store(register(operands.reg, bytes, prefixes, regs)?),
        0xc6 | 0xc7 if operands.reg & 7 == 0 => Operation::Store(cursor.signed(bytes.min(4))?),
        0x86 | 0x87 => {
            let value = register(operands.reg, bytes, prefixes, regs)?;
            Operation::Exchange { value, gpr: operands.reg }
        }
        0x80 | 0x81 | 0x83 => {
            let kind = Arithmetic::numbered(operands.reg).ok_or(NotEmulated::Unknown)?;
            let immediate = if opcode == 0x83 { 1 } else { bytes.min(4) };
            Operation::Arithmetic(kind, cursor.signed(immediate)?)
        }
        0x00..=0x3f if opcode & 6 == 0 => {
            let kind = Arithmetic::numbered(opcode >> 3).ok_or(NotEmulated::Unknown)?;
            Operation::Arithmetic(kind, register(operands.reg, bytes, prefixes, regs)?)
        }
        0xf6 | 0xf7 | 0xfe | 0xff => Operation::Unary(unary(opcode, operands.reg)?),
        _ => return Err(NotEmulated::Unknown),
    };
    Ok((operands, operation, bytes))
}

const fn unary(opcode: u8, number: u8) -> Result<Unary, NotEmulated> {
    match (opcode & 0xfe, number & 7) {
        (0xf6, 2) => Ok(Unary::Not),
        (0xf6, 3) => Ok(Unary::Negate),
        (0xfe, 0) => Ok(Unary::Increment),
        (0xfe, 1) => Ok(Unary::Decrement),
        _ => Err(NotEmulated::Unknown),
    }
}

fn two_bytes(cursor: &mut Cursor, prefixes: Prefixes, regs: &Regs) -> Partial {
    let opcode = cursor.byte()?;
    match opcode {
        0xab | 0xb3 | 0xbb => return bit_by_register(opcode, cursor, prefixes, regs),
        0xba => return bit_by_immediate(cursor, prefixes, regs),
        _ => {}
    }
    let bytes = prefixes.operand_bytes(opcode);
    let operands = operands(cursor, prefixes.rex, regs)?;
    let value = register(operands.reg, bytes, prefixes, regs)?;
    let operation = match opcode {
        0xb0 | 0xb1 => Operation::CompareExchange { expected: regs.rax & mask(bytes), value },
        0xc0 | 0xc1 => Operation::ExchangeAdd { value, gpr: operands.reg },
        // MOVNTI.
        0xc3 if !prefixes.operand => Operation::Store(value),
        _ => return Err(NotEmulated::Unknown),
    };
    Ok((operands, operation, bytes))
}

/// BTS, BTR and BTC by a register reach beyond their operand: the bit number counts from its address.
fn bit_by_register(opcode: u8, cursor: &mut Cursor, prefixes: Prefixes, regs: &Regs) -> Partial {
    let change = BitChange::numbered(opcode >> 3).ok_or(NotEmulated::Unknown)?;
    let bytes = prefixes.operand_bytes(1);
    let mut operands = operands(cursor, prefixes.rex, regs)?;
    let bits = 8 * bytes as u32;
    let unused = 64 - bits;
    let number = ((regs.gpr(operands.reg) << unused) as i64) >> unused;
    let beyond = (number >> bits.trailing_zeros()).wrapping_mul(bytes as i64);
    operands.address = operands.address.wrapping_add(beyond as u64);
    Ok((operands, Operation::Bit(change, (number as u32 & (bits - 1)) as u8), bytes))
}

fn bit_by_immediate(cursor: &mut Cursor, prefixes: Prefixes, regs: &Regs) -> Partial {
    let bytes = prefixes.operand_bytes(1);
    let operands = operands(cursor, prefixes.rex, regs)?;
    let change = BitChange::numbered(operands.reg).ok_or(NotEmulated::Unknown)?;
    let bit = cursor.byte()? & (8 * bytes - 1);
    Ok((operands, Operation::Bit(change, bit), bytes))
}

/// The register operand. The upper bytes of the first four registers are nobody's way to write an entry.
#[inline(always)]
fn register(number: u8, bytes: u8, prefixes: Prefixes, regs: &Regs) -> Result<u64, NotEmulated> {
    if bytes == 1 && prefixes.rex == 0 && number >= 4 {
        return Err(NotEmulated::Unknown);
    }
    Ok(regs.gpr(number) & mask(bytes))
}

/// Reads ModRM, SIB and displacement of a memory operand.
#[inline(always)]
fn operands(cursor: &mut Cursor, rex: u8, regs: &Regs) -> Result<Operands, NotEmulated> {
    let modrm = cursor.byte()?;
    let (mode, low) = (modrm >> 6, modrm & 7);
    let mut operands =
        Operands { reg: modrm >> 3 & 7 | (rex & 4) << 1, address: 0, rip_relative: mode == 0 && low == 5 };
    if mode == 3 {
        return Err(NotEmulated::Unknown);
    }
    let mut absolute = operands.rip_relative;
    if low == 4 {
        let sib = cursor.byte()?;
        let index = sib >> 3 & 7 | (rex & 2) << 2;
        if index != 4 {
            operands.address = regs.gpr(index) << (sib >> 6);
        }
        absolute = mode == 0 && sib & 7 == 5;
        if !absolute {
            operands.address = operands.address.wrapping_add(regs.gpr(sib & 7 | (rex & 1) << 3));
        }
    } else if !absolute {
        operands.address = regs.gpr(low | (rex & 1) << 3);
    }
    let displacement = match mode {
        1 => cursor.signed(1)?,
        2 => cursor.signed(4)?,
        _ if absolute => cursor.signed(4)?,
        _ => 0,
    };
    operands.address = operands.address.wrapping_add(displacement);
    Ok(operands)
}

#[cfg(test)]
#[path = "ptwr_tests.rs"]
mod tests;
