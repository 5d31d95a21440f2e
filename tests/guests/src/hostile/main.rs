//! A guest that means harm: hypercalls of every number, by chance and by a little grammar, as many as `calls=` on its command line
//! says, from the seed that `seed=` says. It powers off when it has made them all; that it destroys itself on the way is its
//! own affair. With an even seed it leaves alone where its traps and events go, and lives longer. Nobody else may notice.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::sched::*;
use claim::abi::vcpu::VCPUOP_DOWN;
use claim::abi::xen::{DOMID_IDLE, DOMID_IO, DOMID_SELF, DOMID_XEN};
use claim::hypercall::call_number;
use claim::{mm, option, say, stop};

claim::claim!(run);

/// Pages that arguments are made in, and that calls may do anything with.
const PAGES: usize = 24;
/// What waits for nothing, ends this guest, or has it ended. So does [`VCPUOP_DOWN`], of its one vCPU.
const ENDS: [u32; 6] = [
    SCHEDOP_BLOCK,
    SCHEDOP_SHUTDOWN,
    SCHEDOP_POLL,
    SCHEDOP_REMOTE_SHUTDOWN,
    SCHEDOP_SHUTDOWN_CODE,
    SCHEDOP_WATCHDOG,
];
/// Calls that say where traps and events go.
const DIRECTIONS: [Hypercall; 4] =
    [Hypercall::SetTrapTable, Hypercall::SetCallbacks, Hypercall::CallbackOp, Hypercall::StackSwitch];

/// Chance, by xorshift64*.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 33) % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

struct Hostile {
    chance: Chance,
    /// It changes where its traps and events go.
    reckless: bool,
    pages: [u64; PAGES],
    frames: [u64; PAGES],
}

impl Hostile {
    /// A number that may be a frame, of this guest or of anybody.
    fn frame(&mut self) -> u64 {
        match self.chance.below(8) {
            0 => self.chance.below(1 << 20),
            1 => self.chance.next(),
            2 => mm::hypervisor_frame(),
            _ => self.chance.of(&self.frames),
        }
    }

    fn domain(&mut self) -> u16 {
        match self.chance.below(8) {
            0 => 0,
            1 => self.chance.next() as u16,
            2 => self.chance.of(&[DOMID_IO, DOMID_XEN, DOMID_IDLE]),
            _ => DOMID_SELF,
        }
    }

    /// An address: mostly of a page of its own, and near its end now and then.
    fn address(&mut self) -> u64 {
        let page = self.chance.of(&self.pages);
        match self.chance.below(12) {
            0 => self.chance.next(),
            1 => 0xffff_8000_0000_0000 + self.chance.below(1 << 43),
            2 => page + 4096 - self.chance.below(64),
            3 => page + self.chance.below(4096),
            4 => 0,
            _ => page + self.chance.below(64) * 8,
        }
    }

    /// A word of an argument.
    fn word(&mut self) -> u64 {
        match self.chance.below(10) {
            0 => self.chance.next(),
            1 => self.chance.below(1 << 32),
            2 => u64::MAX - self.chance.below(4),
            3 => 1 << self.chance.below(64),
            4 => self.frame() << 12 | self.chance.below(8) | (u64::from(self.chance.one_in(3)) * 0x60),
            5 => self.frame(),
            6 => self.address(),
            7 => u64::from(self.domain()) | self.chance.below(64) << 32,
            _ => self.chance.below(16),
        }
    }

    /// Fills one page of arguments; the answer is its address.
    fn arguments(&mut self) -> u64 {
        let page = self.chance.of(&self.pages);
        // It may have been given away, or made a page table.
        if is_writable(page) {
            for at in 0..self.chance.below(24) + 2 {
                let word = self.word();
                mm::poke(page + at * 8, word);
            }
        }
        page
    }

    /// The number of a call that does not end this guest by what it is for.
    fn number(&mut self) -> u64 {
        loop {
            let number = if self.chance.one_in(40) { self.chance.next() } else { self.chance.below(56) };
            let is = |calls: &[Hypercall]| calls.iter().any(|call| u64::from(call.number()) == number);
            if !is(&[Hypercall::Iret]) && (self.reckless || !is(&DIRECTIONS)) {
                return number;
            }
        }
    }

