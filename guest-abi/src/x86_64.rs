//! The x86-64 part of the interface (`arch-x86/xen.h`, `arch-x86/xen-x86_64.h`): selectors, addresses, traps,
//! register frames.

constants! {
    FLAT_RING3_CS32: u16 = 0xe023, "32-bit code.";
    FLAT_RING3_CS64: u16 = 0xe033, "64-bit code.";
    FLAT_RING3_DS32: u16 = 0xe02b, "32-bit data.";
    FLAT_RING3_DS64: u16 = 0x0000, "Null selector.";
    FLAT_RING3_SS32: u16 = 0xe02b, "32-bit stack.";
    FLAT_RING3_SS64: u16 = 0xe02b, "64-bit stack.";
    FLAT_KERNEL_CS: u16 = 0xe033, "Code of the guest's kernel.";
    FLAT_KERNEL_DS: u16 = 0x0000, "Data of the guest's kernel.";
    FLAT_KERNEL_SS: u16 = 0xe02b, "Stack of the guest's kernel.";
    FLAT_USER_CS: u16 = 0xe033, "64-bit code of the guest's user.";
    FLAT_USER_CS32: u16 = 0xe023, "32-bit code of the guest's user.";
    FLAT_USER_DS: u16 = 0x0000, "Data of the guest's user.";
    FLAT_USER_SS: u16 = 0xe02b, "Stack of the guest's user.";
    HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000, "First address of the hypervisor.";
    HYPERVISOR_VIRT_END: u64 = 0xffff_8800_0000_0000, "First address behind the hypervisor.";
    MACH2PHYS_VIRT_START: u64 = 0xffff_8000_0000_0000, "The guest's view of the machine-to-physical table.";
    MACH2PHYS_VIRT_END: u64 = 0xffff_8040_0000_0000, "First address behind that table.";
    MACH2PHYS_NR_ENTRIES: u64 = 0x40_0000_0000 >> 3, "Entries for which there is address space.";
    FIRST_RESERVED_GDT_PAGE: u32 = 14, "First page of the GDT that is the hypervisor's.";
    FIRST_RESERVED_GDT_BYTE: u32 = 14 * 4096, "First byte of the GDT that is the hypervisor's.";
    FIRST_RESERVED_GDT_ENTRY: u32 = 14 * 512, "First entry of the GDT that is the hypervisor's.";
    SEGBASE_FS: u32 = 0, "`set_segment_base`: FS.";
    SEGBASE_GS_USER: u32 = 1, "`set_segment_base`: GS of user mode.";
    SEGBASE_GS_KERNEL: u32 = 2, "`set_segment_base`: GS of the kernel.";
    SEGBASE_GS_USER_SEL: u32 = 3, "`set_segment_base`: GS selector of user mode.";
    VGCF_I387_VALID: u64 = 1 << 0, "The floating-point state is valid.";
    VGCF_IN_KERNEL: u64 = 1 << 2, "The vCPU is in kernel mode.";
    VGCF_FAILSAFE_DISABLES_EVENTS: u64 = 1 << 3, "The failsafe callback masks events.";
    VGCF_SYSCALL_DISABLES_EVENTS: u64 = 1 << 4, "The syscall callback masks events.";
    VGCF_ONLINE: u64 = 1 << 5, "The vCPU is up.";
    VGCF_IN_SYSCALL: u64 = 1 << 8, "`iret`: leave by `sysret`; RCX and R11 are lost.";
}

/// `trap_info.flags`: privilege from which `int n` may raise the trap.
pub const TI_DPL_MASK: u8 = 3;
/// `trap_info.flags`: events are masked on entry.
pub const TI_MASK_EVENTS: u8 = 4;

/// Bytes in front of `cpuid` that ask for the hypervisor's answer (`XEN_EMULATE_PREFIX`): `ud2a; "xen"`.
pub const EMULATE_PREFIX: [u8; 5] = [0x0f, 0x0b, 0x78, 0x65, 0x6e];

/// A root table's frame number as a CR3 value (`xen_pfn_to_cr3`).
pub const fn pfn_to_cr3(pfn: u64) -> u64 {
    pfn << 12
}

/// The root table's frame number in a CR3 value (`xen_cr3_to_pfn`).
pub const fn cr3_to_pfn(cr3: u64) -> u64 {
    cr3 >> 12
}

