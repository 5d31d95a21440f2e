//! `console_io`: dom0's way to the hypervisor's console.

use guest_abi::errno::Errno;
use guest_abi::xen::{CONSOLEIO_READ, CONSOLEIO_WRITE};
use hv_core::port::GuestSpace;
use hv_types::GuestVa;

use crate::console;
use crate::guest::Caller;
use crate::hypercall::Outcome;
use crate::vcpu::Vcpu;

/// Longest write taken in one call; the rest is asked for again by the guest's driver.
const LONGEST: u64 = 16 * 1024;

/// Writes or reads bytes; the answer counts them.
#[inline(never)]
pub fn console_io(vcpu: &Vcpu, command: u32, count: u64, buffer: u64) -> Outcome {
    if !vcpu.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    match command {
        CONSOLEIO_WRITE => write(count, buffer),
        CONSOLEIO_READ => read(count, buffer),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn write(count: u64, buffer: u64) -> Outcome {
    let mut done = 0;
    let mut chunk = [0u8; 128];
    while done < count.min(LONGEST) {
        let len = (count - done).min(chunk.len() as u64) as usize;
        Caller.read(GuestVa(buffer.wrapping_add(done)), &mut chunk[..len])?;
        console::write_guest(&chunk[..len]);
        done += len as u64;
    }
    // The answer to a write is zero, however long it was.
    Ok(0)
}

fn read(count: u64, buffer: u64) -> Outcome {
    let mut done = 0;
    let mut chunk = [0u8; 64];
    while done < count.min(LONGEST) {
        let want = (count - done).min(chunk.len() as u64) as usize;
        let len = console::take_input(&mut chunk[..want]);
        if len == 0 {
            break;
        }
        Caller.write(GuestVa(buffer.wrapping_add(done)), &chunk[..len])?;
        done += len as u64;
    }
    Ok(done)
}
