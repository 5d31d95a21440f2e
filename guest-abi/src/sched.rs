//! Scheduling and shutdown (`sched.h`).

constants! {
    SCHEDOP_YIELD: u32 = 0, "Gives the CPU away.";
    SCHEDOP_BLOCK: u32 = 1, "Unmasks events and waits for one.";
    SCHEDOP_SHUTDOWN: u32 = 2, "Stops the domain: [`SchedShutdown`].";
    SCHEDOP_POLL: u32 = 3, "Waits for one of some ports: [`SchedPoll`].";
    SCHEDOP_REMOTE_SHUTDOWN: u32 = 4, "Stops another domain: [`SchedRemoteShutdown`].";
    SCHEDOP_SHUTDOWN_CODE: u32 = 5, "Records why the domain will stop: [`SchedShutdown`].";
    SCHEDOP_WATCHDOG: u32 = 6, "Arms or disarms a watchdog: [`SchedWatchdog`].";
    SCHEDOP_PIN_OVERRIDE: u32 = 7, "Pins the vCPU for a while: [`SchedPinOverride`].";
    SHUTDOWN_POWEROFF: u32 = 0, "Stopped normally.";
    SHUTDOWN_REBOOT: u32 = 1, "To be started again.";
    SHUTDOWN_SUSPEND: u32 = 2, "To be saved.";
    SHUTDOWN_CRASH: u32 = 3, "Crashed.";
    SHUTDOWN_WATCHDOG: u32 = 4, "Its watchdog expired.";
    SHUTDOWN_SOFT_RESET: u32 = 5, "To be reset in place.";
    SHUTDOWN_MAX: u32 = 5, "Highest reason.";
}

wire! {
    /// Why the domain stops.
    pub struct SchedShutdown: "struct sched_shutdown" {
        /// `SHUTDOWN_*`.
        pub reason: u32,
    }
    /// What to wait for.
    pub struct SchedPoll: "struct sched_poll" {
        /// Guest address of the ports, `u32` each.
        pub ports: u64,
        /// How many ports.
        pub nr_ports: u32,
        /// Padding.
        pub _pad: u32,
        /// Absolute system time in ns to give up at; 0: never.
        pub timeout: u64,
    }
    /// Which domain to stop, and why.
    pub struct SchedRemoteShutdown: "struct sched_remote_shutdown" {
        /// The domain.
        pub domain_id: u16,
        /// Padding.
        pub _pad: u16,
        /// `SHUTDOWN_*`.
        pub reason: u32,
    }
    /// A watchdog.
    pub struct SchedWatchdog: "struct sched_watchdog" {
        /// Which one; 0 asks for a free one.
        pub id: u32,
        /// Seconds from now; 0 disarms.
        pub timeout: u32,
    }
    /// A temporary pin.
    pub struct SchedPinOverride: "struct sched_pin_override" {
        /// The physical CPU; negative removes the pin.
        pub pcpu: i32,
    }
}
