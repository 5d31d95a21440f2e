//! FIFO events: a word a port in the event array, sixteen queues a vCPU linked through those words.
//!
//! The guest owns the words' memory and may write anything there. The hypervisor trusts only what it keeps
//! itself: the tail of each queue and the queue each event was last put on. A hostile word can lose the guest's
//! own events; it cannot make a loop here longer or an address different.

use super::channel::{Channel, LastQueue};
use super::{DomainEvents, Entry, FramePin, Wake};
use crate::fallible::boxed;
use crate::port::Memory;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, MutexGuard};
use alloc::boxed::Box;
use core::sync::atomic::Ordering;
use guest_abi::Errno;
use guest_abi::event_channel::{
    EVTCHN_2L_NR_CHANNELS, EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED,
    EVTCHN_FIFO_MAX_QUEUES, EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PENDING, EvtchnFifoControlBlock,
};
use hv_types::{Gfn, Mfn, PAGE_SIZE, Port, VcpuId};
use spin::Once;

const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;
const WORDS_PER_FRAME: u32 = (PAGE_SIZE / 4) as u32;
const MAX_FRAMES: u32 = EVTCHN_FIFO_NR_CHANNELS / WORDS_PER_FRAME;
const QUEUES: usize = EVTCHN_FIFO_MAX_QUEUES as usize;
/// 32-bit words from the start of a control block to the queues' heads.
const HEADS: usize = core::mem::offset_of!(EvtchnFifoControlBlock, head) / 4;
/// What a guest may do to a linked word by the protocol makes an exchange fail this often at most.
const LINK_TRIES: u32 = 5;
/// How often an event's queue may change under a sender before the event is dropped.
const QUEUE_TRIES: u32 = 4;

/// A domain's event array.
pub(super) struct Fifo {
    on: AtomicBool,
    frames: Once<Box<[AtomicU64]>>,
    count: AtomicU32,
}

/// A vCPU's queues; behind its queue lock.
pub(super) struct Queues {
    control: Option<ControlBlock>,
    /// Last port of each queue; 0: empty as far as the hypervisor knows.
    tails: [u32; QUEUES],
}

/// Where the guest put a vCPU's control block.
#[derive(Clone, Copy)]
struct ControlBlock {
    mfn: Mfn,
    /// Its first 32-bit word in the frame; even.
    word: usize,
}

impl Queues {
    pub const fn new() -> Self {
        Queues { control: None, tails: [0; QUEUES] }
    }
}

impl Fifo {
    pub fn new() -> Self {
        Fifo { on: AtomicBool::new(false), frames: Once::new(), count: AtomicU32::new(0) }
    }

    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// Frame and index of a port's word, if the array reaches that far. Under a queue lock, with FIFO on.
    #[inline]
    fn word(&self, port: Port) -> Option<(Mfn, usize)> {
        let frame = port.0 / WORDS_PER_FRAME;
        if frame >= self.count.load(Ordering::Acquire) {
            return None;
        }
        let slot = self.frames.get()?.get(frame as usize)?;
        Some((Mfn(slot.load(Ordering::Acquire)), (port.0 % WORDS_PER_FRAME) as usize))
    }
}

#[inline]
fn or32<M: Memory>(mem: &M, (mfn, index): (Mfn, usize), bits: u32) -> u32 {
    let shift = index % 2 * 32;
    (mem.fetch_or64(mfn, index / 2, u64::from(bits) << shift) >> shift) as u32
}

#[inline]
fn clear32<M: Memory>(mem: &M, (mfn, index): (Mfn, usize), bits: u32) -> u32 {
    let shift = index % 2 * 32;
    (mem.fetch_and64(mfn, index / 2, !(u64::from(bits) << shift)) >> shift) as u32
}

/// Makes the tail word point to `port`, if it is still linked; true if `port` need not become the head.
///
/// While the tail is linked a guest may only flip `MASKED`, clear `PENDING` and clear `LINKED`; `BUSY` keeps it
/// from unmasking. A guest that does more loses this event.
fn append<M: Memory>(mem: &M, tail: (Mfn, usize), port: Port) -> bool {
    for attempt in 0..LINK_TRIES {
        let word = mem.load32(tail.0, tail.1);
        if word & LINKED == 0 {
            if word & BUSY != 0 {
                clear32(mem, tail, BUSY);
            }
            return false;
        }
        let linked = word & !(BUSY | EVTCHN_FIFO_LINK_MASK) | port.0;
        if mem.compare_exchange32(tail.0, tail.1, word, linked).is_ok() {
            return true;
        }
        if attempt == 0 {
            or32(mem, tail, BUSY);
        }
    }
    clear32(mem, tail, BUSY);
    true
}

/// The queue locks of an event's vCPU and of the vCPU it was last queued on.
struct Locked<'a> {
    new: MutexGuard<'a, Queues>,
    old: Option<MutexGuard<'a, Queues>>,
}

