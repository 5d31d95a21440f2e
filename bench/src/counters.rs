//! The hypervisor's performance counters: `sysctl`'s `perfc_op`, through the kernel's `privcmd` device.
//!
//! Facts: `struct xen_sysctl` and `struct xen_sysctl_perfc_op` of the public header `sysctl.h`; `struct privcmd_hypercall`
//! of Linux's `xen/privcmd.h`. Debian's Xen is built without counters and says so.

use std::fs::File;
use std::io::Result;

use crate::sys;

const SYSCTL: u64 = 35;
const PERFC_OP: u32 = 5;
/// Xen 4.17's version of the interface, which Xenolith understands too.
const VERSION: u32 = 0x15;
const QUERY: u32 = 2;
/// Most counters and values that are read; a hypervisor with more has other counters than ours.
const MOST: usize = 64;

/// `struct xen_sysctl` with the operation's structure, 136 bytes in all.
#[repr(C)]
struct Query {
    command: u32,
    version: u32,
    operation: u32,
    counters: u32,
    values: u32,
    pad: u32,
    descriptions_at: u64,
    values_at: u64,
    rest: [u64; 12],
}

/// `struct xen_sysctl_perfc_desc`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Description {
    name: [u8; 80],
    values: u32,
}

/// What has been counted since the machine started; the numbers wrap at 32 bits.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Root tables loaded.
    pub root_loads: u32,
    /// TLB flushes, of one page or of all.
    pub flushes: u32,
}

impl Counts {
    /// What was counted since `before`, for each of so many operations.
    pub fn since(self, before: Counts, rounds: u32) -> [f64; 2] {
        [self.root_loads.wrapping_sub(before.root_loads), self.flushes.wrapping_sub(before.flushes)]
            .map(|count| f64::from(count) / f64::from(rounds))
    }
}

/// Access to the counters.
pub struct Counters(File);

impl Counters {
    /// `None` where there is no hypervisor or it does not count. Loads the kernel's module if it is there.
    pub fn open() -> Option<Counters> {
        // Without a hypervisor the module refuses; where it is built in or loaded there is no file.
        let _ = sys::load_module("/xen-privcmd.ko");
        let counters = Counters(File::options().read(true).write(true).open("/dev/xen/privcmd").ok()?);
        counters.read().ok()?;
        Some(counters)
    }

    /// Reads them, summed over all CPUs.
    pub fn read(&self) -> Result<Counts> {
        let mut descriptions = [Description { name: [0; 80], values: 0 }; MOST];
        let mut values = [0u32; MOST];
        let mut query = Query {
            command: PERFC_OP,
            version: VERSION,
            operation: QUERY,
            counters: 0,
            values: 0,
            pad: 0,
            descriptions_at: 0,
            values_at: 0,
            rest: [0; 12],
        };
        self.call(&mut query)?;
        if query.counters as usize > MOST || query.values as usize > MOST {
            return Err(std::io::ErrorKind::Unsupported.into());
        }
        query.descriptions_at = descriptions.as_mut_ptr() as u64;
        query.values_at = values.as_mut_ptr() as u64;
        self.call(&mut query)?;
        let mut counts = Counts::default();
        let mut rest = &values[..];
        for description in &descriptions[..query.counters as usize] {
            let (own, behind) = rest.split_at((description.values as usize).min(rest.len()));
            let sum = own.iter().fold(0u32, |sum, value| sum.wrapping_add(*value));
            match description.name.split(|byte| *byte == 0).next() {
                Some(b"root table loads") => counts.root_loads = sum,
                Some(b"TLB flushes") => counts.flushes = sum,
                _ => {}
            }
            rest = behind;
        }
        Ok(counts)
    }

    fn call(&self, query: &mut Query) -> Result<()> {
        // SAFETY: the query, and the arrays that it names, are as large as the interface says, and outlive the call.
        unsafe { sys::hypercall(&self.0, SYSCTL, [std::ptr::from_mut(query) as u64, 0, 0, 0, 0]) }
    }
}
