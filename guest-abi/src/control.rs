//! Xenolith's own control interface: hypercall [`CONTROL`](crate::call::number::CONTROL), one argument, the guest
//! address of a request.
//!
//! A request is one of the structures below. It begins with its own size in bytes and the number of its operation; what the
//! operation answers goes into the same structure. This is stable for ever:
//!
//! - A structure only grows, at its end. A caller that knows a shorter one is answered in what it knows: what is missing counts
//!   as zero, and nothing is written beyond the size that the caller gave. A caller that knows a longer one is refused
//!   (`-E2BIG`) if it asks for something with the part that the hypervisor does not know, that is, if a byte of it is not zero.
//! - Numbers are never used again, neither of operations nor of flags. An unknown operation answers `-ENOSYS`, an unknown
//!   flag `-EINVAL`. [`Version`] says what there is.
//! - Zero in a field that was added means what callers got before it was there.
//!
//! Only a privileged domain may ask; others get `-EPERM`, except for [`Version`]. Domains are named by number; `DOMID_SELF` is the
//! caller. Times are nanoseconds of system time. Pages have 4 KiB. Frames are machine frames. A guest address is linear.
//! The result of the hypercall is 0 or a negative error, as in `errno.h`; an error leaves everything as it was, and the reason
//! can be asked for in words ([`Failures`]).
//!
//! `docs/control-abi.md` describes each operation with its errors.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of this interface; [`Version`] answers it. It will not change.
pub const CONTROL_ABI: u32 = 1;
/// Bytes that a request may have.
pub const MAX_REQUEST: u32 = 4096;
/// Bytes of the header: size and operation.
pub const HEADER: u32 = 8;

/// A number in place of a domain's: choose one ([`Create`]).
pub const ANY_DOMID: u32 = 0xffff_ffff;

/// [`Version::capabilities`]: paravirtualised 64-bit domains.
pub const CAPABILITY_PV64: u64 = 1 << 0;

/// [`DomainInfo::flags`], in: if there is no such domain, the one with the next higher number.
pub const INFO_NEXT: u32 = 1 << 0;

/// [`DomainInfo::state`]: it may act on other domains.
pub const DOMAIN_PRIVILEGED: u32 = 1 << 0;
/// [`DomainInfo::state`]: it is paused by [`Pause`], or was created and never unpaused.
pub const DOMAIN_PAUSED: u32 = 1 << 1;
/// [`DomainInfo::state`]: it has ended by itself or by [`Shutdown`]; `shutdown_reason` says how.
pub const DOMAIN_SHUTDOWN: u32 = 1 << 2;
/// [`DomainInfo::state`]: it is being destroyed, or is, and others still hold pages of it ([`Holders`]).
pub const DOMAIN_DYING: u32 = 1 << 3;
/// [`DomainInfo::state`]: none of its vCPUs is down for another reason than waiting for an event, and all of them wait.
pub const DOMAIN_BLOCKED: u32 = 1 << 4;
/// [`DomainInfo::state`]: at least one of its vCPUs is on a CPU.
pub const DOMAIN_RUNNING: u32 = 1 << 5;
/// [`DomainInfo::shutdown_reason`] of a domain that has not shut down; otherwise `SHUTDOWN_*` of `sched.h`.
pub const SHUTDOWN_NONE: u32 = 0xffff_ffff;

/// [`VcpuInfo::flags`]: it is up.
pub const VCPU_ONLINE: u32 = 1 << 0;
/// [`VcpuInfo::flags`]: it waits for an event.
pub const VCPU_BLOCKED: u32 = 1 << 1;
/// [`VcpuInfo::flags`]: it is on a CPU.
pub const VCPU_RUNNING: u32 = 1 << 2;
/// [`VcpuInfo::flags`]: it has got a context.
pub const VCPU_INITIALISED: u32 = 1 << 3;

/// [`SetAffinity::flags`] and [`GetAffinity::flags`]: the CPUs that a vCPU may run on.
pub const AFFINITY_HARD: u32 = 1 << 0;
/// [`SetAffinity::flags`] and [`GetAffinity::flags`]: the CPUs that a vCPU prefers.
pub const AFFINITY_SOFT: u32 = 1 << 1;
/// Words of an affinity map: bit `n` of word `w` is CPU `64 w + n`.
pub const AFFINITY_WORDS: usize = 16;

