//! `physdev_op` and `platform_op`: what the domain that drives the machine asks of it.

use guest_abi::errno::Errno;
use hv_core::physdev::{self, Caller, decode, perform};
use hv_core::platform::op as platform;
use hv_types::{DomId, Gfn, GuestVa, Mfn};

use crate::dev::irq::{Board, LINES};
use crate::guest;
use crate::host::Host;
use crate::hypercall::Outcome;
use crate::machine::Machine;
use crate::paging::mmu;
use crate::vcpu::Vcpu;

/// The vCPU that calls.
struct Asking(&'static Vcpu);

impl Caller for Asking {
    fn domain(&self) -> DomId {
        self.0.domain.id
    }

    fn is_privileged(&self) -> bool {
        self.0.domain.privileged
    }

    fn set_iopl(&self, level: u8) {
        // The core has checked the level.
        let _ = self.0.with_control(|c| c.set_iopl(u32::from(level)));
    }

    fn set_iobitmap(&self, bitmap: GuestVa, ports: u32) {
        let _ = self.0.with_control(|c| c.set_io_bitmap(bitmap, ports));
    }

    fn claim_eoi_frame(&self, gfn: Gfn) -> Result<Mfn, Errno> {
        mmu().pin_writable(&self.0.domain.memory, Mfn(gfn.0))
    }

    fn release_eoi_frame(&self, frame: Mfn) {
        mmu().unpin_writable(frame);
    }
}

/// Performs `physdev_op`.
#[inline(never)]
pub fn physdev_op(vcpu: &'static Vcpu, command: u32, argument: u64) -> Outcome {
    let at = GuestVa(argument);
    let request = decode(command, at, &guest::Caller)?;
    let answer = {
        let mut pirqs = vcpu.domain.pirqs.lock();
        perform(request, &Asking(vcpu), &mut pirqs, &LINES, &Board, &Machine)?
    };
    if let physdev::Answer::Unmask(pirq) = answer
        && let Some(port) = vcpu.domain.events.pirq_port(pirq)
    {
        vcpu.domain.events.unmask(&Machine, port)?;
    }
    answer.write(at, &guest::Caller)?;
    Ok(0)
}

/// Performs `platform_op`.
#[inline(never)]
pub fn platform_op(vcpu: &'static Vcpu, argument: u64) -> Outcome {
    platform::platform_op(GuestVa(argument), vcpu.domain.privileged, &guest::Caller, &Host)?;
    Ok(0)
}
