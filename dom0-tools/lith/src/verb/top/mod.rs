//! `top`: who uses the CPUs. A table again and again for pipes and programs, and on a terminal a screen with keys.

#[cfg(feature = "tui")]
mod act;
#[cfg(feature = "tui")]
mod columns;
#[cfg(feature = "tui")]
mod draw;
#[cfg(feature = "tui")]
mod header;
#[cfg(feature = "tui")]
mod keys;
#[cfg(feature = "tui")]
mod sample;
#[cfg(feature = "tui")]
mod screen;
#[cfg(feature = "tui")]
mod state;
mod table;

#[cfg(feature = "tui")]
pub use {
    act::{Act, act},
    keys::{Key, Keys},
    sample::{Id, Rate, Sample},
    state::{Action, Look, State},
};

use super::Context;
use crate::error::Result;
use crate::output::Format;

const PAGE: u64 = 4096;

/// The keys of the screen and what they do.
#[cfg(feature = "tui")]
pub const KEYS: [(&str, &str); 12] = [
    ("up, down, j, k", "select a domain; also PgUp, PgDn, Home, End"),
    ("c, w, m, n, i", "sort by CPU, wait, memory, name, number"),
    ("r", "sort the other way round"),
    ("v", "the vCPUs of the selected domain, and back"),
    ("p", "pause the selected domain, or let it go on"),
    ("S", "ask the selected domain to power off"),
    ("+, -", "look less often, more often"),
    ("d, s", "type the seconds between two looks"),
    ("space", "look no more, and go on"),
    ("Ctrl-L", "draw the screen anew"),
    ("?", "the keys"),
    ("q, Esc, Ctrl-C", "quit; Esc leaves vCPUs, help and questions first"),
];

/// The keys as a text, for help and manual.
#[cfg(feature = "tui")]
pub fn keys_text() -> String {
    let lines = KEYS.iter().map(|(key, what)| format!("\n  {key:<16}{what}"));
    format!(
        "On a terminal `top` is a screen with keys:\n{}\n\n\
CPU % and WAIT % are per cent of one CPU since the look before: how long its vCPUs ran, and how long they \
wanted to and had none. NO_COLOR in the environment takes the colours away.",
        lines.collect::<String>()
    )
}

/// A part of a span in tenths of a per cent; 0 if there is no span.
fn permille(part: u64, span: u64) -> u64 {
    let permille = (u128::from(part) * 1000).checked_div(u128::from(span)).unwrap_or(0);
    u64::try_from(permille).unwrap_or(u64::MAX)
}

impl Context<'_, '_> {
    pub(super) fn top(&mut self, batch: bool, delay: u64, iterations: Option<u64>) -> Result<()> {
        let seen = !batch && self.format == Format::Table && self.streams.terminal;
        #[cfg(feature = "tui")]
        if seen && screen::is_possible() {
            return screen::run(self.host, delay, iterations);
        }
        self.tables(seen, delay, iterations)
    }
}
