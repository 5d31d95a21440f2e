//! The lines above the domains: the machine.

use super::PAGE;
use super::columns::{tenths, time};
use super::draw::{Pen, Tone};
use super::state::{Order, State};
use crate::config::bytes_text;
use crate::create::reason_text;
use crate::domain::Domain;

/// Words for a domain, the one that says most first.
const WORDS: [&str; 7] = ["dying", "crashed", "shutdown", "paused", "running", "blocked", "waiting"];

/// How many lines there are for a screen of a height.
pub(super) fn lines(height: u16) -> u16 {
    match height {
        0..6 => 0,
        6..9 => 1,
        9..14 => 3,
        _ => 5,
    }
}

impl State {
    /// Draws the first lines of the screen.
    pub(super) fn draw_header(&self, pen: &mut Pen<'_>, lines: u16) {
        if lines == 0 {
            return;
        }
        pen.line(0, &self.machine(), Tone::Strong);
        match lines {
            3 => {
                self.cpu_bar(pen, 1);
                self.memory_bar(pen, 2);
            }
            5 => {
                pen.line(1, &self.domains(), Tone::Plain);
                self.cpu_bar(pen, 2);
                self.memory_bar(pen, 3);
                self.memory_parts(pen, 4);
            }
            _ => {}
        }
    }

    fn machine(&self) -> String {
        let info = &self.now.host;
        let host = if self.host.is_empty() { String::new() } else { format!("{}: ", self.host) };
        let every = match self.frozen {
            true => "frozen".to_owned(),
            false => format!("every {} s", self.delay.as_millis() as f64 / 1000.0),
        };
        let (version, up) = (reason_text(&info.version), time(info.uptime));
        format!("{host}{version}, {} CPUs, up {up}, {every}", info.online_cpus)
    }

    fn domains(&self) -> String {
        let word = |domain: &Domain| {
            let words = domain.state();
            WORDS.into_iter().find(|word| words.contains(word)).unwrap_or("waiting")
        };
        let mut counts = [0; WORDS.len()];
        for seen in self.now.domains.values() {
            let word = word(&seen.domain);
            WORDS.iter().zip(&mut counts).filter(|(w, _)| **w == word).for_each(|(_, count)| *count += 1);
        }
        let counted = WORDS.iter().zip(counts).rev().filter(|(_, count)| *count > 0);
        let parts: Vec<String> = counted.map(|(word, count)| format!("{count} {word}")).collect();
        let order = match self.order {
            Order::Cpu => "CPU",
            Order::Wait => "wait",
            Order::Memory => "memory",
            Order::Name => "name",
            Order::Id => "number",
        };
        let reversed = if self.reversed { ", reversed" } else { "" };
        let count = self.now.domains.len();
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} domain{plural}: {}; by {order}{reversed}", parts.join(", "))
    }

    fn cpu_bar(&self, pen: &mut Pen<'_>, y: u16) {
        let (rate, cpus) = (self.total(), u64::from(self.now.host.online_cpus));
        let text = format!(" {} of {} %, {} waiting", tenths(rate.ran), cpus * 100, tenths(rate.waited));
        bar(pen, y, "CPU", &[('#', Tone::Good, rate.ran)], cpus * 1000, &text);
    }

    /// Parts of the memory, the free part last.
    fn parts(&self) -> [(&'static str, char, Tone, u64); 5] {
        let info = &self.now.host;
        let guests = info.domain_pages.saturating_sub(info.dom0_pages);
        [
            ("hypervisor", 'h', Tone::Bad, info.hypervisor_pages),
            ("dom0", '0', Tone::Odd, info.dom0_pages),
            ("guests", 'g', Tone::Good, guests),
            ("claimed", 'c', Tone::Warn, info.outstanding_pages),
            ("free", '.', Tone::Faint, info.free_pages),
        ]
    }

    fn memory_bar(&self, pen: &mut Pen<'_>, y: u16) {
        let info = &self.now.host;
        let parts = self.parts().map(|(_, letter, tone, pages)| (letter, tone, pages));
        let (free, total) = (bytes_text(info.free_pages * PAGE), bytes_text(info.total_pages * PAGE));
        bar(pen, y, "Memory", &parts, info.total_pages, &format!(" {free} of {total} free"));
    }

    fn memory_parts(&self, pen: &mut Pen<'_>, y: u16) {
        let mut x = 8;
        // How much is free stands behind the bar.
        for (name, letter, tone, pages) in self.parts().into_iter().filter(|(name, ..)| *name != "free") {
            x += pen.put(x, y, 1, &letter.to_string(), tone);
            x += pen.put(x, y, u16::MAX, &format!(" {name} {}  ", bytes_text(pages * PAGE)), Tone::Plain);
        }
    }
}

/// A bar of parts of a whole, between a title and a text, where there is room for it.
fn bar(pen: &mut Pen<'_>, y: u16, title: &str, parts: &[(char, Tone, u64)], whole: u64, text: &str) {
    const TITLE: u16 = 7;
    /// Room for the longest text, so that bars end in one place.
    const TEXT: u16 = 32;
    pen.put(0, y, TITLE, title, Tone::Plain);
    let len = pen.width().saturating_sub(TITLE + TEXT + 2).min(60);
    if len < 8 {
        pen.put(TITLE - 1, y, u16::MAX, text, Tone::Plain);
        return;
    }
    pen.put(TITLE, y, 1, "[", Tone::Plain);
    // By sums, so that what is rounded is no more than a cell.
    let cell =
        |sum: u64| (u128::from(sum.min(whole)) * u128::from(len)).checked_div(u128::from(whole)).unwrap_or(0);
    let mut sum = 0_u64;
    for (letter, tone, part) in parts {
        let from = cell(sum) as u16;
        sum = sum.saturating_add(*part);
        let cells = cell(sum) as u16 - from;
        pen.put(TITLE + 1 + from, y, cells, &letter.to_string().repeat(cells.into()), *tone);
    }
    pen.put(TITLE + 1 + len, y, 1, "]", Tone::Plain);
    pen.put(TITLE + 2 + len, y, u16::MAX, text, Tone::Plain);
}
