//! The caller's memory, reached through its own page tables.
//!
//! Addresses are the guest's allegations. One comparison keeps them out of the hypervisor's slots; everything else
//! that can be wrong with an address faults, and the exception table turns the fault into [`Fault`]. The guest's
//! root table is loaded while it calls, so no walk in software is needed, and CR0.WP makes our writes obey its
//! read-only mappings, which is what keeps page tables safe (I-PT-1).

use core::arch::asm;

use hv_core::port::{Fault, GuestSpace};
use hv_types::GuestVa;

/// The address space that is loaded on this CPU.
#[derive(Clone, Copy)]
pub struct Caller;

/// Bits 63..43 of every address in the hypervisor's slots, and of no other.
pub const HYPERVISOR_TOP: u64 = 0xffff_8000_0000_0000 >> 43;

/// An access that starts outside the hypervisor's slots and ascends cannot reach them: the addresses directly
/// below are not canonical and fault first.
#[inline(always)]
fn allowed(va: u64) -> bool {
    va >> 43 != HYPERVISOR_TOP
}

/// STAC or CLAC, noted so that [`patch_smap`] can remove it where the CPU has no SMAP.
macro_rules! noted {
    ($ins:literal, $label:literal) => {
        concat!(
            $label,
            ": ",
            $ins,
            "\n",
            ".pushsection .smap_sites, \"a\"\n.long ",
            $label,
            "b - .\n.popsection\n"
        )
    };
}

pub(crate) use noted;

/// Steps of a [`Window`] that is gone through from its beginning to its end.
macro_rules! step {
    ($read:ident, $write:ident, $ty:ty, $reg:ident, $len:literal) => {
        #[inline(always)]
        fn $read(&mut self) -> Result<$ty, Fault> {
            let value: $ty;
            // SAFETY: reads guest memory only (`open`), and a fault lands at the label.
            unsafe {
                asm!("21: mov {v}, [{va}]",
                    ".pushsection .ex_table, \"a\"", ".long 21b - ., {fault} - .", ".popsection",
                    v = out($reg) value, va = in(reg) self.0, fault = label { return Err(Fault) },
                    options(nostack));
            }
            self.0 = self.0.wrapping_add($len);
            Ok(value)
        }

        #[inline(always)]
        fn $write(&mut self, value: $ty) -> Result<(), Fault> {
            // SAFETY: writes guest memory only (`open`), obeying its mappings; a fault lands at the label.
            unsafe {
                asm!("21: mov [{va}], {v}",
                    ".pushsection .ex_table, \"a\"", ".long 21b - ., {fault} - .", ".popsection",
                    v = in($reg) value, va = in(reg) self.0, fault = label { return Err(Fault) },
                    options(nostack));
            }
            self.0 = self.0.wrapping_add($len);
            Ok(())
        }
    };
}

macro_rules! word_access {
    ($read:ident, $write:ident, $ty:ty, $reg:ident, $fmt:literal) => {
        /// Reads one word of the caller's memory, once.
        #[inline(always)]
        pub fn $read(self, va: u64) -> Result<$ty, Fault> {
            if !allowed(va) {
                return Err(Fault);
            }
            let value: $ty;
            // SAFETY: reads guest memory only (`allowed`), and a fault lands at the label.
            unsafe {
                asm!(noted!("stac", "20"), concat!("21: mov ", $fmt, ", [{va}]"), noted!("clac", "22"),
                    ".pushsection .ex_table, \"a\"", ".long 21b - ., {fault} - .", ".popsection",
                    v = out($reg) value, va = in(reg) va, fault = label { return Err(Fault) },
                    options(nostack));
            }
            Ok(value)
        }

        /// Writes one word of the caller's memory, once.
        #[inline(always)]
        pub fn $write(self, va: u64, value: $ty) -> Result<(), Fault> {
            if !allowed(va) {
                return Err(Fault);
            }
            // SAFETY: writes guest memory only (`allowed`), obeying its mappings; a fault lands at the label.
            unsafe {
                asm!(noted!("stac", "20"), concat!("21: mov [{va}], ", $fmt), noted!("clac", "22"),
                    ".pushsection .ex_table, \"a\"", ".long 21b - ., {fault} - .", ".popsection",
                    v = in($reg) value, va = in(reg) va, fault = label { return Err(Fault) },
                    options(nostack));
            }
            Ok(())
        }
    };
}

