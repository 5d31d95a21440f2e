//! The screen: VGA text, or a linear framebuffer with letters of our own. Handed to dom0 when that starts.
//!
//! Text scrolls. A framebuffer does not: moving megabytes through uncached memory for each line would take longer than
//! everything else at boot, so writing goes on at the top, with an empty line ahead of it.

use guest_abi::vga::{
    Dom0VgaConsoleInfo, TextMode3, XEN_VGATYPE_EFI_LFB, XEN_VGATYPE_TEXT_MODE_3, XEN_VGATYPE_VESA_LFB,
};
use spin::Mutex;

use super::font;
use crate::boot::Framebuffer;
use crate::{cpu, mem};

const TEXT: u64 = 0xb8000;
const COLUMNS: usize = 80;
const ROWS: usize = 25;
/// Light grey on black.
const ATTRIBUTE: u16 = 0x0700;

enum Surface {
    Text(*mut u16),
    Pixels(*mut u8, Framebuffer),
}

struct Screen {
    surface: Surface,
    columns: usize,
    rows: usize,
    column: usize,
    row: usize,
    control: Control,
}

/// How much of a control sequence (ECMA-48) has been written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Control {
    Nothing,
    Escape,
    Sequence,
}

// SAFETY: the surface is a permanent mapping of video memory; the lock below makes one CPU at a time write it.
unsafe impl Send for Screen {}

static SCREEN: Mutex<Option<Screen>> = Mutex::new(None);

/// Takes the screen that the loader left, else VGA text unless the firmware says that there is no VGA. False if there is
/// nothing to write on.
pub fn init(framebuffer: Option<&Framebuffer>, no_vga: bool) -> bool {
    let screen = match framebuffer {
        Some(fb) if !fb.text => pixels(fb),
        Some(_) => text(),
        None if no_vga => None,
        None => text(),
    };
    let mut place = SCREEN.lock();
    *place = screen;
    place.as_mut().map(Screen::clear).is_some()
}

fn text() -> Option<Screen> {
    let at = mem::map_io(TEXT, COLUMNS * ROWS * 2)?.cast();
    Some(Screen::new(Surface::Text(at), COLUMNS, ROWS))
}

fn pixels(fb: &Framebuffer) -> Option<Screen> {
    let len = (fb.pitch as usize).checked_mul(fb.height as usize)?;
    let fits = (fb.width as usize).checked_mul(usize::from(fb.bpp) / 8)? <= fb.pitch as usize;
    if !matches!(fb.bpp, 16 | 24 | 32) || !fits || fb.colours.iter().any(|(at, size)| at + size > fb.bpp) {
        return None;
    }
    let columns = fb.width as usize / font::WIDTH;
    let rows = fb.height as usize / font::HEIGHT;
    if columns == 0 || rows < 2 {
        return None;
    }
    let at = mem::map_io(fb.address, len)?;
    Some(Screen::new(Surface::Pixels(at, *fb), columns, rows))
}

impl Screen {
    fn new(surface: Surface, columns: usize, rows: usize) -> Screen {
        Screen { surface, columns, rows, column: 0, row: 0, control: Control::Nothing }
    }

    fn put(&mut self, row: usize, column: usize, character: u8) {
        debug_assert!(row < self.rows && column < self.columns);
        match &self.surface {
            Surface::Text(at) => {
                // SAFETY: row and column are within the mapped 80 by 25 cells.
                unsafe { at.add(row * COLUMNS + column).write_volatile(ATTRIBUTE | u16::from(character)) }
            }
            Surface::Pixels(at, fb) => draw(*at, fb, row, column, character),
        }
    }

    fn clear_row(&mut self, row: usize) {
        (0..self.columns).for_each(|column| self.put(row, column, b' '));
    }

    fn clear(&mut self) {
        match self.surface {
            Surface::Text(_) => (0..self.rows).for_each(|row| self.clear_row(row)),
            Surface::Pixels(..) => (0..2).for_each(|row| self.clear_row(row)),
        }
    }

    fn new_line(&mut self) {
        self.column = 0;
        match self.surface {
            Surface::Text(at) if self.row + 1 == self.rows => {
                for cell in 0..COLUMNS * (ROWS - 1) {
                    // SAFETY: both cells are within the mapped 80 by 25.
                    unsafe { at.add(cell).write_volatile(at.add(cell + COLUMNS).read_volatile()) };
                }
                self.clear_row(self.row);
            }
            Surface::Text(_) => self.row += 1,
            Surface::Pixels(..) => {
                self.row = (self.row + 1) % self.rows;
                self.clear_row((self.row + 1) % self.rows);
            }
        }
    }

    /// Control sequences are not shown; of them, only the one that erases the rest of the line has an effect.
    fn write(&mut self, byte: u8) {
        match (self.control, byte) {
            (_, 0x1b) => self.control = Control::Escape,
            (Control::Escape, b'[') => self.control = Control::Sequence,
            (Control::Escape, _) => self.control = Control::Nothing,
            (Control::Sequence, 0x40..0x7f) => {
                self.control = Control::Nothing;
                if byte == b'K' {
                    (self.column..self.columns).for_each(|column| self.put(self.row, column, b' '));
                }
            }
            (Control::Sequence, _) => {}
            (Control::Nothing, _) => self.show(byte),
        }
    }

