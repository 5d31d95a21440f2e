//! The tags against a processor that remembers whatever it may, whenever it may, and forgets only what it must.

use super::*;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

const PAGES: u64 = 4;
/// A page whose translations are global, in every root the same one.
const GLOBAL: u64 = 3;

/// What a root table says of each page.
type Table = [u64; PAGES as usize];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// `None`: global.
    tag: Option<u64>,
    va: u64,
    frame: u64,
}

#[derive(Default)]
struct Remembering {
    cr3: Cell<u64>,
    global: Cell<bool>,
    tables: RefCell<BTreeMap<u64, Table>>,
    entries: RefCell<BTreeSet<Entry>>,
}

impl Remembering {
    fn forget(&self, which: impl Fn(&Entry) -> bool) {
        self.entries.borrow_mut().retain(|entry| !which(entry));
    }

    fn table(&self) -> Table {
        self.tables.borrow()[&(self.cr3.get() & !TAG)]
    }

    /// Everything that it can reach just now.
    fn speculate(&self) {
        let table = self.table();
        for va in 0..PAGES {
            let tag = (va != GLOBAL || !self.global.get()).then_some(self.cr3.get() & TAG);
            self.entries.borrow_mut().insert(Entry { tag, va, frame: table[va as usize] });
        }
    }

    fn usable(&self) -> Vec<Entry> {
        let tag = self.cr3.get() & TAG;
        self.entries.borrow().iter().filter(|e| e.tag.is_none_or(|its| its == tag)).copied().collect()
    }

    fn map(&self, root: u64, va: u64, frame: u64) {
        if va == GLOBAL {
            self.tables.borrow_mut().values_mut().for_each(|table| table[va as usize] = frame);
        } else {
            self.tables.borrow_mut().get_mut(&root).unwrap()[va as usize] = frame;
        }
    }
}

impl Processor for Remembering {
    fn cr3(&self) -> u64 {
        self.cr3.get()
    }
    fn set_cr3(&self, value: u64) {
        self.speculate();
        let tag = value & TAG;
        if value & KEEP == 0 {
            self.forget(|entry| entry.tag == Some(tag));
        }
        self.cr3.set(value & !KEEP);
        self.speculate();
    }
    fn without_global(&self, what: impl FnOnce(&Self)) -> bool {
        let before = self.global.replace(false);
        if before {
            self.forget(|_| true);
        }
        self.speculate();
        what(self);
        self.global.set(before);
        if before {
            self.forget(|_| true);
        }
        self.speculate();
        before
    }
    fn invlpg(&self, va: u64) {
        let tag = self.cr3.get() & TAG;
        self.forget(|entry| entry.va == va && entry.tag.is_none_or(|its| its == tag));
        self.speculate();
    }
    fn invpcid(&self, what: Forget) {
        self.forget(|entry| match what {
            Forget::Page(whose, va) => entry.tag == Some(whose as u64) && entry.va == va,
            Forget::Tag(whose) => entry.tag == Some(whose as u64),
            Forget::AllTags => entry.tag.is_some(),
        });
        self.speculate();
    }
}

#[derive(Clone, Copy, Debug)]
enum Do {
    ChangeMode,
    /// Changes a page of one of the running vCPU's roots, in either mode, and flushes it or all.
    Map {
        kernel: bool,
        va: u64,
        all: bool,
    },
    /// Another root for the kernel, whose global page is another too.
    KernelRoot(u64),
    UserRoot(u64),
    /// The vCPU rests; others change what is not global in its tables; it comes back.
    Rest {
        va: u64,
    },
    /// Another vCPU comes instead.
    Switch(u64, u64),
    /// Nothing but the passing of time.
    Nothing,
}

fn roots() -> impl Strategy<Value = u64> {
    (1u64..6).prop_map(|n| n << 12)
}

fn doings() -> impl Strategy<Value = Do> {
    prop_oneof![
        4 => Just(Do::ChangeMode),
        4 => (any::<bool>(), 0..PAGES, any::<bool>()).prop_map(|(kernel, va, all)| Do::Map { kernel, va, all }),
        1 => roots().prop_map(Do::KernelRoot),
        1 => roots().prop_map(Do::UserRoot),
        1 => (0..GLOBAL).prop_map(|va| Do::Rest { va }),
        1 => (roots(), roots()).prop_map(|(kernel, user)| Do::Switch(kernel, user)),
        1 => Just(Do::Nothing),
    ]
}

