//! The core of the interface (`xen.h` and `arch-x86/xen.h`): page-table commands, VIRQs, the shared page, the
//! start-of-day page.
//!
//! Hypercall numbers are in [`crate::call`].

use core::mem::{offset_of, size_of};

constants! {
    VIRQ_TIMER: u32 = 0, "One-shot or periodic timer; per vCPU.";
    VIRQ_DEBUG: u32 = 1, "Asks the guest to dump its state; per vCPU.";
    VIRQ_CONSOLE: u32 = 2, "dom0: input on the hypervisor's console.";
    VIRQ_DOM_EXC: u32 = 3, "dom0: a domain changed its state.";
    VIRQ_TBUF: u32 = 4, "dom0: trace buffers have records.";
    VIRQ_DEBUGGER: u32 = 6, "dom0: a domain stopped for debugging.";
    VIRQ_XENOPROF: u32 = 7, "Profiling samples; per vCPU.";
    VIRQ_CON_RING: u32 = 8, "dom0: the hypervisor's log has grown.";
    VIRQ_PCPU_STATE: u32 = 9, "dom0: a physical CPU changed its state.";
    VIRQ_MEM_EVENT: u32 = 10, "dom0: a memory event.";
    VIRQ_ARGO: u32 = 11, "An Argo message.";
    VIRQ_ENOMEM: u32 = 12, "dom0: memory is low.";
    VIRQ_XENPMU: u32 = 13, "Performance counters; per vCPU.";
    VIRQ_ARCH_0: u32 = 16, "x86: machine-check telemetry for dom0 (`VIRQ_MCA`).";
    VIRQ_ARCH_1: u32 = 17, "Unused on x86.";
    VIRQ_ARCH_2: u32 = 18, "Unused on x86.";
    VIRQ_ARCH_3: u32 = 19, "Unused on x86.";
    VIRQ_ARCH_4: u32 = 20, "Unused on x86.";
    VIRQ_ARCH_5: u32 = 21, "Unused on x86.";
    VIRQ_ARCH_6: u32 = 22, "Unused on x86.";
    VIRQ_ARCH_7: u32 = 23, "Unused on x86.";
    NR_VIRQS: u32 = 24, "How many VIRQs there are.";

    MMU_NORMAL_PT_UPDATE: u64 = 0, "`mmu_update`: checked write of an entry.";
    MMU_MACHPHYS_UPDATE: u64 = 1, "`mmu_update`: write of the machine-to-physical table.";
    MMU_PT_UPDATE_PRESERVE_AD: u64 = 2, "`mmu_update`: checked write that keeps accessed and dirty bits.";
    MMU_PT_UPDATE_NO_TRANSLATE: u64 = 3, "`mmu_update`: as normal, frame numbers untranslated.";

    MMUEXT_PIN_L1_TABLE: u32 = 0, "Pins `arg1` as an L1 table.";
    MMUEXT_PIN_L2_TABLE: u32 = 1, "Pins `arg1` as an L2 table.";
    MMUEXT_PIN_L3_TABLE: u32 = 2, "Pins `arg1` as an L3 table.";
    MMUEXT_PIN_L4_TABLE: u32 = 3, "Pins `arg1` as an L4 table.";
    MMUEXT_UNPIN_TABLE: u32 = 4, "Unpins `arg1`.";
    MMUEXT_NEW_BASEPTR: u32 = 5, "Loads `arg1` as the kernel's root table.";
    MMUEXT_TLB_FLUSH_LOCAL: u32 = 6, "Flushes this vCPU's TLB.";
    MMUEXT_INVLPG_LOCAL: u32 = 7, "Flushes the page at address `arg1` here.";
    MMUEXT_TLB_FLUSH_MULTI: u32 = 8, "Flushes the TLBs of the vCPUs in mask `arg2`.";
    MMUEXT_INVLPG_MULTI: u32 = 9, "Flushes the page at `arg1` on the vCPUs in mask `arg2`.";
    MMUEXT_TLB_FLUSH_ALL: u32 = 10, "Flushes the TLBs of all vCPUs.";
    MMUEXT_INVLPG_ALL: u32 = 11, "Flushes the page at `arg1` on all vCPUs.";
    MMUEXT_FLUSH_CACHE: u32 = 12, "Writes back and empties this CPU's caches.";
    MMUEXT_SET_LDT: u32 = 13, "Sets the LDT: address `arg1`, entries `arg2`.";
    MMUEXT_NEW_USER_BASEPTR: u32 = 15, "Loads `arg1` as the user's root table; 0: none.";
    MMUEXT_CLEAR_PAGE: u32 = 16, "Clears frame `arg1`.";
    MMUEXT_COPY_PAGE: u32 = 17, "Copies frame `arg2` to frame `arg1`.";
    MMUEXT_FLUSH_CACHE_GLOBAL: u32 = 18, "Writes back and empties all caches.";
    MMUEXT_MARK_SUPER: u32 = 19, "Marks a super page.";
    MMUEXT_UNMARK_SUPER: u32 = 20, "Unmarks a super page.";

    UVMF_NONE: u64 = 0, "`update_va_mapping`: no flush.";
    UVMF_TLB_FLUSH: u64 = 1, "`update_va_mapping`: flush the whole TLB.";
    UVMF_INVLPG: u64 = 2, "`update_va_mapping`: flush the one page.";
    UVMF_FLUSHTYPE_MASK: u64 = 3, "`update_va_mapping`: the kind of flush.";
    UVMF_MULTI: u64 = 0, "`update_va_mapping`: on the vCPUs in the mask whose address is in the other bits.";
    UVMF_LOCAL: u64 = 0, "`update_va_mapping`: on this vCPU.";
    UVMF_ALL: u64 = 4, "`update_va_mapping`: on all vCPUs.";

    CONSOLEIO_WRITE: u32 = 0, "`console_io`: write bytes.";
    CONSOLEIO_READ: u32 = 1, "`console_io`: read bytes.";
    VMASST_CMD_ENABLE: u32 = 0, "`vm_assist`: switch on.";
    VMASST_CMD_DISABLE: u32 = 1, "`vm_assist`: switch off.";
    VMASST_TYPE_4GB_SEGMENTS: u32 = 0, "32-bit guests only.";
    VMASST_TYPE_4GB_SEGMENTS_NOTIFY: u32 = 1, "32-bit guests only.";
    VMASST_TYPE_WRITABLE_PAGETABLES: u32 = 2, "Writes to page tables are emulated.";
    VMASST_TYPE_PAE_EXTENDED_CR3: u32 = 3, "32-bit guests only.";
    VMASST_TYPE_ARCHITECTURAL_IOPL: u32 = 4, "The flags register's IOPL is the guest's virtual one.";
    VMASST_TYPE_RUNSTATE_UPDATE_FLAG: u32 = 5, "Runstate records say when they are being written.";
    VMASST_TYPE_M2P_STRICT: u32 = 32, "No machine-to-physical table in user mode.";

    DOMID_FIRST_RESERVED: u16 = 0x7ff0, "First number that names no domain.";
    DOMID_SELF: u16 = 0x7ff0, "The caller.";
    DOMID_IO: u16 = 0x7ff1, "Owner of I/O frames.";
    DOMID_XEN: u16 = 0x7ff2, "Owner of the hypervisor's shared frames.";
    DOMID_COW: u16 = 0x7ff3, "Owner of shared copy-on-write frames.";
    DOMID_INVALID: u16 = 0x7ff4, "No domain.";
    DOMID_IDLE: u16 = 0x7fff, "The idle domain.";
    DOMID_MASK: u16 = 0x7fff, "Bits of a domain number.";

    SIF_PRIVILEGED: u32 = 1 << 0, "The domain is privileged.";
    SIF_INITDOMAIN: u32 = 1 << 1, "The domain is the initial one.";
    SIF_MULTIBOOT_MOD: u32 = 1 << 2, "The module is a list of multiboot modules.";
    SIF_MOD_START_PFN: u32 = 1 << 3, "`mod_start` is a frame number.";
    SIF_VIRT_P2M_4TOOLS: u32 = 1 << 4, "The tools know the virtual p2m map.";
    SIF_PM_MASK: u32 = 0xff << 8, "Power-management options.";

    XEN_PVCLOCK_TSC_STABLE_BIT: u8 = 1 << 0, "The clock is monotonic over all vCPUs.";
    XEN_PVCLOCK_GUEST_STOPPED: u8 = 1 << 1, "The guest was stopped for a while.";
    MAX_GUEST_CMDLINE: u32 = 1024, "Bytes of a guest's command line.";
    XEN_LEGACY_MAX_VCPUS: u32 = 32, "vCPUs whose `vcpu_info` is in the shared page.";
}

