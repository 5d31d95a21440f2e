//! Physical devices and interrupts (`physdev.h`).

constants! {
    PHYSDEVOP_IRQ_UNMASK_NOTIFY: u32 = 4, "Old: answers nothing.";
    PHYSDEVOP_IRQ_STATUS_QUERY: u32 = 5, "[`PhysdevIrqStatusQuery`].";
    PHYSDEVOP_SET_IOPL: u32 = 6, "[`PhysdevSetIopl`].";
    PHYSDEVOP_SET_IOBITMAP: u32 = 7, "[`PhysdevSetIobitmap`].";
    PHYSDEVOP_APIC_READ: u32 = 8, "[`PhysdevApic`].";
    PHYSDEVOP_APIC_WRITE: u32 = 9, "[`PhysdevApic`].";
    PHYSDEVOP_ALLOC_IRQ_VECTOR: u32 = 10, "[`PhysdevIrq`].";
    PHYSDEVOP_FREE_IRQ_VECTOR: u32 = 11, "[`PhysdevIrq`].";
    PHYSDEVOP_EOI: u32 = 12, "[`PhysdevEoi`].";
    PHYSDEVOP_MAP_PIRQ: u32 = 13, "[`PhysdevMapPirq`].";
    PHYSDEVOP_UNMAP_PIRQ: u32 = 14, "[`PhysdevUnmapPirq`].";
    PHYSDEVOP_MANAGE_PCI_ADD: u32 = 15, "[`PhysdevManagePci`].";
    PHYSDEVOP_MANAGE_PCI_REMOVE: u32 = 16, "[`PhysdevManagePci`].";
    PHYSDEVOP_PIRQ_EOI_GMFN_V1: u32 = 17, "[`PhysdevPirqEoiGmfn`]; also unmasks by itself.";
    PHYSDEVOP_RESTORE_MSI: u32 = 19, "[`PhysdevManagePci`].";
    PHYSDEVOP_MANAGE_PCI_ADD_EXT: u32 = 20, "[`PhysdevManagePciExt`].";
    PHYSDEVOP_SETUP_GSI: u32 = 21, "[`PhysdevSetupGsi`].";
    PHYSDEVOP_GET_FREE_PIRQ: u32 = 23, "[`PhysdevGetFreePirq`].";
    PHYSDEVOP_PCI_MMCFG_RESERVED: u32 = 24, "[`PhysdevPciMmcfgReserved`].";
    PHYSDEVOP_PCI_DEVICE_ADD: u32 = 25, "[`PhysdevPciDeviceAdd`].";
    PHYSDEVOP_PCI_DEVICE_REMOVE: u32 = 26, "[`PhysdevPciDevice`].";
    PHYSDEVOP_RESTORE_MSI_EXT: u32 = 27, "[`PhysdevPciDevice`].";
    PHYSDEVOP_PIRQ_EOI_GMFN_V2: u32 = 28, "[`PhysdevPirqEoiGmfn`].";
    PHYSDEVOP_DBGP_OP: u32 = 29, "[`PhysdevDbgpOp`].";
    PHYSDEVOP_PREPARE_MSIX: u32 = 30, "[`PhysdevPciDevice`].";
    PHYSDEVOP_RELEASE_MSIX: u32 = 31, "[`PhysdevPciDevice`].";
    XENIRQSTAT_NEEDS_EOI: u32 = 1 << 0, "The guest must end the interrupt.";
    XENIRQSTAT_SHARED: u32 = 1 << 1, "Several guests share it.";
    MAP_PIRQ_TYPE_MSI: u32 = 0, "An MSI of segment 0.";
    MAP_PIRQ_TYPE_GSI: u32 = 1, "A global system interrupt.";
    MAP_PIRQ_TYPE_UNKNOWN: u32 = 2, "Unknown.";
    MAP_PIRQ_TYPE_MSI_SEG: u32 = 3, "An MSI; the segment is above the bus.";
    MAP_PIRQ_TYPE_MULTI_MSI: u32 = 4, "Several MSIs.";
    XEN_PCI_MMCFG_RESERVED: u32 = 1, "The range is reserved in the memory map.";
    XEN_PCI_DEV_EXTFN: u32 = 1, "An extended function.";
    XEN_PCI_DEV_VIRTFN: u32 = 2, "A virtual function.";
    XEN_PCI_DEV_PXM: u32 = 4, "The first option word is the proximity domain.";
    PHYSDEVOP_DBGP_RESET_PREPARE: u32 = 1, "Before a reset of the controller.";
    PHYSDEVOP_DBGP_RESET_DONE: u32 = 2, "After it.";
    PHYSDEVOP_DBGP_BUS_UNKNOWN: u32 = 0, "Unknown bus.";
    PHYSDEVOP_DBGP_BUS_PCI: u32 = 1, "PCI.";
}

