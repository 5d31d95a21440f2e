//! A virtual CPU of this machine: what the processor must hold when it runs, and where its kernel wants to be entered.
//!
//! Every [`Cell`] belongs to the CPU that runs the vCPU, or to whoever holds it while it does not run (I-VC-1);
//! what other CPUs may touch is atomic or behind a lock.

use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hv_core::mmu::{CpuSet, VcpuMmu};
use hv_core::sched::{Reasons, VcpuSched};
use hv_core::time::VcpuTimers;
use hv_pv::emulate::port::ControlState;
use hv_pv::regs::{Mode, Regs};
use hv_pv::trap::{Handler, TrapEntry};
use hv_types::VcpuId;
use spin::Mutex;

use crate::cpu;
use crate::dev::time;
use crate::domain::Domain;
use crate::fpu;
use crate::mem::{self, PAGE};
use crate::paging::Window;
use crate::percpu::{Cpu, this_cpu};

/// Callbacks a kernel registers (`CALLBACKTYPE_*`).
#[derive(Default)]
pub struct Callbacks {
    /// Pending events.
    pub event: Cell<Option<Handler>>,
    /// A return to the guest that the processor refused.
    pub failsafe: Cell<Option<Handler>>,
    /// SYSCALL from 64-bit user mode.
    pub syscall: Cell<Option<Handler>>,
    /// SYSCALL from 32-bit user mode.
    pub syscall32: Cell<Option<Handler>>,
    /// SYSENTER from user mode.
    pub sysenter: Cell<Option<Handler>>,
}

/// Segment bases that the processor holds while a vCPU runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bases {
    /// FS.
    pub fs: u64,
    /// GS of the present mode.
    pub gs: u64,
    /// GS of the other mode.
    pub other_gs: u64,
}

/// A vCPU's timers and the CPU whose queue has them.
pub struct Timers {
    /// The timers.
    pub set: VcpuTimers,
    /// The CPU.
    pub cpu: u32,
}

/// One virtual CPU.
pub struct Vcpu {
    /// Number within the domain.
    pub id: u16,
    /// The domain it belongs to.
    pub domain: &'static Domain,
    /// Whether the guest's kernel or its user programs run.
    pub mode: Cell<Mode>,
    /// `vcpu_info` as the hypervisor sees it; mapped for as long as the vCPU lives.
    pub info: Cell<*mut u8>,
    /// Machine address of the page that is its `vcpu_info` until it registers one, if the shared page has no room for it.
    pub spare_info: Option<u64>,
    /// Roots and descriptor tables, held by the core's references.
    pub mmu: VcpuMmu,
    /// Where the GDT and the LDT are mapped.
    pub window: Window,
    /// Entries of the LDT that is loaded.
    pub ldt_entries: Cell<u32>,
    /// It has a context, so that it can come up.
    pub initialised: AtomicBool,
    /// CPU that runs it or holds its registers, or [`NO_CPU`].
    on_cpu: AtomicU32,
    /// CPU that ran it last, or [`NO_CPU`].
    last_cpu: AtomicU32,
    /// CPUs it may run on.
    pub affinity: Mutex<CpuSet>,
    /// CPUs it likes to run on.
    pub soft_affinity: Mutex<CpuSet>,
    /// Stack for entries from user mode (`stack_switch`).
    pub kernel_sp: Cell<u64>,
    /// Where the kernel wants to be entered.
    pub callbacks: Callbacks,
    /// The virtual IDT.
    pub traps: [Cell<TrapEntry>; 256],
    /// Privileged registers as the guest sees them.
    pub control: UnsafeCell<ControlState>,
    /// Registers while the vCPU does not run.
    pub saved: Cell<Regs>,
    /// XCR0 as the guest set it.
    pub xcr0: Cell<u64>,
    /// Floating-point state while the vCPU does not run.
    pub fpu: fpu::Area,
    /// Segment bases while the vCPU does not run.
    pub bases: Cell<Bases>,
    /// DS, ES, FS, GS while the vCPU does not run.
    pub selectors: Cell<[u16; 4]>,
    /// Why it does not run, and where its time went.
    pub sched: VcpuSched,
    /// Its timers, in the queue of the CPU that ran it last.
    pub timers: Mutex<Timers>,
    /// Its poll timer runs.
    pub polls: Cell<bool>,
    /// Where the guest wants its runstate written; 0: nowhere.
    pub runstate_area: AtomicU64,
    /// Where the guest wants a copy of its clock; 0: nowhere.
    pub time_area: AtomicU64,
    /// Version last written there.
    pub time_area_version: Cell<u32>,
    /// An NMI waits for delivery.
    pub nmi_pending: AtomicBool,
}

