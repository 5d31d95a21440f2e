//! Physical interrupts: which line belongs to which domain, under which number, and when it may fire again.
//!
//! A *line* is a source of interrupts of the machine, an [`Irq`]. A *pirq* is a domain's name for one. The table of
//! lines is read at every interrupt and takes no lock: a line is one word. A domain's table of pirqs is changed
//! by its hypercalls only, and its owner serialises those.
//!
//! What the guest owes after an interrupt depends on how the line is triggered. An edge or a message is
//! acknowledged before the event is sent and cannot be lost, so the guest owes nothing. A level stays asserted until the
//! guest's driver has looked at its device: the line is masked, acknowledged, and unmasked when the
//! guest says so (`PHYSDEVOP_eoi`). So no guest can hold up an interrupt of another one at the local APIC.

use core::sync::atomic::{AtomicU64, Ordering};

use guest_abi::Errno;
use hv_types::{DomId, Mfn, Pirq};

use crate::port::Memory;

/// A line: a global system interrupt below [`Routing::gsi_count`](crate::physdev::Routing::gsi_count), else a
/// message. An index into [`Lines`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Irq(pub u16);

/// Lines of a machine: as many as there are vectors for devices, and some GSIs that nothing uses.
pub const MAX_IRQS: usize = 512;
/// Pirqs that a domain can have.
pub const MAX_PIRQS: usize = 512;

/// How a line says that its device wants something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By a change: over when it is acknowledged. Messages (MSI) are of this kind too.
    Edge,
    /// By a state: fires again as long as the device is not served.
    Level,
}

/// What the interrupt controllers do to a line. Called with interrupts off.
pub trait Controller {
    /// Keeps the line from firing. Of an unknown line: nothing.
    fn mask(&self, irq: Irq);
    /// Lets the line fire again.
    fn unmask(&self, irq: Irq);
    /// Tells this CPU's local APIC that the interrupt in service is done with.
    fn acknowledge(&self);
}

const BOUND: u64 = 1 << 48;
const LEVEL: u64 = 1 << 49;
const IN_FLIGHT: u64 = 1 << 50;

fn word(domain: DomId, pirq: Pirq, trigger: Trigger) -> u64 {
    let level = if trigger == Trigger::Level { LEVEL } else { 0 };
    u64::from(pirq.0) | u64::from(domain.0) << 32 | BOUND | level
}

fn owner(word: u64) -> (DomId, Pirq) {
    (DomId((word >> 32) as u16), Pirq(word as u32))
}

/// All lines of the machine and who receives them.
pub struct Lines {
    words: [AtomicU64; MAX_IRQS],
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

impl Lines {
    /// No line is anybody's.
    pub const fn new() -> Self {
        Lines { words: [const { AtomicU64::new(0) }; MAX_IRQS] }
    }

    fn line(&self, irq: Irq) -> Option<&AtomicU64> {
        self.words.get(usize::from(irq.0))
    }

    /// Gives the line to a pirq of a domain. `EBUSY`: it is somebody's; `EINVAL`: there is no such line.
    pub fn bind(&self, irq: Irq, domain: DomId, pirq: Pirq, trigger: Trigger) -> Result<(), Errno> {
        let line = self.line(irq).ok_or(Errno::EINVAL)?;
        line.compare_exchange(0, word(domain, pirq, trigger), Ordering::AcqRel, Ordering::Acquire)
            .map_err(|_| Errno::EBUSY)?;
        Ok(())
    }

    /// Takes the line from its owner and leaves it masked; false if it was nobody's.
    pub fn unbind(&self, irq: Irq, controller: &impl Controller) -> bool {
        let Some(line) = self.line(irq) else { return false };
        let was = line.swap(0, Ordering::AcqRel);
        controller.mask(irq);
        was != 0
    }

