//! Address-space tags: what a processor remembers of a vCPU's two roots, and when it forgets.
//!
//! Going between a guest's kernel and its user programs loads another root. With tags (PCID, SDM 3A 4.10.1) what was found
//! through each of the two, and through the hypervisor's own root, is remembered under a tag of its own, and the way between
//! the two forgets nothing. Every other way to a root empties both tags, and a page is forgotten under both, so that a tag
//! holds nothing but translations of the root that the running vCPU has for it (I-TL-1).

use core::mem::offset_of;

/// Whose root is meant; the number is the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The hypervisor's own.
    Hypervisor = 0,
    /// The running vCPU's, in kernel mode.
    Kernel = 1,
    /// The running vCPU's, in user mode.
    User = 2,
}

/// What INVPCID forgets. Global translations stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forget {
    /// Translations of one address under a tag.
    Page(Whose, u64),
    /// What a tag holds.
    Tag(Whose),
    /// What all tags hold.
    AllTags,
}

/// A processor, as far as it remembers translations. Its root is always one whose tables map the hypervisor.
pub trait Processor {
    /// CR3, without its bit 63.
    fn cr3(&self) -> u64;
    /// Writes CR3: what its tag holds is forgotten, but for global translations, and not with bit 63.
    fn set_cr3(&self, value: u64);
    /// Does something with global translations off (CR4.PGE), and switches them on again if they were on, which is the answer.
    /// Each switching forgets everything under all tags.
    fn without_global(&self, what: impl FnOnce(&Self)) -> bool;
    /// Forgets a page: under the loaded tag, and if it is global (INVLPG).
    fn invlpg(&self, va: u64);
    /// INVPCID. Only with tags.
    fn invpcid(&self, what: Forget);
}

/// In CR3: keep what the tag holds.
const KEEP: u64 = 1 << 63;
/// In CR3: the tag.
const TAG: u64 = 0xfff;

/// How this machine uses tags: what CR3 holds beside a root of the running vCPU when that changes its mode. No bits: not at all.
#[derive(Clone, Copy, Debug)]
pub struct Tags {
    kernel: u64,
    user: u64,
}

impl Tags {
    /// `used`: the processor has tags, INVPCID and global translations, and they are wanted.
    pub const fn new(used: bool) -> Self {
        if used {
            Tags { kernel: KEEP | Whose::Kernel as u64, user: KEEP | Whose::User as u64 }
        } else {
            Tags { kernel: 0, user: 0 }
        }
    }

    /// Where the bits for kernel mode lie, for ways that load CR3 by themselves: no more is to do when the mode changes.
    pub const KERNEL: usize = offset_of!(Tags, kernel);
    /// Where the bits for user mode lie.
    pub const USER: usize = offset_of!(Tags, user);

    const fn used(self) -> bool {
        self.kernel != 0
    }

    const fn mode_bits(self, whose: Whose) -> u64 {
        match whose {
            Whose::Hypervisor => 0,
            Whose::Kernel => self.kernel,
            Whose::User => self.user,
        }
    }

    const fn tag(self, whose: Whose) -> u64 {
        self.mode_bits(whose) & TAG
    }

    /// Goes to the root of the running vCPU's other mode. Without tags, all but global translations are forgotten.
    #[inline(always)]
    pub fn change_mode(self, processor: &impl Processor, root: u64, whose: Whose) {
        processor.set_cr3(root | self.mode_bits(whose));
    }

    /// Loads a root of a vCPU that was not here just now. Of both its roots, all but global translations are forgotten.
    pub fn enter(self, processor: &impl Processor, root: u64, whose: Whose) {
        processor.set_cr3(root | self.tag(whose));
        if self.used() {
            processor.invpcid(Forget::AllTags);
        }
    }

    /// Loads the hypervisor's own root, under tag 0.
    pub fn leave(self, processor: &impl Processor, root: u64) {
        processor.set_cr3(root);
    }

    /// Loads another root of the running vCPU's kernel, and forgets everything.
    pub fn load_kernel_root(self, processor: &impl Processor, root: u64) {
        // Off while the root changes, so that no global translation of the old one survives.
        processor.without_global(|processor| processor.set_cr3(root | self.tag(Whose::Kernel)));
    }

    /// The running vCPU, which is in kernel mode, has another root for user mode. Global translations of the old one stay.
    pub fn forget_user_root(self, processor: &impl Processor) {
        if self.used() {
            processor.invpcid(Forget::Tag(Whose::User));
        }
    }

    /// Forgets a page, whichever root of the running vCPU it was found through.
    pub fn flush_page(self, processor: &impl Processor, va: u64) {
        processor.invlpg(va);
        if self.used() {
            let own = processor.cr3() & TAG;
            for whose in [Whose::Kernel, Whose::User] {
                if whose as u64 != own {
                    processor.invpcid(Forget::Page(whose, va));
                }
            }
        }
    }

    /// Forgets everything.
    pub fn flush_all(self, processor: &impl Processor) {
        if !processor.without_global(|_| ()) {
            // No global translations, or another flush is at work here and has just forgotten all tags.
            processor.set_cr3(processor.cr3());
        }
    }
}

#[cfg(test)]
#[path = "tags_tests.rs"]
mod tests;
