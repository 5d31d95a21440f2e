//! Entry points that the guest registers (`callback.h`).

constants! {
    CALLBACKTYPE_EVENT: u16 = 0, "Event-channel upcall.";
    CALLBACKTYPE_FAILSAFE: u16 = 1, "Entered when `iret` cannot load the guest's selectors.";
    CALLBACKTYPE_SYSCALL: u16 = 2, "64-bit `syscall` from user mode.";
    CALLBACKTYPE_SYSENTER_DEPRECATED: u16 = 3, "The old number of `sysenter`; refused.";
    CALLBACKTYPE_NMI: u16 = 4, "Non-maskable interrupt.";
    CALLBACKTYPE_SYSENTER: u16 = 5, "`sysenter` from 32-bit user mode.";
    CALLBACKTYPE_SYSCALL32: u16 = 7, "`syscall` from 32-bit user mode.";
    CALLBACKF_MASK_EVENTS: u16 = 1, "Events are masked on entry.";
    CALLBACKOP_REGISTER: u32 = 0, "Registers an entry point: [`CallbackRegister`].";
    CALLBACKOP_UNREGISTER: u32 = 1, "Removes an entry point: [`CallbackUnregister`].";
}

wire! {
    /// Registers an entry point.
    pub struct CallbackRegister: "struct callback_register" {
        /// `CALLBACKTYPE_*`.
        pub kind("type"): u16,
        /// `CALLBACKF_*`.
        pub flags: u16,
        /// Padding.
        pub _pad: u32,
        /// Guest linear address of the entry.
        pub address: u64,
    }
    /// Removes an entry point.
    pub struct CallbackUnregister: "struct callback_unregister" {
        /// `CALLBACKTYPE_*`.
        pub kind("type"): u16,
        /// Reserved.
        pub _unused: u16,
    }
}
