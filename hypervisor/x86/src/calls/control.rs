//! Xenolith's own control interface.

use hv_core::control::{Asker, control_op};
use hv_types::GuestVa;

use crate::guest::Caller;
use crate::hypercall::Outcome;
use crate::machine::Machine;
use crate::vcpu::Vcpu;

/// Performs the call.
#[inline(never)]
pub fn control(vcpu: &Vcpu, argument: u64) -> Outcome {
    let asker = Asker { dom: vcpu.domain.id, privileged: vcpu.domain.privileged };
    control_op(&Machine, &Caller, asker, GuestVa(argument)).map(|value| value as u64)
}