    fn show(&mut self, byte: u8) {
        match byte {
            b'\n' => self.new_line(),
            b'\r' => self.column = 0,
            b'\t' => self.column = ((self.column | 7) + 1).min(self.columns - 1),
            8 => self.column = self.column.saturating_sub(1),
            0..32 | 127 => {}
            _ => {
                if self.column == self.columns {
                    self.new_line();
                }
                self.put(self.row, self.column, byte);
                self.column += 1;
            }
        }
    }

    /// Shows the hardware's cursor of text mode where writing goes on.
    fn place_cursor(&self) {
        if let Surface::Text(_) = self.surface {
            let at = (self.row * COLUMNS + self.column.min(COLUMNS - 1)) as u16;
            let [low, high] = at.to_le_bytes();
            // SAFETY: the VGA's cursor registers, which are the hypervisor's until dom0 has the screen.
            unsafe {
                for (index, value) in [(0x0e, high), (0x0f, low)] {
                    cpu::outb(0x3d4, index);
                    cpu::outb(0x3d5, value);
                }
            }
        }
    }
}

fn draw(base: *mut u8, fb: &Framebuffer, row: usize, column: usize, character: u8) {
    // Light grey: five sixths of each colour.
    let white = fb.colours.iter().fold(0u32, |all, (at, size)| {
        let full = (1u64 << size) - 1;
        all | ((full * 5 / 6) << at) as u32
    });
    let bytes = usize::from(fb.bpp) / 8;
    for y in 0..font::HEIGHT {
        let dots = font::row(character, y);
        let line = (row * font::HEIGHT + y) * fb.pitch as usize + column * font::WIDTH * bytes;
        for x in 0..font::WIDTH {
            let colour = if dots & 0x80 >> x != 0 { white } else { 0 };
            // SAFETY: row and column are within the framebuffer, whose lines and pixels `pixels` has checked against
            // what is mapped.
            unsafe {
                let at = base.add(line + x * bytes);
                match bytes {
                    4 => at.cast::<u32>().write_volatile(colour),
                    2 => at.cast::<u16>().write_volatile(colour as u16),
                    _ => (0..3).for_each(|n| at.add(n).write_volatile(colour.to_le_bytes()[n])),
                }
            }
        }
    }
}

/// Writes ASCII; other bytes show as blocks.
pub fn write(bytes: &[u8]) {
    let mut screen = SCREEN.lock();
    let Some(screen) = screen.as_mut() else { return };
    bytes.iter().for_each(|byte| screen.write(*byte));
    screen.place_cursor();
}

/// From now on the screen is dom0's (`vga=keep` leaves it with the hypervisor too).
pub fn release() {
    *SCREEN.lock() = None;
}

/// Lets a hypervisor fault print although the code that faulted may hold the lock.
///
/// # Safety
/// No other CPU prints, and this CPU never returns to what it was doing.
pub unsafe fn break_lock() {
    // A ticket lock must not be unlocked when nobody holds it.
    if SCREEN.is_locked() {
        // SAFETY: the caller's duty.
        unsafe { SCREEN.force_unlock() };
    }
}

/// The screen as dom0's start information describes it, with the cursor where writing ended; to be taken before
/// [`release`]. `None`: there is none.
pub fn dom0_console(framebuffer: Option<&Framebuffer>, efi: bool) -> Option<Dom0VgaConsoleInfo> {
    use zerocopy::IntoBytes;
    let screen = SCREEN.lock();
    let screen = screen.as_ref()?;
    let mut info = Dom0VgaConsoleInfo::default();
    match (&screen.surface, framebuffer) {
        (Surface::Text(_), _) => {
            let text = TextMode3 {
                font_height: 16,
                cursor_x: screen.column.min(COLUMNS - 1) as u16,
                cursor_y: screen.row as u16,
                rows: ROWS as u16,
                columns: COLUMNS as u16,
            };
            info.video_type = XEN_VGATYPE_TEXT_MODE_3;
            let bytes = text.as_bytes();
            info.as_mut_bytes()[4..4 + bytes.len()].copy_from_slice(bytes);
        }
        (Surface::Pixels(..), Some(fb)) => {
            info.video_type = if efi { XEN_VGATYPE_EFI_LFB } else { XEN_VGATYPE_VESA_LFB };
            describe(&mut info, fb);
        }
        (Surface::Pixels(..), None) => return None,
    }
    Some(info)
}

fn describe(info: &mut Dom0VgaConsoleInfo, fb: &Framebuffer) {
    info.width = fb.width as u16;
    info.height = fb.height as u16;
    info.bytes_per_line = fb.pitch as u16;
    info.bits_per_pixel = fb.bpp.into();
    info.lfb_base = fb.address as u32;
    info.ext_lfb_base = (fb.address >> 32) as u32;
    info.lfb_size = (u64::from(fb.pitch) * u64::from(fb.height)).div_ceil(0x1_0000) as u32;
    let [red, green, blue] = fb.colours;
    (info.red_pos, info.red_size) = red;
    (info.green_pos, info.green_size) = green;
    (info.blue_pos, info.blue_size) = blue;
    let used = red.1 + green.1 + blue.1;
    if let Some(rest) = fb.bpp.checked_sub(used).filter(|_| fb.bpp == 32) {
        (info.rsvd_pos, info.rsvd_size) = (used, rest);
    }
}
