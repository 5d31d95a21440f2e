//! Event channels (`event_channel.h`).

constants! {
    EVTCHNOP_BIND_INTERDOMAIN: u32 = 0, "Connects to another domain's unbound port.";
    EVTCHNOP_BIND_VIRQ: u32 = 1, "Binds a VIRQ.";
    EVTCHNOP_BIND_PIRQ: u32 = 2, "Binds a physical interrupt.";
    EVTCHNOP_CLOSE: u32 = 3, "Closes a port.";
    EVTCHNOP_SEND: u32 = 4, "Notifies the other end.";
    EVTCHNOP_STATUS: u32 = 5, "Reads a port's state.";
    EVTCHNOP_ALLOC_UNBOUND: u32 = 6, "Allocates a port that another domain may connect to.";
    EVTCHNOP_BIND_IPI: u32 = 7, "Allocates a port between vCPUs.";
    EVTCHNOP_BIND_VCPU: u32 = 8, "Chooses the vCPU that is notified.";
    EVTCHNOP_UNMASK: u32 = 9, "Unmasks, and delivers what waits.";
    EVTCHNOP_RESET: u32 = 10, "Closes every port.";
    EVTCHNOP_INIT_CONTROL: u32 = 11, "Gives a vCPU its FIFO control block.";
    EVTCHNOP_EXPAND_ARRAY: u32 = 12, "Adds a page to the FIFO event array.";
    EVTCHNOP_SET_PRIORITY: u32 = 13, "Chooses a port's FIFO queue.";
    BIND_PIRQ__WILL_SHARE: u32 = 1, "The interrupt may be shared.";
    EVTCHNSTAT_CLOSED: u32 = 0, "Not in use.";
    EVTCHNSTAT_UNBOUND: u32 = 1, "Waits for a domain to connect.";
    EVTCHNSTAT_INTERDOMAIN: u32 = 2, "Connected.";
    EVTCHNSTAT_PIRQ: u32 = 3, "Bound to a physical interrupt.";
    EVTCHNSTAT_VIRQ: u32 = 4, "Bound to a VIRQ.";
    EVTCHNSTAT_IPI: u32 = 5, "Between vCPUs.";
    EVTCHN_2L_NR_CHANNELS: u32 = 4096, "Ports with two-level event channels.";
    EVTCHN_FIFO_PRIORITY_MAX: u32 = 0, "The most urgent queue.";
    EVTCHN_FIFO_PRIORITY_DEFAULT: u32 = 7, "The queue of a new port.";
    EVTCHN_FIFO_PRIORITY_MIN: u32 = 15, "The least urgent queue.";
    EVTCHN_FIFO_MAX_QUEUES: u32 = 16, "Queues of a vCPU.";
    EVTCHN_FIFO_PENDING: u32 = 31, "Bit of an event word: pending.";
    EVTCHN_FIFO_MASKED: u32 = 30, "Bit of an event word: masked.";
    EVTCHN_FIFO_LINKED: u32 = 29, "Bit of an event word: on a queue.";
    EVTCHN_FIFO_BUSY: u32 = 28, "Bit of an event word: the link changes.";
    EVTCHN_FIFO_LINK_BITS: u32 = 17, "Bits of the link.";
    EVTCHN_FIFO_LINK_MASK: u32 = (1 << 17) - 1, "The link in an event word.";
    EVTCHN_FIFO_NR_CHANNELS: u32 = 1 << 17, "Ports with FIFO event channels.";
}

