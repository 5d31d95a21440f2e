//! The one table of hypercalls, and what follows from it.
//!
//! Everything that needs the list of calls expands [`hypercall_table!`](crate::hypercall_table): the constants
//! and the decoder here, the dispatcher, the trace names, the status page `docs/hypercalls.md`. Implementing a
//! call is changing one word of its row; a test then asks for the page to be written again.

/// Expands `$callback! { rows }` with one row a hypercall of the public header, and one of our own:
///
/// `number Variant CONSTANT "name" arguments caller duration status;`
///
/// - `caller`: `any` domain, or only a `privileged` one;
/// - `duration`: `preemptible` (may be cut and continued) or `whole`;
/// - `status`: `implemented` or `unimplemented`.
///
/// `Variant` is of [`Hypercall`]. Numbers 11 and 43 to 47 have never meant anything. Number 88 is Xenolith's own
/// ([`crate::control`]): below the 128 that Linux's `privcmd` passes on, and above all that Xen has used in twenty years.
#[macro_export]
macro_rules! hypercall_table {
    ($callback:ident) => {
        $callback! {
            0  SetTrapTable                 SET_TRAP_TABLE                "set_trap_table"                 1 any        preemptible implemented;
            1  MmuUpdate                    MMU_UPDATE                    "mmu_update"                     4 any        preemptible implemented;
            2  SetGdt                       SET_GDT                       "set_gdt"                        2 any        whole       implemented;
            3  StackSwitch                  STACK_SWITCH                  "stack_switch"                   2 any        whole       implemented;
            4  SetCallbacks                 SET_CALLBACKS                 "set_callbacks"                  3 any        whole       implemented;
            5  FpuTaskswitch                FPU_TASKSWITCH                "fpu_taskswitch"                 1 any        whole       implemented;
            6  SchedOpCompat                SCHED_OP_COMPAT               "sched_op_compat"                2 any        whole       unimplemented;
            7  PlatformOp                   PLATFORM_OP                   "platform_op"                    1 privileged preemptible implemented;
            8  SetDebugreg                  SET_DEBUGREG                  "set_debugreg"                   2 any        whole       implemented;
            9  GetDebugreg                  GET_DEBUGREG                  "get_debugreg"                   1 any        whole       implemented;
            10 UpdateDescriptor             UPDATE_DESCRIPTOR             "update_descriptor"              2 any        whole       implemented;
            12 MemoryOp                     MEMORY_OP                     "memory_op"                      2 any        preemptible implemented;
            13 Multicall                    MULTICALL                     "multicall"                      2 any        preemptible implemented;
            14 UpdateVaMapping              UPDATE_VA_MAPPING             "update_va_mapping"              3 any        whole       implemented;
            15 SetTimerOp                   SET_TIMER_OP                  "set_timer_op"                   1 any        whole       implemented;
            16 EventChannelOpCompat         EVENT_CHANNEL_OP_COMPAT       "event_channel_op_compat"        1 any        whole       unimplemented;
            17 XenVersion                   XEN_VERSION                   "xen_version"                    2 any        whole       implemented;
            18 ConsoleIo                    CONSOLE_IO                    "console_io"                     3 any        preemptible implemented;
            19 PhysdevOpCompat              PHYSDEV_OP_COMPAT             "physdev_op_compat"              1 any        whole       unimplemented;
            20 GrantTableOp                 GRANT_TABLE_OP                "grant_table_op"                 3 any        preemptible implemented;
            21 VmAssist                     VM_ASSIST                     "vm_assist"                      2 any        whole       implemented;
            22 UpdateVaMappingOtherdomain   UPDATE_VA_MAPPING_OTHERDOMAIN "update_va_mapping_otherdomain"  4 privileged whole       implemented;
            23 Iret                         IRET                          "iret"                           0 any        whole       implemented;
            24 VcpuOp                       VCPU_OP                       "vcpu_op"                        3 any        whole       implemented;
            25 SetSegmentBase               SET_SEGMENT_BASE              "set_segment_base"               2 any        whole       implemented;
            26 MmuextOp                     MMUEXT_OP                     "mmuext_op"                      4 any        preemptible implemented;
            27 XsmOp                        XSM_OP                        "xsm_op"                         1 privileged whole       unimplemented;
            28 NmiOp                        NMI_OP                        "nmi_op"                         2 any        whole       implemented;
            29 SchedOp                      SCHED_OP                      "sched_op"                       2 any        whole       implemented;
            30 CallbackOp                   CALLBACK_OP                   "callback_op"                    2 any        whole       implemented;
            31 XenoprofOp                   XENOPROF_OP                   "xenoprof_op"                    2 privileged whole       unimplemented;
            32 EventChannelOp               EVENT_CHANNEL_OP              "event_channel_op"               2 any        preemptible implemented;
            33 PhysdevOp                    PHYSDEV_OP                    "physdev_op"                     2 any        whole       implemented;
            34 HvmOp                        HVM_OP                        "hvm_op"                         2 any        preemptible unimplemented;
            35 Sysctl                       SYSCTL                        "sysctl"                         1 privileged preemptible implemented;
            36 Domctl                       DOMCTL                        "domctl"                         1 privileged preemptible unimplemented;
            37 KexecOp                      KEXEC_OP                      "kexec_op"                       2 privileged whole       unimplemented;
            38 TmemOp                       TMEM_OP                       "tmem_op"                        1 privileged whole       unimplemented;
            39 ArgoOp                       ARGO_OP                       "argo_op"                        5 any        whole       unimplemented;
            40 XenpmuOp                     XENPMU_OP                     "xenpmu_op"                      2 any        whole       unimplemented;
            41 DmOp                         DM_OP                         "dm_op"                          3 privileged preemptible unimplemented;
            42 HypfsOp                      HYPFS_OP                      "hypfs_op"                       5 privileged whole       unimplemented;
            48 Arch0                        ARCH_0                        "arch_0"                         1 privileged whole       unimplemented;
            49 Arch1                        ARCH_1                        "arch_1"                         1 privileged whole       unimplemented;
            50 Arch2                        ARCH_2                        "arch_2"                         0 privileged whole       unimplemented;
            51 Arch3                        ARCH_3                        "arch_3"                         0 privileged whole       unimplemented;
            52 Arch4                        ARCH_4                        "arch_4"                         0 privileged whole       unimplemented;
            53 Arch5                        ARCH_5                        "arch_5"                         0 privileged whole       unimplemented;
            54 Arch6                        ARCH_6                        "arch_6"                         0 privileged whole       unimplemented;
            55 Arch7                        ARCH_7                        "arch_7"                         0 privileged whole       unimplemented;
            88 Control                      CONTROL                       "control"                        1 any        preemptible implemented;
        }
    };
}