/// What `start_info.magic` begins with for a 64-bit PV guest; a NUL follows.
pub const START_INFO_MAGIC: &[u8] = b"xen-3.0-x86_64";

/// A domain's UUID (`xen_domain_handle_t`).
pub type DomainHandle = [u8; 16];

wire! {
    /// One extended page-table operation.
    pub struct MmuextOp: "struct mmuext_op" {
        /// `MMUEXT_*`.
        pub cmd: u32,
        /// Padding.
        pub _pad: u32,
        /// `mfn` or `linear_addr`.
        pub arg1: u64,
        /// `nr_ents` (low 32 bits), the address of `vcpumask`, or `src_mfn`.
        pub arg2: u64,
    }
    /// One page-table update.
    pub struct MmuUpdate: "struct mmu_update" {
        /// Machine address of the entry; the low two bits are `MMU_*`.
        pub ptr: u64,
        /// New contents.
        pub val: u64,
    }
    /// One call of a multicall.
    pub struct MulticallEntry: "struct multicall_entry" {
        /// Hypercall number.
        pub op: u64,
        /// Its result.
        pub result: u64,
        /// Its arguments.
        pub args: [u64; 6],
    }
    /// The paravirtual clock of a vCPU. Odd version: being written.
    pub struct VcpuTimeInfo: "struct vcpu_time_info" {
        /// Changes with each update.
        pub version: u32,
        /// Reserved.
        pub pad0: u32,
        /// TSC at the update.
        pub tsc_timestamp: u64,
        /// System time in ns at the update.
        pub system_time: u64,
        /// Nanoseconds a (shifted) tick, times 2^32.
        pub tsc_to_system_mul: u32,
        /// Shift of the tick, left if positive.
        pub tsc_shift: i8,
        /// `XEN_PVCLOCK_*`.
        pub flags: u8,
        /// Reserved.
        pub pad1: [u8; 2],
    }
    /// Architecture's part of [`VcpuInfo`].
    pub struct ArchVcpuInfo: "struct arch_vcpu_info" {
        /// Faulting address of the last page fault.
        pub cr2: u64,
        /// Reserved.
        pub pad: u64,
    }
    /// What guest and hypervisor share about a vCPU.
    pub struct VcpuInfo: "struct vcpu_info" {
        /// An event waits.
        pub evtchn_upcall_pending: u8,
        /// Events are not delivered.
        pub evtchn_upcall_mask: u8,
        /// Padding.
        pub _pad: [u8; 6],
        /// Which words of `evtchn_pending` have bits set.
        pub evtchn_pending_sel: u64,
        /// Architecture's part.
        pub arch: ArchVcpuInfo,
        /// The clock.
        pub time: VcpuTimeInfo,
    }
    /// Architecture's part of [`SharedInfo`].
    pub struct ArchSharedInfo: "struct arch_shared_info" {
        /// Entries of the p2m map.
        pub max_pfn: u64,
        /// Root frame of the three-level p2m map.
        pub pfn_to_mfn_frame_list_list: u64,
        /// Reasons of the last NMI.
        pub nmi_reason: u64,
        /// Root table of the virtual p2m map.
        pub p2m_cr3: u64,
        /// Address of the virtual p2m map.
        pub p2m_vaddr: u64,
        /// Odd while the map changes.
        pub p2m_generation: u64,
    }
    /// The page that guest and hypervisor share.
    pub struct SharedInfo: "struct shared_info" {
        /// The first 32 vCPUs.
        pub vcpu_info: [VcpuInfo; 32],
        /// Two-level event channels: pending bits.
        pub evtchn_pending: [u64; 64],
        /// Two-level event channels: masked bits.
        pub evtchn_mask: [u64; 64],
        /// Odd while the wall clock is being written.
        pub wc_version: u32,
        /// Wall clock at system time 0: seconds, low half.
        pub wc_sec: u32,
        /// Wall clock at system time 0: nanoseconds.
        pub wc_nsec: u32,
        /// Wall clock at system time 0: seconds, high half.
        pub wc_sec_hi: u32,
        /// Architecture's part.
        pub arch: ArchSharedInfo,
    }
    /// What a PV guest finds at its start.
    pub struct StartInfo: "struct start_info" {
        /// [`START_INFO_MAGIC`] and NULs.
        pub magic: [u8; 32],
        /// Frames of the domain.
        pub nr_pages: u64,
        /// Machine address of [`SharedInfo`].
        pub shared_info: u64,
        /// `SIF_*`.
        pub flags: u32,
        /// Padding.
        pub _pad0: u32,
        /// Machine frame of xenstore's page.
        pub store_mfn: u64,
        /// Port of xenstore.
        pub store_evtchn: u32,
        /// Padding.
        pub _pad1: u32,
        /// domU: machine frame of the console. dom0: `info_off` (low half) and `info_size` (high half).
        pub console("console.domU.mfn"): u64,
        /// domU: port of the console.
        pub console_evtchn("console.domU.evtchn"): u32,
        /// Padding.
        pub _pad2: u32,
        /// Address of the root table.
        pub pt_base: u64,
        /// Frames of the initial page tables.
        pub nr_pt_frames: u64,
        /// Address of the p2m list.
        pub mfn_list: u64,
        /// Address (or frame number, see flags) of the module.
        pub mod_start: u64,
        /// Bytes of the module.
        pub mod_len: u64,
        /// Command line, NUL-terminated.
        pub cmd_line: [u8; 1024],
        /// First frame of the p2m list, when that is outside the initial mapping.
        pub first_p2m_pfn: u64,
        /// Frames of the p2m list.
        pub nr_p2m_frames: u64,
    }
    /// One entry of the list of multiboot modules.
    pub struct XenMultibootModList: "struct xen_multiboot_mod_list" {
        /// Start.
        pub mod_start: u32,
        /// End.
        pub mod_end: u32,
        /// Address of the command line.
        pub cmdline: u32,
        /// Reserved.
        pub pad: u32,
    }
    /// A bitmap of the control interfaces.
    pub struct XenctlBitmap: "struct xenctl_bitmap" {
        /// Guest address of the bytes.
        pub bitmap: u64,
        /// How many bits.
        pub nr_bits: u32,
        /// Padding.
        pub _pad: u32,
    }
}