    /// An interrupt of the line is in service on this CPU: acknowledges it, and names the pirq whose event is to
    /// be sent. An interrupt that nobody expects silences its line.
    #[inline]
    pub fn arrive(&self, irq: Irq, controller: &impl Controller) -> Option<(DomId, Pirq)> {
        let Some(line) = self.line(irq) else {
            controller.acknowledge();
            return None;
        };
        let mut now = line.load(Ordering::Acquire);
        if now & LEVEL != 0 {
            controller.mask(irq);
            // The owner may let go at this very moment: then the line is an orphan, and not in flight.
            let mark = |w: u64| (w & BOUND != 0).then_some(w | IN_FLIGHT);
            now = line.fetch_update(Ordering::AcqRel, Ordering::Acquire, mark).unwrap_or(0);
        }
        if now & BOUND == 0 {
            controller.mask(irq);
        }
        controller.acknowledge();
        (now & BOUND != 0).then(|| owner(now))
    }

    /// The guest has served the line. Without an interrupt in flight, or from a domain that does not own the line,
    /// nothing happens.
    #[inline]
    pub fn end(&self, irq: Irq, domain: DomId, controller: &impl Controller) {
        let Some(line) = self.line(irq) else { return };
        let now = line.load(Ordering::Acquire);
        if now & (BOUND | IN_FLIGHT) != BOUND | IN_FLIGHT || owner(now).0 != domain {
            return;
        }
        if line.compare_exchange(now, now & !IN_FLIGHT, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            controller.unmask(irq);
        }
    }

    /// True while the guest owes an end of interrupt.
    pub fn in_flight(&self, irq: Irq) -> bool {
        self.line(irq).is_some_and(|line| line.load(Ordering::Acquire) & IN_FLIGHT != 0)
    }
}

/// The page in which a domain reads whether a pirq needs an end-of-interrupt call: one bit a pirq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EoiMap {
    /// The domain's own frame; whoever registered it holds a writable type on it.
    pub frame: Mfn,
    /// Registered by `PHYSDEVOP_pirq_eoi_gmfn_v1`: ending also unmasks the event channel.
    pub unmasks: bool,
}

const NONE: u16 = u16::MAX;

/// A domain's pirqs.
pub struct Pirqs {
    irq: [u16; MAX_PIRQS],
    bound: [u64; MAX_PIRQS / 64],
    /// Numbers below this are GSIs and mean themselves.
    gsis: u16,
    /// Numbers from here on do not exist for this domain.
    limit: u16,
    eoi_map: Option<EoiMap>,
}

impl Pirqs {
    /// The table of a domain that has no line: an ordinary one.
    pub const fn new() -> Self {
        Pirqs { irq: [NONE; MAX_PIRQS], bound: [0; MAX_PIRQS / 64], gsis: 0, limit: 0, eoi_map: None }
    }

    /// The table of the domain that drives the machine: GSI `n` is pirq `n`, and `messages` more numbers follow.
    pub fn for_hardware_domain(gsis: u32, messages: u32) -> Self {
        let mut pirqs = Self::new();
        pirqs.gsis = gsis.min(MAX_PIRQS as u32) as u16;
        pirqs.limit = gsis.saturating_add(messages).min(MAX_PIRQS as u32) as u16;
        for gsi in 0..pirqs.gsis {
            pirqs.irq[usize::from(gsi)] = gsi;
        }
        pirqs
    }

    /// One more than the highest pirq.
    pub fn limit(&self) -> u32 {
        u32::from(self.limit)
    }

    fn index(&self, pirq: Pirq) -> Result<usize, Errno> {
        if pirq.0 < u32::from(self.limit) { Ok(pirq.0 as usize) } else { Err(Errno::EINVAL) }
    }

    /// The line behind a pirq. `EINVAL`: none.
    pub fn irq(&self, pirq: Pirq) -> Result<Irq, Errno> {
        match self.irq[self.index(pirq)?] {
            NONE => Err(Errno::EINVAL),
            irq => Ok(Irq(irq)),
        }
    }

    /// The pirq that names a line.
    pub fn pirq_of(&self, irq: Irq) -> Option<Pirq> {
        let used = &self.irq[..usize::from(self.limit)];
        used.iter().position(|i| *i == irq.0).map(|pirq| Pirq(pirq as u32))
    }

    /// A number that is free for a message, highest first. `ENOSPC`: none is.
    pub fn free(&self) -> Result<Pirq, Errno> {
        self.free_run(1)
    }

