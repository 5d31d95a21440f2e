//! Privileged instructions of a PV guest's kernel, and I/O of both its modes.
//!
//! The x86 room calls [`general_protection`] for a #GP with error code 0 and [`invalid_opcode`] for a #UD, and does
//! what the [`Outcome`] says. What the guest may do is decided here; the effects go through [`port::Machine`].

pub mod decode;
mod io;
pub mod port;

use guest_abi::x86_64::{EMULATE_PREFIX, cr3_to_pfn, pfn_to_cr3};
use hv_types::{GuestVa, Mfn, PAGE_MASK};

use crate::code::Code;
use crate::control::{CR4_OSXSAVE, CR4_TSD, cr0_view, cr0_write};
use crate::debug::STATUS_STEP;
use crate::descriptor::CodeSegment;
use crate::msr::{self, Read, Write, number};
use crate::regs::{Mode, Regs, flags};
use crate::trap::{DB, Event, UD};
use decode::{Instruction, PortOperand, Undecoded, decode};
use port::{Machine, Reload, RootSwitch};

/// What became of a trapped instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Done; the registers are those after it.
    Done,
    /// Give the guest this exception, with the registers as they are now.
    Inject(Event),
    /// Return to the guest, which runs the instruction again and so continues it.
    Retry,
    /// Not ours: give the guest the exception that the processor raised.
    Unhandled,
}

/// Ends an emulation before the instruction is complete. Nothing that the guest can see has changed.
type Stop = Outcome;
/// `Ok` carries the DR6 bits of the breakpoints that the instruction hit.
type Step = Result<u64, Stop>;

const GP0: Stop = Outcome::Inject(Event::GeneralProtection(0));

/// Emulates the instruction that raised #GP(0). `code` is the segment that it runs in.
#[inline]
pub fn general_protection<M: Machine>(
    regs: &mut Regs,
    mode: Mode,
    code: CodeSegment,
    machine: &mut M,
) -> Outcome {
    let Some(at) = code.linear(regs.rip, 1) else { return GP0 };
    let fetched = match Code::fetch(at, machine) {
        Ok(fetched) => fetched,
        Err(fault) => return Outcome::Inject(fault),
    };
    let done = match hot(fetched.word()) {
        // In each arm the instruction is known when this is compiled.
        Hot::Tsc if code.bits == 64 => {
            perform(Instruction::ReadTsc, regs, mode, machine).map(|hits| (2, hits))
        }
        Hot::Cr0 if code.bits == 64 => {
            perform(Instruction::ReadControl { control: 0, gpr: 0 }, regs, mode, machine)
                .map(|hits| (3, hits))
        }
        Hot::ReadMsr if code.bits == 64 => {
            perform(Instruction::ReadMsr, regs, mode, machine).map(|hits| (2, hits))
        }
        Hot::In(bytes, length) if code.bits == 64 => {
            io::input(PortOperand::Dx, bytes, regs, mode, machine).map(|hits| (length, hits))
        }
        Hot::Out(bytes, length) if code.bits == 64 => {
            io::output(PortOperand::Dx, bytes, regs, mode, machine).map(|hits| (length, hits))
        }
        _ => step(&fetched, regs, mode, code, machine),
    };
    match done {
        Ok((length, hits)) => retire(regs, u64::from(length), hits, machine),
        Err(outcome) => outcome,
    }
}

/// Instructions that guests run most, in the one encoding that compilers choose. Ports: bytes and length.
enum Hot {
    Tsc,
    Cr0,
    /// Linux reads a segment base whenever it leaves a process, where there is FSGSBASE.
    ReadMsr,
    In(u8, u8),
    Out(u8, u8),
    Other,
}

#[inline(always)]
const fn hot(word: u64) -> Hot {
    match (word as u8, word as u16, word as u32 & 0xff_ffff) {
        (_, 0x310f, _) => Hot::Tsc,
        (_, _, 0xc0_200f) => Hot::Cr0,
        (_, 0x320f, _) => Hot::ReadMsr,
        (0xec, _, _) => Hot::In(1, 1),
        (0xed, _, _) => Hot::In(4, 1),
        (_, 0xed66, _) => Hot::In(2, 2),
        (0xee, _, _) => Hot::Out(1, 1),
        (0xef, _, _) => Hot::Out(4, 1),
        (_, 0xef66, _) => Hot::Out(2, 2),
        _ => Hot::Other,
    }
}

#[inline(always)]
fn step<M: Machine>(
    fetched: &Code,
    regs: &mut Regs,
    mode: Mode,
    code: CodeSegment,
    machine: &mut M,
) -> Result<(u8, u64), Stop> {
    let (instruction, length) = decode(fetched.bytes(), code.bits).map_err(|error| match error {
        Undecoded::Unknown => Outcome::Unhandled,
        Undecoded::Truncated => Outcome::Inject(fetched.fault_behind()),
    })?;
    code.linear(regs.rip, u64::from(length)).ok_or(GP0)?;
    perform(instruction, regs, mode, machine).map(|hits| (length, hits))
}

