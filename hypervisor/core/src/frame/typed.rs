//! Transitions of a frame's type.
//!
//! ```text
//!  no type refs --take--> claimed --validated--> in use --last put--> claimed --emptied--> no type refs
//!                            |  ^                                        |
//!                            v  | take / claim_partial                   |
//!                          partial <-------------------------------------+
//! ```
//! While claimed or partial the frame has exactly one type reference and is not validated.

use core::sync::atomic::Ordering;

use hv_types::{DomId, Mfn};

use super::token::{Claimed, Dead, GeneralRef, TypeRef};
use super::word::{Kind, Word};
use super::{CURSOR_MASK, CURSOR_SHIFT, Frame, FrameTable, Refused, cas, owner_of};

/// What came of asking for a type.
#[derive(Debug)]
pub enum TakeType {
    /// The frame had the type.
    Have(TypeRef),
    /// The frame has no valid type: it is the caller's to validate. The general reference is part of the claim.
    Claimed(Claimed),
    /// The frame was at rest half-way: it is the caller's to go on with. Its references were the partial
    /// state's, so the caller's general reference comes back.
    Resumed(Claimed, GeneralRef),
    /// Another CPU is at it; ask again.
    Busy(GeneralRef),
    /// The frame has another type, or the count is full.
    Refused(GeneralRef),
}

/// What came of giving back a type reference.
#[derive(Debug)]
pub enum PutType {
    /// Others remain, or there was nothing to undo.
    Done,
    /// It was the last on a page table: its entries' references are the caller's to drop.
    Claimed(Claimed),
    /// The frame died with it.
    Dead(Dead),
}