    /// The first of `count` free numbers in a row, for messages. `ENOSPC`: there is no such row.
    pub fn free_run(&self, count: u16) -> Result<Pirq, Errno> {
        let mut run = 0;
        for pirq in (usize::from(self.gsis)..usize::from(self.limit)).rev() {
            run = if self.irq[pirq] == NONE { run + 1 } else { 0 };
            if run == count {
                return Ok(Pirq(pirq as u32));
            }
        }
        Err(Errno::ENOSPC)
    }

    /// Names a line. A line that has a name keeps it: `EEXIST` if another one was wanted. `EINVAL`: no such number;
    /// `EBUSY`: the number names another line.
    pub fn map(&mut self, irq: Irq, wanted: Option<Pirq>) -> Result<Pirq, Errno> {
        let pirq = match (self.pirq_of(irq), wanted) {
            (Some(pirq), None) => return Ok(pirq),
            (Some(pirq), Some(wanted)) if pirq == wanted => return Ok(pirq),
            (Some(_), Some(_)) => return Err(Errno::EEXIST),
            (None, Some(wanted)) => wanted,
            (None, None) => self.free()?,
        };
        let entry = &mut self.irq[self.index(pirq)?];
        if *entry != NONE {
            return Err(Errno::EBUSY);
        }
        *entry = irq.0;
        Ok(pirq)
    }

    /// Forgets the name; returns the line. `EINVAL`: names none; `EBUSY`: an event channel is bound to it.
    pub fn unmap(&mut self, pirq: Pirq) -> Result<Irq, Errno> {
        let irq = self.irq(pirq)?;
        if self.is_bound(pirq) {
            return Err(Errno::EBUSY);
        }
        self.irq[pirq.0 as usize] = NONE;
        Ok(irq)
    }

    /// True while an event channel is bound to the pirq.
    pub fn is_bound(&self, pirq: Pirq) -> bool {
        let Ok(index) = self.index(pirq) else { return false };
        self.bound[index / 64] & 1 << (index % 64) != 0
    }

    /// Marks the pirq as bound to an event channel, and tells the guest whether it owes ends of interrupts.
    pub fn set_bound(&mut self, pirq: Pirq, trigger: Trigger, memory: &impl Memory) -> Result<(), Errno> {
        let index = self.index(pirq)?;
        self.bound[index / 64] |= 1 << (index % 64);
        self.tell(pirq, trigger == Trigger::Level, memory);
        Ok(())
    }

    /// The event channel is gone.
    pub fn clear_bound(&mut self, pirq: Pirq, memory: &impl Memory) {
        let Ok(index) = self.index(pirq) else { return };
        self.bound[index / 64] &= !(1 << (index % 64));
        self.tell(pirq, false, memory);
    }

    fn tell(&self, pirq: Pirq, needs_eoi: bool, memory: &impl Memory) {
        let Some(map) = self.eoi_map else { return };
        let (index, bit) = ((pirq.0 / 64) as usize, 1u64 << (pirq.0 % 64));
        if needs_eoi {
            memory.fetch_or64(map.frame, index, bit);
        } else {
            memory.fetch_and64(map.frame, index, !bit);
        }
    }

    /// The page of "needs an end" bits, if the domain registered one.
    #[inline]
    pub fn eoi_map(&self) -> Option<EoiMap> {
        self.eoi_map
    }

    /// Registers the page and writes the bits of pirqs that are bound to a level line. `EBUSY`: there is one already.
    pub fn set_eoi_map(
        &mut self,
        map: EoiMap,
        level: impl Fn(Irq) -> bool,
        memory: &impl Memory,
    ) -> Result<(), Errno> {
        if self.eoi_map.is_some() {
            return Err(Errno::EBUSY);
        }
        self.eoi_map = Some(map);
        for pirq in 0..u32::from(self.limit) {
            let pirq = Pirq(pirq);
            if let Ok(irq) = self.irq(pirq) {
                self.tell(pirq, self.is_bound(pirq) && level(irq), memory);
            }
        }
        Ok(())
    }

    /// Gives the page back, for the domain's end.
    pub fn take_eoi_map(&mut self) -> Option<EoiMap> {
        self.eoi_map.take()
    }
}

impl Default for Pirqs {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
pub(crate) mod tests;
