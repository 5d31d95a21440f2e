//! Feature bits that kernel and hypervisor negotiate (`features.h`).

constants! {
    XENFEAT_WRITABLE_PAGE_TABLES: u32 = 0, "The guest may write page tables without the hypervisor.";
    XENFEAT_WRITABLE_DESCRIPTOR_TABLES: u32 = 1, "The guest may write descriptor tables without the hypervisor.";
    XENFEAT_AUTO_TRANSLATED_PHYSMAP: u32 = 2, "Frame numbers are guest frame numbers.";
    XENFEAT_SUPERVISOR_MODE_KERNEL: u32 = 3, "The guest's kernel runs in ring 0.";
    XENFEAT_PAE_PGDIR_ABOVE_4GB: u32 = 4, "A 32-bit root table may be above 4 GiB.";
    XENFEAT_MMU_PT_UPDATE_PRESERVE_AD: u32 = 5, "`MMU_PT_UPDATE_PRESERVE_AD` exists.";
    XENFEAT_HIGHMEM_ASSIST: u32 = 6, "`MMUEXT_CLEAR_PAGE` and `MMUEXT_COPY_PAGE` exist.";
    XENFEAT_GNTTAB_MAP_AVAIL_BITS: u32 = 7, "Mapping a grant sets the software bits of the entry.";
    XENFEAT_HVM_CALLBACK_VECTOR: u32 = 8, "HVM: event upcall by vector.";
    XENFEAT_HVM_SAFE_PVCLOCK: u32 = 9, "HVM: the paravirtual clock is usable.";
    XENFEAT_HVM_PIRQS: u32 = 10, "HVM: pirqs are usable.";
    XENFEAT_DOM0: u32 = 11, "Runs as, or is, the initial domain.";
    XENFEAT_MEMORY_OP_VNODE_SUPPORTED: u32 = 13, "`XENMEMF_vnode` exists.";
    XENFEAT_ARM_SMCCC_SUPPORTED: u32 = 14, "Arm only.";
    XENFEAT_LINUX_RSDP_UNRESTRICTED: u32 = 15, "The RSDP may be anywhere.";
    XENFEAT_NOT_DIRECT_MAPPED: u32 = 16, "The domain is not mapped one to one.";
    XENFEAT_DIRECT_MAPPED: u32 = 17, "The domain is mapped one to one.";
    XENFEAT_NR_SUBMAPS: u32 = 1, "How many 32-bit maps of features there are.";
}

bitflags::bitflags! {
    /// A map of features: what `XENVER_get_features` answers and `XEN_ELFNOTE_SUPPORTED_FEATURES` holds.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Features: u32 {
        /// [`XENFEAT_WRITABLE_PAGE_TABLES`].
        const WRITABLE_PAGE_TABLES = 1 << XENFEAT_WRITABLE_PAGE_TABLES;
        /// [`XENFEAT_WRITABLE_DESCRIPTOR_TABLES`].
        const WRITABLE_DESCRIPTOR_TABLES = 1 << XENFEAT_WRITABLE_DESCRIPTOR_TABLES;
        /// [`XENFEAT_AUTO_TRANSLATED_PHYSMAP`].
        const AUTO_TRANSLATED_PHYSMAP = 1 << XENFEAT_AUTO_TRANSLATED_PHYSMAP;
        /// [`XENFEAT_SUPERVISOR_MODE_KERNEL`].
        const SUPERVISOR_MODE_KERNEL = 1 << XENFEAT_SUPERVISOR_MODE_KERNEL;
        /// [`XENFEAT_PAE_PGDIR_ABOVE_4GB`].
        const PAE_PGDIR_ABOVE_4GB = 1 << XENFEAT_PAE_PGDIR_ABOVE_4GB;
        /// [`XENFEAT_MMU_PT_UPDATE_PRESERVE_AD`].
        const MMU_PT_UPDATE_PRESERVE_AD = 1 << XENFEAT_MMU_PT_UPDATE_PRESERVE_AD;
        /// [`XENFEAT_HIGHMEM_ASSIST`].
        const HIGHMEM_ASSIST = 1 << XENFEAT_HIGHMEM_ASSIST;
        /// [`XENFEAT_GNTTAB_MAP_AVAIL_BITS`].
        const GNTTAB_MAP_AVAIL_BITS = 1 << XENFEAT_GNTTAB_MAP_AVAIL_BITS;
        /// [`XENFEAT_HVM_CALLBACK_VECTOR`].
        const HVM_CALLBACK_VECTOR = 1 << XENFEAT_HVM_CALLBACK_VECTOR;
        /// [`XENFEAT_HVM_SAFE_PVCLOCK`].
        const HVM_SAFE_PVCLOCK = 1 << XENFEAT_HVM_SAFE_PVCLOCK;
        /// [`XENFEAT_HVM_PIRQS`].
        const HVM_PIRQS = 1 << XENFEAT_HVM_PIRQS;
        /// [`XENFEAT_DOM0`].
        const DOM0 = 1 << XENFEAT_DOM0;
        /// [`XENFEAT_MEMORY_OP_VNODE_SUPPORTED`].
        const MEMORY_OP_VNODE_SUPPORTED = 1 << XENFEAT_MEMORY_OP_VNODE_SUPPORTED;
        /// [`XENFEAT_LINUX_RSDP_UNRESTRICTED`].
        const LINUX_RSDP_UNRESTRICTED = 1 << XENFEAT_LINUX_RSDP_UNRESTRICTED;
        /// [`XENFEAT_NOT_DIRECT_MAPPED`].
        const NOT_DIRECT_MAPPED = 1 << XENFEAT_NOT_DIRECT_MAPPED;
        /// [`XENFEAT_DIRECT_MAPPED`].
        const DIRECT_MAPPED = 1 << XENFEAT_DIRECT_MAPPED;
    }
}