    fn command(&mut self, number: u64) -> u64 {
        let command = if self.chance.one_in(30) { self.chance.next() } else { self.chance.below(40) };
        self.without_end(number, command)
    }

    /// Another command in the place of one that is there to end this guest.
    fn without_end(&self, number: u64, command: u64) -> u64 {
        let low = command as u32;
        let ends = match number {
            n if n == u64::from(Hypercall::SchedOp.number()) => ENDS.contains(&low),
            n if n == u64::from(Hypercall::VcpuOp.number()) => low == VCPUOP_DOWN,
            _ => false,
        };
        if ends { 0 } else { command }
    }

    /// Makes one call; its answer.
    fn step(&mut self) -> i64 {
        use Hypercall as H;
        let number = self.number();
        let at = self.arguments();
        let is = |call: H| number == u64::from(call.number());
        let count = match self.chance.below(8) {
            0 => self.chance.next(),
            1 => 0,
            _ => self.chance.below(8),
        };
        let arguments = if is(H::MmuUpdate) {
            // Pairs: an entry's machine address with the kind of update, and its new value.
            for pair in 0..2 {
                let pointer = self.frame() << 12 | self.chance.below(512) << 3 | self.chance.below(4);
                poke(at + pair * 16, pointer);
            }
            let domain = u64::from(self.domain());
            [at, count.min(2) | count & 1 << 31, self.address(), domain, 0]
        } else if is(H::MmuextOp) {
            poke(at, self.chance.below(22));
            let frame = self.frame();
            poke(at + 8, frame);
            let domain = u64::from(self.domain());
            [at, count.min(2), self.address(), domain, 0]
        } else if is(H::UpdateVaMapping) {
            // Its own code stays, or the guest would end too soon to do harm.
            [self.chance.of(&self.pages), self.word(), self.chance.below(8), 0, 0]
        } else if is(H::Multicall) {
            for entry in 0..count.min(4) {
                // No breakpoints: the words behind the command could set one on its own code.
                let inner = match self.number() {
                    n if n == u64::from(H::SetDebugreg.number()) => u64::from(H::XenVersion.number()),
                    n => n,
                };
                let command = self.command(inner);
                poke(at + entry * 64, inner);
                poke(at + entry * 64 + 16, command);
            }
            [at, count.min(4), 0, 0, 0]
        } else if is(H::ConsoleIo) {
            [self.chance.below(3), self.chance.below(16), at, 0, 0]
        } else if is(H::SetDebugreg) {
            [self.chance.below(8), at, 0, 0, 0]
        } else if is(H::GrantTableOp) {
            poke(at + 16, u64::from(self.domain()));
            [self.chance.below(13), at, count, 0, 0]
        } else if self.chance.one_in(6) {
            let command = self.word();
            let command = self.without_end(number, command);
            [command, self.word(), self.word(), self.word(), self.word()]
        } else {
            [self.command(number), at, self.word(), self.word(), self.word()]
        };
        call_number(number, &arguments)
    }
}

/// Writes a word of a page of arguments, if it is still one.
fn poke(at: u64, value: u64) {
    if is_writable(at) {
        mm::poke(at, value);
    }
}

fn is_writable(at: u64) -> bool {
    mm::entry(at & !0xfff, 1).value & (mm::P | mm::RW) == mm::P | mm::RW
}

fn run() {
    let (seed, calls) = (option("seed").unwrap_or(1), option("calls").unwrap_or(1000));
    let pages: [u64; PAGES] = core::array::from_fn(|_| mm::page());
    let frames = pages.map(mm::mfn_of);
    let chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut hostile = Hostile { chance, reckless: seed % 2 == 1, pages, frames };
    let done = (0..calls).filter(|_| hostile.step() >= 0).count();
    say!("made {calls} calls from seed {seed}, {done} not refused");
    stop(SHUTDOWN_POWEROFF);
}