/// Byte offsets in the shared page, for access word by word.
pub mod shared_offset {
    use super::{ArchSharedInfo, SharedInfo, VcpuInfo, offset_of, size_of};

    /// Byte offset of a vCPU's [`VcpuInfo`]; for the first 32.
    pub const fn vcpu_info(vcpu: usize) -> usize {
        offset_of!(SharedInfo, vcpu_info) + vcpu * size_of::<VcpuInfo>()
    }
    /// First word of the pending bits.
    pub const EVTCHN_PENDING: usize = offset_of!(SharedInfo, evtchn_pending);
    /// First word of the mask bits.
    pub const EVTCHN_MASK: usize = offset_of!(SharedInfo, evtchn_mask);
    /// `wc_version`.
    pub const WC_VERSION: usize = offset_of!(SharedInfo, wc_version);
    /// `wc_sec`.
    pub const WC_SEC: usize = offset_of!(SharedInfo, wc_sec);
    /// `wc_nsec`.
    pub const WC_NSEC: usize = offset_of!(SharedInfo, wc_nsec);
    /// `wc_sec_hi`.
    pub const WC_SEC_HI: usize = offset_of!(SharedInfo, wc_sec_hi);
    /// The architecture's part.
    pub const ARCH: usize = offset_of!(SharedInfo, arch);
    /// `arch.nmi_reason`.
    pub const NMI_REASON: usize = ARCH + offset_of!(ArchSharedInfo, nmi_reason);
}

