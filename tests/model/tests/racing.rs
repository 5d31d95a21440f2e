//! Several CPUs at once, for real: threads act on the same few frames without asking each other. What is left when
//! they have stopped is counted again from scratch.

use std::sync::atomic::Ordering::SeqCst;

use guest_abi::xen::*;
use hv_types::DomId;
use tests_model::{Act, World};

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    *state >> 33
}

fn act(own: &[u64], dice: &mut u64) -> Act {
    let mut any = |n: u64| random(dice) % n;
    let (target, other) = (own[any(8) as usize], own[any(10) as usize]);
    let index = any(4) as usize;
    let value = other << 12 | [0, 1, 3, 7, 5][any(5) as usize];
    let own_frames = u32::from(DomId::SELF.0);
    match any(12) {
        0..3 => Act::Update(MMU_NORMAL_PT_UPDATE, target, index, value, own_frames),
        3 => Act::Update(MMU_PT_UPDATE_PRESERVE_AD, target, index, value, own_frames),
        4 => Act::UpdateVa(index as u64 * 4096, value, 0),
        5..7 => Act::Ext(MMUEXT_PIN_L1_TABLE + any(4) as u32, target, 0, own_frames),
        7..9 => Act::Ext(MMUEXT_UNPIN_TABLE, target, 0, own_frames),
        9 => Act::Ext(MMUEXT_NEW_USER_BASEPTR, if any(2) == 0 { 0 } else { target }, 0, own_frames),
        10 => Act::Trapped(target, index * 8, 8, value),
        _ => Act::SetGdt(target),
    }
}

#[test]
fn counts_are_right_after_cpus_raced() {
    for round in 0..60 {
        let world = World::new();
        world.sim.threads.store(3, SeqCst);
        let frames = |id| world.frames_of(DomId(id)).iter().map(|mfn| mfn.0).collect::<Vec<_>>();
        let (one, two) = (frames(1), frames(2));
        std::thread::scope(|scope| {
            for (cpu, own) in [(2, &one), (3, &one), (4, &two)] {
                let (world, foreign) = (&world, &one);
                scope.spawn(move || {
                    let mut dice = round * 7919 + cpu as u64;
                    for _ in 0..400 {
                        // Domain 2 names domain 1's frames as often as its own.
                        let named =
                            if cpu == 4 && random(&mut dice).is_multiple_of(2) { foreign } else { own };
                        _ = world.act(cpu, &act(named, &mut dice));
                    }
                });
            }
        });
        world.sim.threads.store(1, SeqCst);
        // What an interrupted or failed call left to its vCPU is finished by the next one.
        for cpu in 0..6 {
            while world.mmu().finish(&world.vcpus[cpu]).is_err() {}
        }
        if let Err(problem) = world.check() {
            panic!("round {round}: {problem}");
        }
    }
}