/// Words that a structure has at most which is read or written without a loop.
const MOST_WORDS: usize = 11;

/// Guest memory from one address on, between STAC and CLAC. A fault closes it: whoever resumes at a label of the
/// exception table does so with AC clear.
#[derive(Clone, Copy)]
struct Window(u64);

impl Window {
    /// Opens it for an access that begins at `va` and ascends.
    #[inline(always)]
    fn open(va: u64) -> Result<Window, Fault> {
        if !allowed(va) {
            return Err(Fault);
        }
        // SAFETY: only AC changes; `close` or a fault changes it back.
        unsafe { asm!(noted!("stac", "20"), options(nostack)) };
        Ok(Window(va))
    }

    step!(next_word, put_word, u64, reg, 8);
    step!(next_byte, put_byte, u8, reg_byte, 1);

    #[inline(always)]
    fn close(self) {
        // SAFETY: only AC changes.
        unsafe { asm!(noted!("clac", "22"), options(nostack)) };
    }

    /// Reads word `I` of `N`; nothing if there are not so many.
    #[inline(always)]
    fn load<const I: usize, const N: usize>(self, out: &mut [u64; N]) -> Result<(), Fault> {
        if I < N {
            let value: u64;
            // SAFETY: reads guest memory only (`open`), and a fault lands at the label.
            unsafe {
                asm!("21: mov {v}, [{va} + 8*{i}]",
                    ".pushsection .ex_table, \"a\"", ".long 21b - ., {fault} - .", ".popsection",
                    v = out(reg) value, va = in(reg) self.0, i = const I, fault = label { return Err(Fault) },
                    options(nostack));
            }
            out[I] = value;
        }
        Ok(())
    }

    /// Writes word `I` of `N`; nothing if there are not so many.
    #[inline(always)]
    fn store<const I: usize, const N: usize>(self, words: &[u64; N]) -> Result<(), Fault> {
        if I < N {
            // SAFETY: writes guest memory only (`open`), obeying its mappings; a fault lands at the label.
            unsafe {
                asm!("21: mov [{va} + 8*{i}], {v}",
                    ".pushsection .ex_table, \"a\"", ".long 21b - ., {fault} - .", ".popsection",
                    v = in(reg) words[I], va = in(reg) self.0, i = const I, fault = label { return Err(Fault) },
                    options(nostack));
            }
        }
        Ok(())
    }
}

impl Caller {
    word_access!(read_u64, write_u64, u64, reg, "{v}");
    word_access!(read_u32, write_u32, u32, reg, "{v:e}");
    word_access!(read_u16, write_u16, u16, reg, "{v:x}");
    word_access!(read_u8, write_u8, u8, reg_byte, "{v}");

    /// Reads a structure of up to [`MOST_WORDS`] plain 64-bit words.
    #[inline(always)]
    pub fn read_words<const N: usize>(self, va: u64) -> Result<[u64; N], Fault> {
        const { assert!(N <= MOST_WORDS) };
        let window = Window::open(va)?;
        let mut out = [0; N];
        window.load::<0, N>(&mut out)?;
        window.load::<1, N>(&mut out)?;
        window.load::<2, N>(&mut out)?;
        window.load::<3, N>(&mut out)?;
        window.load::<4, N>(&mut out)?;
        window.load::<5, N>(&mut out)?;
        window.load::<6, N>(&mut out)?;
        window.load::<7, N>(&mut out)?;
        window.load::<8, N>(&mut out)?;
        window.load::<9, N>(&mut out)?;
        window.load::<10, N>(&mut out)?;
        window.close();
        Ok(out)
    }

