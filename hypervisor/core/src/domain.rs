//! Domains by number, and where each stands between its creation and the moment when nothing is left of it.

use core::sync::atomic::{AtomicU8, Ordering};

use guest_abi::xen::DOMID_FIRST_RESERVED;
use hv_types::DomId;

/// Held by a control domain; a new domain is.
const PAUSED: u8 = 1;
/// Being destroyed. Never taken back.
const DYING: u8 = 2;
/// Everything was taken from it; what remains is held by others.
const EMPTIED: u8 = 4;

/// Where a domain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It lives, and a control domain holds it.
    Paused,
    /// It lives.
    Running,
    /// It is being destroyed.
    Dying,
    /// It has nothing any more, but others hold pages of it.
    Zombie,
}

/// A domain's way through life: paused and running as often as a control domain likes, then dying, then a zombie.
#[derive(Debug)]
pub struct Life(AtomicU8);

impl Life {
    /// A domain that was created and is to be unpaused.
    pub const fn paused() -> Self {
        Life(AtomicU8::new(PAUSED))
    }

    /// A domain that nobody holds.
    pub const fn running() -> Self {
        Life(AtomicU8::new(0))
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        let bits = self.0.load(Ordering::Acquire);
        if bits & EMPTIED != 0 {
            Stage::Zombie
        } else if bits & DYING != 0 {
            Stage::Dying
        } else if bits & PAUSED != 0 {
            Stage::Paused
        } else {
            Stage::Running
        }
    }

    /// True while a control domain holds it, dying or not.
    pub fn is_paused(&self) -> bool {
        self.0.load(Ordering::Acquire) & PAUSED != 0
    }

    /// True from the moment when its destruction began.
    pub fn is_dying(&self) -> bool {
        self.0.load(Ordering::Acquire) & DYING != 0
    }

    /// Holds it, or lets it go. True if that changed something; false too if it is dying.
    pub fn set_paused(&self, paused: bool) -> bool {
        let update = |bits: u8| {
            let new = if paused { bits | PAUSED } else { bits & !PAUSED };
            (bits & DYING == 0 && new != bits).then_some(new)
        };
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, update).is_ok()
    }

    /// Its destruction begins; true the first time.
    pub fn begin_to_die(&self) -> bool {
        self.0.fetch_or(DYING, Ordering::AcqRel) & DYING == 0
    }

    /// Everything was taken from it. Only of a dying domain.
    pub fn emptied(&self) {
        let update = |bits: u8| (bits & DYING != 0).then_some(bits | EMPTIED);
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, update);
    }
}

/// Numbers for new domains: each is higher than the last, and begins again at 1 behind the highest, so that a number is not
/// used again for as long as can be.
#[derive(Debug)]
pub struct Numbers {
    next: u16,
}

impl Default for Numbers {
    fn default() -> Self {
        Self::new()
    }
}

impl Numbers {
    /// None given yet; 0 is dom0's.
    pub const fn new() -> Self {
        Numbers { next: 1 }
    }

    /// The next number that is `free`; nothing if none is.
    pub fn choose(&mut self, free: impl Fn(DomId) -> bool) -> Option<DomId> {
        let first = self.next;
        let wrapped = (first..DOMID_FIRST_RESERVED).chain(1..first);
        let found = wrapped.map(DomId).find(|dom| free(*dom))?;
        self.next = if found.0 + 1 >= DOMID_FIRST_RESERVED { 1 } else { found.0 + 1 };
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_life_goes_one_way() {
        let life = Life::paused();
        assert_eq!((life.stage(), life.set_paused(true)), (Stage::Paused, false));
        assert!(life.set_paused(false));
        assert_eq!(life.stage(), Stage::Running);
        life.emptied();
        assert_eq!(life.stage(), Stage::Running, "only the dying are emptied");
        assert!(life.begin_to_die());
        assert!(!life.begin_to_die());
        assert_eq!((life.stage(), life.set_paused(true)), (Stage::Dying, false));
        life.emptied();
        assert_eq!(life.stage(), Stage::Zombie);
    }

    #[test]
    fn numbers_are_used_again_as_late_as_can_be() {
        let mut numbers = Numbers::new();
        assert_eq!(numbers.choose(|_| true), Some(DomId(1)));
        assert_eq!(numbers.choose(|_| true), Some(DomId(2)));
        assert_eq!(numbers.choose(|dom| dom.0 > 0x7fee), Some(DomId(0x7fef)));
        assert_eq!(numbers.choose(|dom| dom.0 != 1), Some(DomId(2)));
        assert_eq!(numbers.choose(|dom| dom.0 == 1), Some(DomId(1)));
        assert_eq!(numbers.choose(|_| false), None);
    }

    proptest! {
        /// Whatever is done in whatever order, nothing comes back from dying, and a zombie was dying before.
        #[test]
        fn stages_only_advance(steps in prop::collection::vec(0u8..4, 0..40)) {
            let life = Life::paused();
            let rank = |stage| match stage {
                Stage::Paused | Stage::Running => 0,
                Stage::Dying => 1,
                Stage::Zombie => 2,
            };
            let mut before = rank(life.stage());
            for step in steps {
                match step {
                    0 => { life.set_paused(true); }
                    1 => { life.set_paused(false); }
                    2 => { life.begin_to_die(); }
                    _ => life.emptied(),
                }
                let now = rank(life.stage());
                prop_assert!(now >= before && now <= before + 1);
                before = now;
            }
        }
    }
}
