//! Which CPUs are threads of one core, share a cache, and sit in one socket, by their APIC ids.
//!
//! An APIC id is made of fields: from its low end up the thread within its core, the core within its socket, the socket. CPUID says how
//! wide they are, and how many of the low bits tell CPUs apart that share a cache. Sources: Intel SDM volume 2, "CPUID", leaves 1, 4, 0xb,
//! 0x1f; AMD APM volume 3, appendix E, functions 8000_0008, 8000_001D, 8000_001E.

use crate::mmu::MAX_CPUS;
use arrayvec::ArrayVec;

/// How APIC ids are made. The processor on which it is read speaks for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Bits that number a thread within its core.
    pub thread_bits: u32,
    /// Bits that number a thread within its socket.
    pub socket_bits: u32,
    /// Bits that number a thread among those that share the largest cache of a core; all of the socket's if nothing is said of caches.
    pub cache_bits: u32,
}

/// Where a CPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The socket.
    pub socket: u32,
    /// The core within the socket.
    pub core: u32,
    /// The thread within the core.
    pub thread: u32,
    /// The cache: the same for CPUs that share the largest one.
    pub cache: u32,
}

/// How many there are of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sockets.
    pub sockets: u32,
    /// Caches that are the largest of some core.
    pub caches: u32,
    /// Cores.
    pub cores: u32,
    /// Threads: all the CPUs.
    pub threads: u32,
    /// Cores of the socket that has most.
    pub cores_per_socket: u32,
    /// Threads of the core that has most.
    pub threads_per_core: u32,
}

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// Levels and caches that are looked at: more than any processor has.
const MOST: u32 = 16;
/// Widest field, so that shifts make sense whatever is said.
const WIDEST: u32 = 31;

/// Answers CPUID: leaf, subleaf; EAX, EBX, ECX, EDX.
type Leaf = [u32; 4];

fn bits_for(count: u32) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

fn field(word: u32, low: u32, width: u32) -> u32 {
    word >> low & ((1 << width) - 1)
}

/// Thread and socket fields by leaf 0x1f or 0xb; nothing if the processor does not use the leaf.
fn by_levels(cpuid: &mut impl FnMut(u32, u32) -> Leaf, leaf: u32) -> Option<(u32, u32)> {
    const THREAD: u32 = 1;
    let (mut threads, mut socket) = (0, None);
    for level in 0..MOST {
        let answer = cpuid(leaf, level);
        let (kind, bits) = (field(answer[ECX], 8, 8), answer[EAX] & WIDEST);
        if kind == 0 || answer[EBX] & 0xffff == 0 {
            break;
        }
        if kind == THREAD {
            threads = bits;
        }
        socket = Some(socket.unwrap_or(0).max(bits));
    }
    socket.map(|socket| (threads, socket))
}

/// Thread and socket fields as they were told before there was a leaf for them.
fn by_counts(cpuid: &mut impl FnMut(u32, u32) -> Leaf, amd: bool, extensions: bool) -> (u32, u32) {
    const HTT: u32 = 1 << 28;
    let (most, most_extended) = (cpuid(0, 0)[EAX], cpuid(0x8000_0000, 0)[EAX]);
    let leaf1 = cpuid(1, 0);
    if leaf1[EDX] & HTT == 0 {
        return (0, 0);
    }
    let logical = field(leaf1[EBX], 16, 8);
    if amd && most_extended >= 0x8000_0008 {
        let sizes = cpuid(0x8000_0008, 0)[ECX];
        let said = field(sizes, 12, 4);
        let socket = if said != 0 { said } else { bits_for(field(sizes, 0, 8) + 1) };
        let threads = if extensions { field(cpuid(0x8000_001e, 0)[EBX], 8, 8) + 1 } else { 1 };
        return (bits_for(threads), socket);
    }
    let cores = if !amd && most >= 4 { field(cpuid(4, 0)[EAX], 26, 6) + 1 } else { 1 };
    let cores = if amd { logical } else { cores };
    (bits_for(logical).saturating_sub(bits_for(cores)), bits_for(logical))
}

/// Bits that number the threads which share the largest cache, by leaf 4 or its likeness; nothing if that names no cache of data.
fn by_caches(cpuid: &mut impl FnMut(u32, u32) -> Leaf, leaf: u32) -> Option<u32> {
    const DATA: u32 = 1;
    const UNIFIED: u32 = 3;
    let mut largest = None;
    for index in 0..MOST {
        let eax = cpuid(leaf, index)[EAX];
        let (kind, level, sharing) = (field(eax, 0, 5), field(eax, 5, 3), field(eax, 14, 12) + 1);
        match kind {
            0 => break,
            DATA | UNIFIED => largest = largest.max(Some((level, bits_for(sharing)))),
            _ => {}
        }
    }
    largest.map(|(_, bits)| bits)
}