wire! {
    /// One row of the trap table.
    pub struct TrapInfo: "struct trap_info" {
        /// Exception vector.
        pub vector: u8,
        /// [`TI_DPL_MASK`], [`TI_MASK_EVENTS`].
        pub flags: u8,
        /// Code selector of the handler.
        pub cs: u16,
        /// Padding.
        pub _pad: u32,
        /// Address of the handler; 0 ends a table.
        pub address: u64,
    }
    /// What lies at the guest's stack pointer when it calls `iret`.
    pub struct IretContext: "struct iret_context" {
        /// RAX.
        pub rax: u64,
        /// R11; only without [`VGCF_IN_SYSCALL`].
        pub r11: u64,
        /// RCX; only without [`VGCF_IN_SYSCALL`].
        pub rcx: u64,
        /// `VGCF_IN_SYSCALL` or 0.
        pub flags: u64,
        /// RIP.
        pub rip: u64,
        /// CS.
        pub cs: u64,
        /// RFLAGS; IF is the inverse of the event mask.
        pub rflags: u64,
        /// RSP.
        pub rsp: u64,
        /// SS.
        pub ss: u64,
    }
    /// A vCPU's integer registers.
    pub struct CpuUserRegs: "struct cpu_user_regs" {
        /// R15.
        pub r15: u64,
        /// R14.
        pub r14: u64,
        /// R13.
        pub r13: u64,
        /// R12.
        pub r12: u64,
        /// RBP.
        pub rbp: u64,
        /// RBX.
        pub rbx: u64,
        /// R11.
        pub r11: u64,
        /// R10.
        pub r10: u64,
        /// R9.
        pub r9: u64,
        /// R8.
        pub r8: u64,
        /// RAX.
        pub rax: u64,
        /// RCX.
        pub rcx: u64,
        /// RDX.
        pub rdx: u64,
        /// RSI.
        pub rsi: u64,
        /// RDI.
        pub rdi: u64,
        /// Error code; the hypervisor's.
        pub error_code: u32,
        /// Vector; the hypervisor's.
        pub entry_vector: u32,
        /// RIP.
        pub rip: u64,
        /// CS.
        pub cs: u16,
        /// Padding.
        pub _pad0: u16,
        /// Event mask at entry.
        pub saved_upcall_mask: u8,
        /// Padding.
        pub _pad1: [u8; 3],
        /// RFLAGS.
        pub rflags: u64,
        /// RSP.
        pub rsp: u64,
        /// SS.
        pub ss: u16,
        /// Padding.
        pub _pad2: [u16; 3],
        /// ES.
        pub es: u16,
        /// Padding.
        pub _pad3: [u16; 3],
        /// DS.
        pub ds: u16,
        /// Padding.
        pub _pad4: [u16; 3],
        /// FS.
        pub fs: u16,
        /// Padding.
        pub _pad5: [u16; 3],
        /// GS.
        pub gs: u16,
        /// Padding.
        pub _pad6: [u16; 3],
    }
    /// A vCPU's whole context.
    pub struct VcpuGuestContext: "struct vcpu_guest_context" {
        /// FXSAVE image.
        pub fpu_ctxt: [u8; 512],
        /// `VGCF_*`.
        pub flags: u64,
        /// Integer registers.
        pub user_regs: CpuUserRegs,
        /// The trap table.
        pub trap_ctxt: [TrapInfo; 256],
        /// Address of the LDT.
        pub ldt_base: u64,
        /// Entries of the LDT.
        pub ldt_ents: u64,
        /// Frames of the GDT.
        pub gdt_frames: [u64; 16],
        /// Entries of the GDT.
        pub gdt_ents: u64,
        /// Kernel stack: selector.
        pub kernel_ss: u64,
        /// Kernel stack: pointer.
        pub kernel_sp: u64,
        /// Control registers; 1 is the user's root table.
        pub ctrlreg: [u64; 8],
        /// Debug registers.
        pub debugreg: [u64; 8],
        /// Event callback.
        pub event_callback_eip: u64,
        /// Failsafe callback.
        pub failsafe_callback_eip: u64,
        /// Syscall callback.
        pub syscall_callback_eip: u64,
        /// `VMASST_TYPE_*` bits.
        pub vm_assist: u64,
        /// FS base.
        pub fs_base: u64,
        /// GS base of the kernel.
        pub gs_base_kernel: u64,
        /// GS base of user mode.
        pub gs_base_user: u64,
    }
}