wire! {
    /// Ends an interrupt.
    pub struct PhysdevEoi: "struct physdev_eoi" {
        /// The pirq.
        pub irq: u32,
    }
    /// Registers the page of "needs an EOI" bits.
    pub struct PhysdevPirqEoiGmfn: "struct physdev_pirq_eoi_gmfn" {
        /// Its frame.
        pub gmfn: u64,
    }
    /// Reads an interrupt's state.
    pub struct PhysdevIrqStatusQuery: "struct physdev_irq_status_query" {
        /// The pirq.
        pub irq: u32,
        /// Out: `XENIRQSTAT_*`.
        pub flags: u32,
    }
    /// Sets the I/O privilege level.
    pub struct PhysdevSetIopl: "struct physdev_set_iopl" {
        /// 0 to 3.
        pub iopl: u32,
    }
    /// Sets the I/O permission bitmap.
    pub struct PhysdevSetIobitmap: "struct physdev_set_iobitmap" {
        /// Guest address; 0: none.
        pub bitmap: u64,
        /// Ports it covers.
        pub nr_ports: u32,
        /// Padding.
        pub _pad: u32,
    }
    /// Reads or writes an I/O APIC register.
    pub struct PhysdevApic: "struct physdev_apic" {
        /// Machine address of the I/O APIC.
        pub apic_physbase: u64,
        /// Register.
        pub reg: u32,
        /// Value.
        pub value: u32,
    }
    /// Allocates or frees a vector.
    pub struct PhysdevIrq: "struct physdev_irq" {
        /// The interrupt.
        pub irq: u32,
        /// Out: the vector.
        pub vector: u32,
    }
    /// Gives an interrupt a pirq.
    pub struct PhysdevMapPirq: "struct physdev_map_pirq" {
        /// For whom.
        pub domid: u16,
        /// Padding.
        pub _pad0: u16,
        /// `MAP_PIRQ_TYPE_*`.
        pub kind("type"): u32,
        /// GSI; MSI: ignored.
        pub index: i32,
        /// In: wanted, or negative; out: the pirq.
        pub pirq: i32,
        /// PCI bus; segment above for `MAP_PIRQ_TYPE_MSI_SEG`.
        pub bus: i32,
        /// PCI device and function.
        pub devfn: i32,
        /// MSI-X entry, or how many MSIs.
        pub entry_nr: i32,
        /// Padding.
        pub _pad1: u32,
        /// Machine address of the MSI-X table; 0: MSI.
        pub table_base: u64,
    }
    /// Takes a pirq away.
    pub struct PhysdevUnmapPirq: "struct physdev_unmap_pirq" {
        /// From whom.
        pub domid: u16,
        /// Padding.
        pub _pad: u16,
        /// The pirq.
        pub pirq: i32,
    }
    /// Names a PCI device of segment 0.
    pub struct PhysdevManagePci: "struct physdev_manage_pci" {
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
    }
    /// Adds a PCI device of segment 0.
    pub struct PhysdevManagePciExt: "struct physdev_manage_pci_ext" {
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
        /// Padding.
        pub _pad0: u16,
        /// Not 0: extended function.
        pub is_extfn: u32,
        /// Not 0: virtual function.
        pub is_virtfn: u32,
        /// Physical function: bus.
        pub physfn_bus("physfn.bus"): u8,
        /// Physical function: device and function.
        pub physfn_devfn("physfn.devfn"): u8,
        /// Padding.
        pub _pad1: u16,
    }
    /// The old calling form: command and argument in one structure.
    pub struct PhysdevOp: "struct physdev_op" {
        /// `PHYSDEVOP_*`.
        pub cmd: u32,
        /// Padding.
        pub _pad: u32,
        /// Its argument.
        pub u: [u64; 2],
    }
    /// Says how a GSI is wired.
    pub struct PhysdevSetupGsi: "struct physdev_setup_gsi" {
        /// The GSI.
        pub gsi: i32,
        /// 0: edge; 1: level.
        pub triggering: u8,
        /// 0: high; 1: low.
        pub polarity: u8,
        /// Padding.
        pub _pad: u16,
    }
    /// Reserves a pirq.
    pub struct PhysdevGetFreePirq: "struct physdev_get_free_pirq" {
        /// `MAP_PIRQ_TYPE_*`.
        pub kind("type"): u32,
        /// Out: the pirq.
        pub pirq: u32,
    }
    /// Reports a memory-mapped configuration space.
    pub struct PhysdevPciMmcfgReserved: "struct physdev_pci_mmcfg_reserved" {
        /// Machine address.
        pub address: u64,
        /// Segment.
        pub segment: u16,
        /// First bus.
        pub start_bus: u8,
        /// Last bus.
        pub end_bus: u8,
        /// `XEN_PCI_MMCFG_RESERVED`.
        pub flags: u32,
    }
    /// Adds a PCI device; option words may follow.
    pub struct PhysdevPciDeviceAdd: "struct physdev_pci_device_add" {
        /// Segment.
        pub seg: u16,
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
        /// `XEN_PCI_DEV_*`.
        pub flags: u32,
        /// Physical function: bus.
        pub physfn_bus("physfn.bus"): u8,
        /// Physical function: device and function.
        pub physfn_devfn("physfn.devfn"): u8,
        /// Padding.
        pub _pad: u16,
    }
    /// Names a PCI device.
    pub struct PhysdevPciDevice: "struct physdev_pci_device" {
        /// Segment.
        pub seg: u16,
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
    }
    /// Coordinates the USB debug port.
    pub struct PhysdevDbgpOp: "struct physdev_dbgp_op" {
        /// `PHYSDEVOP_DBGP_RESET_*`.
        pub op: u8,
        /// `PHYSDEVOP_DBGP_BUS_*`.
        pub bus: u8,
        /// The device.
        pub pci("u.pci"): PhysdevPciDevice,
    }
}
