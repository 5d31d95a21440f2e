//! Where things are in the hypervisor's linear range (PML4 slots 256..=271 of every page table).
//!
//! | slot | what |
//! |---|---|
//! | 256 | machine-to-physical table, read-only, readable by guests (`MACH2PHYS_VIRT_START`) |
//! | 260 | per domain: the GDT and LDT windows of its vCPUs |
//! | 261 | the hypervisor itself: writable M2P, image, stacks, heap, device mappings, frame table |
//! | 262.. | direct map of all RAM, without the hypervisor's image |

/// Bytes that one PML4 slot covers.
pub const SLOT_SIZE: u64 = 1 << 39;
/// First slot of the hypervisor's range.
pub const FIRST_SLOT: usize = 256;
/// One past the last slot.
pub const END_SLOT: usize = 272;

/// Guests read the M2P here.
pub const M2P_RO: u64 = 0xffff_8000_0000_0000;
/// Per-domain area.
pub const PER_DOMAIN: u64 = 0xffff_8200_0000_0000;
/// PML4 slot of the per-domain area.
pub const PER_DOMAIN_SLOT: usize = 260;
/// The hypervisor writes the M2P here.
pub const M2P_RW: u64 = 0xffff_8280_0000_0000;
/// Uncached device mappings.
pub const IO: u64 = 0xffff_82c0_0000_0000;
/// The image.
pub const IMAGE: u64 = 0xffff_82d0_4000_0000;
/// Stacks and syscall stubs; within 2 GiB of the image, so that stubs reach both by relative addresses.
pub const STACKS: u64 = 0xffff_82d0_8000_0000;
/// The heap.
pub const HEAP: u64 = 0xffff_82d0_c000_0000;
/// The frame table.
pub const FRAMES: u64 = 0xffff_82e0_0000_0000;
/// The direct map.
pub const DIRECT: u64 = 0xffff_8300_0000_0000;
/// Bytes of RAM the direct map can show (slots 262..=271).
pub const DIRECT_SIZE: u64 = 10 * SLOT_SIZE;

/// Each vCPU has 64 KiB of GDT, then 64 KiB of LDT, in its domain's area.
pub const VCPU_WINDOW_SHIFT: u32 = 17;
/// Pages of a GDT window that hold guest frames; the next page is the CPU's own (`FIRST_RESERVED_GDT_PAGE`).
pub const GUEST_GDT_PAGES: usize = 14;

/// Linear address of a vCPU's GDT window.
pub const fn gdt_window(vcpu: usize) -> u64 {
    PER_DOMAIN + ((vcpu as u64) << VCPU_WINDOW_SHIFT)
}

/// Linear address of a vCPU's LDT window.
pub const fn ldt_window(vcpu: usize) -> u64 {
    gdt_window(vcpu) + (1 << (VCPU_WINDOW_SHIFT - 1))
}

/// Bytes of the block that holds all stacks of one CPU; also its alignment, so that any stack pointer finds the
/// CPU's record at the block's end.
pub const STACK_BLOCK: u64 = 128 * 1024;
