//! Taking a frame from its owner when nobody else has it: for exchanges, which must be able to turn back.

use core::sync::atomic::Ordering;

use super::{FrameTable, GeneralRef, Word, cas};

impl FrameTable<'_> {
    /// Turns the caller's reference and the owner's own one into a single token, if they are the only two and the
    /// frame has no type. The owner does not have the frame any more then; [`FrameTable::put_general`] frees it,
    /// [`FrameTable::restore`] undoes the theft. Else the caller's reference comes back.
    pub fn steal(&self, held: GeneralRef) -> Result<GeneralRef, GeneralRef> {
        let Some(frame) = self.get(held.0) else { return Err(held) };
        let old = frame.word.load(Ordering::Relaxed);
        let word = Word(old);
        let alone = word.general() == 2
            && word.types() == 0
            && word.is_allocated()
            && !(word.is_special() || word.is_pinned() || word.is_partial());
        // Whoever changes the word meanwhile has, or had, a reference: then it is not alone.
        if !alone || cas(frame, old, (old & !Word::ALLOCATED) - 1).is_err() {
            return Err(held);
        }
        Ok(held)
    }

    /// Gives a stolen frame back to its owner.
    pub fn restore(&self, stolen: GeneralRef) {
        if let Some(frame) = self.get(stolen.sleep()) {
            frame.word.fetch_or(Word::ALLOCATED, Ordering::AcqRel);
        }
    }
}
