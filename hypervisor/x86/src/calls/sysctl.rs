//! `sysctl`, so far only what `dmesg` and `xenperf` need: the log and the performance counters. The interface's versions
//! get a codec each; this is the one of Xen 4.15 to 4.21 for these operations' structures, which have not changed in
//! them.

use core::sync::atomic::Ordering;

use guest_abi::errno::Errno;
use hv_core::port::GuestSpace;
use hv_types::GuestVa;

use crate::console;
use crate::guest::Caller;
use crate::hypercall::Outcome;
use crate::percpu::{Cpu, MAX_CPUS, cpu_record};
use crate::vcpu::Vcpu;

const READCONSOLE: u32 = 1;
const PERFC_OP: u32 = 5;
/// Interface versions whose `readconsole` is known (`XEN_SYSCTL_INTERFACE_VERSION`).
const VERSIONS: core::ops::RangeInclusive<u32> = 0x13..=0x16;
/// Offset of the operation's structure in `struct xen_sysctl`.
const OPERATION: u64 = 8;

/// Performs the call.
///
/// # Errors
/// `-EPERM` for a domain without privilege, `-EACCES` for an unknown interface version, `-ENOSYS` for other operations.
#[inline(never)]
pub fn sysctl(vcpu: &Vcpu, argument: u64) -> Outcome {
    if !vcpu.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    let head = Caller.read_u64(argument)?;
    let (command, version) = (head as u32, (head >> 32) as u32);
    if !VERSIONS.contains(&version) {
        return Err(Errno::EACCES.into());
    }
    match command {
        READCONSOLE => read_console(argument.wrapping_add(OPERATION)),
        PERFC_OP => performance_counters(argument.wrapping_add(OPERATION)),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// `struct xen_sysctl_readconsole`: clear and incremental (a byte each), index, buffer, count.
fn read_console(at: u64) -> Outcome {
    let [flags_and_index, buffer, count] = Caller.read_words::<3>(at)?;
    let (clear, incremental) = (flags_and_index & 0xff != 0, flags_and_index >> 8 & 0xff != 0);
    let index = u64::from((flags_and_index >> 32) as u32);
    let room = u64::from(count as u32);
    let mut from = if incremental { index } else { 0 };
    let mut done = 0;
    let mut chunk = [0; 256];
    while done < room {
        let want = (room - done).min(chunk.len() as u64) as usize;
        let (len, next) = console::read_ring(from, &mut chunk[..want]);
        if len == 0 {
            break;
        }
        Caller.write(GuestVa(buffer.wrapping_add(done)), &chunk[..len])?;
        done += len as u64;
        from = next;
    }
    if clear {
        console::clear_ring();
    }
    Caller.write_u64(at, flags_and_index & 0xffff_ffff | from << 32)?;
    Caller.write_u32(at.wrapping_add(16), done as u32)?;
    Ok(0)
}

/// A counter that each CPU has: its name, and where its value is.
type Counter = (&'static str, fn(&Cpu) -> u64);

/// What is counted. Reading is free of any lock; a value wraps at 32 bits, as the interface has it.
const COUNTERS: [Counter; 3] = [
    ("root table loads", |cpu| cpu.root_loads.load(Ordering::Relaxed)),
    ("TLB flushes", |cpu| cpu.tlb_flushes.load(Ordering::Relaxed)),
    ("vCPU switches", |cpu| cpu.slices.load(Ordering::Relaxed)),
];

/// Bytes of a counter's name, and of its description with the number of values behind.
const NAME: usize = 80;
const DESCRIPTION: usize = NAME + 4;
const QUERY: u32 = 2;

/// `struct xen_sysctl_perfc_op`: command, counters, values (out), then where descriptions and values go, if anywhere.
/// A reset is refused: who wants a difference takes it.
fn performance_counters(at: u64) -> Outcome {
    let [command_and_counters, _, descriptions, values] = Caller.read_words::<4>(at)?;
    if command_and_counters as u32 != QUERY {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let cpus = (0..MAX_CPUS).map_while(cpu_record);
    let count = cpus.clone().count();
    for (n, (name, read)) in COUNTERS.iter().enumerate() {
        if descriptions != 0 {
            let mut bytes = [0; DESCRIPTION];
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            bytes[NAME..].copy_from_slice(&(count as u32).to_le_bytes());
            Caller.write(GuestVa(descriptions.wrapping_add((n * DESCRIPTION) as u64)), &bytes)?;
        }
        if values != 0 {
            for (cpu, record) in cpus.clone().enumerate() {
                let to = values.wrapping_add(((n * count + cpu) * 4) as u64);
                Caller.write_u32(to, read(record) as u32)?;
            }
        }
    }
    Caller.write_u32(at.wrapping_add(4), COUNTERS.len() as u32)?;
    Caller.write_u32(at.wrapping_add(8), (COUNTERS.len() * count) as u32)?;
    Ok(0)
}
