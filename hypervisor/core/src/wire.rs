//! Copies of wire structures between a guest and the core: whole values, each byte read once.

use crate::port::GuestSpace;
use guest_abi::Errno;
use hv_types::GuestVa;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Reads a structure at `from`; `-EFAULT` if any byte of it cannot be read.
#[inline]
pub fn read<T: FromBytes + IntoBytes>(space: &impl GuestSpace, from: GuestVa) -> Result<T, Errno> {
    let mut value = T::new_zeroed();
    space.read(from, value.as_mut_bytes()).map_err(|_| Errno::EFAULT)?;
    Ok(value)
}

/// Writes a structure to `to`; `-EFAULT` if any byte of it cannot be written.
#[inline]
pub fn write<T: IntoBytes + Immutable>(space: &impl GuestSpace, to: GuestVa, value: &T) -> Result<(), Errno> {
    space.write(to, value.as_bytes()).map_err(|_| Errno::EFAULT)
}

/// Address of element `index` of an array of `T` at `base`; `-EFAULT` if it lies beyond the address space.
#[inline]
pub fn element<T>(base: GuestVa, index: u64) -> Result<GuestVa, Errno> {
    index
        .checked_mul(size_of::<T>() as u64)
        .and_then(|offset| base.0.checked_add(offset))
        .map(GuestVa)
        .ok_or(Errno::EFAULT)
}

/// Reads element `index` of an array of `T` at `base`.
#[inline]
pub fn read_element<T: FromBytes + IntoBytes>(
    space: &impl GuestSpace,
    base: GuestVa,
    index: u64,
) -> Result<T, Errno> {
    read(space, element::<T>(base, index)?)
}

/// Writes element `index` of an array of `T` at `base`.
#[inline]
pub fn write_element<T: IntoBytes + Immutable>(
    space: &impl GuestSpace,
    base: GuestVa,
    index: u64,
    value: &T,
) -> Result<(), Errno> {
    write(space, element::<T>(base, index)?, value)
}