/// [`ReadConsole::flags`]: forget what was read and all before it.
pub const CONSOLE_CLEAR: u32 = 1 << 0;
/// [`ReadConsole::flags`]: begin at `index` instead of at the oldest byte.
pub const CONSOLE_INCREMENTAL: u32 = 1 << 1;

/// [`PageInfo`]: an ordinary page (as `XEN_DOMCTL_PFINFO_NOTAB`).
pub const PAGE_NOTAB: u32 = 0;
/// [`PageInfo`]: a level-1 page table; levels 2 to 4 are the numbers after it (as `XEN_DOMCTL_PFINFO_L1TAB`, shifted right by 28).
pub const PAGE_L1TAB: u32 = 1;
/// [`PageInfo`]: a level-2 page table.
pub const PAGE_L2TAB: u32 = 2;
/// [`PageInfo`]: a level-3 page table.
pub const PAGE_L3TAB: u32 = 3;
/// [`PageInfo`]: a level-4 page table.
pub const PAGE_L4TAB: u32 = 4;
/// [`PageInfo`]: added to the type of a page table that is pinned (as `XEN_DOMCTL_PFINFO_LPINTAB`).
pub const PAGE_PINNED: u32 = 8;
/// [`PageInfo`]: not a page of the domain (as `XEN_DOMCTL_PFINFO_XTAB`).
pub const PAGE_XTAB: u32 = 15;
/// Frames that one [`PageInfo`] may ask for.
pub const MAX_PAGE_INFO: u32 = 1024;

/// [`Holder::kind`]: by grants that are mapped.
pub const HOLDER_GRANT: u32 = 1;
/// [`Holder::kind`]: by mappings that a privileged domain made, or by references in flight.
pub const HOLDER_FOREIGN: u32 = 2;

/// [`CpuTopology::flags`]: the CPU runs.
pub const CPU_ONLINE: u32 = 1 << 0;

/// Bytes of [`Failure::reason`].
pub const REASON: usize = 96;

/// A request: what its structure begins with, and the number of its operation.
pub trait Operation: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {
    /// The operation's number.
    const OP: u32;
    /// The operation's name.
    const NAME: &'static str;

    /// All zero but for size and number.
    fn new() -> Self;
}

