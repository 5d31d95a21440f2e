//! Operations on a vCPU (`vcpu.h`).

constants! {
    VCPUOP_INITIALISE: u32 = 0, "Gives a vCPU its context: `vcpu_guest_context`.";
    VCPUOP_UP: u32 = 1, "Brings a vCPU up.";
    VCPUOP_DOWN: u32 = 2, "Takes a vCPU down.";
    VCPUOP_IS_UP: u32 = 3, "Whether a vCPU is up: 1 or 0.";
    VCPUOP_GET_RUNSTATE_INFO: u32 = 4, "Reads [`VcpuRunstateInfo`].";
    VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA: u32 = 5, "Keeps [`VcpuRunstateInfo`] current at a guest address.";
    VCPUOP_SET_PERIODIC_TIMER: u32 = 6, "[`VcpuSetPeriodicTimer`].";
    VCPUOP_STOP_PERIODIC_TIMER: u32 = 7, "Stops the periodic timer.";
    VCPUOP_SET_SINGLESHOT_TIMER: u32 = 8, "[`VcpuSetSingleshotTimer`].";
    VCPUOP_STOP_SINGLESHOT_TIMER: u32 = 9, "Stops the one-shot timer.";
    VCPUOP_REGISTER_VCPU_INFO: u32 = 10, "Moves `vcpu_info` to the guest's own memory: [`VcpuRegisterVcpuInfo`].";
    VCPUOP_SEND_NMI: u32 = 11, "Sends a vCPU an NMI.";
    VCPUOP_GET_PHYSID: u32 = 12, "Reads [`VcpuGetPhysid`]; for a pinned vCPU.";
    VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA: u32 = 13, "Keeps `vcpu_time_info` current at a guest address.";
    XEN_RUNSTATE_UPDATE: u64 = 1 << 63, "In `state_entry_time` while the record is being written.";
    RUNSTATE_RUNNING: u32 = 0, "On a CPU.";
    RUNSTATE_RUNNABLE: u32 = 1, "Wants a CPU.";
    RUNSTATE_BLOCKED: u32 = 2, "Waits for an event.";
    RUNSTATE_OFFLINE: u32 = 3, "Down, or paused.";
    VCPU_SSHOTTMR_FUTURE: u32 = 1, "Answer `-ETIME` if the time is past.";
}

wire! {
    /// Where a vCPU's time went.
    pub struct VcpuRunstateInfo: "struct vcpu_runstate_info" {
        /// `RUNSTATE_*` now.
        pub state: u32,
        /// Padding.
        pub _pad: u32,
        /// System time in ns at which it was entered.
        pub state_entry_time: u64,
        /// Nanoseconds spent in each state.
        pub time: [u64; 4],
    }
    /// Where to keep [`VcpuRunstateInfo`].
    pub struct VcpuRegisterRunstateMemoryArea: "struct vcpu_register_runstate_memory_area" {
        /// Guest linear address.
        pub addr("addr.p"): u64,
    }
    /// A periodic timer.
    pub struct VcpuSetPeriodicTimer: "struct vcpu_set_periodic_timer" {
        /// Period in ns.
        pub period_ns: u64,
    }
    /// A one-shot timer.
    pub struct VcpuSetSingleshotTimer: "struct vcpu_set_singleshot_timer" {
        /// Absolute system time in ns.
        pub timeout_abs_ns: u64,
        /// `VCPU_SSHOTTMR_*`.
        pub flags: u32,
        /// Padding.
        pub _pad: u32,
    }
    /// Where `vcpu_info` shall live.
    pub struct VcpuRegisterVcpuInfo: "struct vcpu_register_vcpu_info" {
        /// Frame, as the guest names it.
        pub mfn: u64,
        /// Byte offset in the frame.
        pub offset: u32,
        /// Reserved.
        pub rsvd: u32,
    }
    /// The physical CPU under a vCPU.
    pub struct VcpuGetPhysid: "struct vcpu_get_physid" {
        /// APIC id in the low half, ACPI id in the high half.
        pub phys_id: u64,
    }
    /// Where to keep `vcpu_time_info`.
    pub struct VcpuRegisterTimeMemoryArea: "struct vcpu_register_time_memory_area" {
        /// Guest linear address.
        pub addr("addr.p"): u64,
    }
}
