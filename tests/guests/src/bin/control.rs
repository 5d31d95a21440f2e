//! Xenolith's own control interface: a domain is made from nothing, runs, talks by event and grant, ends, and is gone to the
//! page; a hundred times. Each thing allowed has its refused twin.
#![no_std]
#![no_main]

use claim::abi::control::*;
use claim::abi::event_channel::{EVTCHNOP_BIND_INTERDOMAIN, EVTCHNOP_SEND, EvtchnBindInterdomain};
use claim::abi::grant_table::*;
use claim::abi::memory::*;
use claim::abi::sched::*;
use claim::abi::x86_64::{FLAT_KERNEL_CS, FLAT_KERNEL_SS, VGCF_IN_KERNEL, VcpuGuestContext, pfn_to_cr3};
use claim::abi::xen::{
    DOMID_SELF, MMUEXT_INVLPG_LOCAL, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE, MmuUpdate, MmuextOp,
    VIRQ_DOM_EXC, shared_offset,
};
use claim::abi::{Errno, Hypercall};
use claim::mm::{self, READABLE, WRITABLE};
use claim::{Answer, ask, call, event, say};
use core::arch::global_asm;

claim::claim!(run);

/// Where the child's pages are in its address space, in the order of their numbers.
const BASE: u64 = 0x40_0000;
const CODE: usize = 0;
const DATA: usize = 1;
const L1: usize = 2;
const L4: usize = 5;
const PAGES: usize = 8;
/// Where it sees its shared page.
const SHARED: u64 = BASE + 8 * 4096;

/// Words and structures of the child's data page, by byte offset.
mod at {
    pub const BOUND: u64 = 0x08;
    pub const QUESTION: u64 = 0x10;
    pub const ANSWER: u64 = 0x18;
    pub const GO_ON: u64 = 0x20;
    pub const REASON: u64 = 0x28;
    pub const CRASH: u64 = 0x30;
    pub const CONTROL: u64 = 0x38;
    pub const CONSOLE: u64 = 0x40;
    pub const BIND: u64 = 0x100;
    pub const POLL: u64 = 0x200;
    pub const PAUSE: u64 = 0x300;
}

unsafe extern "C" {
    static child_begin: u8;
    static child_end: u8;
}

// The child: one page of code at BASE, its data in the next page.
global_asm!(
    ".pushsection .text.child, \"ax\"",
    "child_begin:",
    "mov rbx, {data}",
    "cmp qword ptr [rbx + {crash}], 0",
    "je 2f",
    "ud2",
    // What it may not do.
    "2: mov eax, {control_call}",
    "lea rdi, [rbx + {pause}]",
    "syscall",
    "mov [rbx + {control}], rax",
    "mov eax, {console_call}",
    "xor edi, edi",
    "mov esi, 1",
    "mov rdx, rbx",
    "syscall",
    "mov [rbx + {console}], rax",
    // It binds to the port that waits for it, answers the question, and says so.
    "mov eax, {event_call}",
    "mov edi, {bind_op}",
    "lea rsi, [rbx + {bind}]",
    "syscall",
    "mov [rbx + {bound}], rax",
    "mov rax, [rbx + {question}]",
    "inc rax",
    "mov [rbx + {answer}], rax",
    "mov eax, {event_call}",
    "mov edi, {send_op}",
    "lea rsi, [rbx + {bind} + 8]",
    "syscall",
    // It waits until it may go on, and ends.
    "3: mov eax, [rbx + {bind} + 8]",
    "mov rcx, {shared}",
    "lock btr [rcx + {pending}], rax",
    "cmp qword ptr [rbx + {go_on}], 0",
    "jne 4f",
    "mov eax, {sched_call}",
    "mov edi, {poll_op}",
    "lea rsi, [rbx + {poll}]",
    "syscall",
    "jmp 3b",
    "4: mov eax, {sched_call}",
    "mov edi, {shutdown_op}",
    "lea rsi, [rbx + {reason}]",
    "syscall",
    "ud2",
    "child_end:",
    ".popsection",
    data = const BASE + 4096 * DATA as u64,
    shared = const SHARED,
    pending = const shared_offset::EVTCHN_PENDING,
    control_call = const Hypercall::Control as u32,
    console_call = const Hypercall::ConsoleIo as u32,
    event_call = const Hypercall::EventChannelOp as u32,
    sched_call = const Hypercall::SchedOp as u32,
    bind_op = const EVTCHNOP_BIND_INTERDOMAIN,
    send_op = const EVTCHNOP_SEND,
    poll_op = const SCHEDOP_POLL,
    shutdown_op = const SCHEDOP_SHUTDOWN,
    bound = const at::BOUND,
    question = const at::QUESTION,
    answer = const at::ANSWER,
    go_on = const at::GO_ON,
    reason = const at::REASON,
    crash = const at::CRASH,
    control = const at::CONTROL,
    console = const at::CONSOLE,
    bind = const at::BIND,
    poll = const at::POLL,
    pause = const at::PAUSE,
);