// SAFETY: I-VC-1: cells are touched only by the CPU that runs or holds the vCPU.
unsafe impl Sync for Vcpu {}
// SAFETY: as above.
unsafe impl Send for Vcpu {}

impl Vcpu {
    /// The event mask and the pending flag live in the guest's memory; both are single bytes at fixed places
    /// (`struct vcpu_info`).
    #[inline(always)]
    pub fn upcall_mask(&self) -> u8 {
        // SAFETY: `info` is mapped and at least 64 bytes long; the guest may write at any time, hence volatile.
        unsafe { self.info.get().add(1).read_volatile() }
    }

    /// Sets the event mask.
    #[inline(always)]
    pub fn set_upcall_mask(&self, mask: u8) {
        // SAFETY: as for `upcall_mask`.
        unsafe { self.info.get().add(1).write_volatile(mask) };
    }

    /// True if events are pending and not masked: one look at both bytes.
    #[inline(always)]
    pub fn wants_upcall(&self) -> bool {
        // SAFETY: `info` is aligned to eight bytes and mapped.
        let both = unsafe { self.info.get().cast::<u16>().read_volatile() };
        both & 0xff != 0 && both >> 8 == 0
    }

    /// Tells the guest the address of a page fault (`vcpu_info.arch.cr2`).
    #[inline(always)]
    pub fn set_cr2(&self, address: u64) {
        // SAFETY: as for `upcall_mask`; the field is the third word.
        unsafe { self.info.get().add(16).cast::<u64>().write_volatile(address) };
    }

    /// The address last given by [`Vcpu::set_cr2`], or what the guest wrote there.
    pub fn cr2(&self) -> u64 {
        // SAFETY: as for `set_cr2`.
        unsafe { self.info.get().add(16).cast::<u64>().read_volatile() }
    }

    /// Root table of a mode.
    #[inline(always)]
    pub fn root(&self, mode: Mode) -> u64 {
        let root = match mode {
            Mode::Kernel => self.mmu.kernel_root(),
            Mode::User => self.mmu.user_root(),
        };
        // Without a root the hypervisor's own would do; the callers have checked that there is one.
        root.map_or(0, |mfn| mfn.0 << 12)
    }

    /// Goes from user mode to kernel mode or back: exchanges the GS bases and loads the other root.
    #[inline(always)]
    pub fn toggle(&self) {
        let mode = match self.mode.get() {
            Mode::Kernel => Mode::User,
            Mode::User => Mode::Kernel,
        };
        self.mode.set(mode);
        // SAFETY: the hypervisor does not use GS; both roots are validated tables held by this vCPU (I-PT-2), and
        // the caller has checked that a user root exists.
        unsafe {
            core::arch::asm!("swapgs", options(nomem, nostack, preserves_flags));
            crate::tlb::change_mode(this_cpu(), self.root(mode), mode);
        }
    }

    /// Does something in the address space of the kernel, whose memory a user root does not map. The vCPU runs here.
    pub fn on_kernel_tables(&self, f: impl FnOnce()) {
        let cpu = this_cpu();
        debug_assert!(core::ptr::eq(self, cpu.current.load(Ordering::Relaxed)));
        let mode = self.mode.get();
        if mode == Mode::Kernel {
            return f();
        }
        // SAFETY: a running vCPU's roots are validated tables that it holds (I-PT-2).
        unsafe { crate::tlb::change_mode(cpu, self.root(Mode::Kernel), Mode::Kernel) };
        f();
        // SAFETY: as above; it is in user mode, so that there is a user root.
        unsafe { crate::tlb::change_mode(cpu, self.root(mode), mode) };
    }

    /// CPU that runs it.
    pub fn cpu(&self) -> Option<u32> {
        Some(self.on_cpu.load(Ordering::Acquire)).filter(|cpu| *cpu != NO_CPU)
    }

    /// This CPU takes it. Whoever makes an event pending from here on knows where to knock.
    pub fn taken_by(&self, cpu: u32) {
        self.last_cpu.store(cpu, Ordering::Relaxed);
        self.on_cpu.store(cpu, Ordering::SeqCst);
    }