/// A structure of this interface: plain bytes, zero by default.
macro_rules! structure {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        pub struct $name {
            $($(#[$fmeta])* pub $field: $type,)*
        }
    };
}

/// Declares the requests, one an operation, and lists them.
macro_rules! operations {
    ($(
        $(#[$meta:meta])*
        $number:literal $name:literal $constant:ident $request:ident {
            $($(#[$fmeta:meta])* $field:ident: $type:ty,)*
        }
    )*) => {
        $(
            #[doc = concat!("Number of [`", stringify!($request), "`].")]
            pub const $constant: u32 = $number;

            structure! {
                $(#[$meta])*
                $request {
                    /// In: bytes of the structure.
                    size: u32,
                    /// In: the operation's number.
                    op: u32,
                    $($(#[$fmeta])* $field: $type,)*
                }
            }

            impl Operation for $request {
                const OP: u32 = $number;
                const NAME: &'static str = $name;

                fn new() -> Self {
                    let zero: Self = zerocopy::FromZeros::new_zeroed();
                    Self { size: size_of::<Self>() as u32, op: $number, ..zero }
                }
            }

            impl Default for $request {
                fn default() -> Self {
                    Self::new()
                }
            }
        )*

        /// Every operation: number, name, bytes of its request today.
        pub const OPERATIONS: &[(u32, &str, usize)] = &[$(($number, $name, size_of::<$request>())),*];
    };
}

operations! {
    /// What this hypervisor can do. Any domain may ask.
    0 "version" OP_VERSION Version {
        /// Out: [`CONTROL_ABI`].
        abi: u32,
        /// Out: one more than the highest operation there is.
        operations: u32,
        /// Out: `CAPABILITY_*`.
        capabilities: u64,
        /// Out: Xenolith's version, `major << 32 | minor << 16 | patch`.
        hypervisor: u64,
        /// Out: domains that there can be at once.
        max_domains: u32,
        /// Out: vCPUs that a domain can have.
        max_vcpus: u32,
    }
    /// Makes a domain: paused, without vCPUs and memory. It has its shared page, its event channels and its grant table.
    1 "create" OP_CREATE Create {
        /// In: 0; no flags yet.
        flags: u32,
        /// In: the number that it shall have, or [`ANY_DOMID`]. Out: the number that it has.
        domid: u32,
        /// In: its UUID.
        handle: [u8; 16],
        /// In: vCPUs that it may have; 1 to [`Version::max_vcpus`].
        max_vcpus: u32,
        /// In: event channels that it may have; 0: as many as the ABI has.
        max_evtchns: u32,
        /// In: pages that it may have.
        max_pages: u64,
        /// In: frames that its grant table may have; 0: the default, 64.
        max_grant_frames: u32,
        /// In: grants of others that it may have mapped at once; 0: the default.
        max_maptrack: u32,
    }
    /// Ends a domain and takes back what it has. Idempotent; takes as long as it takes, cut into pieces.
    2 "destroy" OP_DESTROY Destroy {
        /// In.
        domid: u32,
        /// Reserved.
        reserved: u32,
        /// Out: pages that others still hold. While there are some the domain remains, dying; the last one takes it along.
        held_pages: u64,
    }
    /// None of the domain's vCPUs runs from now on. Of a paused domain: nothing.
    3 "pause" OP_PAUSE Pause {
        /// In.
        domid: u32,
        /// Reserved.
        reserved: u32,
    }
    /// Takes [`Pause`] back. Of a domain that is not paused: nothing.
    4 "unpause" OP_UNPAUSE Unpause {
        /// In.
        domid: u32,
        /// Reserved.
        reserved: u32,
    }
    /// How many pages a domain may have. Fewer than it has: it gets no more until it has given back enough.
    5 "set_max_mem" OP_SET_MAX_MEM SetMaxMem {
        /// In.
        domid: u32,
        /// Reserved.
        reserved: u32,
        /// In.
        max_pages: u64,
    }
    /// Gives a domain vCPUs `0..vcpus`, all down. Those that it has stay as they are.
    6 "max_vcpus" OP_MAX_VCPUS MaxVcpus {
        /// In.
        domid: u32,
        /// In: at most [`Create::max_vcpus`], and not fewer than it has.
        vcpus: u32,
    }
    /// Gives a vCPU its registers, tables and callbacks; vCPU 0 is up then, others if `VGCF_online` is set. The domain is
    /// paused, or the vCPU down.
    7 "set_vcpu_context" OP_SET_VCPU_CONTEXT SetVcpuContext {
        /// In.
        domid: u32,
        /// In.
        vcpu: u32,
        /// In: guest address of a `vcpu_guest_context` of x86-64.
        context: u64,
    }
    /// Reads a vCPU's registers, tables and callbacks. It does not run meanwhile.
    8 "get_vcpu_context" OP_GET_VCPU_CONTEXT GetVcpuContext {
        /// In.
        domid: u32,
        /// In.
        vcpu: u32,
        /// In: guest address of room for a `vcpu_guest_context` of x86-64.
        context: u64,
    }
    /// What frames of a domain are used as.
    9 "page_info" OP_PAGE_INFO PageInfo {
        /// In.
        domid: u32,
        /// In: how many, at most [`MAX_PAGE_INFO`].
        count: u32,
        /// In: guest address of their numbers, 64 bits each.
        frames: u64,
        /// In: guest address of room for their types (`PAGE_*`), 32 bits each.
        types: u64,
    }
    /// On which CPUs a vCPU may run, or likes to.
    10 "set_affinity" OP_SET_AFFINITY SetAffinity {
        /// In.
        domid: u32,
        /// In.
        vcpu: u32,
        /// In: which to set, `AFFINITY_*`.
        flags: u32,
        /// Reserved.
        reserved: u32,
        /// In: with [`AFFINITY_HARD`]. At least one CPU that runs. Out: what counts, CPUs that there are.
        hard: [u64; AFFINITY_WORDS],
        /// In: with [`AFFINITY_SOFT`]. Out: what counts.
        soft: [u64; AFFINITY_WORDS],
    }
    /// On which CPUs a vCPU may run, and likes to.
    11 "get_affinity" OP_GET_AFFINITY GetAffinity {
        /// In.
        domid: u32,
        /// In.
        vcpu: u32,
        /// Out: both.
        flags: u32,
        /// Reserved.
        reserved: u32,
        /// Out: where it may run.
        hard: [u64; AFFINITY_WORDS],
        /// Out: where it likes to run.
        soft: [u64; AFFINITY_WORDS],
    }
    /// A domain's share of the CPUs.
    12 "set_sched" OP_SET_SCHED SetSched {
        /// In.
        domid: u32,
        /// In: its share, relative to others' (256 is usual), 1 to 65535; 0: leave it.
        weight: u32,
        /// In: with `set_cap`: at most this many per cent of one CPU; 0: no limit.
        cap: u32,
        /// In: 1: set `cap`; 0: leave it.
        set_cap: u32,
    }
    /// A domain's share of the CPUs.
    13 "get_sched" OP_GET_SCHED GetSched {
        /// In.
        domid: u32,
        /// Out.
        weight: u32,
        /// Out: per cent of one CPU; 0: no limit.
        cap: u32,
        /// Reserved.
        reserved: u32,
    }
    /// A domain, or the next.
    14 "domain_info" OP_DOMAIN_INFO DomainInfo {
        /// In. Out: whose the answer is.
        domid: u32,
        /// In: [`INFO_NEXT`].
        flags: u32,
        /// Out: its UUID.
        handle: [u8; 16],
        /// Out: `DOMAIN_*`.
        state: u32,
        /// Out: `SHUTDOWN_*`, or [`SHUTDOWN_NONE`].
        shutdown_reason: u32,
        /// Out: pages that it has, and those that it gave back and others hold.
        pages: u64,
        /// Out: pages that it may have.
        max_pages: u64,
        /// Out: pages that are claimed for it and that it has not got yet.
        outstanding_pages: u64,
        /// Out: frame of its shared page.
        shared_info_frame: u64,
        /// Out: time that its vCPUs have run, in ns, together.
        cpu_time: u64,
        /// Out: system time in ns at which it was created.
        created: u64,
        /// Out: vCPUs that are up.
        online_vcpus: u32,
        /// Out: vCPUs that it has.
        vcpus: u32,
        /// Out: vCPUs that it may have.
        max_vcpus: u32,
        /// Out: frames of its grant table.
        grant_frames: u32,
        /// Out: frames that its grant table may have.
        max_grant_frames: u32,
        /// Out: grants of others that it has mapped.
        maptrack: u32,
        /// Out: grants of others that it may have mapped.
        max_maptrack: u32,
        /// Out: event channels in use.
        evtchns: u32,
        /// Out: event channels that it may have.
        max_evtchns: u32,
        /// Reserved.
        reserved: u32,
    }
    /// A vCPU.
    15 "vcpu_info" OP_VCPU_INFO VcpuInfo {
        /// In.
        domid: u32,
        /// In.
        vcpu: u32,
        /// Out: `VCPU_*`.
        flags: u32,
        /// Out: the CPU where it runs or ran last.
        cpu: u32,
        /// Out: time that it has run, in ns.
        cpu_time: u64,
        /// Out: `RUNSTATE_*`.
        runstate: u32,
        /// Reserved.
        reserved: u32,
        /// Out: system time in ns at which it entered this state.
        state_entry_time: u64,
        /// Out: ns spent in each state.
        time: [u64; 4],
    }
    /// The machine. Always: `total_pages` = `free_pages` + `hypervisor_pages` + `domain_pages` + `outstanding_pages`.
    16 "host_info" OP_HOST_INFO HostInfo {
        /// Out: CPUs that run.
        online_cpus: u32,
        /// Out: one more than the highest number of a CPU.
        max_cpus: u32,
        /// Out.
        threads_per_core: u32,
        /// Out.
        cores_per_socket: u32,
        /// Out: nodes of memory.
        nodes: u32,
        /// Out: frequency of the TSC in kHz.
        cpu_khz: u32,
        /// Out: system time in ns, since the hypervisor began.
        uptime: u64,
        /// Out: pages of memory.
        total_pages: u64,
        /// Out: pages that nobody uses and nobody has claimed.
        free_pages: u64,
        /// Out: pages of the hypervisor: its image, its tables, what it keeps for domains, firmware's memory.
        hypervisor_pages: u64,
        /// Out: pages of all domains together.
        domain_pages: u64,
        /// Out: pages claimed for domains.
        outstanding_pages: u64,
        /// Out: those of `domain_pages` that are dom0's.
        dom0_pages: u64,
        /// Out: one more than the highest frame of memory.
        max_frame: u64,
        /// Out: domains that there are, dying ones too.
        domains: u32,
        /// Out: the vCPUs of all of them.
        vcpus: u32,
        /// Out: name and version of the hypervisor, NUL-terminated.
        version: [u8; 64],
    }
    /// Reads the hypervisor's log.
    17 "read_console" OP_READ_CONSOLE ReadConsole {
        /// In: `CONSOLE_*`.
        flags: u32,
        /// In: room in bytes. Out: bytes written.
        count: u32,
        /// In: with [`CONSOLE_INCREMENTAL`], where to begin. Out: where to go on.
        index: u64,
        /// In: guest address of the room.
        buffer: u64,
    }
    /// Reads the records of control operations that failed, oldest first.
    18 "failures" OP_FAILURES Failures {
        /// In: first record wanted ([`Failure::sequence`]); 0: the oldest there is. Out: where to go on.
        sequence: u64,
        /// In: guest address of room for records.
        buffer: u64,
        /// In: records that there is room for. Out: records written.
        count: u32,
        /// In: bytes between records; a shorter one than [`Failure`] is cut, a longer one filled with zeroes.
        record_size: u32,
    }
    /// Changes limits of a domain that exists. None can be set below what is in use.
    19 "set_limits" OP_SET_LIMITS SetLimits {
        /// In.
        domid: u32,
        /// In: frames of its grant table; 0: leave it.
        max_grant_frames: u32,
        /// In: grants of others that it may have mapped; 0: leave it.
        max_maptrack: u32,
        /// In: event channels; 0: leave it.
        max_evtchns: u32,
    }
    /// Shuts a domain down as if it had done so itself.
    20 "shutdown" OP_SHUTDOWN Shutdown {
        /// In.
        domid: u32,
        /// In: `SHUTDOWN_*` of `sched.h`.
        reason: u32,
    }
    /// Which other domains hold pages of a domain. It need not be dying.
    21 "holders" OP_HOLDERS Holders {
        /// In.
        domid: u32,
        /// In: records that there is room for. Out: records written.
        count: u32,
        /// In: guest address of room for [`Holder`]s.
        buffer: u64,
        /// Out: pages that others hold, together; a page held by two counts once.
        total_pages: u64,
    }
    /// Where the CPUs are.
    22 "cpu_topology" OP_CPU_TOPOLOGY CpuTopologyInfo {
        /// In: the first CPU wanted. Out: where to go on.
        first: u32,
        /// In: records that there is room for. Out: records written.
        count: u32,
        /// In: guest address of room for [`CpuTopology`]s.
        buffer: u64,
    }
    /// Promises a domain memory without saying which: nobody else gets it. What the domain gets uses the claim up.
    23 "claim" OP_CLAIM Claim {
        /// In.
        domid: u32,
        /// Reserved.
        reserved: u32,
        /// In: pages in all, those that it has included; 0 takes the claim back.
        pages: u64,
    }
}

structure! {
    /// A control operation that failed.
    Failure {
        /// Its number; records are counted from 1.
        sequence: u64,
        /// System time in ns.
        time: u64,
        /// The operation.
        op: u32,
        /// The domain that it was about; [`ANY_DOMID`]: none.
        domid: u32,
        /// The error, as a positive number of `errno.h`.
        errno: u32,
        /// The domain that asked.
        caller: u32,
        /// Why, in English, NUL-terminated.
        reason: [u8; REASON],
    }
}

structure! {
    /// Who holds pages of a domain.
    Holder {
        /// The holding domain.
        domid: u32,
        /// `HOLDER_*`.
        kind: u32,
        /// How many; a page mapped twice counts twice.
        pages: u64,
    }
}

structure! {
    /// A CPU.
    CpuTopology {
        /// Its number.
        cpu: u32,
        /// `CPU_*`.
        flags: u32,
        /// Its local APIC's number.
        apic_id: u32,
        /// Its core, within the socket.
        core: u32,
        /// Its socket.
        socket: u32,
        /// Its node of memory.
        node: u32,
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