impl Topology {
    /// What CPUID says: `cpuid` answers a leaf and a subleaf with EAX, EBX, ECX, EDX.
    pub fn read(mut cpuid: impl FnMut(u32, u32) -> Leaf) -> Topology {
        const EXTENSIONS: u32 = 1 << 22;
        let cpuid = &mut cpuid;
        let vendor = cpuid(0, 0);
        let (most, most_extended) = (vendor[EAX], cpuid(0x8000_0000, 0)[EAX]);
        // "Auth" of AuthenticAMD, "Hygo" of HygonGenuine.
        let amd = matches!(vendor[EBX], 0x6874_7541 | 0x6f67_7948);
        let extensions = amd && most_extended >= 0x8000_001e && cpuid(0x8000_0001, 0)[ECX] & EXTENSIONS != 0;
        let levels = |cpuid: &mut _, leaf| if most >= leaf { by_levels(cpuid, leaf) } else { None };
        let (threads, socket) = levels(cpuid, 0x1f)
            .or_else(|| levels(cpuid, 0xb))
            .unwrap_or_else(|| by_counts(cpuid, amd, extensions));
        let caches = match amd {
            true if extensions => by_caches(cpuid, 0x8000_001d),
            false if most >= 4 => by_caches(cpuid, 4),
            _ => None,
        };
        let socket_bits = socket.max(threads);
        Topology {
            thread_bits: threads,
            socket_bits,
            cache_bits: caches.unwrap_or(socket_bits).clamp(threads, socket_bits),
        }
    }

    /// Where the CPU with an APIC id is.
    pub const fn place(&self, apic_id: u32) -> Place {
        let in_socket = apic_id & ((1 << self.socket_bits) - 1);
        Place {
            socket: apic_id >> self.socket_bits,
            core: in_socket >> self.thread_bits,
            thread: in_socket & ((1 << self.thread_bits) - 1),
            cache: apic_id >> self.cache_bits,
        }
    }

    /// Counts the sockets, caches, cores and threads of the CPUs with these APIC ids, each given once.
    pub fn count(&self, apic_ids: impl Iterator<Item = u32>) -> Counts {
        let (mut sockets, mut caches, mut cores) = (Tally::new(), Tally::new(), Tally::new());
        for place in apic_ids.map(|id| self.place(id)) {
            caches.add((place.cache, 0));
            if cores.add((place.socket, place.core)) {
                sockets.add((place.socket, 0));
            }
        }
        Counts {
            sockets: sockets.0.len() as u32,
            caches: caches.0.len() as u32,
            cores: cores.0.len() as u32,
            threads: cores.0.iter().map(|(_, threads)| threads).sum(),
            cores_per_socket: sockets.most(),
            threads_per_core: cores.most(),
        }
    }
}

/// How often each name was given.
struct Tally(ArrayVec<((u32, u32), u32), MAX_CPUS>);

impl Tally {
    fn new() -> Tally {
        Tally(ArrayVec::new())
    }