/// Expands `$callback! { rows }` with the sub-operations of the calls that have some:
///
/// `Variant { number "name" status; … }`
#[macro_export]
macro_rules! suboperation_table {
    ($callback:ident) => {
        $callback! {
            PlatformOp {
                17 "settime32"                      implemented;
                31 "add_memtype"                    unimplemented;
                32 "del_memtype"                    unimplemented;
                33 "read_memtype"                   implemented;
                35 "microcode_update"               unimplemented;
                39 "platform_quirk"                 unimplemented;
                48 "get_cpu_version"                implemented;
                49 "efi_runtime_call"               unimplemented;
                50 "firmware_info"                  implemented;
                51 "enter_acpi_sleep"               implemented;
                52 "change_freq"                    unimplemented;
                53 "getidletime"                    implemented;
                54 "set_processor_pminfo"           unimplemented;
                55 "get_cpuinfo"                    implemented;
                56 "cpu_online"                     implemented;
                57 "cpu_offline"                    implemented;
                58 "cpu_hotadd"                     unimplemented;
                59 "mem_hotadd"                     unimplemented;
                60 "core_parking"                   unimplemented;
                61 "resource_op"                    unimplemented;
                62 "settime64"                      implemented;
                63 "get_symbol"                     unimplemented;
            }
            MemoryOp {
                0  "increase_reservation"           implemented;
                1  "decrease_reservation"           implemented;
                2  "maximum_ram_page"               implemented;
                3  "current_reservation"            implemented;
                4  "maximum_reservation"            implemented;
                5  "machphys_mfn_list"              implemented;
                6  "populate_physmap"               implemented;
                7  "add_to_physmap"                 implemented;
                9  "memory_map"                     unimplemented;
                10 "machine_memory_map"             implemented;
                11 "exchange"                       implemented;
                12 "machphys_mapping"               implemented;
                13 "set_memory_map"                 implemented;
                14 "maximum_gpfn"                   implemented;
                15 "remove_from_physmap"            implemented;
                16 "set_pod_target"                 unimplemented;
                17 "get_pod_target"                 unimplemented;
                18 "get_sharing_freed_pages"        implemented;
                19 "get_sharing_shared_pages"       implemented;
                20 "paging_op"                      unimplemented;
                21 "access_op"                      unimplemented;
                22 "sharing_op"                     unimplemented;
                23 "add_to_physmap_batch"           implemented;
                24 "claim_pages"                    implemented;
                25 "machphys_compat_mfn_list"       unimplemented;
                26 "get_vnumainfo"                  unimplemented;
                27 "reserved_device_memory_map"     unimplemented;
                28 "acquire_resource"               implemented;
            }
            XenVersion {
                0  "version"                        implemented;
                1  "extraversion"                   implemented;
                2  "compile_info"                   implemented;
                3  "capabilities"                   implemented;
                4  "changeset"                      implemented;
                5  "platform_parameters"            implemented;
                6  "get_features"                   implemented;
                7  "pagesize"                       implemented;
                8  "guest_handle"                   implemented;
                9  "commandline"                    implemented;
                10 "build_id"                       implemented;
            }
            ConsoleIo {
                0  "write"                          implemented;
                1  "read"                           implemented;
            }
            GrantTableOp {
                0  "map_grant_ref"                  implemented;
                1  "unmap_grant_ref"                implemented;
                2  "setup_table"                    implemented;
                3  "dump_table"                     unimplemented;
                4  "transfer"                       unimplemented;
                5  "copy"                           implemented;
                6  "query_size"                     implemented;
                7  "unmap_and_replace"              unimplemented;
                8  "set_version"                    implemented;
                9  "get_status_frames"              implemented;
                10 "get_version"                    implemented;
                11 "swap_grant_ref"                 implemented;
                12 "cache_flush"                    unimplemented;
            }
            VmAssist {
                0  "4gb_segments"                   implemented;
                1  "4gb_segments_notify"            implemented;
                2  "writable_pagetables"            implemented;
                3  "pae_extended_cr3"               implemented;
                4  "architectural_iopl"             implemented;
                5  "runstate_update_flag"           implemented;
                32 "m2p_strict"                     implemented;
            }
            VcpuOp {
                0  "initialise"                     implemented;
                1  "up"                             implemented;
                2  "down"                           implemented;
                3  "is_up"                          implemented;
                4  "get_runstate_info"              implemented;
                5  "register_runstate_memory_area"  implemented;
                6  "set_periodic_timer"             implemented;
                7  "stop_periodic_timer"            implemented;
                8  "set_singleshot_timer"           implemented;
                9  "stop_singleshot_timer"          implemented;
                10 "register_vcpu_info"             implemented;
                11 "send_nmi"                       implemented;
                12 "get_physid"                     implemented;
                13 "register_vcpu_time_memory_area" implemented;
            }
            SetSegmentBase {
                0  "fs"                             implemented;
                1  "gs_user"                        implemented;
                2  "gs_kernel"                      implemented;
                3  "gs_user_sel"                    implemented;
            }
            MmuextOp {
                0  "pin_l1_table"                   implemented;
                1  "pin_l2_table"                   implemented;
                2  "pin_l3_table"                   implemented;
                3  "pin_l4_table"                   implemented;
                4  "unpin_table"                    implemented;
                5  "new_baseptr"                    implemented;
                6  "tlb_flush_local"                implemented;
                7  "invlpg_local"                   implemented;
                8  "tlb_flush_multi"                implemented;
                9  "invlpg_multi"                   implemented;
                10 "tlb_flush_all"                  implemented;
                11 "invlpg_all"                     implemented;
                12 "flush_cache"                    implemented;
                13 "set_ldt"                        implemented;
                15 "new_user_baseptr"               implemented;
                16 "clear_page"                     implemented;
                17 "copy_page"                      implemented;
                18 "flush_cache_global"             implemented;
                19 "mark_super"                     unimplemented;
                20 "unmark_super"                   unimplemented;
            }
            NmiOp {
                0  "register_callback"              implemented;
                1  "unregister_callback"            implemented;
            }
            SchedOp {
                0  "yield"                          implemented;
                1  "block"                          implemented;
                2  "shutdown"                       implemented;
                3  "poll"                           implemented;
                4  "remote_shutdown"                implemented;
                5  "shutdown_code"                  implemented;
                6  "watchdog"                       implemented;
                7  "pin_override"                   unimplemented;
            }
            CallbackOp {
                0  "register"                       implemented;
                1  "unregister"                     implemented;
            }
            EventChannelOp {
                0  "bind_interdomain"               implemented;
                1  "bind_virq"                      implemented;
                2  "bind_pirq"                      implemented;
                3  "close"                          implemented;
                4  "send"                           implemented;
                5  "status"                         implemented;
                6  "alloc_unbound"                  implemented;
                7  "bind_ipi"                       implemented;
                8  "bind_vcpu"                      implemented;
                9  "unmask"                         implemented;
                10 "reset"                          implemented;
                11 "init_control"                   implemented;
                12 "expand_array"                   implemented;
                13 "set_priority"                   implemented;
            }
            PhysdevOp {
                4  "irq_unmask_notify"              unimplemented;
                5  "irq_status_query"               implemented;
                6  "set_iopl"                       implemented;
                7  "set_iobitmap"                   implemented;
                8  "apic_read"                      implemented;
                9  "apic_write"                     implemented;
                10 "alloc_irq_vector"               implemented;
                11 "free_irq_vector"                implemented;
                12 "eoi"                            implemented;
                13 "map_pirq"                       implemented;
                14 "unmap_pirq"                     implemented;
                15 "manage_pci_add"                 implemented;
                16 "manage_pci_remove"              implemented;
                17 "pirq_eoi_gmfn_v1"               implemented;
                19 "restore_msi"                    implemented;
                20 "manage_pci_add_ext"             implemented;
                21 "setup_gsi"                      implemented;
                23 "get_free_pirq"                  implemented;
                24 "pci_mmcfg_reserved"             implemented;
                25 "pci_device_add"                 implemented;
                26 "pci_device_remove"              implemented;
                27 "restore_msi_ext"                implemented;
                28 "pirq_eoi_gmfn_v2"               implemented;
                29 "dbgp_op"                        unimplemented;
                30 "prepare_msix"                   implemented;
                31 "release_msix"                   implemented;
            }
            Control {
                0  "version"                        implemented;
                1  "create"                         implemented;
                2  "destroy"                        implemented;
                3  "pause"                          implemented;
                4  "unpause"                        implemented;
                5  "set_max_mem"                    implemented;
                6  "max_vcpus"                      implemented;
                7  "set_vcpu_context"               implemented;
                8  "get_vcpu_context"               implemented;
                9  "page_info"                      implemented;
                10 "set_affinity"                   implemented;
                11 "get_affinity"                   implemented;
                12 "set_sched"                      implemented;
                13 "get_sched"                      implemented;
                14 "domain_info"                    implemented;
                15 "vcpu_info"                      implemented;
                16 "host_info"                      implemented;
                17 "read_console"                   implemented;
                18 "failures"                       implemented;
                19 "set_limits"                     implemented;
                20 "shutdown"                       implemented;
                21 "holders"                        implemented;
                22 "cpu_topology"                   implemented;
                23 "claim"                          implemented;
            }
        }
    };
}

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Every domain.
    Any,
    /// Only a privileged domain; others get `-EPERM`.
    Privileged,
}

