//! Counts everything again from scratch, and says which invariant does not hold.

use std::collections::HashMap;

use hv_core::frame::{FrameTable, Kind, Word};
use hv_core::mmu::domain::{GDT_FRAMES, LDT_FRAMES};
use hv_core::mmu::{Pte, VcpuMmu};
use hv_core::port::Memory;
use hv_types::{DomId, Mfn};

use crate::Sim;

#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Counts {
    general: u64,
    types: u64,
}

/// What the frame table should say about every frame's counts.
fn recount<'v>(sim: &Sim, frames: FrameTable<'_>, vcpus: impl Iterator<Item = &'v VcpuMmu>) -> Vec<Counts> {
    let mut counts = vec![Counts::default(); frames.len()];
    let mut both = |mfn: Mfn| {
        counts[mfn.0 as usize].general += 1;
        counts[mfn.0 as usize].types += 1;
    };
    for vcpu in vcpus {
        let gdt = (0..GDT_FRAMES).filter_map(|index| vcpu.gdt(index));
        let ldt = (0..LDT_FRAMES).filter_map(|index| vcpu.ldt(index));
        gdt.chain(ldt).chain(vcpu.kernel_root()).chain(vcpu.user_root()).for_each(&mut both);
    }
    for (mfn, word) in words(frames) {
        if word.is_pinned() {
            both(mfn);
        }
        if word.is_partial() {
            both(mfn);
        }
    }
    for (mfn, word) in words(frames) {
        let own = &mut counts[mfn.0 as usize];
        own.general += u64::from(word.is_allocated());
        if word.is_special() && word.is_allocated() {
            own.general += 1;
            own.types += 1;
        }
        for entry in held_entries(sim, frames, mfn, word) {
            let target = entry.mfn();
            if frames.is_io(target) {
                continue;
            }
            let count = &mut counts[target.0 as usize];
            count.general += 1;
            count.types += u64::from(word.kind().level() > 1 || entry.is_writable());
        }
    }
    counts
}

/// Present entries of a table that hold references now.
fn held_entries(sim: &Sim, frames: FrameTable<'_>, mfn: Mfn, word: Word) -> Vec<Pte> {
    let level = word.kind().level();
    if level == 0 || word.types() == 0 {
        return Vec::new();
    }
    let end = if word.is_validated() { 512 } else { frames.cursor(mfn) };
    (0..end)
        .filter(|index| level != 4 || !(256..272).contains(index))
        .map(|index| Pte(sim.load64(mfn, index)))
        .filter(|entry| entry.is_present())
        .collect()
}

fn words(frames: FrameTable<'_>) -> impl Iterator<Item = (Mfn, Word)> + '_ {
    (0..frames.len() as u64).filter_map(move |mfn| Some((Mfn(mfn), frames.peek(Mfn(mfn))?)))
}

/// Asserts all invariants between two calls. `owner_of_cpu` tells the domain that runs on a CPU.
pub fn check<'v>(
    sim: &Sim,
    frames: FrameTable<'_>,
    vcpus: impl Iterator<Item = &'v VcpuMmu>,
    owner_of_cpu: impl Fn(usize) -> DomId,
) -> Result<(), String> {
    let counts = recount(sim, frames, vcpus);
    let mut pages: HashMap<u16, u64> = HashMap::new();
    for (mfn, word) in words(frames) {
        let real = Counts { general: word.general(), types: word.types() };
        let expected = counts[mfn.0 as usize];
        if word.general() == 0 {
            if expected != Counts::default() {
                return Err(format!("I-FR-3: free {mfn} is referred to: {expected:?}"));
            }
            continue;
        }
        if real != expected {
            return Err(format!("I-FR-1: {mfn} says {real:?}, recount says {expected:?} ({word:?})"));
        }
        if !word.is_validated() && !word.is_partial() && word.types() != 0 {
            return Err(format!("I-FR-5: {mfn} was left claimed"));
        }
        if !word.is_special() {
            *pages.entry(frames.owner(mfn).0).or_default() += 1;
        }
        tables_are_tables(sim, frames, mfn, word)?;
    }
    for domain in &sim.domains {
        let counted = pages.get(&domain.id.0).copied().unwrap_or(0);
        if domain.pages() != counted {
            return Err(format!(
                "I-FR-8: {} has {} pages, recount says {counted}",
                domain.id,
                domain.pages()
            ));
        }
    }
    tlbs_are_harmless(sim, frames, owner_of_cpu)
}

/// Entries of a table name what its level allows, with the bits that it allows.
fn tables_are_tables(sim: &Sim, frames: FrameTable<'_>, mfn: Mfn, word: Word) -> Result<(), String> {
    let level = word.kind().level();
    for entry in held_entries(sim, frames, mfn, word) {
        let target = entry.mfn();
        if level > 1 {
            if !frames.is_table(target, level - 1) {
                return Err(format!("I-PT-2: {mfn} of level {level} names {target}, no validated table"));
            }
            if entry.0 & (Pte::CACHE | Pte::GLOBAL) != 0 {
                return Err(format!("I-PT-3: {entry:?} in {mfn} of level {level}"));
            }
        } else if entry.is_writable() && !frames.is_io(target) {
            let kind = frames.peek(target).map(Word::kind);
            if kind != Some(Kind::Writable) {
                return Err(format!("I-PT-1: {mfn} maps {target} writable, which is {kind:?}"));
            }
        }
    }
    Ok(())
}

/// Nothing that any CPU may still have cached lets a guest write a table or see a frame of another domain.
pub fn tlbs_are_harmless(
    sim: &Sim,
    frames: FrameTable<'_>,
    owner_of_cpu: impl Fn(usize) -> DomId,
) -> Result<(), String> {
    for (index, cpu) in sim.cpus.lock().unwrap().iter().enumerate() {
        let runs = owner_of_cpu(index);
        let privileged = sim.domains[usize::from(runs.0)].privileged;
        for &(mfn, writable) in &cpu.leaves {
            let (mfn, Some(word)) = (Mfn(mfn), frames.peek(Mfn(mfn))) else { continue };
            if word.general() == 0 {
                continue;
            }
            // A privileged domain may put its own frames into another's tables, for as long as it has them.
            if !privileged && frames.owner(mfn) != runs && !frames.is_foreign_mapped(mfn) {
                return Err(format!("I-PT-5: CPU {index} of {runs} still translates to {mfn} of another"));
            }
            let typed = word.types() != 0 && word.kind() != Kind::Writable && word.kind() != Kind::None;
            if writable && typed {
                return Err(format!("I-PT-4: CPU {index} can write {mfn}, a {:?}", word.kind()));
            }
        }
        for &(mfn, level) in &cpu.tables {
            let Some(word) = frames.peek(Mfn(mfn)) else { continue };
            if word.general() != 0 && word.types() != 0 && word.kind() != Kind::table(level) {
                return Err(format!("I-PT-4: CPU {index} walks {mfn} as level {level}, a {:?}", word.kind()));
            }
        }
    }
    Ok(())
}