    /// Counts a name; true if it is new. There is room for a name for each CPU.
    fn add(&mut self, name: (u32, u32)) -> bool {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => {
                *times += 1;
                false
            }
            None => self.0.try_push((name, 1)).is_ok(),
        }
    }

    fn most(&self) -> u32 {
        self.0.iter().map(|(_, times)| *times).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTEL: Leaf = [0, 0x756e_6547, 0x6c65_746e, 0x4965_6e69];
    const AMD: Leaf = [0, 0x6874_7541, 0x444d_4163, 0x6974_6e65];
    const HTT: u32 = 1 << 28;

    /// A processor: vendor, highest leaves, and what its leaves say; the others say nothing.
    fn read(vendor: Leaf, most: u32, extended: u32, leaves: &[(u32, u32, Leaf)]) -> Topology {
        Topology::read(|leaf, subleaf| match leaf {
            0 => [most, vendor[1], vendor[2], vendor[3]],
            0x8000_0000 => [extended, 0, 0, 0],
            _ => {
                assert!(leaf <= if leaf < 0x8000_0000 { most } else { extended }, "{leaf:#x} is not there");
                let said = leaves.iter().find(|(l, s, _)| (*l, *s) == (leaf, subleaf));
                said.map_or([0; 4], |(_, _, answer)| *answer)
            }
        })
    }

    fn bits(threads: u32, socket: u32, cache: u32) -> Topology {
        Topology { thread_bits: threads, socket_bits: socket, cache_bits: cache }
    }

    /// EAX of leaf 4 and 8000_001D: kind, level, threads that share it, cores of the socket (leaf 4 only).
    fn cache(kind: u32, level: u32, sharing: u32, cores: u32) -> Leaf {
        [kind | level << 5 | (sharing - 1) << 14 | (cores - 1) << 26, 0, 0, 0]
    }

    /// Core i7-4770: four cores of two threads, one L3.
    #[test]
    fn haswell_by_leaf_b() {
        let leaves = [
            (1, 0, [0x306c3, 0x10_0800, 0, HTT]),
            (4, 0, cache(1, 1, 2, 8)),
            (4, 1, cache(2, 1, 2, 8)),
            (4, 2, cache(3, 2, 2, 8)),
            (4, 3, [0x1c03_c163, 0, 0, 0]),
            (0xb, 0, [1, 2, 0x100, 0]),
            (0xb, 1, [4, 8, 0x201, 0]),
            (0xb, 2, [0, 0, 2, 0]),
        ];
        let haswell = read(INTEL, 0xd, 0x8000_0008, &leaves);
        assert_eq!(haswell, bits(1, 4, 4));
        assert_eq!(haswell.place(5), Place { socket: 0, core: 2, thread: 1, cache: 0 });
        assert_eq!(haswell.place(0x12), Place { socket: 1, core: 1, thread: 0, cache: 1 });
    }

    /// Two dies in a socket, as leaf 0x1f has them: leaf 0xb does not know dies, and stops below the socket.
    #[test]
    fn dies_by_leaf_1f() {
        let leaves = [
            (1, 0, [0x50657, 0x80_0800, 0, HTT]),
            (4, 3, cache(3, 3, 64, 64)),
            (4, 0, cache(1, 1, 2, 64)),
            (4, 1, cache(2, 1, 2, 64)),
            (4, 2, cache(3, 2, 2, 64)),
            (0xb, 0, [1, 2, 0x100, 0]),
            (0xb, 1, [6, 48, 0x201, 0]),
            (0x1f, 0, [1, 2, 0x100, 0]),
            (0x1f, 1, [6, 48, 0x201, 0]),
            (0x1f, 2, [7, 96, 0x502, 0]),
        ];
        assert_eq!(read(INTEL, 0x1f, 0x8000_0008, &leaves), bits(1, 7, 6));
        // A processor that does not use the leaf answers nothing in EBX.
        assert_eq!(read(INTEL, 0x1f, 0x8000_0008, &leaves[..7]), bits(1, 6, 6));
    }

    /// EPYC 7742: 64 cores of two threads; four cores share an L3.
    #[test]
    fn zen_2_by_leaf_b_and_its_own_caches() {
        let leaves = [
            (1, 0, [0x83_0f10, 0x80_0800, 0, HTT]),
            (0xb, 0, [1, 2, 0x100, 0]),
            (0xb, 1, [7, 0x80, 0x201, 0]),
            (0x8000_0001, 0, [0, 0, 1 << 22, 0]),
            (0x8000_0008, 0, [0, 0, 0x707f, 0]),
            (0x8000_001d, 0, cache(1, 1, 2, 1)),
            (0x8000_001d, 1, cache(2, 1, 2, 1)),
            (0x8000_001d, 2, cache(3, 2, 2, 1)),
            (0x8000_001d, 3, [0x1c163, 0, 0, 0]),
            (0x8000_001e, 0, [0, 0x100, 0, 0]),
        ];
        let zen = read(AMD, 0x10, 0x8000_0020, &leaves);
        assert_eq!(zen, bits(1, 7, 3));
        assert_eq!(zen.place(0x8b), Place { socket: 1, core: 5, thread: 1, cache: 0x11 });
    }

    /// Ryzen 5 1600, a first Zen: no leaf 0xb, six cores of which three share an L3, with a gap in the numbers.
    #[test]
    fn zen_1_by_its_sizes() {
        let leaves = [
            (1, 0, [0x80_0f11, 0x0c_0800, 0, HTT]),
            (0x8000_0001, 0, [0, 0, 1 << 22, 0]),
            (0x8000_0008, 0, [0, 0, 0x400b, 0]),
            (0x8000_001d, 0, cache(1, 1, 2, 1)),
            (0x8000_001d, 1, cache(2, 1, 2, 1)),
            (0x8000_001d, 2, cache(3, 2, 2, 1)),
            (0x8000_001d, 3, [0x14163, 0, 0, 0]),
            (0x8000_001e, 0, [0, 0x100, 0, 0]),
        ];
        let zen = read(AMD, 0xd, 0x8000_001f, &leaves);
        assert_eq!(zen, bits(1, 4, 3));
        let ids = (0..6).chain(8..14);
        assert_eq!(
            zen.count(ids),
            Counts { sockets: 1, caches: 2, cores: 6, threads: 12, cores_per_socket: 6, threads_per_core: 2 }
        );
    }

    /// Phenom II X4: nothing is said of caches, and all four cores share the L3.
    #[test]
    fn k10_by_its_sizes() {
        let leaves = [(1, 0, [0x10_0f42, 0x04_0800, 0, HTT]), (0x8000_0008, 0, [0, 0, 0x2003, 0])];
        assert_eq!(read(AMD, 5, 0x8000_001b, &leaves), bits(0, 2, 2));
        // Without a size of the number, the number of cores counts.
        let leaves = [leaves[0], (0x8000_0008, 0, [0, 0, 2, 0])];
        assert_eq!(read(AMD, 5, 0x8000_001b, &leaves), bits(0, 2, 2));
    }

    /// Core 2 Quad Q6600: four cores, of which two share an L2, and there is no L3.
    #[test]
    fn core_2_by_counts() {
        let leaves = [
            (1, 0, [0x6fb, 0x04_0800, 0, HTT]),
            (4, 0, cache(1, 1, 1, 4)),
            (4, 1, cache(2, 1, 1, 4)),
            (4, 2, cache(3, 2, 2, 4)),
        ];
        assert_eq!(read(INTEL, 0xa, 0x8000_0008, &leaves), bits(0, 2, 1));
    }

    /// Pentium 4 with two threads of one core; and one that has neither leaf 4 nor threads.
    #[test]
    fn netburst_by_counts() {
        let leaves =
            [(1, 0, [0xf41, 0x02_0800, 0, HTT]), (4, 0, cache(1, 1, 2, 1)), (4, 1, cache(3, 2, 2, 1))];
        assert_eq!(read(INTEL, 5, 0x8000_0008, &leaves), bits(1, 1, 1));
        assert_eq!(read(INTEL, 2, 0x8000_0004, &[(1, 0, [0xf24, 0x01_0800, 0, 0])]), bits(0, 0, 0));
    }

    #[test]
    fn instructions_are_no_cache_to_share_and_the_highest_level_counts() {
        let of = |caches: &[Leaf]| {
            let mut leaves =
                vec![(1, 0, [0, 0, 0, 0]), (0xb, 0, [1, 2, 0x100, 0]), (0xb, 1, [5, 20, 0x201, 0])];
            leaves.extend((0..).zip(caches).map(|(n, cache)| (4, n, *cache)));
            read(INTEL, 0xd, 0x8000_0008, &leaves).cache_bits
        };
        assert_eq!(of(&[cache(3, 3, 16, 16), cache(1, 1, 2, 16)]), 4);
        assert_eq!(of(&[cache(3, 2, 8, 16), cache(2, 4, 32, 16)]), 3);
        // The list ends at the first that is none.
        assert_eq!(of(&[cache(1, 1, 2, 16), [0; 4], cache(3, 3, 16, 16)]), 1);
        // Never less than the threads of a core, never more than the socket.
        assert_eq!([of(&[cache(1, 1, 1, 16)]), of(&[cache(3, 3, 4096, 16)])], [1, 5]);
        assert_eq!(of(&[]), 5);
    }

    proptest! {
        /// Whatever a processor answers, its numbers are in order, and a place says what the id says.
        #[test]
        fn nonsense_is_harmless(words in prop::collection::vec(any::<u32>(), 64), id: u32, amd: bool) {
            let mut next = 0;
            let topology = Topology::read(|leaf, _| {
                next += 4;
                let answer = [0, 1, 2, 3].map(|n| words[(next + n) % words.len()]);
                let vendor = if amd { AMD } else { INTEL };
                if leaf == 0 { [answer[0], vendor[1], vendor[2], vendor[3]] } else { answer }
            });
            prop_assert!(topology.thread_bits <= topology.cache_bits);
            prop_assert!(topology.cache_bits <= topology.socket_bits && topology.socket_bits <= WIDEST);
            let place = topology.place(id);
            let again = place.socket << topology.socket_bits | place.core << topology.thread_bits | place.thread;
            prop_assert_eq!(again, id);
            prop_assert_eq!(place.cache, id >> topology.cache_bits);
        }

        #[test]
        fn counts_are_those_of_the_ids(sockets in 1u32..4, cores in 1u32..6, threads in 1u32..3) {
            let topology = bits(1, 4, 3);
            let ids = (0..sockets * cores * threads)
                .map(|n| ((n / (cores * threads)) << 4) | ((n / threads % cores) << 1) | (n % threads));
            let caches = sockets * cores.div_ceil(4);
            prop_assert_eq!(topology.count(ids), Counts {
                sockets,
                caches,
                cores: sockets * cores,
                threads: sockets * cores * threads,
                cores_per_socket: cores,
                threads_per_core: threads,
            });
        }
    }
}
