//! Three domains do whatever comes to mind, on six CPUs that cache whatever they can reach. After every call, and in
//! the middle of interrupted ones, every invariant holds; a call that answers with an error has changed nothing.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;

use guest_abi::xen::*;
use hv_core::frame::Kind;
use hv_core::mmu::Pte;
use hv_types::{DomId, Mfn};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use tests_model::{Act, Buffer, World};

/// Dice for one act; what they mean depends on the world at that moment.
type Dice = (u8, u8, u8, u8, u8, u64);

const FLAGS: [u64; 12] =
    [1, 3, 7, 5, 0, 0x67, 3 | Pte::PAT, 7 | Pte::GLOBAL, 3 | Pte::PCD, 5 | 0xe00, 7 | 1 << 63, 1 << 52 | 7];
const INDICES: [usize; 8] = [0, 1, 2, 5, 255, 256, 271, 511];

fn frame(world: &World, cpu: usize, die: u8) -> u64 {
    let own = world.frames_of(DomId(cpu as u16 / 2));
    match die {
        0..200 if !own.is_empty() => own[usize::from(die) % own.len()].0,
        255 => Pte::FRAME >> 12,
        _ => u64::from(die) % 100,
    }
}

/// A frame that is in use as a table, for acts that would seldom hit one.
fn pinned(world: &World, die: u8) -> Option<u64> {
    let is_table =
        |mfn: &u64| world.frames().peek(Mfn(*mfn)).is_some_and(|w| w.kind().level() > 0 && w.types() > 0);
    (u64::from(die)..96).chain(0..u64::from(die)).find(is_table)
}

fn act(world: &World, cpu: usize, dice: Dice) -> Act {
    let (_, kind, a, b, c, wide) = dice;
    let (target, other) = (frame(world, cpu, a), frame(world, cpu, b));
    let index = INDICES[usize::from(c) % INDICES.len()];
    let value = other << 12 | FLAGS[usize::from(c >> 3) % FLAGS.len()];
    let foreign = match wide % 12 {
        n @ 0..3 => n as u32,
        3 => u32::from(DomId::IO.0),
        4 => u32::from(DomId::SELF.0) | 2 << 16,
        _ => u32::from(DomId::SELF.0),
    };
    // The address of a vCPU mask in the call's own arguments.
    let mask = (wide & 1 << 40 != 0).then_some(Buffer::BASE.0 + (wide >> 41 & 1) * 24);
    let va = ((index as u64) << 12) | (u64::from(c & 1) << 39);
    match kind % 32 {
        0..6 => Act::Update(MMU_NORMAL_PT_UPDATE, target, index, value, foreign),
        6 => Act::Update(wide % 8, target, index, value, foreign),
        7 => Act::Update(MMU_PT_UPDATE_PRESERVE_AD, target, index, value, foreign),
        8 | 9 => Act::UpdateVa(va, value, (wide % 7) | mask.unwrap_or(0)),
        10 => Act::UpdateVaOther(va, value, foreign as u16),
        11..16 => Act::Ext(MMUEXT_PIN_L1_TABLE + u32::from(c % 4), target, 0, foreign),
        16..18 => Act::Ext(MMUEXT_UNPIN_TABLE, pinned(world, b).unwrap_or(target), 0, foreign),
        18 => Act::Ext(MMUEXT_NEW_BASEPTR, target, 0, foreign),
        19 => Act::Ext(MMUEXT_NEW_USER_BASEPTR, if c & 1 == 0 { target } else { 0 }, 0, foreign),
        20 if c & 1 == 0 => Act::Ext(MMUEXT_COPY_PAGE, target, pinned(world, b).unwrap_or(other), foreign),
        20 => Act::Ext(u32::from(c >> 1) % 22, target, mask.unwrap_or(other), foreign),
        21 | 22 => Act::Trapped(target, usize::from(c & 7) * 8, 8, value),
        23 => Act::Trapped(target, usize::from(c), 1 << (b & 3), value),
        24 => Act::TrappedExchange(target, usize::from(c & 7) * 8, value),
        25 => Act::SetGdt(target),
        26 => Act::Descriptor((target << 12) | (u64::from(c & 3) * 8), wide),
        27 if c & 1 == 0 => Act::Ext(MMUEXT_SET_LDT, va & !0xfff, 512, foreign),
        27 => Act::LdtFault(u64::from(c)),
        28 | 29 => Act::Store(usize::from(a), index, value),
        30 => Act::Release(target),
        _ => Act::Populate,
    }
}

