//! The guest's floating-point state. Eager: it is saved when its vCPU leaves the CPU and loaded when it comes, so that
//! no guest ever sees another one's registers.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::arch::asm;
use core::ptr::NonNull;

use crate::features::{self, features};
use crate::vcpu::Vcpu;

/// Memory for one vCPU's state, in the processor's own format.
pub struct Area(NonNull<u8>);

// SAFETY: an area belongs to its vCPU, and that to one CPU at a time (I-VC-1).
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

/// Where MXCSR and the x87 control word lie in the area, and their values after a reset.
const FCW: usize = 0;
const FCW_RESET: u16 = 0x37f;
const MXCSR: usize = 24;
const MXCSR_RESET: u32 = 0x1f80;
/// Bits that every x86-64 processor has.
const MXCSR_USABLE: u32 = 0xffbf;
/// Words of the XSAVE header.
const XSTATE_BV: usize = 512;

fn size() -> usize {
    if features().xsave { features().xsave_size.max(576) as usize } else { 512 }
}

impl Area {
    /// The state after a reset.
    pub fn new() -> Option<Area> {
        let layout = Layout::from_size_align(size(), 64).ok()?;
        // SAFETY: the size is not zero.
        let at = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        // SAFETY: both offsets lie in the first 512 bytes of the area just made.
        unsafe {
            at.add(FCW).cast::<u16>().write(FCW_RESET);
            at.add(MXCSR).cast::<u32>().write(MXCSR_RESET);
            if features().xsave {
                // x87 and SSE are in the area; the rest is in its initial state.
                at.add(XSTATE_BV).cast::<u64>().write(3);
            }
        }
        Some(Area(at))
    }

    /// Sets x87 and SSE from an FXSAVE image of a vCPU that does not run. Bits of MXCSR that the processor would
    /// refuse are left out.
    pub fn set_legacy(&self, image: &[u8; 512]) {
        let at = self.0.as_ptr();
        // SAFETY: the area is at least 512 bytes long, and nobody uses it while the vCPU does not run (I-VC-1).
        unsafe {
            core::ptr::copy_nonoverlapping(image.as_ptr(), at, image.len());
            let mxcsr = at.add(MXCSR).cast::<u32>();
            mxcsr.write(mxcsr.read() & MXCSR_USABLE);
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        if let Ok(layout) = Layout::from_size_align(size(), 64) {
            // SAFETY: `new` made it with this layout, which never changes.
            unsafe { dealloc(self.0.as_ptr(), layout) };
        }
    }
}

/// TS must not trap our own instructions.
fn with_fpu(f: impl FnOnce()) {
    let cr0 = crate::cpu::cr0();
    if cr0 & 8 != 0 {
        // SAFETY: TS is set again below.
        unsafe { crate::cpu::set_cr0(cr0 & !8) };
    }
    f();
    if cr0 & 8 != 0 {
        // SAFETY: as it was.
        unsafe { crate::cpu::set_cr0(cr0) };
    }
}

/// Saves the processor's state into the vCPU's area.
pub fn save(vcpu: &Vcpu) {
    let at = vcpu.fpu.0.as_ptr();
    with_fpu(|| {
        // SAFETY: the area is as large and as aligned as the processor wants it. All components are saved, whatever
        // XCR0 the guest has chosen.
        unsafe {
            if !features().xsave {
                asm!("fxsave64 [{}]", in(reg) at, options(nostack));
            } else {
                features::set_xcr0(features().xcr0);
                asm!("xsave64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
            }
        }
    });
}

/// Loads the vCPU's state and its XCR0.
pub fn load(vcpu: &Vcpu) {
    let at = vcpu.fpu.0.as_ptr();
    with_fpu(|| {
        // SAFETY: the area holds a state that the processor saved or the one after a reset.
        unsafe {
            if !features().xsave {
                asm!("fxrstor64 [{}]", in(reg) at, options(nostack));
            } else {
                features::set_xcr0(features().xcr0);
                asm!("xrstor64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
                features::set_xcr0(vcpu.xcr0.get());
            }
        }
    });
}
