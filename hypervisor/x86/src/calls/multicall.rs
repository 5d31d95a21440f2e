//! `multicall`: several calls in one.

use core::mem::size_of;

use guest_abi::call::number::MULTICALL;
use guest_abi::errno::Errno;
use guest_abi::xen::MulticallEntry;
use hv_core::call::{CallError, Continuation};

use crate::guest::Caller;
use crate::hypercall::{self, Outcome};
use crate::percpu::this_cpu;
use crate::vcpu::Vcpu;

/// Calls done before the guest may be interrupted.
const BATCH: u64 = 1024;
/// Calls between two looks at the clock.
const STRIDE: u64 = 16;
const ENTRY: u64 = size_of::<MulticallEntry>() as u64;
/// Offset of `result` in an entry.
const RESULT: u64 = 8;
/// Offset of `args` in an entry.
const ARGS: u64 = 16;

/// Performs `count` entries at `list`, writing each entry's result behind its number. An entry that must be
/// continued has its arguments replaced by those of the continuation, as the public header allows.
#[inline(never)]
pub fn multicall(vcpu: &'static Vcpu, list: u64, count: u64) -> Outcome {
    let count = u64::from(count as u32);
    for done in 0..count {
        let at = list.wrapping_add(done * ENTRY);
        if done == BATCH || done % STRIDE == STRIDE - 1 && this_cpu().slice_is_over() {
            return again(at, count - done);
        }
        let [op, _, args @ ..] = Caller.read_words::<8>(at)?;
        let result = match one(vcpu, hypercall::number_of(op), &args) {
            Ok(value) => value,
            Err(CallError::Errno(errno)) => errno.as_result() as u64,
            Err(CallError::Retry(next)) => {
                Caller.write_words(at.wrapping_add(ARGS), &next.args)?;
                return again(at, count - done);
            }
            Err(crash) => return Err(crash),
        };
        Caller.write_u64(at.wrapping_add(RESULT), result).map_err(|_| Errno::EFAULT)?;
    }
    Ok(0)
}

/// One entry. A list in a list would be a recursion that the guest drives.
#[inline(always)]
fn one(vcpu: &'static Vcpu, number: u32, args: &[u64; 6]) -> Outcome {
    if number == MULTICALL { Err(Errno::EINVAL.into()) } else { hypercall::call(vcpu, number, args) }
}

fn again(list: u64, count: u64) -> Outcome {
    Err(CallError::Retry(Continuation { args: [list, count, 0, 0] }))
}