fn ask_control<T: Operation>(request: &mut T) -> i64 {
    call(Hypercall::Control, &[&raw mut *request as u64])
}

fn must<T: Operation>(request: &mut T) {
    let answer = ask_control(request);
    assert!(answer == 0, "{}: {}", T::NAME, Answer(answer));
}

/// A window through which the parent sees one frame of a child's.
struct Window {
    at: u64,
    own: u64,
}

impl Window {
    fn new() -> Self {
        let at = mm::page();
        Window { at, own: mm::entry(at, 1).value }
    }

    fn set(&self, entry: u64, domain: u16) -> i64 {
        let update = MmuUpdate { ptr: mm::entry(self.at, 1).machine, val: entry };
        let (answer, _) = mm::mmu_update_of(&[update], domain);
        mm::mmuext(MMUEXT_INVLPG_LOCAL, self.at, 0);
        answer
    }

    fn open(&self, frame: u64, domain: u16) {
        let answer = self.set(frame << 12 | WRITABLE, domain);
        assert!(answer == 0, "foreign mapping: {}", Answer(answer));
    }

    fn close(&self) {
        assert!(self.set(self.own, DOMID_SELF) == 0);
    }
}

/// A domain that was made.
struct Child {
    domid: u16,
    frames: [u64; PAGES],
}

impl Child {
    fn create() -> Self {
        let mut create = Create {
            domid: ANY_DOMID,
            handle: *b"sixteen of bytes",
            max_vcpus: 1,
            max_pages: PAGES as u64,
            ..Create::new()
        };
        must(&mut create);
        must(&mut MaxVcpus { domid: create.domid, vcpus: 1, ..MaxVcpus::new() });
        let mut child = Child { domid: create.domid as u16, frames: core::array::from_fn(|n| n as u64) };
        assert!(child.populate(PAGES as u64) == PAGES as i64, "populate");
        child
    }

    fn populate(&mut self, count: u64) -> i64 {
        let mut reservation = XenMemoryReservation {
            extent_start: self.frames.as_mut_ptr() as u64,
            nr_extents: count,
            domid: self.domid,
            ..Default::default()
        };
        claim::hypercall::command(Hypercall::MemoryOp, XENMEM_POPULATE_PHYSMAP, &mut reservation)
    }

    fn info(&self) -> DomainInfo {
        let mut info = DomainInfo { domid: self.domid.into(), ..DomainInfo::new() };
        must(&mut info);
        info
    }