/// What dice mean: mostly one act, but one time in six all it takes to make a table that has something in it.
fn acts(world: &World, cpu: usize, dice: Dice) -> Vec<Act> {
    if dice.1 < 212 {
        return vec![act(world, cpu, dice)];
    }
    let (_, _, a, b, c, wide) = dice;
    let own = world.frames_of(DomId(cpu as u16 / 2));
    let unmapped = |mfn: &&Mfn| world.frames().peek(**mfn).is_some_and(|w| w.types() == 0);
    let Some(table) = own.iter().filter(unmapped).nth(usize::from(a) % 8).map(|mfn| mfn.0) else {
        return vec![act(world, cpu, dice)];
    };
    let level = u32::from(c % 4);
    let draw = |n: usize| {
        let die = (wide >> (n * 12)) as u8;
        let below = frame(world, cpu, die);
        let target = if level == 0 { below } else { table_of(world, level, die).unwrap_or(below) };
        let flags = FLAGS[(wide >> (n * 12 + 8)) as usize % 16 % FLAGS.len()];
        let index = INDICES[(usize::from(b) >> n) % INDICES.len()];
        Act::Update(MMU_NORMAL_PT_UPDATE, table, index, target << 12 | flags, u32::from(DomId::SELF.0))
    };
    let pin = Act::Ext(MMUEXT_PIN_L1_TABLE + level, table, 0, u32::from(DomId::SELF.0));
    (0..4).map(draw).chain([pin]).collect()
}

/// A table of `level`.
fn table_of(world: &World, level: u32, die: u8) -> Option<u64> {
    (u64::from(die)..96).chain(0..96).find(|&mfn| world.frames().is_table(Mfn(mfn), level))
}

/// General and type references, the pin, the type in use, and the words of a frame.
type Picture = (u64, u64, bool, Option<Kind>, Vec<u64>);

/// All that an error must leave as it is: counts, types in use, and the contents of memory apart from bits that
/// the hypervisor adds to valid entries.
fn picture(world: &World) -> Vec<Picture> {
    let frames = world.frames();
    let bits = !(Pte::USER | Pte::GLOBAL | Pte::GUEST_KERNEL | Pte::ACCESSED);
    let of = |mfn| {
        let word = frames.peek(mfn).unwrap();
        let kind = (word.types() != 0).then(|| word.kind());
        // Mappings of I/O space also get other attributes, or lose their write permission.
        let io = |word: u64| frames.is_io(Pte(word).mfn()) && Pte(word).is_present();
        let kept = |word: u64| word & if io(word) { bits & !(Pte::CACHE | Pte::WRITE) } else { bits };
        let contents = world.sim.words(mfn).into_iter().map(kept).collect();
        (word.general(), word.types(), word.is_pinned(), kind, contents)
    };
    (0..frames.len() as u64).map(|mfn| of(Mfn(mfn))).collect()
}

fn run(script: &[Dice], hurry: u64) {
    let world = World::new();
    world.check().unwrap();
    world.sim.hurry.store(hurry, SeqCst);
    for (step, &dice) in script.iter().enumerate() {
        let cpu = usize::from(dice.0) % 6;
        for act in acts(&world, cpu, dice) {
            let before = picture(&world);
            let answer = world.act(cpu, &act);
            if let Err(problem) = world.check() {
                panic!("step {step}, CPU {cpu}, {act:?} -> {answer:?}: {problem}");
            }
            if answer.is_err() && hurry == 0 {
                assert!(
                    picture(&world) == before,
                    "step {step}, CPU {cpu}: {act:?} -> {answer:?} changed something"
                );
            }
        }
    }
    finish_all(&world);
    world.check().unwrap();
    destroy_all(&world);
}