/// Whether a call or one of its operations does what the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does.
    Implemented,
    /// It answers `-ENOSYS`.
    Unimplemented,
}

macro_rules! caller {
    (any) => {
        Caller::Any
    };
    (privileged) => {
        Caller::Privileged
    };
}

macro_rules! duration {
    (preemptible) => {
        true
    };
    (whole) => {
        false
    };
}

macro_rules! status {
    (implemented) => {
        Status::Implemented
    };
    (unimplemented) => {
        Status::Unimplemented
    };
}

macro_rules! derive_calls {
    ($($number:literal $variant:ident $constant:ident $name:literal $args:literal $caller:ident $duration:ident
       $status:ident;)*) => {
        /// Hypercall numbers (`__HYPERVISOR_*`).
        pub mod number {
            $(#[doc = concat!("`__HYPERVISOR_", $name, "`.")] pub const $constant: u32 = $number;)*
        }

        /// A hypercall that the public header names, or Xenolith's own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Hypercall {
            $(#[doc = concat!("`", $name, "`.")] $variant = $number,)*
        }

        impl Hypercall {
            /// All of them, by number.
            pub const ALL: &[Hypercall] = &[$(Hypercall::$variant),*];

            /// The call that a guest's number names.
            #[inline]
            pub const fn from_number(number: u32) -> Option<Hypercall> {
                match number {
                    $($number => Some(Hypercall::$variant),)*
                    _ => None,
                }
            }

            /// The header's name, without `__HYPERVISOR_`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Hypercall::$variant => $name,)*
                }
            }

            /// How many arguments it takes.
            pub const fn arguments(self) -> usize {
                match self {
                    $(Hypercall::$variant => $args,)*
                }
            }

            /// Who may make it.
            pub const fn caller(self) -> Caller {
                match self {
                    $(Hypercall::$variant => caller!($caller),)*
                }
            }

            /// Whether it may be cut and continued.
            pub const fn preemptible(self) -> bool {
                match self {
                    $(Hypercall::$variant => duration!($duration),)*
                }
            }

            /// Whether it is implemented.
            pub const fn status(self) -> Status {
                match self {
                    $(Hypercall::$variant => status!($status),)*
                }
            }
        }
    };
}
hypercall_table!(derive_calls);

impl Hypercall {
    /// True if it is Xen's, false if it is Xenolith's own.
    pub const fn is_of_xen(self) -> bool {
        !matches!(self, Hypercall::Control)
    }

    /// Its number.
    #[inline]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The name of its sub-operation `command`, if the header has one.
    pub fn suboperation_name(self, command: u32) -> Option<&'static str> {
        self.suboperations().iter().find(|op| op.number == command).map(|op| op.name)
    }
}

/// One operation of a call that has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suboperation {
    /// Command number.
    pub number: u32,
    /// The header's name in lower case, without its prefix.
    pub name: &'static str,
    /// Whether it is implemented.
    pub status: Status,
}

macro_rules! derive_suboperations {
    ($($variant:ident { $($number:literal $name:literal $status:ident;)* })*) => {
        impl Hypercall {
            /// Its sub-operations; empty if it has none.
            pub const fn suboperations(self) -> &'static [Suboperation] {
                match self {
                    $(Hypercall::$variant => &[$(
                        Suboperation { number: $number, name: $name, status: status!($status) }
                    ),*],)*
                    _ => &[],
                }
            }
        }
    };
}
suboperation_table!(derive_suboperations);

#[cfg(test)]
#[path = "call_tests.rs"]
mod tests;