/// [`EMULATE_PREFIX`] and CPUID.
const FORCED_CPUID: [u8; 7] = {
    let [a, b, c, d, e] = EMULATE_PREFIX;
    [a, b, c, d, e, 0x0f, 0xa2]
};

/// Emulates the instruction that raised #UD: CPUID behind the emulation prefix, and nothing else.
#[inline]
pub fn invalid_opcode<M: Machine>(regs: &mut Regs, mode: Mode, machine: &mut M) -> Outcome {
    const WORD: u64 = {
        let [a, b, c, d, e, f, g] = FORCED_CPUID;
        u64::from_le_bytes([a, b, c, d, e, f, g, 0])
    };
    let fetched = match Code::fetch(GuestVa(regs.rip), machine) {
        Ok(fetched) => fetched,
        Err(fault) => return Outcome::Inject(fault),
    };
    if fetched.word() << 8 == WORD << 8 {
        cpuid(regs, mode, true, machine);
        return retire(regs, FORCED_CPUID.len() as u64, 0, machine);
    }
    let bytes = fetched.bytes();
    if bytes.len() < FORCED_CPUID.len() && FORCED_CPUID.starts_with(bytes) {
        // The prefix runs into a page that cannot be read.
        return Outcome::Inject(fetched.fault_behind());
    }
    Outcome::Unhandled
}

/// Steps over an instruction, and raises #DB if the guest single-steps or a breakpoint was hit.
#[inline(always)]
fn retire<M: Machine>(regs: &mut Regs, length: u64, hits: u64, machine: &mut M) -> Outcome {
    regs.rip = regs.rip.wrapping_add(length);
    let step = if regs.single_steps() { STATUS_STEP } else { 0 };
    regs.rflags &= !flags::RF;
    if hits | step != 0 {
        machine.state().debug.record(hits | step);
        machine.reload(Reload::Debug);
        return Outcome::Inject(Event::Plain(DB));
    }
    Outcome::Done
}

#[inline(always)]
fn perform<M: Machine>(instruction: Instruction, regs: &mut Regs, mode: Mode, machine: &mut M) -> Step {
    use Instruction::*;
    match instruction {
        ReadTsc => read_tsc(regs, mode, machine)?,
        ReadTscAux => {
            read_tsc(regs, mode, machine)?;
            regs.rcx = u64::from(machine.state().tsc_aux);
        }
        Cpuid => cpuid(regs, mode, false, machine),
        In { port, bytes } => return io::input(port, bytes, regs, mode, machine),
        Out { port, bytes } => return io::output(port, bytes, regs, mode, machine),
        InString(shape) => return io::input_string(shape, regs, mode, machine),
        OutString(shape) => return io::output_string(shape, regs, mode, machine),
        DisableInterrupts | EnableInterrupts => {
            // The guest masks events in its shared page; letting these do so as well would need a trap on POPF.
            if !machine.state().iopl_permits(mode) {
                return Err(Outcome::Unhandled);
            }
        }
        _ if mode == Mode::User => return Err(GP0),
        ReadControl { control, gpr } => *regs.gpr_mut(gpr) = read_control(control, machine)?,
        WriteControl { control, gpr } => write_control(control, regs.gpr(gpr), machine)?,
        ClearTaskSwitched => set_task_switched(false, machine),
        ReadDebug { debug, gpr } => *regs.gpr_mut(gpr) = read_debug(debug, machine)?,
        WriteDebug { debug, gpr } => write_debug(debug, regs.gpr(gpr), machine)?,
        ReadMsr => read_msr(regs, machine)?,
        WriteMsr => write_msr(regs, machine)?,
        FlushCaches { invalidate } => machine.flush_caches(invalidate),
        SetExtendedControl => set_extended_control(regs, machine)?,
    }
    Ok(0)
}

/// EDX:EAX.
#[inline(always)]
fn pair(regs: &Regs) -> u64 {
    regs.rdx << 32 | regs.rax & 0xffff_ffff
}

#[inline(always)]
fn set_pair(regs: &mut Regs, value: u64) {
    regs.rax = value & 0xffff_ffff;
    regs.rdx = value >> 32;
}

#[inline(always)]
fn read_tsc<M: Machine>(regs: &mut Regs, mode: Mode, machine: &mut M) -> Result<(), Stop> {
    if mode == Mode::User && machine.state().cr4 & CR4_TSD != 0 {
        return Err(GP0);
    }
    set_pair(regs, machine.tsc());
    Ok(())
}

#[inline(always)]
fn cpuid<M: Machine>(regs: &mut Regs, mode: Mode, forced: bool, machine: &mut M) {
    let answer = machine.cpuid(regs.rax as u32, regs.rcx as u32, mode, forced);
    [regs.rax, regs.rbx, regs.rcx, regs.rdx] = answer.map(u64::from);
}

