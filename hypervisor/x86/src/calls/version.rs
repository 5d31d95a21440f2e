//! `xen_version`, with what only the image knows.

use hv_core::version::{self, Caller, Identity};
use hv_types::GuestVa;
use spin::Once;

use crate::guest;
use crate::hypercall::Outcome;
use crate::vcpu::Vcpu;

/// What is said; set once the command line is known.
static IDENTITY: Once<Identity<'static>> = Once::new();

unsafe extern "C" {
    static __build_id_start: u8;
    static __build_id_end: u8;
}

/// Bytes of the ELF note before the id itself: three words and the name.
const NOTE_HEAD: usize = 16;

fn build_id() -> &'static [u8] {
    let start = &raw const __build_id_start;
    let len = (&raw const __build_id_end) as usize - start as usize;
    // SAFETY: the linker script puts the note between the two symbols, in constants of the image.
    let note = unsafe { core::slice::from_raw_parts(start, len) };
    note.get(NOTE_HEAD..).unwrap_or(&[])
}

/// Fixes what is said about version and command line.
pub fn init(version: (u16, u16), command_line: &'static str) {
    IDENTITY.call_once(|| Identity {
        version,
        extra: concat!("-xl", env!("CARGO_PKG_VERSION")),
        compiler: "rustc 1.95.0",
        changeset: "",
        date: "",
        command_line,
        build_id: build_id(),
    });
}

/// Performs the call.
#[inline(never)]
pub fn xen_version(vcpu: &Vcpu, command: u32, argument: u64) -> Outcome {
    let Some(identity) = IDENTITY.get() else { return Err(guest_abi::errno::Errno::ENOSYS.into()) };
    let caller = Caller {
        initial: vcpu.domain.privileged,
        handle: vcpu.domain.handle,
        assists: vcpu.domain.all_assists(),
    };
    version::xen_version(&guest::Caller, identity, &caller, command, GuestVa(argument))
}