    /// Writes up to [`MOST_WORDS`] whole words; stops at the first that faults.
    #[inline(always)]
    pub fn write_words<const N: usize>(self, va: u64, words: &[u64; N]) -> Result<(), Fault> {
        const { assert!(N <= MOST_WORDS) };
        let window = Window::open(va)?;
        window.store::<0, N>(words)?;
        window.store::<1, N>(words)?;
        window.store::<2, N>(words)?;
        window.store::<3, N>(words)?;
        window.store::<4, N>(words)?;
        window.store::<5, N>(words)?;
        window.store::<6, N>(words)?;
        window.store::<7, N>(words)?;
        window.store::<8, N>(words)?;
        window.store::<9, N>(words)?;
        window.store::<10, N>(words)?;
        window.close();
        Ok(())
    }

    /// Copies by words and then by bytes.
    fn read_bulk(self, va: u64, into: &mut [u8]) -> Result<(), Fault> {
        let mut window = Window::open(va)?;
        let (words, rest) = into.as_chunks_mut::<8>();
        for word in words {
            *word = window.next_word()?.to_ne_bytes();
        }
        for byte in rest {
            *byte = window.next_byte()?;
        }
        window.close();
        Ok(())
    }

    fn write_bulk(self, va: u64, from: &[u8]) -> Result<(), Fault> {
        let mut window = Window::open(va)?;
        let (words, rest) = from.as_chunks::<8>();
        for word in words {
            window.put_word(u64::from_ne_bytes(*word))?;
        }
        for byte in rest {
            window.put_byte(*byte)?;
        }
        window.close();
        Ok(())
    }
}

impl GuestSpace for Caller {
    #[inline(always)]
    fn read(&self, from: GuestVa, into: &mut [u8]) -> Result<(), Fault> {
        match into.len() {
            8 => into.copy_from_slice(&self.read_u64(from.0)?.to_ne_bytes()),
            4 => into.copy_from_slice(&self.read_u32(from.0)?.to_ne_bytes()),
            16 => {
                let [a, b] = self.read_words::<2>(from.0)?;
                let (low, high) = into.split_at_mut(8);
                low.copy_from_slice(&a.to_ne_bytes());
                high.copy_from_slice(&b.to_ne_bytes());
            }
            _ => return self.read_bulk(from.0, into),
        }
        Ok(())
    }

    #[inline(always)]
    fn write(&self, to: GuestVa, from: &[u8]) -> Result<(), Fault> {
        match from.len() {
            4 => self.write_u32(to.0, u32::from_ne_bytes([from[0], from[1], from[2], from[3]])),
            2 => self.write_u16(to.0, u16::from_ne_bytes([from[0], from[1]])),
            _ => self.write_bulk(to.0, from),
        }
    }
}

unsafe extern "C" {
    static __ex_table_start: i32;
    static __ex_table_end: i32;
    static __smap_sites_start: i32;
    static __smap_sites_end: i32;
}

/// Address to continue at after a fault at `ip` inside the hypervisor, where one is foreseen.
pub fn fixup(ip: u64) -> Option<u64> {
    let mut at = &raw const __ex_table_start;
    let end = &raw const __ex_table_end;
    while at < end {
        let target = at.wrapping_add(1);
        // SAFETY: the linker script places pairs of words between the two symbols.
        let (fault, to) = unsafe { (at as i64 + i64::from(*at), target as i64 + i64::from(*target)) };
        if fault as u64 == ip {
            return Some(to as u64);
        }
        at = at.wrapping_add(2);
    }
    None
}

/// Replaces every STAC and CLAC by a no-op, for CPUs that would refuse them.
///
/// # Safety
/// Called once, by the boot CPU, while text is still writable and no other CPU runs.
pub unsafe fn patch_smap() {
    let mut at = &raw const __smap_sites_start;
    let end = &raw const __smap_sites_end;
    while at < end {
        // SAFETY: each word names an instruction of three bytes in the text, which is writable by the caller's word.
        unsafe {
            core::ptr::copy_nonoverlapping(
                [0x0f, 0x1f, 0x00].as_ptr(),
                (at as i64 + i64::from(*at)) as *mut u8,
                3,
            )
        };
        at = at.wrapping_add(1);
    }
}