impl FrameTable<'_> {
    /// Asks for a type on a frame on which the caller has a reference.
    pub fn take_type(&self, general: GeneralRef, kind: Kind) -> TakeType {
        let Some(frame) = self.get(general.0) else { return TakeType::Refused(general) };
        let mut old = frame.word.load(Ordering::Relaxed);
        loop {
            let word = Word(old);
            let (new, next) = match next_state(word, kind) {
                Ok(step) => step,
                Err(true) => return TakeType::Busy(general),
                Err(false) => return TakeType::Refused(general),
            };
            match cas(frame, old, new) {
                Ok(_) => return next.token(frame, general, word),
                Err(now) => old = now,
            }
        }
    }

    /// Takes general and writable type reference at once, if that needs no flush: the path of an ordinary mapping.
    #[inline(always)]
    pub fn get_writable_fast(&self, mfn: Mfn, owner: DomId) -> Result<TypeRef, Refused> {
        let frame = self.get(mfn).ok_or(Refused)?;
        let mut old = frame.word.load(Ordering::Relaxed);
        loop {
            if !writable_without_flush(Word(old)) || owner_of(frame) != owner {
                return Err(Refused);
            }
            let new =
                ((old & !Word::KIND_MASK) | Kind::Writable.bits() | Word::VALIDATED).wrapping_add(Word::BOTH);
            match cas(frame, old, new) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        if owner_of(frame) == owner { Ok(TypeRef(mfn)) } else { Err(self.back_out_writable(frame, mfn)) }
    }

    #[cold]
    fn back_out_writable(&self, frame: &Frame, mfn: Mfn) -> Refused {
        // The reborn frame's stamp must cover the moment between: the largest distance is the safe one.
        let now = frame.stamp.load(Ordering::Relaxed);
        if let Some(dead) = self.put_writable(TypeRef(mfn), || now) {
            self.orphan(dead);
        }
        Refused
    }

    /// Gives back a writable type reference; `now` is the flush clock.
    #[inline(always)]
    pub fn put_writable(&self, reference: TypeRef, now: impl Fn() -> u32) -> Option<Dead> {
        let frame = self.get(reference.0)?;
        let mut old = frame.word.load(Ordering::Relaxed);
        loop {
            let mut new = old.wrapping_sub(Word::BOTH);
            if Word(old).types() == 1 {
                // Before the count falls, so that whoever takes the next type sees it (I-PT-4).
                frame.stamp.store(now(), Ordering::Release);
                new &= !Word::VALIDATED;
            }
            let last = Word(old).general() == 1;
            if last {
                new = 0;
            }
            match cas(frame, old, new) {
                Ok(_) if last => return Some(self.dead(reference.0, frame, old)),
                Ok(_) => return None,
                Err(now) => old = now,
            }
        }
    }

    /// Takes a type reference on a frame that is a validated page table of any level; the level comes with it.
    #[inline(always)]
    pub fn get_table(&self, mfn: Mfn, owner: DomId) -> Result<(TypeRef, u32), Refused> {
        let frame = self.get(mfn).ok_or(Refused)?;
        let mut old = frame.word.load(Ordering::Relaxed);
        let level = loop {
            let level = Word(old).valid_level();
            if level == 0 || Word(old).is_full() || owner_of(frame) != owner {
                return Err(Refused);
            }
            match cas(frame, old, old.wrapping_add(Word::BOTH)) {
                Ok(_) => break level,
                Err(now) => old = now,
            }
        };
        // A validated table's owner cannot change while it has references; it had some when we added ours,
        // but it may have become another's between the two looks.
        if owner_of(frame) == owner { Ok((TypeRef(mfn), level)) } else { Err(self.back_out_table(frame)) }
    }

    /// Takes a type reference on a frame that is a validated page table of level 1.
    #[inline(always)]
    pub fn get_leaf_table(&self, mfn: Mfn, owner: DomId) -> Result<TypeRef, Refused> {
        let frame = self.get(mfn).ok_or(Refused)?;
        let old = frame.word.load(Ordering::Relaxed);
        if !Word(old).is_valid_table(1) || Word(old).is_full() || owner_of(frame) != owner {
            return Err(Refused);
        }
        // Another CPU was faster: the caller has a longer way.
        cas(frame, old, old.wrapping_add(Word::BOTH)).map_err(|_| Refused)?;
        if owner_of(frame) == owner { Ok(TypeRef(mfn)) } else { Err(self.back_out_table(frame)) }
    }

    /// Gives back a type reference that is not the last; else, or if another CPU was faster, it comes back.
    #[inline(always)]
    pub fn put_shared(&self, reference: TypeRef) -> Result<(), TypeRef> {
        let Some(frame) = self.get(reference.0) else { return Ok(()) };
        let old = frame.word.load(Ordering::Relaxed);
        if Word(old).types() > 1 && cas(frame, old, old.wrapping_sub(Word::BOTH)).is_ok() {
            return Ok(());
        }
        Err(reference)
    }

    #[cold]
    fn back_out_table(&self, frame: &Frame) -> Refused {
        let mut old = frame.word.load(Ordering::Relaxed);
        loop {
            // Somebody else's table lost its last true reference meanwhile: leave it pinned to its owner's scan.
            if Word(old).types() == 1 {
                match cas(frame, old, (old & !Word::VALIDATED) | Word::PARTIAL) {
                    Ok(_) => {
                        set_cursor(frame, hv_types::WORDS_PER_PAGE);
                        return Refused;
                    }
                    Err(now) => old = now,
                }
                continue;
            }
            match cas(frame, old, old.wrapping_sub(Word::BOTH)) {
                Ok(_) => return Refused,
                Err(now) => old = now,
            }
        }
    }

    /// Gives back a type reference of any kind.
    #[inline(always)]
    pub fn put_type(&self, reference: TypeRef, now: impl Fn() -> u32) -> PutType {
        let Some(frame) = self.get(reference.0) else { return PutType::Done };
        let old = frame.word.load(Ordering::Relaxed);
        if Word(old).types() > 1 && cas(frame, old, old.wrapping_sub(Word::BOTH)).is_ok() {
            return PutType::Done;
        }
        self.put_type_slow(frame, reference, now)
    }

    #[cold]
    fn put_type_slow(&self, frame: &Frame, reference: TypeRef, now: impl Fn() -> u32) -> PutType {
        let mut old = frame.word.load(Ordering::Relaxed);
        loop {
            let word = Word(old);
            if word.types() == 1 && word.kind().level() == 0 {
                return match self.put_writable(reference, now) {
                    Some(dead) => PutType::Dead(dead),
                    None => PutType::Done,
                };
            }
            let last = word.types() == 1;
            let new = if last { old & !Word::VALIDATED } else { old.wrapping_sub(Word::BOTH) };
            match cas(frame, old, new) {
                Ok(_) if last => {
                    let cursor = hv_types::WORDS_PER_PAGE;
                    return PutType::Claimed(Claimed { mfn: reference.0, was: word.kind(), cursor });
                }
                Ok(_) => return PutType::Done,
                Err(now) => old = now,
            }
        }
    }

    /// The claimed frame is what its kind says: publishes it.
    pub fn validated(&self, claim: Claimed) -> TypeRef {
        if let Some(frame) = self.get(claim.mfn) {
            frame.word.fetch_or(Word::VALIDATED, Ordering::AcqRel);
        }
        TypeRef(claim.mfn)
    }

    /// Lays the claim to rest half-way: entries below `cursor` hold references. The partial state keeps the
    /// claim's references; [`FrameTable::take_type`] or [`FrameTable::claim_partial`] goes on from there.
    pub fn rest(&self, claim: Claimed, cursor: usize) {
        if let Some(frame) = self.get(claim.mfn) {
            set_cursor(frame, cursor);
            frame.word.fetch_or(Word::PARTIAL, Ordering::AcqRel);
        }
    }

    /// Where a partial frame's walk stands: entries below hold references.
    pub fn cursor(&self, mfn: Mfn) -> usize {
        self.get(mfn).map_or(0, cursor_of)
    }

    /// Takes over a frame of `owner` at rest half-way, whoever laid it down.
    pub fn claim_partial(&self, mfn: Mfn, owner: DomId) -> Option<Claimed> {
        let frame = self.get(mfn)?;
        let old = frame.word.load(Ordering::Acquire);
        if !Word(old).is_partial() || Word(old).kind() == Kind::Other || owner_of(frame) != owner {
            return None;
        }
        cas(frame, old, old & !Word::PARTIAL).ok()?;
        let claim = Claimed { mfn, was: Word(old).kind(), cursor: cursor_of(frame) };
        if owner_of(frame) == owner {
            return Some(claim);
        }
        let cursor = claim.cursor;
        self.rest(claim, cursor);
        None
    }

    /// The claimed frame's entries hold nothing any more: ends the claim and its references.
    pub fn emptied(&self, claim: Claimed, now: u32) -> Option<Dead> {
        let frame = self.get(claim.mfn)?;
        frame.stamp.store(now, Ordering::Release);
        let mut old = frame.word.load(Ordering::Relaxed);
        loop {
            let last = Word(old).general() == 1;
            let new = if last { 0 } else { old.wrapping_sub(Word::BOTH) };
            match cas(frame, old, new) {
                Ok(_) if last => return Some(self.dead(claim.mfn, frame, old)),
                Ok(_) => return None,
                Err(now) => old = now,
            }
        }
    }

    /// Ends a claim that was not even made safe: the frame is what it was before.
    pub fn abandon(&self, claim: Claimed) -> Option<Dead> {
        let frame = self.get(claim.mfn)?;
        let mut old = frame.word.load(Ordering::Relaxed);
        loop {
            let last = Word(old).general() == 1;
            let less = (old.wrapping_sub(Word::BOTH) & !Word::KIND_MASK) | claim.was.bits();
            match cas(frame, old, if last { 0 } else { less }) {
                Ok(_) if last => return Some(self.dead(claim.mfn, frame, old)),
                Ok(_) => return None,
                Err(now) => old = now,
            }
        }
    }

    fn dead(&self, mfn: Mfn, frame: &Frame, old: u64) -> Dead {
        Dead { mfn, owner: owner_of(frame), was: Word(old) }
    }
}

