//! Non-maskable interrupts for a guest (`nmi.h`).

constants! {
    XEN_NMIREASON_IO_ERROR: u64 = 1 << 0, "I/O channel check.";
    XEN_NMIREASON_PCI_SERR: u64 = 1 << 1, "PCI system error.";
    XEN_NMIREASON_UNKNOWN: u64 = 1 << 2, "Unknown reason.";
    XENNMI_REGISTER_CALLBACK: u32 = 0, "Registers the caller's handler: [`XennmiCallback`].";
    XENNMI_UNREGISTER_CALLBACK: u32 = 1, "Removes the caller's handler.";
}

wire! {
    /// A handler to register.
    pub struct XennmiCallback: "struct xennmi_callback" {
        /// Guest linear address of the handler.
        pub handler_address: u64,
        /// Reserved.
        pub pad: u64,
    }
}