    /// Fills its pages: code, data, and page tables that map them.
    fn fill(&self, window: &Window, port: u32, crash: bool) {
        window.open(self.frames[CODE], self.domid);
        let (from, end) = (&raw const child_begin as u64, &raw const child_end as u64);
        for offset in (0..end - from).step_by(8) {
            mm::poke(window.at + offset, mm::peek(from + offset));
        }
        window.open(self.frames[DATA], self.domid);
        let put = |offset: u64, value: u64| mm::poke(window.at + offset, value);
        put(at::QUESTION, 41);
        put(at::CRASH, u64::from(crash));
        put(at::REASON, u64::from(SHUTDOWN_SUSPEND));
        // bind_interdomain: remote domain 0, its port; the local port follows.
        assert!(size_of::<EvtchnBindInterdomain>() == 12);
        put(at::BIND, u64::from(port) << 32);
        let data = BASE + 4096 * DATA as u64;
        put(at::POLL, data + at::BIND + 8);
        put(at::POLL + 8, 1);
        let pause = Pause::new();
        put(at::PAUSE, u64::from(pause.op) << 32 | u64::from(pause.size));
        let shared = self.info().shared_info_frame;
        for level in 1..=4 {
            window.open(self.frames[L1 + level - 1], self.domid);
            let index = BASE >> (12 + 9 * (level - 1)) & 511;
            if level > 1 {
                mm::poke(window.at + 8 * index, self.frames[L1 + level - 2] << 12 | WRITABLE);
                continue;
            }
            for (n, frame) in self.frames.iter().enumerate() {
                let flags = if (L1..=L4).contains(&n) { READABLE } else { WRITABLE };
                mm::poke(window.at + 8 * (index + n as u64), frame << 12 | flags);
            }
            mm::poke(window.at + 8 * (index + 8), shared << 12 | WRITABLE);
        }
        window.close();
    }

    fn pin(&self) -> i64 {
        self.mmuext(MMUEXT_PIN_L4_TABLE)
    }

    fn mmuext(&self, cmd: u32) -> i64 {
        let op = MmuextOp { cmd, arg1: self.frames[L4], ..Default::default() };
        mm::mmuext_of(&[op], self.domid).0
    }

    fn context(&self) -> VcpuGuestContext {
        let mut context = VcpuGuestContext { flags: VGCF_IN_KERNEL, ..Default::default() };
        context.user_regs.rip = BASE;
        context.user_regs.rsp = BASE + 7 * 4096;
        (context.user_regs.cs, context.user_regs.ss) = (FLAT_KERNEL_CS, FLAT_KERNEL_SS);
        context.user_regs.rflags = 0x202;
        context.kernel_ss = FLAT_KERNEL_SS.into();
        context.kernel_sp = context.user_regs.rsp;
        context.ctrlreg[3] = pfn_to_cr3(self.frames[L4]);
        context
    }

    fn set_context(&self, context: &VcpuGuestContext) -> i64 {
        ask_control(&mut SetVcpuContext {
            domid: self.domid.into(),
            context: &raw const *context as u64,
            ..SetVcpuContext::new()
        })
    }

    /// Lists frames of its grant table.
    fn grant_table(&self, nr_frames: u32, list: *mut u64) -> i64 {
        let mut table = XenMemAcquireResource {
            domid: self.domid,
            kind: XENMEM_RESOURCE_GRANT_TABLE,
            id: XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED,
            nr_frames,
            frame_list: list as u64,
            ..Default::default()
        };
        claim::hypercall::command(Hypercall::MemoryOp, XENMEM_ACQUIRE_RESOURCE, &mut table)
    }

    /// Grants domain 0 the data page, as grant 8, the way a builder does it.
    fn seed_grant(&self, window: &Window) {
        let mut frame = 0u64;
        assert!(self.grant_table(1, &raw mut frame) == 0);
        window.open(frame, self.domid);
        mm::poke(window.at + 8 * 8, self.frames[DATA] << 32 | u64::from(GTF_PERMIT_ACCESS));
        window.close();
    }

    fn unpause(&self) {
        must(&mut Unpause { domid: self.domid.into(), ..Unpause::new() });
    }

    fn destroy(&self) -> u64 {
        let mut destroy = Destroy { domid: self.domid.into(), ..Destroy::new() };
        must(&mut destroy);
        destroy.held_pages
    }

    /// Waits until it has shut down, and says how.
    fn wait_for_end(&self, virq: u32) -> u32 {
        loop {
            event::clear(virq);
            let info = self.info();
            if info.state & DOMAIN_SHUTDOWN != 0 {
                return info.shutdown_reason;
            }
            wait(virq);
        }
    }
}

