//! A domain's memory (`memory.h`).

constants! {
    XENMEM_INCREASE_RESERVATION: u32 = 0, "Takes frames: [`XenMemoryReservation`].";
    XENMEM_DECREASE_RESERVATION: u32 = 1, "Gives frames back: [`XenMemoryReservation`].";
    XENMEM_POPULATE_PHYSMAP: u32 = 6, "Fills guest frame numbers: [`XenMemoryReservation`].";
    XENMEM_EXCHANGE: u32 = 11, "[`XenMemoryExchange`].";
    XENMEM_MAXIMUM_RAM_PAGE: u32 = 2, "Highest machine frame of RAM, plus one.";
    XENMEM_CURRENT_RESERVATION: u32 = 3, "Frames that a domain has.";
    XENMEM_MAXIMUM_RESERVATION: u32 = 4, "Frames that a domain may have.";
    XENMEM_MAXIMUM_GPFN: u32 = 14, "Highest guest frame number.";
    XENMEM_MACHPHYS_MFN_LIST: u32 = 5, "Frames of the machine-to-physical table: [`XenMachphysMfnList`].";
    XENMEM_MACHPHYS_COMPAT_MFN_LIST: u32 = 25, "The same for 32-bit guests.";
    XENMEM_MACHPHYS_MAPPING: u32 = 12, "Where that table is: [`XenMachphysMapping`].";
    XENMAPSPACE_SHARED_INFO: u32 = 0, "The shared page.";
    XENMAPSPACE_GRANT_TABLE: u32 = 1, "A page of the grant table.";
    XENMAPSPACE_GMFN: u32 = 2, "A guest frame.";
    XENMAPSPACE_GMFN_RANGE: u32 = 3, "Some guest frames.";
    XENMAPSPACE_GMFN_FOREIGN: u32 = 4, "Another domain's frames.";
    XENMAPSPACE_DEV_MMIO: u32 = 5, "Device memory.";
    XENMAPIDX_GRANT_TABLE_STATUS: u64 = 0x8000_0000, "In `idx`: a status frame.";
    XENMEM_ADD_TO_PHYSMAP: u32 = 7, "[`XenAddToPhysmap`].";
    XENMEM_ADD_TO_PHYSMAP_BATCH: u32 = 23, "[`XenAddToPhysmapBatch`].";
    XENMEM_REMOVE_FROM_PHYSMAP: u32 = 15, "[`XenRemoveFromPhysmap`].";
    XENMEM_MEMORY_MAP: u32 = 9, "The domain's own map: [`XenMemoryMap`].";
    XENMEM_MACHINE_MEMORY_MAP: u32 = 10, "The machine's map: [`XenMemoryMap`].";
    XENMEM_SET_MEMORY_MAP: u32 = 13, "Sets a domain's map: [`XenForeignMemoryMap`].";
    XENMEM_SET_POD_TARGET: u32 = 16, "HVM: populate on demand.";
    XENMEM_GET_POD_TARGET: u32 = 17, "HVM: populate on demand.";
    XENMEM_GET_SHARING_FREED_PAGES: u32 = 18, "Frames that sharing saved.";
    XENMEM_GET_SHARING_SHARED_PAGES: u32 = 19, "Frames that are shared.";
    XENMEM_PAGING_OP: u32 = 20, "HVM: paging.";
    XENMEM_ACCESS_OP: u32 = 21, "HVM: access restrictions.";
    XENMEM_SHARING_OP: u32 = 22, "HVM: sharing.";
    XENMEM_CLAIM_PAGES: u32 = 24, "Claims frames for a domain: [`XenMemoryReservation`].";
    XENMEM_RESERVED_DEVICE_MEMORY_MAP: u32 = 27, "Memory that devices own.";
    XENMEM_ACQUIRE_RESOURCE: u32 = 28, "Frames of a domain's resource: [`XenMemAcquireResource`].";
    XENMEM_GET_VNUMAINFO: u32 = 26, "The domain's virtual NUMA topology.";
    XENMEMF_POPULATE_ON_DEMAND: u32 = 1 << 16, "HVM: populate on demand.";
    XENMEMF_EXACT_NODE_REQUEST: u32 = 1 << 17, "Only that node.";
    XENMEMF_VNODE: u32 = 1 << 18, "The node is a virtual one.";
    XENMEM_RESOURCE_IOREQ_SERVER: u16 = 0, "I/O request pages.";
    XENMEM_RESOURCE_GRANT_TABLE: u16 = 1, "Grant-table pages.";
    XENMEM_RESOURCE_VMTRACE_BUF: u16 = 2, "Trace buffer.";
    XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED: u32 = 0, "The entries.";
    XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS: u32 = 1, "The status frames.";
}

/// Highest extent order the header's types can carry with meaning: a page table reaches no further.
pub const MAX_ORDER: u32 = 52;

