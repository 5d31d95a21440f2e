//! The first page tables of a domain, as a list of entries.
//!
//! Two ranges are mapped: the bootstrap region, and a p2m list elsewhere if the kernel wants that. A table covers an
//! aligned piece of the address space, so the tables of a range at one level are an interval of piece numbers
//! ("units"), laid out consecutively. Where the second range begins in a piece that the first one has, it uses
//! that table.

use crate::plan::{PAGE_SIZE, Region};

/// Bits of an address below the index of a level's entries: 12 for level 1.
const fn entry_shift(level: u8) -> u32 {
    3u32.wrapping_add(9u32.wrapping_mul(level as u32))
}

/// Bits of an address inside one table of a level.
const fn table_shift(level: u8) -> u32 {
    entry_shift(level).wrapping_add(9)
}

/// One entry of a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageTableEntry {
    /// Level of the table that it is in: 4 for the root, 1 for entries that map pages.
    pub level: u8,
    /// Frame of that table.
    pub table: u64,
    /// Index in the table, below 512.
    pub index: u16,
    /// The frame that it points to.
    pub target: u64,
    /// The target is a page table: an entry of level 1 must be read-only then. Always set above level 1.
    pub target_is_table: bool,
}

/// Consecutive units at one level: `first..first + count`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Units {
    first: u64,
    count: u64,
}

impl Units {
    /// The units of size `1 << shift` that `start..end` touches; `end` is not zero unless both are.
    const fn of(start: u64, end: u64, shift: u32) -> Self {
        if start == end {
            return Self { first: 0, count: 0 };
        }
        let first = start >> shift;
        let last = end.wrapping_sub(1) >> shift;
        Self { first, count: last.wrapping_sub(first).wrapping_add(1) }
    }

    const fn position(&self, unit: u64) -> Option<u64> {
        let position = unit.wrapping_sub(self.first);
        if position < self.count { Some(position) } else { None }
    }

    /// Without those of a disjoint range, which can share the first or the last one.
    const fn without(self, other: &Self) -> Self {
        let mut rest = self;
        if rest.count != 0 && other.position(rest.first).is_some() {
            rest = Self { first: rest.first.wrapping_add(1), count: rest.count.wrapping_sub(1) };
        }
        if rest.count != 0 && other.position(rest.first.wrapping_add(rest.count).wrapping_sub(1)).is_some() {
            rest.count = rest.count.wrapping_sub(1);
        }
        rest
    }
}

/// Tables of one level for one range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Run {
    units: Units,
    pfn: u64,
}

impl Run {
    const fn table(&self, unit: u64) -> Option<u64> {
        match self.units.position(unit) {
            Some(position) => Some(self.pfn.wrapping_add(position)),
            None => None,
        }
    }

    const fn contains_pfn(&self, pfn: u64) -> bool {
        pfn.wrapping_sub(self.pfn) < self.units.count
    }
}

/// A mapped range and the tables that it adds; `runs[0]` is level 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mapping {
    va: u64,
    va_end: u64,
    pfn: u64,
    runs: [Run; 3],
}

const LEVELS: [u8; 3] = [3, 2, 1];

impl Mapping {
    /// Numbers the tables from `pfn` on; the second value is the frame behind them.
    fn new(range: Region, other: Option<&Self>, mut pfn: u64) -> Option<(Self, u64)> {
        let mut mapping =
            Self { va: range.va, va_end: range.va_end(), pfn: range.pfn, runs: [Run::default(); 3] };
        for (run, level) in mapping.runs.iter_mut().zip(LEVELS) {
            let mut units = Units::of(range.va, range.va_end(), table_shift(level));
            if let Some(other) = other {
                units = units.without(&Units::of(other.va, other.va_end, table_shift(level)));
            }
            *run = Run { units, pfn };
            pfn = pfn.checked_add(units.count)?;
        }
        Some((mapping, pfn))
    }

    fn run(&self, level: u8) -> Option<&Run> {
        self.runs.iter().zip(LEVELS).find(|(_, l)| *l == level).map(|(run, _)| run)
    }

