//! Grant tables (`grant_table.h`).

constants! {
    GNTTAB_NR_RESERVED_ENTRIES: u32 = 8, "Entries that the tools use.";
    GNTTAB_RESERVED_CONSOLE: u32 = 0, "Entry of the console's page.";
    GNTTAB_RESERVED_XENSTORE: u32 = 1, "Entry of xenstore's page.";
    GTF_INVALID: u16 = 0, "No grant.";
    GTF_PERMIT_ACCESS: u16 = 1, "The domain may map or copy the frame.";
    GTF_ACCEPT_TRANSFER: u16 = 2, "The domain may give a frame.";
    GTF_TRANSITIVE: u16 = 3, "Refers to a grant of another domain (version 2).";
    GTF_TYPE_MASK: u16 = 3, "The type of an entry.";
    GTF_READONLY: u16 = 1 << 2, "Only reading is permitted.";
    GTF_READING: u16 = 1 << 3, "Mapped or being read.";
    GTF_WRITING: u16 = 1 << 4, "Mapped writable or being written.";
    GTF_PWT: u16 = 1 << 5, "Cache attribute.";
    GTF_PCD: u16 = 1 << 6, "Cache attribute.";
    GTF_PAT: u16 = 1 << 7, "Cache attribute.";
    GTF_SUB_PAGE: u16 = 1 << 8, "Part of a page (version 2).";
    GTF_TRANSFER_COMMITTED: u16 = 1 << 2, "A transfer has begun.";
    GTF_TRANSFER_COMPLETED: u16 = 1 << 3, "A transfer is done.";
    GNTTABOP_MAP_GRANT_REF: u32 = 0, "[`GnttabMapGrantRef`].";
    GNTTABOP_UNMAP_GRANT_REF: u32 = 1, "[`GnttabUnmapGrantRef`].";
    GNTTABOP_SETUP_TABLE: u32 = 2, "[`GnttabSetupTable`].";
    GNTTABOP_DUMP_TABLE: u32 = 3, "[`GnttabDumpTable`].";
    GNTTABOP_TRANSFER: u32 = 4, "[`GnttabTransfer`].";
    GNTTABOP_COPY: u32 = 5, "[`GnttabCopy`].";
    GNTTABOP_QUERY_SIZE: u32 = 6, "[`GnttabQuerySize`].";
    GNTTABOP_UNMAP_AND_REPLACE: u32 = 7, "[`GnttabUnmapAndReplace`].";
    GNTTABOP_SET_VERSION: u32 = 8, "[`GnttabSetVersion`].";
    GNTTABOP_GET_STATUS_FRAMES: u32 = 9, "[`GnttabGetStatusFrames`].";
    GNTTABOP_GET_VERSION: u32 = 10, "[`GnttabGetVersion`].";
    GNTTABOP_SWAP_GRANT_REF: u32 = 11, "[`GnttabSwapGrantRef`].";
    GNTTABOP_CACHE_FLUSH: u32 = 12, "[`GnttabCacheFlush`].";
    GNTCOPY_SOURCE_GREF: u16 = 1 << 0, "The source is a grant.";
    GNTCOPY_DEST_GREF: u16 = 1 << 1, "The destination is a grant.";
    GNTTAB_CACHE_CLEAN: u32 = 1 << 0, "Write back.";
    GNTTAB_CACHE_INVAL: u32 = 1 << 1, "Invalidate.";
    GNTTAB_CACHE_SOURCE_GREF: u32 = 1 << 31, "The frame is named by a grant.";
    GNTMAP_DEVICE_MAP: u32 = 1 << 0, "For a device.";
    GNTMAP_HOST_MAP: u32 = 1 << 1, "For the CPU.";
    GNTMAP_READONLY: u32 = 1 << 2, "Only for reading.";
    GNTMAP_APPLICATION_MAP: u32 = 1 << 3, "Also for user mode.";
    GNTMAP_CONTAINS_PTE: u32 = 1 << 4, "`host_addr` is a page-table entry's machine address.";
    GNTST_OKAY: i16 = 0, "Done.";
    GNTST_GENERAL_ERROR: i16 = -1, "Failed.";
    GNTST_BAD_DOMAIN: i16 = -2, "No such domain.";
    GNTST_BAD_GNTREF: i16 = -3, "No such grant.";
    GNTST_BAD_HANDLE: i16 = -4, "No such mapping.";
    GNTST_BAD_VIRT_ADDR: i16 = -5, "Bad address.";
    GNTST_BAD_DEV_ADDR: i16 = -6, "Bad device address.";
    GNTST_NO_DEVICE_SPACE: i16 = -7, "No room in the IOMMU.";
    GNTST_PERMISSION_DENIED: i16 = -8, "Not permitted.";
    GNTST_BAD_PAGE: i16 = -9, "Bad frame.";
    GNTST_BAD_COPY_ARG: i16 = -10, "The copy crosses a page.";
    GNTST_ADDRESS_TOO_BIG: i16 = -11, "The frame's address is too high.";
    GNTST_EAGAIN: i16 = -12, "Try again.";
    GNTST_NO_SPACE: i16 = -13, "No room.";
}