fn grant_op<T>(command: u32, argument: &mut T) -> i64 {
    call(Hypercall::GrantTableOp, &[u64::from(command), &raw mut *argument as u64, 1])
}

/// Waits until a port is pending.
fn wait(port: u32) {
    let mut port = port;
    let mut poll = SchedPoll { ports: &raw mut port as u64, nr_ports: 1, ..Default::default() };
    let answer = claim::hypercall::command(Hypercall::SchedOp, SCHEDOP_POLL, &mut poll);
    assert!(answer == 0, "poll: {}", Answer(answer));
}

fn host() -> HostInfo {
    let mut host = HostInfo::new();
    must(&mut host);
    let parts = host.free_pages + host.hypervisor_pages + host.domain_pages + host.outstanding_pages;
    assert!(host.total_pages == parts, "memory does not add up");
    host
}

fn run() {
    event::shared();
    version();
    let window = Window::new();
    let Ok(virq) = event::bind_virq(VIRQ_DOM_EXC, 0) else { panic!("no VIRQ_DOM_EXC") };
    limits(&window);
    conversation(&window, virq, true);
    crash(&window, virq);
    zombie(&window);
    refused();
    hundred(&window, virq);
    failures();
}

fn version() {
    let mut version = Version::new();
    ask!("version", ask_control(&mut version));
    say!("abi {} operations {}", version.abi, version.operations as usize == OPERATIONS.len());
    let mut short = [8u32, OP_VERSION];
    ask!("the shortest request", call(Hypercall::Control, &[short.as_mut_ptr() as u64]));
    let mut long = [0u64; 8];
    long[0] = u64::from(OP_VERSION) << 32 | 64;
    ask!("a longer request", call(Hypercall::Control, &[long.as_mut_ptr() as u64]));
    (long[0], long[7]) = (u64::from(OP_VERSION) << 32 | 64, 1);
    ask!("a longer request that asks for more", call(Hypercall::Control, &[long.as_mut_ptr() as u64]));
    let mut unknown = [8u32, 1000];
    ask!("an unknown operation", call(Hypercall::Control, &[unknown.as_mut_ptr() as u64]));
    ask!("no request", call(Hypercall::Control, &[0x1000]));
}

/// What a domain may have, before it runs.
fn limits(window: &Window) {
    let mut child = Child::create();
    let info = child.info();
    say!("created: state {:#x}, pages {} of {}", info.state, info.pages, info.max_pages);
    say!("handle {}, vcpus {} of {}", &info.handle == b"sixteen of bytes", info.vcpus, info.max_vcpus);
    let mut frames = child.frames;
    core::mem::swap(&mut child.frames, &mut frames);
    say!("more pages than it may have: {}", child.populate(1));
    must(&mut SetMaxMem { domid: child.domid.into(), max_pages: 9, ..SetMaxMem::new() });
    say!("with another limit: {}", child.populate(1));
    child.frames = frames;
    let mut limits = SetLimits { domid: child.domid.into(), max_grant_frames: 3, ..SetLimits::new() };
    ask!("set limits", ask_control(&mut limits));
    let mut table = [0u64; 4];
    say!(
        "more frames of its grant table than it may have: {}",
        Answer(child.grant_table(4, table.as_mut_ptr()))
    );
    say!("its grant table: {}", Answer(child.grant_table(3, table.as_mut_ptr())));
    ask!("a writable mapping of its last frame", window.set(table[2] << 12 | WRITABLE, child.domid));
    window.close();
    say!("grant frames {} of {}", child.info().grant_frames, child.info().max_grant_frames);
    ask!(
        "vCPUs again",
        ask_control(&mut MaxVcpus { domid: child.domid.into(), vcpus: 1, ..MaxVcpus::new() })
    );
    ask!(
        "other vCPUs",
        ask_control(&mut MaxVcpus { domid: child.domid.into(), vcpus: 2, ..MaxVcpus::new() })
    );
    ask!("an empty root", child.pin());
    ask!("a writable mapping of it", window.set(child.frames[L4] << 12 | WRITABLE, child.domid));
    ask!("no root again", child.mmuext(MMUEXT_UNPIN_TABLE));
    ask!("a page that is another's", window.set(mm::mfn_of(window.at) << 12 | WRITABLE, child.domid));
    child.fill(window, 0, false);
    let mut bad = child.context();
    bad.ctrlreg[3] = pfn_to_cr3(mm::mfn_of(window.at));
    ask!("a context with another's root", child.set_context(&bad));
    bad = child.context();
    bad.user_regs.rip = 1 << 63;
    ask!("a context that begins nowhere", child.set_context(&bad));
    ask!("a context", child.set_context(&child.context()));
    ask!("a context again", child.set_context(&child.context()));
    let mut seen = VcpuGuestContext::default();
    let mut get = GetVcpuContext { domid: child.domid.into(), ..GetVcpuContext::new() };
    get.context = &raw mut seen as u64;
    ask!("read it", ask_control(&mut get));
    let same = seen.user_regs.rip == BASE && seen.ctrlreg[3] == child.context().ctrlreg[3];
    say!("it is the one: {same}");
    let mut kinds = [99u32; PAGES];
    let mut pages = PageInfo {
        domid: child.domid.into(),
        count: PAGES as u32,
        frames: child.frames.as_ptr() as u64,
        types: kinds.as_mut_ptr() as u64,
        ..PageInfo::new()
    };
    ask!("kinds of pages", ask_control(&mut pages));
    say!("{kinds:?}");
    claims(&mut child);
    say!("destroyed, held pages {}", child.destroy());
    say!("claimed {}", host().outstanding_pages);
    ask!("ask about it", ask_control(&mut DomainInfo { domid: child.domid.into(), ..DomainInfo::new() }));
}