wire! {
    /// Extents of frames to take, give or fill.
    pub struct XenMemoryReservation: "struct xen_memory_reservation" {
        /// Guest address of the frame numbers.
        pub extent_start: u64,
        /// How many extents.
        pub nr_extents: u64,
        /// log2 of the frames of each.
        pub extent_order: u32,
        /// `XENMEMF_*`, address bits in the low byte, node + 1 in the next.
        pub mem_flags: u32,
        /// Whose.
        pub domid: u16,
        /// Padding.
        pub _pad: [u16; 3],
    }
    /// Exchanges frames for others.
    pub struct XenMemoryExchange: "struct xen_memory_exchange" {
        /// What is given.
        pub input("in"): XenMemoryReservation,
        /// What is taken.
        pub output("out"): XenMemoryReservation,
        /// Out: input extents exchanged.
        pub nr_exchanged: u64,
    }
    /// Names a domain.
    pub struct XenMemoryDomain: "struct xen_memory_domain" {
        /// The domain.
        pub domid: u16,
    }
    /// Frames of the machine-to-physical table, one each 2 MiB.
    pub struct XenMachphysMfnList: "struct xen_machphys_mfn_list" {
        /// Room.
        pub max_extents: u32,
        /// Padding.
        pub _pad0: u32,
        /// Guest address of the list.
        pub extent_start: u64,
        /// Out: how many.
        pub nr_extents: u32,
        /// Padding.
        pub _pad1: u32,
    }
    /// Where the machine-to-physical table is.
    pub struct XenMachphysMapping: "struct xen_machphys_mapping" {
        /// First address.
        pub v_start: u64,
        /// First address behind it.
        pub v_end: u64,
        /// Highest machine frame it covers.
        pub max_mfn: u64,
    }
    /// Puts a frame at a guest frame number.
    pub struct XenAddToPhysmap: "struct xen_add_to_physmap" {
        /// Whose.
        pub domid: u16,
        /// Frames, for a range.
        pub size: u16,
        /// `XENMAPSPACE_*`.
        pub space: u32,
        /// Which in that space.
        pub idx: u64,
        /// Where.
        pub gpfn: u64,
    }
    /// Puts frames at guest frame numbers.
    pub struct XenAddToPhysmapBatch: "struct xen_add_to_physmap_batch" {
        /// Whose.
        pub domid: u16,
        /// `XENMAPSPACE_*`.
        pub space: u16,
        /// How many.
        pub size: u16,
        /// The other domain.
        pub foreign_domid("u.foreign_domid"): u16,
        /// Guest address of the indices.
        pub idxs: u64,
        /// Guest address of the frame numbers.
        pub gpfns: u64,
        /// Guest address of the answers, `i32` each.
        pub errs: u64,
    }
    /// Empties a guest frame number.
    pub struct XenRemoveFromPhysmap: "struct xen_remove_from_physmap" {
        /// Whose.
        pub domid: u16,
        /// Padding.
        pub _pad: [u16; 3],
        /// Where.
        pub gpfn: u64,
    }
    /// A memory map to fill.
    pub struct XenMemoryMap: "struct xen_memory_map" {
        /// In: room; out: entries.
        pub nr_entries: u32,
        /// Padding.
        pub _pad: u32,
        /// Guest address of [`E820Entry`]s.
        pub buffer: u64,
    }
    /// A memory map for another domain.
    pub struct XenForeignMemoryMap: "struct xen_foreign_memory_map" {
        /// Whose.
        pub domid: u16,
        /// Padding.
        pub _pad: [u16; 3],
        /// The map.
        pub map: XenMemoryMap,
    }
    /// Frames of a domain's resource.
    pub struct XenMemAcquireResource: "struct xen_mem_acquire_resource" {
        /// Whose.
        pub domid: u16,
        /// `XENMEM_resource_*`.
        pub kind("type"): u16,
        /// Which of that kind.
        pub id: u32,
        /// In: how many frames; out, with no list: how many there are.
        pub nr_frames: u32,
        /// Must be zero.
        pub pad: u32,
        /// First frame.
        pub frame: u64,
        /// Guest address of the list.
        pub frame_list: u64,
    }
}

/// One entry of a memory map, as firmware gives it: 20 bytes, packed.
#[repr(C, packed)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
pub struct E820Entry {
    /// Machine address.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// [`E820_RAM`] and so on.
    pub kind: u32,
}

/// Usable memory.
pub const E820_RAM: u32 = 1;
/// Reserved.
pub const E820_RESERVED: u32 = 2;
/// ACPI tables.
pub const E820_ACPI: u32 = 3;
/// ACPI's non-volatile storage.
pub const E820_NVS: u32 = 4;
/// Defective memory.
pub const E820_UNUSABLE: u32 = 5;
