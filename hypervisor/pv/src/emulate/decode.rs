//! Decoder of the instructions that a PV guest may have emulated. Everything else is somebody else's #GP.
//!
//! Strict on purpose: a prefix that gives one of these opcodes another meaning, or none, makes it unknown. Checked
//! against `iced-x86` in the tests.

/// Where an I/O instruction takes its port from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortOperand {
    /// The byte in the instruction.
    Immediate(u8),
    /// DX.
    Dx,
}

/// Segment of the memory operand of a string instruction, as far as its base matters in 64-bit mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// CS, DS, ES, SS: base zero.
    Flat,
    /// FS.
    Fs,
    /// GS.
    Gs,
}

/// A string instruction's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringIo {
    /// Bytes an item: 1, 2 or 4.
    pub bytes: u8,
    /// RCX items, instead of one.
    pub repeat: bool,
    /// Addresses and the count are 32 bits.
    pub short_address: bool,
    /// Segment of the source of OUTS.
    pub segment: Segment,
}

/// One emulated instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Instruction {
    ReadTsc,
    ReadTscAux,
    Cpuid,
    ReadMsr,
    WriteMsr,
    ReadControl { control: u8, gpr: u8 },
    WriteControl { control: u8, gpr: u8 },
    ReadDebug { debug: u8, gpr: u8 },
    WriteDebug { debug: u8, gpr: u8 },
    ClearTaskSwitched,
    FlushCaches { invalidate: bool },
    SetExtendedControl,
    DisableInterrupts,
    EnableInterrupts,
    In { port: PortOperand, bytes: u8 },
    Out { port: PortOperand, bytes: u8 },
    InString(StringIo),
    OutString(StringIo),
}

/// Why bytes are not an emulated instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecoded {
    /// More bytes are needed.
    Truncated,
    /// Another instruction.
    Unknown,
}

/// Longest instruction.
pub const MAX_LENGTH: usize = 15;

#[derive(Clone, Copy, Default)]
struct Prefixes {
    rex: u8,
    operand: bool,
    address: bool,
    repeat: u8,
    segment: u8,
}

impl Prefixes {
    const fn segment(&self) -> Segment {
        match self.segment {
            0x64 => Segment::Fs,
            0x65 => Segment::Gs,
            _ => Segment::Flat,
        }
    }

    const fn changes_opcode(&self) -> bool {
        self.operand || self.repeat != 0
    }
}

/// Decodes the instruction at the start of `code`, in a code segment of `bits` (64 or 32). Answers it and its length.
#[inline]
pub fn decode(code: &[u8], bits: u8) -> Result<(Instruction, u8), Undecoded> {
    let code = if code.len() > MAX_LENGTH { &code[..MAX_LENGTH] } else { code };
    let mut prefixes = Prefixes::default();
    for (at, byte) in code.iter().enumerate() {
        match *byte {
            0x0f => return with_length(at, two_bytes(&code[at + 1..], &prefixes)),
            0x66 => prefixes.operand = true,
            0x67 => prefixes.address = true,
            0xf2 | 0xf3 => prefixes.repeat = *byte,
            0x26 | 0x2e | 0x36 | 0x3e if bits == 64 => {}
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => prefixes.segment = *byte,
            0x40..=0x4f if bits == 64 => {
                prefixes.rex = *byte;
                continue;
            }
            opcode => return with_length(at, one_byte(opcode, &code[at + 1..], &prefixes, bits)),
        }
        // A REX prefix counts only right before the opcode.
        prefixes.rex = 0;
    }
    Err(if code.len() == MAX_LENGTH { Undecoded::Unknown } else { Undecoded::Truncated })
}

type Partial = Result<(Instruction, u8), Undecoded>;

fn with_length(before: usize, rest: Partial) -> Partial {
    rest.map(|(instruction, length)| (instruction, before as u8 + 1 + length))
}

fn next(code: &[u8]) -> Result<u8, Undecoded> {
    code.first().copied().ok_or(Undecoded::Truncated)
}

/// Opcodes behind 0F; `code` starts after it.
fn two_bytes(code: &[u8], prefixes: &Prefixes) -> Partial {
    use Instruction::*;
    let opcode = next(code)?;
    if opcode == 0x09 {
        let wbnoinvd = prefixes.repeat == 0xf3;
        let known = !prefixes.operand && prefixes.repeat != 0xf2;
        return if known { Ok((FlushCaches { invalidate: !wbnoinvd }, 1)) } else { Err(Undecoded::Unknown) };
    }
    if prefixes.changes_opcode() {
        return Err(Undecoded::Unknown);
    }
    match opcode {
        0x31 => Ok((ReadTsc, 1)),
        0xa2 => Ok((Cpuid, 1)),
        0x20..=0x23 => Ok((move_special(opcode, next(&code[1..])?, prefixes.rex), 2)),
        0x32 => Ok((ReadMsr, 1)),
        0x30 => Ok((WriteMsr, 1)),
        0x06 => Ok((ClearTaskSwitched, 1)),
        0x01 => match next(&code[1..])? {
            0xd1 => Ok((SetExtendedControl, 2)),
            0xf9 => Ok((ReadTscAux, 2)),
            _ => Err(Undecoded::Unknown),
        },
        _ => Err(Undecoded::Unknown),
    }
}

/// MOV to and from CR and DR: the mode bits of the ModRM byte are ignored, as the processor does.
fn move_special(opcode: u8, modrm: u8, rex: u8) -> Instruction {
    let special = (modrm >> 3 & 7) | (rex & 4) << 1;
    let gpr = (modrm & 7) | (rex & 1) << 3;
    match opcode {
        0x20 => Instruction::ReadControl { control: special, gpr },
        0x22 => Instruction::WriteControl { control: special, gpr },
        0x21 => Instruction::ReadDebug { debug: special, gpr },
        _ => Instruction::WriteDebug { debug: special, gpr },
    }
}

/// One-byte opcodes; `code` starts after the opcode.
fn one_byte(opcode: u8, code: &[u8], prefixes: &Prefixes, bits: u8) -> Partial {
    use Instruction::*;
    // REX.W outweighs the operand-size prefix, but no port is wider than 32 bits.
    let bytes = match (opcode & 1, prefixes.operand && prefixes.rex & 8 == 0) {
        (0, _) => 1,
        (_, true) => 2,
        (_, false) => 4,
    };
    match opcode {
        0xe4 | 0xe5 => Ok((In { port: PortOperand::Immediate(next(code)?), bytes }, 1)),
        0xe6 | 0xe7 => Ok((Out { port: PortOperand::Immediate(next(code)?), bytes }, 1)),
        0xec | 0xed => Ok((In { port: PortOperand::Dx, bytes }, 0)),
        0xee | 0xef => Ok((Out { port: PortOperand::Dx, bytes }, 0)),
        // Outside 64-bit mode these need segment descriptors, which no kernel and no known program asks for.
        0x6c..=0x6f if bits == 64 => Ok((string(opcode, bytes, prefixes), 0)),
        0xfa => Ok((DisableInterrupts, 0)),
        0xfb => Ok((EnableInterrupts, 0)),
        _ => Err(Undecoded::Unknown),
    }
}

fn string(opcode: u8, bytes: u8, prefixes: &Prefixes) -> Instruction {
    let shape = StringIo {
        bytes,
        repeat: prefixes.repeat != 0,
        short_address: prefixes.address,
        segment: prefixes.segment(),
    };
    if opcode & 2 == 0 { Instruction::InString(shape) } else { Instruction::OutString(shape) }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