/// Byte offsets in a [`VcpuInfo`], for access word by word.
pub mod vcpu_offset {
    use super::{ArchVcpuInfo, VcpuInfo, VcpuTimeInfo, offset_of};

    /// `evtchn_upcall_pending`, a byte.
    pub const UPCALL_PENDING: usize = offset_of!(VcpuInfo, evtchn_upcall_pending);
    /// `evtchn_upcall_mask`, a byte.
    pub const UPCALL_MASK: usize = offset_of!(VcpuInfo, evtchn_upcall_mask);
    /// `evtchn_pending_sel`, 64 bits.
    pub const PENDING_SEL: usize = offset_of!(VcpuInfo, evtchn_pending_sel);
    /// `arch.cr2`, 64 bits.
    pub const CR2: usize = offset_of!(VcpuInfo, arch) + offset_of!(ArchVcpuInfo, cr2);
    /// The clock.
    pub const TIME: usize = offset_of!(VcpuInfo, time);
    /// `time.version`, 32 bits.
    pub const TIME_VERSION: usize = TIME + offset_of!(VcpuTimeInfo, version);
    /// `time.tsc_timestamp`, 64 bits.
    pub const TIME_TSC: usize = TIME + offset_of!(VcpuTimeInfo, tsc_timestamp);
    /// `time.system_time`, 64 bits.
    pub const TIME_SYSTEM: usize = TIME + offset_of!(VcpuTimeInfo, system_time);
    /// `time.tsc_to_system_mul` (32 bits), then `tsc_shift`, `flags` and two reserved bytes: one 64-bit word.
    pub const TIME_MUL_SHIFT_FLAGS: usize = TIME + offset_of!(VcpuTimeInfo, tsc_to_system_mul);
}
