//! The terminal: raw and cleared while this runs, as it was afterwards, however it ends.

use super::{Action, Key, Keys, Look, State, act};
use crate::error::Result;
use crate::host::Host;
use lith_client::os::{SIGHUP, SIGINT, SIGTERM, SIGWINCH, Signals, Wait, unblock_signals, wait};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
    window_size,
};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};
use std::env;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Stdout, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long the rest of a key may take to come, over a slow line too.
const REST_OF_KEY: Duration = Duration::from_millis(300);
/// A terminal that does not say how large it is.
const USUAL: (u16, u16) = (80, 24);

/// There is a terminal that can do this.
pub(super) fn is_possible() -> bool {
    stdin().is_terminal() && stdout().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

impl Look {
    /// What the environment says of the terminal.
    fn of_environment() -> Look {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
        let utf8 = ["utf-8", "utf8"].iter().any(|word| locale.to_ascii_lowercase().contains(word));
        // Linux's own console has a font of few characters.
        let unicode = utf8 && set("TERM").is_none_or(|term| term != "linux");
        Look { colour: set("NO_COLOR").is_none(), unicode }
    }
}

/// Shows the screen until a key ends it, or `looks` looks were shown for `delay` seconds each.
pub(super) fn run(host: &dyn Host, delay: u64, looks: Option<u64>) -> Result<()> {
    let mut state = State::new(host, Look::of_environment(), Duration::from_secs(delay.max(1)))?;
    // Never read: when one is there, the terminal is restored and the signal let through.
    let ends = Signals::take(&[SIGTERM, SIGINT, SIGHUP])?;
    let mut screen = Screen::enter()?;
    let result = screen.show(host, &mut state, looks.unwrap_or(u64::MAX), &ends);
    drop(screen);
    unblock_signals();
    result
}

struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    resized: Signals,
    input: File,
    keys: Keys,
    /// Columns and lines that are drawn on; what the terminal answered when asked.
    size: (u16, u16),
    told: Option<(u16, u16)>,
}

impl Screen {
    fn enter() -> Result<Screen> {
        let input = File::from(stdin().as_fd().try_clone_to_owned()?);
        let resized = Signals::take(&[SIGWINCH])?;
        // A panic ends the process without dropping anything.
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            before(info);
        }));
        enable_raw_mode()?;
        let terminal = terminal(USUAL);
        let entered = execute!(stdout(), EnterAlternateScreen, Hide);
        let terminal = match (entered, terminal) {
            (Ok(()), Ok(terminal)) => terminal,
            (Err(error), _) | (_, Err(error)) => {
                leave();
                return Err(error.into());
            }
        };
        Ok(Screen { terminal, resized, input, keys: Keys::default(), size: (0, 0), told: None })
    }

    fn show(&mut self, host: &dyn Host, state: &mut State, looks: u64, ends: &Signals) -> Result<()> {
        let (mut looked, mut count) = (Instant::now(), 1);
        self.measure()?;
        loop {
            self.draw(state)?;
            let due = state.delay().map(|delay| delay.saturating_sub(looked.elapsed()));
            let Some(keys) = self.wait(due, ends)? else { return Ok(()) };
            for key in keys {
                match self.key(state, key) {
                    Action::None => {}
                    Action::Quit => return Ok(()),
                    Action::Act(what, id) => {
                        state.done(act(host, what, id));
                        state.sample(host);
                        looked = Instant::now();
                    }
                }
            }
            if state.delay().is_some_and(|delay| looked.elapsed() >= delay) {
                if count >= looks {
                    return Ok(());
                }
                state.sample(host);
                (looked, count) = (Instant::now(), count + 1);
                self.measure()?;
            }
        }
    }

    /// A key: the terminal's own here, the others by what is shown.
    fn key(&mut self, state: &mut State, key: Key) -> Action {
        match key {
            Key::Cursor(columns, lines) => self.told = Some((columns, lines)),
            Key::Redraw => self.size = (0, 0),
            key => return state.key(key),
        }
        Action::None
    }

    /// Keys, or none when the time is over or the size changed; `None` to end.
    fn wait(&mut self, limit: Option<Duration>, ends: &Signals) -> io::Result<Option<Vec<Key>>> {
        let rest = self.keys.is_pending();
        let limit = if rest { Some(REST_OF_KEY) } else { limit };
        let mut waits =
            [self.input.as_fd(), ends.as_fd(), self.resized.as_fd()].map(|fd| Wait::new(fd, true, false));
        let found = wait(&mut waits, limit)?;
        let [input, end, resized] = waits.map(|wait| wait.readable());
        if end {
            return Ok(None);
        }
        if resized {
            while self.resized.next().is_some() {}
        }
        if !input {
            let alone = (rest && found == 0).then(|| self.keys.flush()).flatten();
            return Ok(Some(alone.into_iter().collect()));
        }
        let mut bytes = [0; 256];
        match self.input.read(&mut bytes) {
            // The terminal is gone.
            Ok(0) => Ok(None),
            Ok(len) => Ok(Some(self.keys.push(&bytes[..len]))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Some(Vec::new())),
            Err(error) => Err(error),
        }
    }

    /// Asks the terminal how large it is if the system does not know, as of a serial line: where the cursor stops.
    fn measure(&mut self) -> io::Result<()> {
        if known_size().is_none() {
            stdout().write_all(b"\x1b[999;999H\x1b[6n")?;
            stdout().flush()?;
        }
        Ok(())
    }

    fn draw(&mut self, state: &mut State) -> Result<()> {
        let size = known_size().or(self.told).unwrap_or(USUAL);
        if size != self.size {
            execute!(stdout(), Clear(ClearType::All))?;
            self.terminal = terminal(size)?;
            self.size = size;
        }
        self.terminal.draw(|frame| state.draw(frame))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// As it was before. There is nobody to tell that it cannot be.
fn leave() {
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// Of a fixed size: one that follows the terminal's would ask it for the cursor, and take keys for the answer.
fn terminal((columns, lines): (u16, u16)) -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    let viewport = Viewport::Fixed(Rect::new(0, 0, columns.min(1000), lines.min(1000)));
    Terminal::with_options(CrosstermBackend::new(stdout()), TerminalOptions { viewport })
}

/// Columns and lines, if the system knows.
fn known_size() -> Option<(u16, u16)> {
    let size = window_size().ok()?;
    (size.columns > 0 && size.rows > 0).then_some((size.columns, size.rows))
}
