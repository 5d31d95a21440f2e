//! ELF notes of a paravirtual kernel (`elfnote.h`); the note's name is `Xen`.

constants! {
    XEN_ELFNOTE_INFO: u32 = 0, "Informational text.";
    XEN_ELFNOTE_ENTRY: u32 = 1, "Virtual address of the entry point.";
    XEN_ELFNOTE_HYPERCALL_PAGE: u32 = 2, "Virtual address of the hypercall transfer page.";
    XEN_ELFNOTE_VIRT_BASE: u32 = 3, "Virtual address at which guest memory begins.";
    XEN_ELFNOTE_PADDR_OFFSET: u32 = 4, "What to add to the ELF physical addresses.";
    XEN_ELFNOTE_XEN_VERSION: u32 = 5, "Interface version: the text `xen-3.0`.";
    XEN_ELFNOTE_GUEST_OS: u32 = 6, "Name of the guest's kernel.";
    XEN_ELFNOTE_GUEST_VERSION: u32 = 7, "Version of the guest's kernel.";
    XEN_ELFNOTE_LOADER: u32 = 8, "Loader type: `generic`.";
    XEN_ELFNOTE_PAE_MODE: u32 = 9, "32-bit kernels: whether PAE is wanted.";
    XEN_ELFNOTE_FEATURES: u32 = 10, "Features as text, separated by `|`; `!` in front: required.";
    XEN_ELFNOTE_BSD_SYMTAB: u32 = 11, "The loader shall load the symbol table.";
    XEN_ELFNOTE_HV_START_LOW: u32 = 12, "Lowest address that the hypervisor may take.";
    XEN_ELFNOTE_L1_MFN_VALID: u32 = 13, "Mask and value of valid page-table entries.";
    XEN_ELFNOTE_SUSPEND_CANCEL: u32 = 14, "The guest can cancel a suspend.";
    XEN_ELFNOTE_INIT_P2M: u32 = 15, "Virtual address for the initial p2m list.";
    XEN_ELFNOTE_MOD_START_PFN: u32 = 16, "The guest takes its module as a frame number.";
    XEN_ELFNOTE_SUPPORTED_FEATURES: u32 = 17, "Features as a bitmap (`features.h`).";
    XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18, "Physical 32-bit entry point (PVH).";
    XEN_ELFNOTE_MAX: u32 = 18, "Highest note number of a kernel.";
    XEN_ELFNOTE_CRASH_INFO: u32 = 0x100_0001, "Crash note: the hypervisor's data.";
    XEN_ELFNOTE_CRASH_REGS: u32 = 0x100_0002, "Crash note: registers of a CPU.";
    XEN_ELFNOTE_DUMPCORE_NONE: u32 = 0x200_0000, "Domain dump: nothing follows.";
    XEN_ELFNOTE_DUMPCORE_HEADER: u32 = 0x200_0001, "Domain dump: the header.";
    XEN_ELFNOTE_DUMPCORE_XEN_VERSION: u32 = 0x200_0002, "Domain dump: the hypervisor's version.";
    XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION: u32 = 0x200_0003, "Domain dump: the format's version.";
}