    fn page(&self, va: u64) -> Option<u64> {
        (self.va <= va && va < self.va_end)
            .then(|| self.pfn.wrapping_add(va.wrapping_sub(self.va) / PAGE_SIZE))
    }
}

/// All tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tables {
    root: u64,
    bootstrap: Mapping,
    p2m: Mapping,
}

impl Tables {
    /// How many tables map `start..end`, the root included.
    pub(crate) fn count(start: u64, end: u64) -> u64 {
        LEVELS
            .iter()
            .fold(1u64, |sum, &level| sum.saturating_add(Units::of(start, end, table_shift(level)).count))
    }

    /// Tables for the bootstrap region, in the frames from `pfn` on.
    pub(crate) fn new(bootstrap: Region, pfn: u64) -> Self {
        let (bootstrap, _) = Mapping::new(bootstrap, None, pfn.wrapping_add(1)).unwrap_or_default();
        Self { root: pfn, bootstrap, p2m: Mapping::default() }
    }

    /// Adds a p2m list, which is disjoint from the bootstrap region: its tables, then its pages, in the frames from
    /// `pfn` on. The value is the first frame of the pages.
    pub(crate) fn add_p2m(&mut self, p2m: Region, pfn: u64) -> Option<u64> {
        let (mapping, next) = Mapping::new(p2m, Some(&self.bootstrap), pfn)?;
        self.p2m = Mapping { pfn: next, ..mapping };
        Some(next)
    }

    fn runs(&self) -> impl Iterator<Item = (&Run, u8)> {
        [&self.bootstrap, &self.p2m].into_iter().flat_map(|mapping| mapping.runs.iter().zip(LEVELS))
    }

    pub(crate) fn contains(&self, pfn: u64) -> bool {
        self.level_of(pfn).is_some()
    }

    pub(crate) fn level_of(&self, pfn: u64) -> Option<u8> {
        if pfn == self.root {
            return Some(4);
        }
        self.runs().find(|(run, _)| run.contains_pfn(pfn)).map(|(_, level)| level)
    }

    fn table(&self, level: u8, va: u64) -> Option<u64> {
        if level == 4 {
            return Some(self.root);
        }
        let unit = va >> table_shift(level);
        [&self.bootstrap, &self.p2m].into_iter().find_map(|mapping| mapping.run(level)?.table(unit))
    }

    fn entry(&self, level: u8, unit: u64) -> Option<PageTableEntry> {
        let va = unit << entry_shift(level);
        let target = match level {
            1 => self.bootstrap.page(va).or_else(|| self.p2m.page(va))?,
            _ => self.table(level.wrapping_sub(1), va)?,
        };
        Some(PageTableEntry {
            level,
            table: self.table(level, va)?,
            index: (unit & 511) as u16,
            target,
            target_is_table: level > 1 || self.contains(target),
        })
    }

    pub(crate) fn entries(&self) -> PageTableEntries {
        PageTableEntries { tables: *self, span: 0, position: 0 }
    }

    /// The entries of a level for one range: its units that the other range has not.
    fn span(&self, span: u8) -> Option<(u8, Units)> {
        let level = 4u8.checked_sub(span / 2)?;
        let units = |mapping: &Mapping| Units::of(mapping.va, mapping.va_end, entry_shift(level));
        match (level, span % 2) {
            (0, _) => None,
            (_, 0) => Some((level, units(&self.bootstrap))),
            _ => Some((level, units(&self.p2m).without(&units(&self.bootstrap)))),
        }
    }
}

/// The present entries of the first page tables; see
/// [`BuildPlan::page_table_entries`](crate::BuildPlan::page_table_entries).
#[derive(Clone, Debug)]
pub struct PageTableEntries {
    tables: Tables,
    span: u8,
    position: u64,
}

impl Iterator for PageTableEntries {
    type Item = PageTableEntry;

    fn next(&mut self) -> Option<PageTableEntry> {
        loop {
            let (level, units) = self.tables.span(self.span)?;
            if self.position < units.count {
                let unit = units.first.wrapping_add(self.position);
                self.position = self.position.wrapping_add(1);
                return self.tables.entry(level, unit);
            }
            self.span = self.span.wrapping_add(1);
            self.position = 0;
        }
    }
}