/// `GNTMAP_*`: lowest of the bits that go to the entry's software bits.
pub const GNTMAP_GUEST_AVAIL_SHIFT: u32 = 16;

wire! {
    /// An entry of the table, version 1.
    pub struct GrantEntryV1: "struct grant_entry_v1" {
        /// `GTF_*`.
        pub flags: u16,
        /// To whom.
        pub domid: u16,
        /// Guest frame number.
        pub frame: u32,
    }
    /// Maps a granted frame.
    pub struct GnttabMapGrantRef: "struct gnttab_map_grant_ref" {
        /// Where.
        pub host_addr: u64,
        /// `GNTMAP_*`.
        pub flags: u32,
        /// The grant.
        pub grant("ref"): u32,
        /// Whose.
        pub dom: u16,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Out: the mapping.
        pub handle: u32,
        /// Out: machine address.
        pub dev_bus_addr: u64,
    }
    /// Unmaps a granted frame.
    pub struct GnttabUnmapGrantRef: "struct gnttab_unmap_grant_ref" {
        /// Where.
        pub host_addr: u64,
        /// Device address, or 0.
        pub dev_bus_addr: u64,
        /// The mapping.
        pub handle: u32,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub _pad: u16,
    }
    /// Sizes a table and lists its frames.
    pub struct GnttabSetupTable: "struct gnttab_setup_table" {
        /// Whose.
        pub dom: u16,
        /// Padding.
        pub _pad0: u16,
        /// Frames wanted.
        pub nr_frames: u32,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub _pad1: [u16; 3],
        /// Guest address of the list.
        pub frame_list: u64,
    }
    /// Prints a table in the log.
    pub struct GnttabDumpTable: "struct gnttab_dump_table" {
        /// Whose.
        pub dom: u16,
        /// Out: `GNTST_*`.
        pub status: i16,
    }
    /// Gives a frame away.
    pub struct GnttabTransfer: "struct gnttab_transfer" {
        /// The frame.
        pub mfn: u64,
        /// To whom.
        pub domid: u16,
        /// Padding.
        pub _pad0: u16,
        /// By which grant.
        pub grant("ref"): u32,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub _pad1: [u16; 3],
    }
    /// One side of a copy.
    pub struct GnttabCopyPtr: "struct gnttab_copy_ptr" {
        /// A grant (low 32 bits) or a frame.
        pub u: u64,
        /// Whose.
        pub domid: u16,
        /// Byte offset in the page.
        pub offset: u16,
        /// Padding.
        pub _pad: u32,
    }
    /// Copies between frames.
    pub struct GnttabCopy: "struct gnttab_copy" {
        /// From.
        pub source: GnttabCopyPtr,
        /// To.
        pub dest: GnttabCopyPtr,
        /// Bytes.
        pub len: u16,
        /// `GNTCOPY_*`.
        pub flags: u16,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub _pad: u16,
    }
    /// Reads the size of a table.
    pub struct GnttabQuerySize: "struct gnttab_query_size" {
        /// Whose.
        pub dom: u16,
        /// Padding.
        pub _pad0: u16,
        /// Out: frames.
        pub nr_frames: u32,
        /// Out: frames at most.
        pub max_nr_frames: u32,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub _pad1: u16,
    }
    /// Unmaps and leaves another mapping instead.
    pub struct GnttabUnmapAndReplace: "struct gnttab_unmap_and_replace" {
        /// Where.
        pub host_addr: u64,
        /// Whose entry goes there; it is cleared.
        pub new_addr: u64,
        /// The mapping.
        pub handle: u32,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub _pad: u16,
    }
    /// Chooses the version.
    pub struct GnttabSetVersion: "struct gnttab_set_version" {
        /// In: wanted; out: what it is.
        pub version: u32,
    }
    /// Lists the status frames of version 2.
    pub struct GnttabGetStatusFrames: "struct gnttab_get_status_frames" {
        /// How many.
        pub nr_frames: u32,
        /// Whose.
        pub dom: u16,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Guest address of the list.
        pub frame_list: u64,
    }
    /// Reads the version.
    pub struct GnttabGetVersion: "struct gnttab_get_version" {
        /// Whose.
        pub dom: u16,
        /// Reserved.
        pub pad: u16,
        /// Out: the version.
        pub version: u32,
    }
    /// Exchanges two entries.
    pub struct GnttabSwapGrantRef: "struct gnttab_swap_grant_ref" {
        /// One.
        pub ref_a: u32,
        /// The other.
        pub ref_b: u32,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Padding.
        pub _pad: u16,
    }
    /// Maintains caches.
    pub struct GnttabCacheFlush: "struct gnttab_cache_flush" {
        /// Machine address or grant.
        pub a: u64,
        /// Byte offset.
        pub offset: u16,
        /// Bytes.
        pub length: u16,
        /// `GNTTAB_CACHE_*`.
        pub op: u32,
    }
}