wire! {
    /// [`EVTCHNOP_ALLOC_UNBOUND`].
    pub struct EvtchnAllocUnbound: "struct evtchn_alloc_unbound" {
        /// Whose port.
        pub dom: u16,
        /// Who may connect.
        pub remote_dom: u16,
        /// Out: the port.
        pub port: u32,
    }
    /// [`EVTCHNOP_BIND_INTERDOMAIN`].
    pub struct EvtchnBindInterdomain: "struct evtchn_bind_interdomain" {
        /// The other domain.
        pub remote_dom: u16,
        /// Padding.
        pub _pad: u16,
        /// Its port.
        pub remote_port: u32,
        /// Out: the caller's port.
        pub local_port: u32,
    }
    /// [`EVTCHNOP_BIND_VIRQ`].
    pub struct EvtchnBindVirq: "struct evtchn_bind_virq" {
        /// `VIRQ_*`.
        pub virq: u32,
        /// Which vCPU.
        pub vcpu: u32,
        /// Out: the port.
        pub port: u32,
    }
    /// [`EVTCHNOP_BIND_PIRQ`].
    pub struct EvtchnBindPirq: "struct evtchn_bind_pirq" {
        /// The interrupt.
        pub pirq: u32,
        /// [`BIND_PIRQ__WILL_SHARE`].
        pub flags: u32,
        /// Out: the port.
        pub port: u32,
    }
    /// [`EVTCHNOP_BIND_IPI`].
    pub struct EvtchnBindIpi: "struct evtchn_bind_ipi" {
        /// The vCPU that is notified.
        pub vcpu: u32,
        /// Out: the port.
        pub port: u32,
    }
    /// [`EVTCHNOP_CLOSE`].
    pub struct EvtchnClose: "struct evtchn_close" {
        /// The port.
        pub port: u32,
    }
    /// [`EVTCHNOP_SEND`].
    pub struct EvtchnSend: "struct evtchn_send" {
        /// The port.
        pub port: u32,
    }
    /// [`EVTCHNOP_STATUS`].
    pub struct EvtchnStatus: "struct evtchn_status" {
        /// Whose port.
        pub dom: u16,
        /// Padding.
        pub _pad0: u16,
        /// The port.
        pub port: u32,
        /// Out: `EVTCHNSTAT_*`.
        pub status: u32,
        /// Out: the vCPU that is notified.
        pub vcpu: u32,
        /// Out: the other domain (low 16 bits), the pirq, or the VIRQ.
        pub detail("u.pirq"): u32,
        /// Out: the other domain's port.
        pub remote_port("u.interdomain.port"): u32,
    }
    /// [`EVTCHNOP_BIND_VCPU`].
    pub struct EvtchnBindVcpu: "struct evtchn_bind_vcpu" {
        /// The port.
        pub port: u32,
        /// The vCPU.
        pub vcpu: u32,
    }
    /// [`EVTCHNOP_UNMASK`].
    pub struct EvtchnUnmask: "struct evtchn_unmask" {
        /// The port.
        pub port: u32,
    }
    /// [`EVTCHNOP_RESET`].
    pub struct EvtchnReset: "struct evtchn_reset" {
        /// Whose ports.
        pub dom: u16,
    }
    /// [`EVTCHNOP_INIT_CONTROL`].
    pub struct EvtchnInitControl: "struct evtchn_init_control" {
        /// Frame of the control block.
        pub control_gfn: u64,
        /// Byte offset in it.
        pub offset: u32,
        /// Which vCPU.
        pub vcpu: u32,
        /// Out: bits of a link.
        pub link_bits: u8,
        /// Reserved.
        pub _pad: [u8; 7],
    }
    /// [`EVTCHNOP_EXPAND_ARRAY`].
    pub struct EvtchnExpandArray: "struct evtchn_expand_array" {
        /// Frame of the new page.
        pub array_gfn: u64,
    }
    /// [`EVTCHNOP_SET_PRIORITY`].
    pub struct EvtchnSetPriority: "struct evtchn_set_priority" {
        /// The port.
        pub port: u32,
        /// 0 to 15.
        pub priority: u32,
    }
    /// A vCPU's FIFO queues.
    pub struct EvtchnFifoControlBlock: "struct evtchn_fifo_control_block" {
        /// Queues that are not empty.
        pub ready: u32,
        /// Reserved.
        pub _rsvd: u32,
        /// First port of each queue.
        pub head: [u32; 16],
    }
    /// The old calling form: command and argument in one structure.
    pub struct EvtchnOp: "struct evtchn_op" {
        /// `EVTCHNOP_*`.
        pub cmd: u32,
        /// Its argument.
        pub u: [u32; 6],
    }
}
