//! Allocation that answers instead of panicking: `-ENOMEM` is an answer, not a reason to stop the machine.

use alloc::boxed::Box;
use alloc::vec::Vec;
use guest_abi::Errno;

/// A boxed slice of `len` values, `make(index)` each; `-ENOMEM` where the heap has no room.
pub fn boxed<T>(len: usize, make: impl FnMut(usize) -> T) -> Result<Box<[T]>, Errno> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    values.extend((0..len).map(make));
    Ok(values.into_boxed_slice())
}