    /// Its CPU has saved it: another one may take it.
    pub fn let_go(&self) {
        self.on_cpu.store(NO_CPU, Ordering::Release);
    }

    /// CPU that ran it last.
    pub fn last_cpu(&self) -> Option<u32> {
        Some(self.last_cpu.load(Ordering::Acquire)).filter(|cpu| *cpu != NO_CPU)
    }

    /// What CPUs have loaded of it is worthless: it was given another context.
    pub fn forget_cpu(&self) {
        self.last_cpu.store(NO_CPU, Ordering::Release);
    }

    /// A vCPU that has never run, down, with the `vcpu_info` that the core has for it (nobody's for those the shared page
    /// has no room for). It may begin on `home`.
    pub fn new(id: u16, domain: &'static Domain, home: &Cpu) -> Option<Vcpu> {
        let window = domain.area.window(usize::from(id))?;
        let place = domain.events.vcpu(VcpuId(id))?.info();
        let fpu = fpu::Area::new()?;
        let timers = VcpuTimers::add(&mut home.timers.lock(), domain.id, VcpuId(id)).ok()?;
        let (info, spare_info) = match place {
            Some((mfn, offset)) => (mem::phys_to_virt(mfn.0 * PAGE + offset as u64), None),
            None => match mem::take_frame() {
                Some(page) => (mem::phys_to_virt(page), Some(page)),
                None => {
                    timers.remove(&mut home.timers.lock());
                    return None;
                }
            },
        };
        // SAFETY: `vcpu_info` is mapped for good; its second byte is the event mask, set until the kernel is ready.
        unsafe { info.add(1).write_volatile(1) };
        Some(Vcpu {
            id,
            domain,
            mode: Cell::new(Mode::Kernel),
            info: Cell::new(info),
            spare_info,
            mmu: VcpuMmu::new(),
            window,
            ldt_entries: Cell::new(0),
            initialised: AtomicBool::new(false),
            on_cpu: AtomicU32::new(NO_CPU),
            last_cpu: AtomicU32::new(NO_CPU),
            affinity: Mutex::new(CpuSet::ALL),
            soft_affinity: Mutex::new(CpuSet::ALL),
            kernel_sp: Cell::new(0),
            callbacks: Callbacks::default(),
            traps: [const { Cell::new(TrapEntry::EMPTY) }; 256],
            control: UnsafeCell::new(ControlState::new(&crate::emulate::cr4_policy())),
            saved: Cell::new(Regs::default()),
            xcr0: Cell::new(1),
            fpu,
            bases: Cell::new(Bases::default()),
            selectors: Cell::new([0; 4]),
            sched: VcpuSched::new(Reasons::DOWN, time::now()),
            timers: Mutex::new(Timers { set: timers, cpu: home.id }),
            polls: Cell::new(false),
            runstate_area: AtomicU64::new(0),
            time_area: AtomicU64::new(0),
            time_area_version: Cell::new(0),
            nmi_pending: AtomicBool::new(false),
        })
    }
}

/// No CPU runs it.
const NO_CPU: u32 = u32::MAX;

/// The vCPU whose registers are on this CPU's stack. Called on paths that a guest entered.
#[inline(always)]
pub fn current() -> &'static Vcpu {
    // SAFETY: on a path entered from ring 3 the record names the running vCPU, which is not freed while it runs.
    unsafe { &*this_cpu().current.load(Ordering::Relaxed) }
}

impl Vcpu {
    /// The privileged registers, for one short use.
    ///
    /// The closure must not lead back here; nothing it is given does.
    #[inline(always)]
    pub fn with_control<R>(&self, f: impl FnOnce(&mut ControlState) -> R) -> R {
        // SAFETY: I-VC-1, and no caller nests.
        f(unsafe { &mut *self.control.get() })
    }

    /// Sets CR0.TS as the guest sees it, and the processor's while the vCPU runs.
    pub fn set_task_switched(&self, set: bool) {
        self.with_control(|c| c.task_switched = set);
        load_task_switched(set);
    }
}

/// Makes the guest's FPU instructions trap, or not.
pub fn load_task_switched(set: bool) {
    let cr0 = cpu::cr0();
    if (cr0 & CR0_TS != 0) != set {
        // SAFETY: TS only makes the guest's FPU instructions trap; the hypervisor uses none.
        unsafe { cpu::set_cr0(cr0 ^ CR0_TS) };
    }
}

const CR0_TS: u64 = 1 << 3;
