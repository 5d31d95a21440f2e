//! Hypercalls, and how their answers print.

use core::arch::asm;
use core::fmt;
use guest_abi::{Errno, Hypercall};

/// Makes a hypercall by number, with up to five arguments; missing ones are zero.
///
/// Safe to call in the sense that matters here: the guest is one thread whose claims are about exactly what the
/// hypervisor does to it, so any memory that an argument names is memory the claim gives up.
pub fn call_number(number: u64, arguments: &[u64]) -> i64 {
    let argument = |n: usize| arguments.get(n).copied().unwrap_or(0);
    let mut result = number;
    // SAFETY: `syscall` from a PV kernel is a hypercall; it clobbers RCX and R11 and the given arguments.
    unsafe {
        asm!(
            "syscall",
            inout("rax") result,
            inout("rdi") argument(0) => _,
            inout("rsi") argument(1) => _,
            inout("rdx") argument(2) => _,
            inout("r10") argument(3) => _,
            inout("r8") argument(4) => _,
            out("rcx") _,
            out("r11") _,
        );
    }
    result as i64
}

/// Makes a hypercall.
pub fn call(call: Hypercall, arguments: &[u64]) -> i64 {
    call_number(u64::from(call.number()), arguments)
}

/// Makes a hypercall of the form `(command, &argument)`.
pub fn command<T>(call_: Hypercall, command: u32, argument: &mut T) -> i64 {
    call(call_, &[u64::from(command), &raw mut *argument as u64])
}

/// A hypercall's answer, as it prints: the error's name, or the number.
pub struct Answer(pub i64);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, Errno::from_result(self.0)) {
            (0, _) => f.write_str("ok"),
            (_, Some(errno)) => write!(f, "-{errno}"),
            (number, None) => write!(f, "{number}"),
        }
    }
}
