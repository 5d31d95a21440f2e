//! The platform, for dom0 (`platform.h`).

constants! {
    XENPF_INTERFACE_VERSION: u32 = 0x0300_0001, "What `interface_version` must be.";
    XENPF_SETTIME32: u32 = 17, "[`XenpfSettime32`].";
    XENPF_ADD_MEMTYPE: u32 = 31, "MTRRs.";
    XENPF_DEL_MEMTYPE: u32 = 32, "MTRRs.";
    XENPF_READ_MEMTYPE: u32 = 33, "MTRRs: [`XenpfReadMemtype`].";
    XENPF_MICROCODE_UPDATE: u32 = 35, "[`XenpfMicrocodeUpdate`].";
    XENPF_PLATFORM_QUIRK: u32 = 39, "Chipset quirks.";
    XENPF_GET_CPU_VERSION: u32 = 48, "[`XenpfPcpuVersion`].";
    XENPF_EFI_RUNTIME_CALL: u32 = 49, "[`XenpfEfiRuntimeCall`].";
    XENPF_FIRMWARE_INFO: u32 = 50, "[`XenpfFirmwareInfo`].";
    XENPF_ENTER_ACPI_SLEEP: u32 = 51, "[`XenpfEnterAcpiSleep`].";
    XENPF_CHANGE_FREQ: u32 = 52, "Frequency changes.";
    XENPF_GETIDLETIME: u32 = 53, "[`XenpfGetidletime`].";
    XENPF_SET_PROCESSOR_PMINFO: u32 = 54, "Power management from ACPI.";
    XENPF_GET_CPUINFO: u32 = 55, "[`XenpfPcpuinfo`].";
    XENPF_CPU_ONLINE: u32 = 56, "[`XenpfCpuOl`].";
    XENPF_CPU_OFFLINE: u32 = 57, "[`XenpfCpuOl`].";
    XENPF_CPU_HOTADD: u32 = 58, "Adds a CPU.";
    XENPF_MEM_HOTADD: u32 = 59, "Adds memory.";
    XENPF_CORE_PARKING: u32 = 60, "Parks CPUs.";
    XENPF_RESOURCE_OP: u32 = 61, "Reads and writes a few MSRs.";
    XENPF_SETTIME64: u32 = 62, "[`XenpfSettime64`].";
    XENPF_GET_SYMBOL: u32 = 63, "[`XenpfSymdata`].";
    XEN_FW_DISK_INFO: u32 = 1, "BIOS disk parameters: [`FwDiskInfo`].";
    XEN_FW_DISK_MBR_SIGNATURE: u32 = 2, "MBR signature: [`FwDiskMbrSignature`].";
    XEN_FW_VBEDDC_INFO: u32 = 3, "Monitor: [`FwVbeddcInfo`].";
    XEN_FW_EFI_INFO: u32 = 4, "EFI.";
    XEN_FW_EFI_VERSION: u32 = 0, "EFI's version: 32 bits.";
    XEN_FW_EFI_CONFIG_TABLE: u32 = 1, "[`FwEfiConfigTable`].";
    XEN_FW_EFI_VENDOR: u32 = 2, "[`FwEfiVendor`].";
    XEN_FW_EFI_MEM_INFO: u32 = 3, "[`FwEfiMemInfo`].";
    XEN_FW_EFI_RT_VERSION: u32 = 4, "Version of the run-time services: 32 bits.";
    XEN_FW_EFI_PCI_ROM: u32 = 5, "[`FwEfiPciRom`].";
    XEN_FW_EFI_APPLE_PROPERTIES: u32 = 6, "Apple's properties.";
    XEN_FW_KBD_SHIFT_FLAGS: u32 = 5, "BIOS keyboard flags: 8 bits.";
    XEN_EFI_GET_TIME: u32 = 1, "EFI: time.";
    XEN_EFI_SET_TIME: u32 = 2, "EFI: time.";
    XEN_EFI_GET_WAKEUP_TIME: u32 = 3, "EFI: alarm.";
    XEN_EFI_SET_WAKEUP_TIME: u32 = 4, "EFI: alarm.";
    XEN_EFI_GET_NEXT_HIGH_MONOTONIC_COUNT: u32 = 5, "EFI: counter.";
    XEN_EFI_GET_VARIABLE: u32 = 6, "EFI: variables.";
    XEN_EFI_SET_VARIABLE: u32 = 7, "EFI: variables.";
    XEN_EFI_GET_NEXT_VARIABLE_NAME: u32 = 8, "EFI: variables.";
    XEN_EFI_QUERY_VARIABLE_INFO: u32 = 9, "EFI: variables.";
    XEN_EFI_QUERY_CAPSULE_CAPABILITIES: u32 = 10, "EFI: capsules.";
    XEN_EFI_UPDATE_CAPSULE: u32 = 11, "EFI: capsules.";
    XENPF_ACPI_SLEEP_EXTENDED: u32 = 1, "Hardware-reduced sleep registers.";
    XEN_PCPU_FLAGS_ONLINE: u32 = 1, "The CPU is online.";
    XEN_PCPU_FLAGS_INVALID: u32 = 2, "There is no such CPU.";
    XEN_PROCESSOR_PM_CX: u32 = 1, "`start_info.flags`: the hypervisor does C states.";
    XEN_PROCESSOR_PM_PX: u32 = 2, "`start_info.flags`: the hypervisor does P states.";
    XEN_PROCESSOR_PM_TX: u32 = 4, "`start_info.flags`: the hypervisor does T states.";
    XEN_PM_CX: u32 = 0, "C states.";
    XEN_PM_PX: u32 = 1, "P states.";
    XEN_PM_TX: u32 = 2, "T states.";
    XEN_PM_PDC: u32 = 3, "Processor capabilities.";
}