struct Running {
    cpu: Remembering,
    tags: Tags,
    kernel: u64,
    user: u64,
    in_kernel: bool,
    frames: u64,
}

impl Running {
    fn new(used: bool) -> Self {
        let cpu = Remembering::default();
        cpu.global.set(true);
        let shared = 99;
        for root in 0..6 {
            let table =
                core::array::from_fn(|va| if va as u64 == GLOBAL { shared } else { root * 10 + va as u64 });
            cpu.tables.borrow_mut().insert(root << 12, table);
        }
        let new = Running {
            cpu,
            tags: Tags::new(used),
            kernel: 1 << 12,
            user: 2 << 12,
            in_kernel: true,
            frames: 1000,
        };
        new.tags.enter(&new.cpu, new.kernel, Whose::Kernel);
        new
    }

    fn root(&self) -> (u64, Whose) {
        if self.in_kernel { (self.kernel, Whose::Kernel) } else { (self.user, Whose::User) }
    }

    fn frame(&mut self) -> u64 {
        self.frames += 1;
        self.frames
    }

    fn act(&mut self, what: Do) {
        let tags = self.tags;
        match what {
            Do::ChangeMode => {
                self.in_kernel = !self.in_kernel;
                let (root, whose) = self.root();
                tags.change_mode(&self.cpu, root, whose);
            }
            Do::Map { kernel, va, all } => {
                let frame = self.frame();
                self.cpu.map(if kernel { self.kernel } else { self.user }, va, frame);
                if all { tags.flush_all(&self.cpu) } else { tags.flush_page(&self.cpu, va) }
            }
            Do::KernelRoot(root) if self.in_kernel => {
                self.kernel = root;
                let frame = self.frame();
                self.cpu.map(root, GLOBAL, frame);
                tags.load_kernel_root(&self.cpu, root);
            }
            Do::UserRoot(root) if self.in_kernel => {
                self.user = root;
                tags.forget_user_root(&self.cpu);
            }
            Do::Rest { va } => {
                tags.leave(&self.cpu, 0);
                for root in [self.kernel, self.user] {
                    let frame = self.frame();
                    self.cpu.map(root, va, frame);
                }
                let (root, whose) = self.root();
                tags.enter(&self.cpu, root, whose);
            }
            Do::Switch(kernel, user) => {
                (self.kernel, self.user) = (kernel, user);
                let (root, whose) = self.root();
                tags.enter(&self.cpu, root, whose);
                tags.flush_all(&self.cpu);
            }
            Do::KernelRoot(_) | Do::UserRoot(_) | Do::Nothing => {}
        }
        self.cpu.speculate();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_stale_can_be_used(used in any::<bool>(), what in prop::collection::vec(doings(), 1..60)) {
        let mut running = Running::new(used);
        for step in what {
            running.act(step);
            let table = running.cpu.table();
            prop_assert_eq!(running.cpu.cr3() & !TAG, running.root().0);
            for entry in running.cpu.usable() {
                prop_assert_eq!(entry.frame, table[entry.va as usize], "after {:?}: {:?}", step, entry);
            }
        }
    }
}

#[test]
fn changing_the_mode_forgets_nothing() {
    let mut running = Running::new(true);
    running.act(Do::ChangeMode);
    running.act(Do::ChangeMode);
    let entries = running.cpu.entries.borrow();
    let tagged = |whose: Whose| entries.iter().filter(|entry| entry.tag == Some(whose as u64)).count() as u64;
    assert_eq!([tagged(Whose::Kernel), tagged(Whose::User)], [PAGES - 1; 2]);
}

#[test]
fn without_tags_there_is_none() {
    let mut running = Running::new(false);
    for step in [Do::ChangeMode, Do::Rest { va: 0 }, Do::ChangeMode, Do::KernelRoot(3 << 12)] {
        running.act(step);
        assert_eq!(running.cpu.cr3() & TAG, 0);
    }
    assert_eq!(running.tags.mode_bits(Whose::User), 0);
}