/// What is left half-way belongs to a vCPU, and is gone when every vCPU has finished (I-FR-9).
fn finish_all(world: &World) {
    for vcpu in &world.vcpus {
        while world.mmu().finish(vcpu).is_err() {}
    }
    let partial =
        |mfn: &u64| world.frames().peek(Mfn(*mfn)).is_some_and(|w| w.is_partial() && w.general() != 0);
    assert_eq!((0..96).find(partial), None, "I-FR-9");
}

/// At the end everything comes back: the heap's free frames are those that were given to it.
fn destroy_all(world: &World) {
    let mmu = world.mmu();
    for cpu in 0..6 {
        world.sim.cpus.lock().unwrap()[cpu].root = 0;
        world.sim.cpus.lock().unwrap()[cpu].user_root = 0;
        let caller = world.caller(cpu);
        caller.domain.dying.store(true, SeqCst);
        while mmu.release_vcpu(&caller).is_err() {}
    }
    // A frame that another domain maps comes back when that domain's tables do.
    for _ in 0..2 {
        for cpu in [0, 2, 4] {
            let mut cursor = 0;
            while mmu.relinquish(&world.caller(cpu), &mut cursor).is_err() {}
        }
    }
    for domain in &world.sim.domains {
        assert_eq!(domain.pages(), 0, "domain {}", domain.id);
    }
    assert_eq!(world.heap.free_frames(), world.heap.total_frames());
}

/// Names an act and, for batches, its command.
fn name(act: &Act) -> String {
    let text = format!("{act:?}");
    let end = text.find(['(', ',']).unwrap_or(text.len());
    match act {
        Act::Ext(command, ..) => format!("Ext {command}"),
        Act::Update(command, ..) => format!("Update {command}"),
        _ => text[..end].to_string(),
    }
}

/// The dice are worth something only if they reach both answers of every call.
#[test]
fn every_act_is_allowed_somewhere_and_refused_somewhere() {
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut answers: BTreeMap<String, [u32; 2]> = BTreeMap::new();
    for _ in 0..400 {
        let script = prop::collection::vec(dice(), 40..60).new_tree(&mut runner).unwrap().current();
        let world = World::new();
        for dice in script {
            let cpu = usize::from(dice.0) % 6;
            for act in acts(&world, cpu, dice) {
                let answer = world.act(cpu, &act);
                answers.entry(name(&act)).or_default()[usize::from(answer.is_err())] += 1;
            }
        }
    }
    // Flushes of one's own always succeed, and so does a store through a translation that one has.
    let never_refused: [&str; 1] = ["Store"];
    // Unknown numbers and super pages never succeed.
    let never_allowed =
        ["Ext 14", "Ext 19", "Ext 20", "Ext 21", "Update 4", "Update 5", "Update 6", "Update 7"];
    for (name, [allowed, refused]) in &answers {
        println!("{name}: {allowed} allowed, {refused} refused");
        assert!(
            (*allowed != 0) != never_allowed.contains(&name.as_str()),
            "{name} was never allowed, or was"
        );
        assert!(*refused != 0 || never_refused.contains(&name.as_str()), "{name} was never refused");
    }
    assert_eq!(answers.len(), 40, "{:?}", answers.keys());
}

fn dice() -> impl Strategy<Value = Dice> {
    any::<Dice>()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_domains_do_breaks_an_invariant(script in prop::collection::vec(dice(), 1..60)) {
        run(&script, 0);
    }

    #[test]
    fn nor_does_it_when_every_walk_is_interrupted(script in prop::collection::vec(dice(), 1..40), hurry: u64) {
        run(&script, hurry | 1);
    }
}