impl Locked<'_> {
    /// An event that is the tail of the queue it leaves takes the queue's tail with it: the queue is empty.
    fn leave(&mut self, last: LastQueue, port: Port) {
        let queues = self.old.as_mut().unwrap_or(&mut self.new);
        if let Some(tail) = queues.tails.get_mut(usize::from(last.priority))
            && *tail == port.0
        {
            *tail = 0;
        }
    }
}

impl DomainEvents {
    #[inline]
    fn lock_queues(&self, new: VcpuId, old: VcpuId) -> Option<Locked<'_>> {
        let first = self.vcpu(new)?;
        if new == old {
            return Some(Locked { new: first.queues.lock(), old: None });
        }
        let second = self.vcpu(old)?;
        Some(if new < old {
            let new = first.queues.lock();
            Locked { new, old: Some(second.queues.lock()) }
        } else {
            let old = second.queues.lock();
            Locked { new: first.queues.lock(), old: Some(old) }
        })
    }

    pub(super) fn raise_fifo<P: Memory + Wake>(
        &self,
        ports: &P,
        port: Port,
        channel: &Channel,
        entry: Entry,
    ) {
        for _ in 0..QUEUE_TRIES {
            let last = channel.last_queue();
            let Some(mut locked) = self.lock_queues(entry.vcpu, last.vcpu) else { return };
            if channel.last_queue() != last {
                continue;
            }
            let (news, upcall) = self.set_pending(ports, &mut locked, port, channel, entry);
            drop(locked);
            if upcall {
                self.mark(ports, entry.vcpu);
            }
            if news {
                self.wake_pollers(ports, port);
            }
            return;
        }
        self.lost(port);
    }

    #[cold]
    fn lost(&self, port: Port) {
        log::warn!("d{}: port {port}: event lost, its queue changed too often", self.dom.0);
    }

    /// Sets the word pending and queues it if that is due. Answers whether it was not pending before, and whether
    /// the vCPU's queue became ready.
    fn set_pending<M: Memory>(
        &self,
        mem: &M,
        locked: &mut Locked<'_>,
        port: Port,
        channel: &Channel,
        entry: Entry,
    ) -> (bool, bool) {
        if !self.fifo.is_on() {
            return (false, false);
        }
        let Some(word) = self.fifo.word(port) else {
            channel.save_pending();
            return (false, false);
        };
        // No control block: the guest must not unmask an event of such a vCPU, so nothing is lost.
        let Some(control) = locked.new.control else { return (false, false) };
        let old = or32(mem, word, PENDING);
        let news = old & PENDING == 0;
        // Both bits count as they were when PENDING was set: a guest that unmasks or unlinks later sees PENDING.
        if old & (MASKED | LINKED) != 0 || or32(mem, word, LINKED) & LINKED != 0 {
            return (news, false);
        }
        let (last, next) = (channel.last_queue(), LastQueue { vcpu: entry.vcpu, priority: entry.priority });
        locked.leave(last, port);
        if last != next {
            channel.set_last_queue(next);
        }
        let queue = usize::from(entry.priority) % QUEUES;
        let Some(tail) = locked.new.tails.get_mut(queue) else { return (news, false) };
        let previous = core::mem::replace(tail, port.0);
        let appended = previous != 0
            && self.fifo.word(Port(previous)).is_some_and(|tail_word| append(mem, tail_word, port));
        if appended {
            return (news, false);
        }
        mem.store32(control.mfn, control.word + HEADS + queue, port.0);
        let ready = 1 << queue;
        (news, or32(mem, (control.mfn, control.word), ready) & ready == 0)
    }

    /// A word's bits, read under the queue lock of vCPU 0 so that its frame cannot go.
    fn peek<M: Memory>(&self, mem: &M, port: Port) -> Option<u32> {
        let _queues = self.vcpu(VcpuId(0))?.queues.lock();
        if !self.fifo.is_on() {
            return None;
        }
        let (mfn, index) = self.fifo.word(port)?;
        Some(mem.load32(mfn, index))
    }

    fn clear_bits<M: Memory>(&self, mem: &M, port: Port, bits: u32) -> u32 {
        let Some(v) = self.vcpu(VcpuId(0)) else { return 0 };
        let _queues = v.queues.lock();
        if !self.fifo.is_on() {
            return 0;
        }
        self.fifo.word(port).map_or(0, |word| clear32(mem, word, bits))
    }

    pub(super) fn fifo_pending<M: Memory>(&self, mem: &M, port: Port) -> bool {
        self.peek(mem, port).is_some_and(|word| word & PENDING != 0)
    }

    pub(super) fn fifo_masked<M: Memory>(&self, mem: &M, port: Port) -> bool {
        self.peek(mem, port).is_none_or(|word| word & MASKED != 0)
    }

    /// True if the word is still on a queue: the port may not be allocated again.
    pub(super) fn fifo_busy<M: Memory>(&self, mem: &M, port: Port) -> bool {
        self.peek(mem, port).is_some_and(|word| word & LINKED != 0)
    }

    pub(super) fn clear_fifo<M: Memory>(&self, mem: &M, port: Port) {
        self.clear_bits(mem, port, PENDING);
    }

    pub(super) fn unmask_fifo<P: Memory + Wake>(
        &self,
        ports: &P,
        port: Port,
        channel: &Channel,
        entry: Entry,
    ) {
        if self.clear_bits(ports, port, MASKED) & PENDING != 0 {
            self.raise_fifo(ports, port, channel, entry);
        }
    }

    /// `EVTCHNOP_init_control`: gives a vCPU its control block; the first one switches the domain to FIFO.
    ///
    /// `-ENOENT`: no such vCPU; `-EINVAL`: the place crosses a page or is not aligned, the vCPU has one, or the
    /// frame will not do; `-ENOMEM`.
    pub fn init_control<P: Memory + FramePin>(
        &self,
        ports: &P,
        vcpu: VcpuId,
        gfn: Gfn,
        offset: u32,
    ) -> Result<(), Errno> {
        let v = self.vcpu(vcpu).ok_or(Errno::ENOENT)?;
        let room = PAGE_SIZE as u32 - size_of::<EvtchnFifoControlBlock>() as u32;
        if offset > room || !offset.is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        self.fifo.frames.try_call_once(|| boxed(MAX_FRAMES as usize, |_| AtomicU64::new(Mfn::INVALID.0)))?;
        // Pinning may wait for other CPUs: not under a lock.
        let mfn = ports.pin(self.dom, gfn)?;
        let _control = self.control.lock();
        let mut queues = v.queues.lock();
        if queues.control.is_some() {
            drop(queues);
            ports.unpin(self.dom, mfn);
            return Err(Errno::EINVAL);
        }
        queues.control = Some(ControlBlock { mfn, word: offset as usize / 4 });
        drop(queues);
        if !self.fifo.on.swap(true, Ordering::AcqRel) {
            self.save_two_level(ports);
        }
        Ok(())
    }

    /// Keeps what two-level events were pending until the event array has their words.
    fn save_two_level<M: Memory>(&self, mem: &M) {
        for port in (1..self.table.valid().min(EVTCHN_2L_NR_CHANNELS)).map(Port) {
            if self.two_level_pending(mem, port)
                && let Some(channel) = self.table.get(port)
            {
                channel.save_pending();
            }
        }
    }

    /// `EVTCHNOP_expand_array`: adds a frame of words, and raises what arrived before it.
    ///
    /// `-EOPNOTSUPP`: not FIFO; `-ENOSPC`: the array is complete; `-EINVAL`: the frame will not do.
    pub fn expand_array<P: Memory + Wake + FramePin>(&self, ports: &P, gfn: Gfn) -> Result<(), Errno> {
        self.next_slot()?;
        let mfn = ports.pin(self.dom, gfn)?;
        let _control = self.control.lock();
        let (count, slot) = match self.next_slot() {
            Ok(next) => next,
            Err(errno) => {
                ports.unpin(self.dom, mfn);
                return Err(errno);
            }
        };
        slot.store(mfn.0, Ordering::Release);
        self.fifo.count.store(count + 1, Ordering::Release);
        // Whoever saw the shorter array has saved its event once it has let go of its queue.
        self.pass_queues();
        let first = count * WORDS_PER_FRAME;
        for port in (first..(first + WORDS_PER_FRAME).min(self.table.valid())).map(Port) {
            if let Some(channel) = self.table.get(port)
                && channel.take_saved()
            {
                self.raise_fifo(ports, port, channel, channel.entry());
            }
        }
        Ok(())
    }

    /// Where the array's next frame goes, and how many it has.
    fn next_slot(&self) -> Result<(u32, &AtomicU64), Errno> {
        if !self.fifo.is_on() {
            return Err(Errno::EOPNOTSUPP);
        }
        let count = self.fifo.count.load(Ordering::Acquire);
        let slot = self.fifo.frames.get().and_then(|frames| frames.get(count as usize));
        slot.map(|slot| (count, slot)).ok_or(Errno::ENOSPC)
    }

    /// Takes each queue lock once.
    fn pass_queues(&self) {
        for v in &self.vcpus {
            drop(v.queues.lock());
        }
    }

    /// Back to two-level events; gives the frames back. The caller holds the event lock.
    pub(super) fn leave_fifo<P: FramePin>(&self, ports: &P) {
        if !self.fifo.on.swap(false, Ordering::SeqCst) {
            return;
        }
        // A sender that saw FIFO on holds a queue lock: behind all of them nobody writes to the array any more.
        for v in &self.vcpus {
            let queues = core::mem::replace(&mut *v.queues.lock(), Queues::new());
            if let Some(control) = queues.control {
                ports.unpin(self.dom, control.mfn);
            }
        }
        let count = self.fifo.count.swap(0, Ordering::AcqRel) as usize;
        for slot in self.fifo.frames.get().into_iter().flatten().take(count) {
            ports.unpin(self.dom, Mfn(slot.swap(Mfn::INVALID.0, Ordering::AcqRel)));
        }
    }
}