/// Memory that is promised to a domain; it keeps a claim.
fn claims(child: &mut Child) {
    let has = child.info().pages;
    must(&mut SetMaxMem { domid: child.domid.into(), max_pages: has + 3, ..SetMaxMem::new() });
    let domid = child.domid.into();
    let claim = |pages| ask_control(&mut Claim { domid, pages, ..Claim::new() });
    ask!("a claim of more than it may have", claim(has + 4));
    ask!("a claim", claim(has + 3));
    ask!("a claim again", claim(has + 2));
    say!("claimed {}, of all domains {}", child.info().outstanding_pages, host().outstanding_pages);
    let frames = child.frames;
    say!("more pages: {}", child.populate(2));
    child.frames = frames;
    say!("claimed {}, of all domains {}", child.info().outstanding_pages, host().outstanding_pages);
    ask!("the claim taken back", claim(0));
    say!("claimed {}, of all domains {}", child.info().outstanding_pages, host().outstanding_pages);
    ask!("a claim that its end takes back", claim(has + 3));
}

/// A domain runs and talks; says what happens if `aloud`.
fn conversation(window: &Window, virq: u32, aloud: bool) {
    let child = Child::create();
    let Ok(port) = event::alloc_unbound(child.domid) else { panic!("no port") };
    child.fill(window, port, false);
    assert!(child.pin() == 0, "pin");
    child.seed_grant(window);
    assert!(child.set_context(&child.context()) == 0, "context");
    child.unpause();
    wait(port);
    event::clear(port);
    // By its grant the page is seen, answered, and let go.
    let mut map = GnttabMapGrantRef {
        host_addr: window.at,
        flags: GNTMAP_HOST_MAP,
        grant: 8,
        dom: child.domid,
        ..Default::default()
    };
    assert!(grant_op(GNTTABOP_MAP_GRANT_REF, &mut map) == 0 && map.status == GNTST_OKAY);
    let word = |offset| mm::peek(window.at + offset);
    if aloud {
        ask!("the child's control call", word(at::CONTROL) as i64);
        ask!("the child's console call", word(at::CONSOLE) as i64);
        ask!("the child bound", word(at::BOUND) as i64);
        say!("it answered {}", word(at::ANSWER));
        let mut holders = Holders { domid: child.domid.into(), count: 4, ..Holders::new() };
        let mut records = [Holder { domid: 99, kind: 99, pages: 99 }; 4];
        holders.buffer = records.as_mut_ptr() as u64;
        ask!("who holds its pages", ask_control(&mut holders));
        say!(
            "{} record: domain {} kind {} pages {}",
            holders.count,
            records[0].domid,
            records[0].kind,
            records[0].pages
        );
        vcpu(&child);
    }
    assert!(word(at::ANSWER) == 42, "answer {}", word(at::ANSWER));
    mm::poke(window.at + at::GO_ON, 1);
    let mut unmap = GnttabUnmapGrantRef { host_addr: window.at, handle: map.handle, ..Default::default() };
    assert!(grant_op(GNTTABOP_UNMAP_GRANT_REF, &mut unmap) == 0 && unmap.status == GNTST_OKAY);
    window.close();
    assert!(event::send(port) == 0, "send");
    let reason = child.wait_for_end(virq);
    if aloud {
        say!("it ended for reason {reason}");
        ask!("pause it now", ask_control(&mut Pause { domid: child.domid.into(), ..Pause::new() }));
    }
    assert!(reason == SHUTDOWN_SUSPEND, "reason {reason}");
    assert!(child.destroy() == 0, "held");
    assert!(event::close(port) == 0, "close");
}

