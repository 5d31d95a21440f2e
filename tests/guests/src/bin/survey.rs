//! Which hypercalls and operations there are at all: each is made with an argument that cannot succeed or does no
//! harm, and counts as absent if it answers `-ENOSYS` or `-EOPNOTSUPP`.
//!
//! The runner compares this with the hypercall table. What cannot be asked this way is left out: operations that
//! would stop the guest, and those whose presence depends on the firmware.
#![no_std]
#![no_main]

use claim::abi::call::Suboperation;
use claim::abi::platform::{XENPF_INTERFACE_VERSION, XenPlatformOp};
use claim::abi::x86_64::FLAT_KERNEL_SS;
use claim::abi::xen::*;
use claim::abi::{Errno, Hypercall};
use claim::{attempt, call, event, mm, say, trap};

claim::claim!(run);

/// An address that is never mapped.
const NOWHERE: u64 = 0x1000;
/// A frame that no machine has.
const NO_FRAME: u64 = 1 << 39;

fn run() {
    event::shared();
    // What is not Xen's has a claim guest of its own.
    for hypercall in Hypercall::ALL.iter().filter(|c| c.is_of_xen()) {
        if hypercall.suboperations().is_empty() {
            if let Some(answer) = whole(*hypercall) {
                say!("{}: {}", hypercall.name(), word(answer));
            }
            continue;
        }
        let mut any = false;
        for op in hypercall.suboperations() {
            let Some(answer) = operation(*hypercall, op) else { continue };
            any |= there(answer);
            say!("{}/{}: {}", hypercall.name(), op.name, word(answer));
        }
        say!("{}: {}", hypercall.name(), if any { "yes" } else { "no" });
    }
}

fn there(answer: i64) -> bool {
    answer != Errno::ENOSYS.as_result() && answer != Errno::EOPNOTSUPP.as_result()
}

fn word(answer: i64) -> &'static str {
    if there(answer) { "yes" } else { "no" }
}

/// A call without operations.
fn whole(hypercall: Hypercall) -> Option<i64> {
    let arguments: [u64; 5] = match hypercall {
        Hypercall::Iret => {
            // A trap that is over was left by `iret`.
            return attempt!(["ud2"]).map(|_| 0);
        }
        Hypercall::SetTrapTable
        | Hypercall::Multicall
        | Hypercall::EventChannelOpCompat
        | Hypercall::PhysdevOpCompat
        | Hypercall::XsmOp
        | Hypercall::Sysctl
        | Hypercall::Domctl
        | Hypercall::TmemOp
        | Hypercall::Arch0 => [NOWHERE, 1, 0, 0, 0],
        Hypercall::MmuUpdate => [NOWHERE, 1, 0, u64::from(DOMID_SELF), 0],
        Hypercall::SetGdt => [NOWHERE, 512, 0, 0, 0],
        Hypercall::StackSwitch => [u64::from(FLAT_KERNEL_SS), mm::page() + 4096, 0, 0, 0],
        Hypercall::SetCallbacks => [trap::entry_of(32), trap::entry_of(33), trap::entry_of(34), 0, 0],
        Hypercall::SetDebugreg => [7, 0x400, 0, 0, 0],
        Hypercall::GetDebugreg => [7, 0, 0, 0, 0],
        Hypercall::UpdateDescriptor => [NO_FRAME << 12, 0, 0, 0, 0],
        Hypercall::UpdateVaMapping => [0x8000_0000_0000, 0, 0, 0, 0],
        Hypercall::UpdateVaMappingOtherdomain => [0x8000_0000_0000, 0, 0, 77, 0],
        Hypercall::DmOp => [77, 0, NOWHERE, 0, 0],
        Hypercall::XenoprofOp | Hypercall::KexecOp | Hypercall::XenpmuOp | Hypercall::HvmOp => {
            [0, NOWHERE, 0, 0, 0]
        }
        Hypercall::FpuTaskswitch | Hypercall::SchedOpCompat | Hypercall::SetTimerOp => [0; 5],
        _ => [0; 5],
    };
    Some(call(hypercall, &arguments))
}

/// One operation of a call that has several; nothing if it cannot be asked.
fn operation(hypercall: Hypercall, op: &Suboperation) -> Option<i64> {
    let number = u64::from(op.number);
    let answer = match hypercall {
        Hypercall::PlatformOp => return platform(op),
        // Without a map of its own dom0 gets -ENOSYS.
        Hypercall::MemoryOp if op.name == "memory_map" => return None,
        Hypercall::SchedOp if op.name == "block" => block(number),
        Hypercall::ConsoleIo => call(hypercall, &[number, 0, 0]),
        Hypercall::GrantTableOp => call(hypercall, &[number, NOWHERE, 1]),
        // Disabling what is not enabled does nothing.
        Hypercall::VmAssist => call(hypercall, &[u64::from(VMASST_CMD_DISABLE), number]),
        Hypercall::VcpuOp if matches!(op.name, "down" | "send_nmi") => return None,
        Hypercall::VcpuOp => call(hypercall, &[number, 0, NOWHERE]),
        Hypercall::SetSegmentBase => call(hypercall, &[number, 0]),
        Hypercall::MmuextOp if op.name == "set_ldt" => mm::mmuext(op.number, 0, 0),
        Hypercall::MmuextOp => mm::mmuext(op.number, NO_FRAME, NO_FRAME),
        _ => call(hypercall, &[number, NOWHERE]),
    };
    Some(answer)
}

/// Blocks with an event waiting, which returns at once.
fn block(number: u64) -> i64 {
    let Ok(port) = event::bind_ipi(0) else { return Errno::ENOSYS.as_result() };
    event::send(port);
    let answer = call(Hypercall::SchedOp, &[number, 0]);
    event::set_upcall_mask(1);
    event::close(port);
    answer
}

/// Platform operations have their number in the structure; all ones is an argument that none can take.
fn platform(op: &Suboperation) -> Option<i64> {
    let mut argument =
        XenPlatformOp { cmd: op.number, interface_version: XENPF_INTERFACE_VERSION, u: [u64::MAX; 16] };
    match op.name {
        "efi_runtime_call" => return None,
        // The first BIOS disk.
        "firmware_info" => argument.u[0] = 1,
        _ => {}
    }
    Some(call(Hypercall::PlatformOp, &[&raw mut argument as u64]))
}
