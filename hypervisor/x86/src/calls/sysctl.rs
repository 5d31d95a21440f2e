//! `sysctl`, so far only what `dmesg` needs: reading the log. The interface's versions get a codec each; this is the one of
//! Xen 4.15 to 4.20 for the operation's own structure, which has not changed in them.

use guest_abi::errno::Errno;
use hv_core::port::GuestSpace;
use hv_types::GuestVa;

use crate::console;
use crate::guest::Caller;
use crate::hypercall::Outcome;
use crate::vcpu::Vcpu;

const READCONSOLE: u32 = 1;
/// Interface versions whose `readconsole` is known (`XEN_SYSCTL_INTERFACE_VERSION`).
const VERSIONS: core::ops::RangeInclusive<u32> = 0x13..=0x16;
/// Offset of the operation's structure in `struct xen_sysctl`.
const OPERATION: u64 = 8;

/// Performs the call.
///
/// # Errors
/// `-EPERM` for a domain without privilege, `-EACCES` for an unknown interface version, `-ENOSYS` for other operations.
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
