//! The hypervisor's heap, and the large one that exists only while dom0 is built.
//!
//! No path that a guest can drive depends on an infallible allocation: what guests cause to be allocated goes
//! through `try_reserve` or takes whole frames from the frame allocator.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};

use linked_list_allocator::Heap as List;
use spin::Mutex;

use crate::{layout, mem};

/// Bytes mapped at first; grows in steps of the same size.
const STEP: u64 = 256 * 1024;
/// Allocations from this size on come from the boot heap while it exists.
const LARGE: usize = 32 * 1024;
/// Upper bound of the permanent heap.
const LIMIT: u64 = 512 << 20;

struct Heaps {
    permanent: List,
    mapped: u64,
    boot: List,
}

struct Global(Mutex<Heaps>);

#[global_allocator]
static GLOBAL: Global =
    Global(Mutex::new(Heaps { permanent: List::empty(), mapped: 0, boot: List::empty() }));

impl Heaps {
    fn grow(&mut self, need: usize) -> Option<()> {
        let step = (need as u64 + 64).next_multiple_of(STEP);
        if self.mapped + step > LIMIT {
            return None;
        }
        mem::map_fresh(layout::HEAP + self.mapped, step).ok()?;
        if self.mapped == 0 {
            // SAFETY: the range was just mapped and is the heap's for good.
            unsafe { self.permanent.init(layout::HEAP as *mut u8, step as usize) };
        } else {
            // SAFETY: the range directly behind the heap was just mapped for it.
            unsafe { self.permanent.extend(step as usize) };
        }
        self.mapped += step;
        Some(())
    }

    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        if layout.size() >= LARGE && self.boot.size() > 0 {
            return self.boot.allocate_first_fit(layout).ok();
        }
        if let Ok(p) = self.permanent.allocate_first_fit(layout) {
            return Some(p);
        }
        self.grow(layout.size() + layout.align())?;
        self.permanent.allocate_first_fit(layout).ok()
    }
}

// SAFETY: both lists hand out disjoint, mapped memory; an address tells which list it came from.
unsafe impl GlobalAlloc for Global {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate(layout).map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let Some(p) = NonNull::new(ptr) else { return };
        let mut heaps = self.0.lock();
        let list = if (ptr as u64) >= layout::DIRECT { &mut heaps.boot } else { &mut heaps.permanent };
        // SAFETY: by the trait's contract `ptr` came from `alloc` with this layout.
        unsafe { list.deallocate(p, layout) };
    }
}

/// Lends `[start, end)` of machine memory, which may be empty, to large allocations.
///
/// # Safety
/// The range is RAM that nobody else uses until [`end_boot`] has returned true.
pub unsafe fn begin_boot(start: u64, end: u64) {
    if start == end {
        return;
    }
    // SAFETY: the caller's duty; the direct map shows the range.
    unsafe { GLOBAL.0.lock().boot.init(mem::phys_to_virt(start), (end - start) as usize) };
}

/// Ends the boot heap; false if something of it is still in use, in which case its memory must be left alone.
pub fn end_boot() -> bool {
    let mut heaps = GLOBAL.0.lock();
    let empty = heaps.boot.used() == 0;
    heaps.boot = List::empty();
    empty
}

/// Bytes of the permanent heap: in use, mapped.
pub fn usage() -> (usize, u64) {
    let heaps = GLOBAL.0.lock();
    (heaps.permanent.used(), heaps.mapped)
}