wire! {
    /// A platform operation.
    pub struct XenPlatformOp: "struct xen_platform_op" {
        /// `XENPF_*`.
        pub cmd: u32,
        /// [`XENPF_INTERFACE_VERSION`].
        pub interface_version: u32,
        /// Its argument.
        pub u: [u64; 16],
    }
    /// Sets the wall clock, 32-bit seconds.
    pub struct XenpfSettime32: "struct xenpf_settime32" {
        /// Seconds.
        pub secs: u32,
        /// Nanoseconds.
        pub nsecs: u32,
        /// System time in ns at which that was the time.
        pub system_time: u64,
    }
    /// Sets the wall clock.
    pub struct XenpfSettime64: "struct xenpf_settime64" {
        /// Seconds.
        pub secs: u64,
        /// Nanoseconds.
        pub nsecs: u32,
        /// Must be zero.
        pub mbz: u32,
        /// System time in ns at which that was the time.
        pub system_time: u64,
    }
    /// Reads an MTRR.
    pub struct XenpfReadMemtype: "struct xenpf_read_memtype" {
        /// Which.
        pub reg: u32,
        /// Padding.
        pub _pad0: u32,
        /// Out: first frame.
        pub mfn: u64,
        /// Out: frames.
        pub nr_mfns: u64,
        /// Out: memory type.
        pub kind("type"): u32,
        /// Padding.
        pub _pad1: u32,
    }
    /// Loads microcode.
    pub struct XenpfMicrocodeUpdate: "struct xenpf_microcode_update" {
        /// Guest address.
        pub data: u64,
        /// Bytes.
        pub length: u32,
        /// Padding.
        pub _pad: u32,
    }
    /// A time as EFI writes it.
    pub struct XenpfEfiTime: "struct xenpf_efi_time" {
        /// Year.
        pub year: u16,
        /// Month.
        pub month: u8,
        /// Day.
        pub day: u8,
        /// Hour.
        pub hour: u8,
        /// Minute.
        pub min: u8,
        /// Second.
        pub sec: u8,
        /// Padding.
        pub _pad0: u8,
        /// Nanoseconds.
        pub ns: u32,
        /// Minutes from UTC.
        pub tz: i16,
        /// Daylight saving.
        pub daylight: u8,
        /// Padding.
        pub _pad1: u8,
    }
    /// Calls EFI's run-time services.
    pub struct XenpfEfiRuntimeCall: "struct xenpf_efi_runtime_call" {
        /// `XEN_EFI_*`.
        pub function: u32,
        /// In and out: by function.
        pub misc: u32,
        /// Out: EFI's status.
        pub status: u64,
        /// Arguments and results.
        pub u: [u64; 5],
    }
    /// Asks what the firmware said.
    pub struct XenpfFirmwareInfo: "struct xenpf_firmware_info" {
        /// `XEN_FW_*`.
        pub kind("type"): u32,
        /// Which of that kind.
        pub index: u32,
        /// Out: the answer.
        pub u: [u64; 4],
    }
    /// Parameters of a BIOS disk.
    pub struct FwDiskInfo: "__typeof__(((struct xenpf_firmware_info *)0)->u.disk_info)" {
        /// BIOS number.
        pub device: u8,
        /// EDD version.
        pub version: u8,
        /// EDD support.
        pub interface_support: u16,
        /// Highest cylinder.
        pub legacy_max_cylinder: u16,
        /// Highest head.
        pub legacy_max_head: u8,
        /// Sectors a track.
        pub legacy_sectors_per_track: u8,
        /// Guest address for the EDD parameters.
        pub edd_params: u64,
    }
    /// Signature of a BIOS disk's MBR.
    pub struct FwDiskMbrSignature: "__typeof__(((struct xenpf_firmware_info *)0)->u.disk_mbr_signature)" {
        /// BIOS number.
        pub device: u8,
        /// Padding.
        pub _pad: [u8; 3],
        /// The signature.
        pub mbr_signature: u32,
    }
    /// The monitor.
    pub struct FwVbeddcInfo: "__typeof__(((struct xenpf_firmware_info *)0)->u.vbeddc_info)" {
        /// Capabilities.
        pub capabilities: u8,
        /// Time of a transfer.
        pub edid_transfer_time: u8,
        /// Padding.
        pub _pad: [u8; 6],
        /// Guest address for the EDID.
        pub edid: u64,
    }
    /// EFI's configuration tables.
    pub struct FwEfiConfigTable: "__typeof__(((struct xenpf_firmware_info *)0)->u.efi_info.cfg)" {
        /// Machine address.
        pub addr: u64,
        /// How many.
        pub nent: u32,
        /// Padding.
        pub _pad: u32,
    }
    /// EFI's vendor.
    pub struct FwEfiVendor: "__typeof__(((struct xenpf_firmware_info *)0)->u.efi_info.vendor)" {
        /// Firmware's revision.
        pub revision: u32,
        /// In: room in bytes.
        pub bufsz: u32,
        /// Guest address for UTF-16 text.
        pub name: u64,
    }
    /// EFI's memory map at an address.
    pub struct FwEfiMemInfo: "__typeof__(((struct xenpf_firmware_info *)0)->u.efi_info.mem)" {
        /// In: address; out: start.
        pub addr: u64,
        /// Out: bytes.
        pub size: u64,
        /// Out: attributes.
        pub attr: u64,
        /// Out: type.
        pub kind("type"): u32,
        /// Padding.
        pub _pad: u32,
    }
    /// A ROM that EFI loaded.
    pub struct FwEfiPciRom: "__typeof__(((struct xenpf_firmware_info *)0)->u.efi_info.pci_rom)" {
        /// Segment.
        pub segment: u16,
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
        /// Vendor.
        pub vendor: u16,
        /// Device.
        pub devid: u16,
        /// Machine address.
        pub address: u64,
        /// Bytes.
        pub size: u64,
    }
    /// Enters an ACPI sleep state.
    pub struct XenpfEnterAcpiSleep: "struct xenpf_enter_acpi_sleep" {
        /// PM1a control, or the sleep control register.
        pub val_a: u16,
        /// PM1b control.
        pub val_b: u16,
        /// S state.
        pub sleep_state: u32,
        /// [`XENPF_ACPI_SLEEP_EXTENDED`].
        pub flags: u32,
    }
    /// Idle times of physical CPUs.
    pub struct XenpfGetidletime: "struct xenpf_getidletime" {
        /// Guest address of the mask.
        pub cpumap_bitmap: u64,
        /// Bits of the mask.
        pub cpumap_nr_cpus: u32,
        /// Padding.
        pub _pad: u32,
        /// Guest address for the times in ns.
        pub idletime: u64,
        /// Out: system time.
        pub now: u64,
    }
    /// A physical CPU.
    pub struct XenpfPcpuinfo: "struct xenpf_pcpuinfo" {
        /// Which.
        pub xen_cpuid: u32,
        /// Out: the highest.
        pub max_present: u32,
        /// Out: `XEN_PCPU_FLAGS_*`.
        pub flags: u32,
        /// Out: APIC id.
        pub apic_id: u32,
        /// Out: ACPI id.
        pub acpi_id: u32,
    }
    /// A physical CPU's model.
    pub struct XenpfPcpuVersion: "struct xenpf_pcpu_version" {
        /// Which.
        pub xen_cpuid: u32,
        /// Out: the highest.
        pub max_present: u32,
        /// Out: vendor.
        pub vendor_id: [u8; 12],
        /// Out: family.
        pub family: u32,
        /// Out: model.
        pub model: u32,
        /// Out: stepping.
        pub stepping: u32,
    }
    /// Names a physical CPU.
    pub struct XenpfCpuOl: "struct xenpf_cpu_ol" {
        /// Which.
        pub cpuid: u32,
    }
    /// A symbol of the hypervisor.
    pub struct XenpfSymdata: "struct xenpf_symdata" {
        /// Room for, then bytes of, the name.
        pub namelen: u32,
        /// Which; out: the next.
        pub symnum: u32,
        /// Guest address for the name.
        pub name: u64,
        /// Out: address.
        pub address: u64,
        /// Out: kind as `nm` prints it.
        pub kind("type"): u8,
        /// Padding.
        pub _pad: [u8; 7],
    }
}