fn vcpu(child: &Child) {
    let mut info = VcpuInfo { domid: child.domid.into(), ..VcpuInfo::new() };
    ask!("its vCPU", ask_control(&mut info));
    say!("online {} initialised {}", info.flags & VCPU_ONLINE != 0, info.flags & VCPU_INITIALISED != 0);
    say!("it has run: {}", info.cpu_time > 0);
    let mut share = GetSched { domid: child.domid.into(), ..GetSched::new() };
    ask!("its share", ask_control(&mut share));
    say!("weight {} cap {}", share.weight, share.cap);
    let set = SetSched { domid: child.domid.into(), weight: 512, ..SetSched::new() };
    ask!("another share", ask_control(&mut { set }));
    ask!("a cap", ask_control(&mut SetSched { cap: 50, set_cap: 1, ..set }));
    let mut affinity = SetAffinity { domid: child.domid.into(), flags: AFFINITY_HARD, ..SetAffinity::new() };
    affinity.hard[0] = 1;
    ask!("an affinity", ask_control(&mut affinity));
    affinity.hard = [0; 16];
    ask!("no CPU at all", ask_control(&mut affinity));
}

/// A kernel that faults without a handler costs only itself.
fn crash(window: &Window, virq: u32) {
    let child = Child::create();
    child.fill(window, 0, true);
    assert!(child.set_context(&child.context()) == 0, "context");
    child.unpause();
    say!("a child without handlers ended for reason {}", child.wait_for_end(virq));
    let mut get = GetVcpuContext { domid: child.domid.into(), ..GetVcpuContext::new() };
    let mut seen = VcpuGuestContext::default();
    get.context = &raw mut seen as u64;
    must(&mut get);
    say!("where: +{:#x}", seen.user_regs.rip - BASE);
    say!("destroyed, held pages {}", child.destroy());
}

/// A page that somebody still maps keeps a destroyed domain known.
fn zombie(window: &Window) {
    let before = host();
    let child = Child::create();
    let port = event::alloc_unbound(child.domid).unwrap_or(0);
    child.fill(window, port, false);
    window.open(child.frames[DATA], child.domid);
    say!("destroyed while mapped, held pages {}", child.destroy());
    let info = child.info();
    say!("state {:#x} pages {}", info.state, info.pages);
    let mut records = [Holder { domid: 99, kind: 99, pages: 99 }; 4];
    let mut holders = Holders { domid: child.domid.into(), count: 4, ..Holders::new() };
    holders.buffer = records.as_mut_ptr() as u64;
    ask!("who holds them", ask_control(&mut holders));
    say!(
        "{} record: domain {} kind {} pages {}",
        holders.count,
        records[0].domid,
        records[0].kind,
        records[0].pages
    );
    say!("the page still reads {}", mm::peek(window.at + at::QUESTION));
    ask!("unpause a zombie", ask_control(&mut Unpause { domid: child.domid.into(), ..Unpause::new() }));
    let mut again = Child { domid: child.domid, frames: [0; PAGES] };
    say!("pages for a zombie: {}", again.populate(1));
    window.close();
    ask!(
        "and when it is let go",
        ask_control(&mut DomainInfo { domid: child.domid.into(), ..DomainInfo::new() })
    );
    event::close(port);
    let after = host();
    say!("domains {} as before {}", after.domains, after.domains == before.domains);
}