/// Writable type without a change that stale translations could betray.
#[inline(always)]
fn writable_without_flush(word: Word) -> bool {
    if word.is_valid_writable() {
        return !word.is_full();
    }
    word.types() == 0 && matches!(word.kind(), Kind::Writable | Kind::None) && word.can_add_general()
}

enum Step {
    Have,
    Claim,
    Resume,
}

impl Step {
    fn token(self, frame: &Frame, general: GeneralRef, was: Word) -> TakeType {
        match self {
            Step::Have => TakeType::Have(TypeRef(general.0)),
            Step::Claim => TakeType::Claimed(Claimed { mfn: general.0, was: was.kind(), cursor: 0 }),
            Step::Resume => {
                let cursor = cursor_of(frame);
                TakeType::Resumed(Claimed { mfn: general.0, was: was.kind(), cursor }, general)
            }
        }
    }
}

/// The next word for a taker of `kind` who holds a general reference, which becomes part of the type reference.
/// The error tells busy from refused.
fn next_state(word: Word, kind: Kind) -> Result<(u64, Step), bool> {
    if word.types() == 0 {
        let new = (word.0 & !(Word::KIND_MASK | Word::VALIDATED)) | kind.bits();
        return Ok((new.wrapping_add(Word::TYPE_ONE), Step::Claim));
    }
    if word.kind() != kind || word.is_full() {
        return Err(false);
    }
    if word.is_validated() {
        return Ok((word.0.wrapping_add(Word::TYPE_ONE), Step::Have));
    }
    if word.is_partial() { Ok((word.0 & !Word::PARTIAL, Step::Resume)) } else { Err(true) }
}

fn cursor_of(frame: &Frame) -> usize {
    ((frame.owner.load(Ordering::Acquire) & CURSOR_MASK) >> CURSOR_SHIFT) as usize
}

fn set_cursor(frame: &Frame, cursor: usize) {
    let bits = ((cursor as u32) << CURSOR_SHIFT) & CURSOR_MASK;
    // The only other writer of this word sets the foreign flag: one atomic update each keeps both.
    frame.owner.fetch_and(!CURSOR_MASK, Ordering::AcqRel);
    frame.owner.fetch_or(bits, Ordering::AcqRel);
}