#[inline(always)]
fn read_control<M: Machine>(control: u8, machine: &mut M) -> Result<u64, Stop> {
    match control {
        0 => Ok(cr0_view(machine.cr0(), machine.state().task_switched)),
        2 => Ok(machine.state().cr2),
        3 => Ok(pfn_to_cr3(machine.root().0)),
        4 => Ok(machine.state().cr4),
        _ => Err(Outcome::Unhandled),
    }
}

fn write_control<M: Machine>(control: u8, value: u64, machine: &mut M) -> Result<(), Stop> {
    match control {
        0 => set_task_switched(cr0_write(machine.cr0(), value).ok_or(Outcome::Unhandled)?, machine),
        2 => {
            machine.state().cr2 = value;
            machine.reload(Reload::Cr2);
        }
        3 => match machine.switch_root(Mfn(cr3_to_pfn(value))) {
            RootSwitch::Done => {}
            RootSwitch::Refused => return Err(Outcome::Unhandled),
            RootSwitch::Preempted => return Err(Outcome::Retry),
        },
        4 => {
            let view = machine.cr4_policy().view(value);
            machine.state().cr4 = view;
            machine.reload(Reload::Cr4);
        }
        _ => return Err(Outcome::Unhandled),
    }
    Ok(())
}

#[inline(always)]
fn set_task_switched<M: Machine>(set: bool, machine: &mut M) {
    machine.state().task_switched = set;
    machine.reload(Reload::TaskSwitched);
}

fn read_debug<M: Machine>(number: u8, machine: &mut M) -> Result<u64, Stop> {
    let state = machine.state();
    let extensions = state.cr4 & crate::control::CR4_DE != 0;
    state.debug.read(number, extensions).map_err(|error| Outcome::Inject(error.event()))
}

fn write_debug<M: Machine>(number: u8, value: u64, machine: &mut M) -> Result<(), Stop> {
    let state = machine.state();
    let extensions = state.cr4 & crate::control::CR4_DE != 0;
    state.debug.write(number, value, extensions).map_err(|error| Outcome::Inject(error.event()))?;
    machine.reload(Reload::Debug);
    Ok(())
}

fn set_extended_control<M: Machine>(regs: &Regs, machine: &mut M) -> Result<(), Stop> {
    if machine.state().cr4 & CR4_OSXSAVE == 0 {
        return Err(Outcome::Inject(Event::Plain(UD)));
    }
    if regs.rcx as u32 != 0 || !machine.set_xcr0(pair(regs)) {
        return Err(GP0);
    }
    Ok(())
}

#[inline(always)]
fn read_msr<M: Machine>(regs: &mut Regs, machine: &mut M) -> Result<(), Stop> {
    let msr = regs.rcx as u32;
    if let Some(base) = msr::base(msr) {
        set_pair(regs, machine.base(base));
        return Ok(());
    }
    read_other_msr(msr, regs, machine)
}

/// A register that is no segment base.
fn read_other_msr<M: Machine>(msr: u32, regs: &mut Regs, machine: &mut M) -> Result<(), Stop> {
    let value = match readable(msr, machine) {
        Some(value) => value,
        // Early in its boot a guest has no #GP handler; a register that exists is zero then.
        None if !machine.handles_gp() && msr >> 16 != 0x4000 && machine.host_read(msr).is_some() => 0,
        None => return Err(Outcome::Unhandled),
    };
    set_pair(regs, value);
    Ok(())
}

/// The guest's value of `msr`, if it may read it.
fn readable<M: Machine>(msr: u32, machine: &mut M) -> Option<u64> {
    match machine.policy().read(msr) {
        Read::Value(value) => Some(value),
        Read::Host { keep, set } => machine.host_read(msr).map(|value| value & keep | set),
        Read::Base(base) => Some(machine.base(base)),
        Read::Tsc => Some(machine.tsc()),
        Read::TscAux => Some(u64::from(machine.state().tsc_aux)),
        Read::Refuse => None,
    }
}

fn write_msr<M: Machine>(regs: &Regs, machine: &mut M) -> Result<(), Stop> {
    let (msr, value) = (regs.rcx as u32, pair(regs));
    let done = match machine.policy().write(msr, value) {
        Write::Ignore => true,
        Write::IfUnchanged => readable(msr, machine) == Some(value),
        Write::Host => machine.host_write(msr, value),
        Write::Base(base) => {
            machine.set_base(base, value);
            true
        }
        Write::TscAux => {
            machine.state().tsc_aux = value as u32;
            machine.reload(Reload::TscAux);
            true
        }
        Write::HypercallPage => {
            debug_assert_eq!(msr, number::HYPERCALL_PAGE);
            // The low bits are the page's index; there is one.
            value & PAGE_MASK == 0 && machine.write_hypercall_page(value >> hv_types::PAGE_SHIFT)
        }
        Write::Refuse => false,
    };
    if done { Ok(()) } else { Err(Outcome::Unhandled) }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