fn refused() {
    let dom = u32::from(DOMID_SELF);
    ask!("pause oneself", ask_control(&mut Pause { domid: dom, ..Pause::new() }));
    ask!("destroy oneself", ask_control(&mut Destroy { domid: 0, ..Destroy::new() }));
    ask!("destroy nobody", ask_control(&mut Destroy { domid: 77, ..Destroy::new() }));
    ask!("a domain of our number", ask_control(&mut Create { domid: 0, max_vcpus: 1, ..Create::new() }));
    ask!("a domain without vCPUs", ask_control(&mut Create { domid: ANY_DOMID, ..Create::new() }));
    let many = Create { domid: ANY_DOMID, max_vcpus: 1 << 20, ..Create::new() };
    ask!("a domain with too many", ask_control(&mut { many }));
    ask!("an unknown flag", ask_control(&mut Create { flags: 1, max_vcpus: 1, ..many }));
    let mut next = DomainInfo { domid: 0, ..DomainInfo::new() };
    ask!("oneself", ask_control(&mut next));
    say!("state {:#x}", next.state & DOMAIN_PRIVILEGED);
    next = DomainInfo { domid: 1, flags: INFO_NEXT, ..DomainInfo::new() };
    ask!("the next domain", ask_control(&mut next));
    let mut cpus = CpuTopologyInfo { count: 1, ..CpuTopologyInfo::new() };
    let mut cpu = CpuTopology { cpu: 99, flags: 0, apic_id: 0, core: 0, socket: 0, node: 0 };
    cpus.buffer = &raw mut cpu as u64;
    ask!("CPUs", ask_control(&mut cpus));
    say!("{} record: cpu {} flags {}", cpus.count, cpu.cpu, cpu.flags);
    let log = [0u8; 64];
    let mut console = ReadConsole { count: 64, buffer: log.as_ptr() as u64, flags: 4, ..ReadConsole::new() };
    ask!("the log, with an unknown flag", ask_control(&mut console));
    console.flags = 0;
    ask!("the log", ask_control(&mut console));
}

/// A hundred lives and deaths leave no trace.
fn hundred(window: &Window, virq: u32) {
    // Heaps and tables of the hypervisor's have their size after the first.
    conversation(window, virq, false);
    let before = host();
    for round in 0..100 {
        conversation(window, virq, false);
        let now = host();
        assert!(
            now.free_pages == before.free_pages,
            "round {round}: {} pages are missing",
            before.free_pages as i64 - now.free_pages as i64
        );
    }
    say!("a hundred domains came and went");
    say!("domains {}", host().domains);
}

fn failures() {
    let mut records =
        [Failure { sequence: 0, time: 0, op: 0, domid: 0, errno: 0, caller: 0, reason: [0; REASON] }; 4];
    let mut failures = Failures {
        buffer: records.as_mut_ptr() as u64,
        count: 4,
        record_size: size_of::<Failure>() as u32,
        ..Failures::new()
    };
    ask!("failures", ask_control(&mut failures));
    for failure in &records[..failures.count as usize] {
        let end = failure.reason.iter().position(|byte| *byte == 0).unwrap_or(REASON);
        let reason = core::str::from_utf8(&failure.reason[..end]).unwrap_or("?");
        let name = OPERATIONS.iter().find(|row| row.0 == failure.op).map_or("?", |row| row.1);
        say!("{name}: {:?}: {reason}", Errno(failure.errno as i32));
    }
}
