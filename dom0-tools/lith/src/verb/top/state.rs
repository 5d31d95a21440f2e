//! What the screen shows and what keys do to it. Nothing here waits, and only [`State::sample`] looks at the machine.

use super::{Act, Id, Key, Rate, Sample};
use crate::error::{Error, Result};
use crate::host::Host;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Looks whose CPU shares are kept for the small graphs.
pub(super) const HISTORY: usize = 32;
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3600);

/// What a terminal can show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Colours.
    pub colour: bool,
    /// More than ASCII.
    pub unicode: bool,
}

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing but to draw.
    None,
    /// To end.
    Quit,
    /// [`super::act`], and to look again.
    Act(Act, Id),
}

/// What domains are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Cpu,
    Wait,
    Memory,
    Name,
    Id,
}

/// What the next key is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Keys,
    /// To end the help.
    Help,
    /// Whether to do it, to the domain of this name.
    Ask(Act, Id, String),
    /// Seconds as far as they are typed.
    Delay(String),
}

/// All of it.
#[derive(Debug)]
pub struct State {
    pub(super) look: Look,
    /// dom0's name; empty if it has none.
    pub(super) host: String,
    pub(super) now: Sample,
    before: Option<Sample>,
    /// Domains in the order they are shown in.
    pub(super) rows: Vec<(Id, Rate)>,
    /// CPU shares of the last looks, the newest last.
    pub(super) history: BTreeMap<Id, VecDeque<u64>>,
    pub(super) selected: Option<Id>,
    pub(super) order: Order,
    pub(super) reversed: bool,
    /// In place of the domains the vCPUs of the selected one are shown, from this one on.
    pub(super) vcpus: Option<usize>,
    pub(super) mode: Mode,
    pub(super) delay: Duration,
    pub(super) frozen: bool,
    /// Until the next key.
    pub(super) message: Option<String>,
    /// Why the last look failed.
    pub(super) failed: Option<String>,
    /// The first domain shown, and how many there was room for.
    pub(super) first: usize,
    pub(super) page: usize,
}

impl State {
    /// With a first look.
    pub fn new(host: &dyn Host, look: Look, delay: Duration) -> Result<State> {
        let name = host.read_file("/proc/sys/kernel/hostname".as_ref()).unwrap_or_default();
        let mut state = State {
            look,
            host: String::from_utf8_lossy(&name).trim().to_owned(),
            now: Sample::take(host)?,
            before: None,
            rows: Vec::new(),
            history: BTreeMap::new(),
            selected: None,
            order: Order::Cpu,
            reversed: false,
            vcpus: None,
            mode: Mode::Keys,
            delay: delay.clamp(SHORTEST, LONGEST),
            frozen: false,
            message: None,
            failed: None,
            first: 0,
            page: 1,
        };
        state.update(true);
        Ok(state)
    }

    /// Looks. One that fails is told on the screen, which shows what the one before found.
    pub fn sample(&mut self, host: &dyn Host) {
        match Sample::take(host) {
            Ok(sample) => {
                self.failed = None;
                self.see(sample);
            }
            Err(error) => self.failed = Some(error.message),
        }
    }

    fn see(&mut self, sample: Sample) {
        // What is looked at because of a key, soon after another look, makes no rate of a moment.
        let span = Duration::from_nanos(sample.host.uptime.saturating_sub(self.now.host.uptime));
        let soon = span < self.delay / 2;
        let last = std::mem::replace(&mut self.now, sample);
        if !soon {
            self.before = Some(last);
        }
        self.update(!soon);
    }

    /// Computes what is shown; with `history` it is remembered.
    fn update(&mut self, history: bool) {
        let (before, place) = (self.before.as_ref(), self.place().unwrap_or(0));
        self.rows = self.now.domains.keys().map(|id| (*id, self.now.rate(*id, before))).collect();
        if history {
            self.history.retain(|id, _| self.now.domains.contains_key(id));
            for (id, rate) in &self.rows {
                let past = self.history.entry(*id).or_default();
                past.push_back(rate.ran);
                past.drain(..past.len().saturating_sub(HISTORY));
            }
        }
        self.sort();
        if self.place().is_none() {
            // The one in the place of the one that is gone.
            self.select(place);
            self.vcpus = None;
        }
    }

    fn sort(&mut self) {
        let (domains, order) = (&self.now.domains, self.order);
        let pages = |id: &Id| domains.get(id).map_or(0, |seen| seen.domain.info.pages);
        let name = |id: &Id| domains.get(id).map_or("", |seen| seen.domain.name.as_str());
        self.rows.sort_by(|(a, x), (b, y)| {
            let ordering = match order {
                Order::Cpu => y.ran.cmp(&x.ran),
                Order::Wait => y.waited.cmp(&x.waited),
                Order::Memory => pages(b).cmp(&pages(a)),
                Order::Name => name(a).cmp(name(b)),
                Order::Id => a.cmp(b),
            };
            ordering.then(a.cmp(b))
        });
        if self.reversed {
            self.rows.reverse();
        }
    }

    /// The row of the selected domain.
    pub(super) fn place(&self) -> Option<usize> {
        let selected = self.selected?;
        self.rows.iter().position(|(id, _)| *id == selected)
    }

    fn select(&mut self, place: usize) {
        self.selected = self.rows.get(place.min(self.rows.len().saturating_sub(1))).map(|(id, _)| *id);
    }

    /// A vCPU's shares since the look before.
    pub(super) fn vcpu_rate(&self, id: Id, vcpu: usize) -> Rate {
        self.now.vcpu_rate(id, vcpu, self.before.as_ref())
    }

    /// Shares of all domains.
    pub(super) fn total(&self) -> Rate {
        self.now.total(self.before.as_ref())
    }

    /// The names of the domains, in the order they are shown in.
    pub fn names(&self) -> Vec<&str> {
        self.rows.iter().filter_map(|(id, _)| self.name(*id)).collect()
    }

    /// A domain's name.
    pub fn name(&self, id: Id) -> Option<&str> {
        self.now.domains.get(&id).map(|seen| seen.domain.name.as_str())
    }

    /// The selected domain.
    pub fn selected(&self) -> Option<Id> {
        self.selected
    }

    /// How long it is from one look to the next; `None` while there are none.
    pub fn delay(&self) -> Option<Duration> {
        (!self.frozen).then_some(self.delay)
    }

    /// Tells something until the next key.
    pub fn tell(&mut self, message: impl Into<String>) {
        self.message = Some(message.into());
    }

    /// What an action came to.
    pub fn done(&mut self, result: Result<String>) {
        self.message = Some(match result {
            Ok(text) => text,
            Err(Error { message, hint: Some(hint), .. }) => format!("{message} ({hint})"),
            Err(error) => error.message,
        });
    }

    /// A key.
    pub fn key(&mut self, key: Key) -> Action {
        self.message = None;
        if key == Key::Interrupt {
            return Action::Quit;
        }
        match std::mem::replace(&mut self.mode, Mode::Keys) {
            Mode::Ask(act, id, _) if matches!(key, Key::Char('y' | 'Y')) => return Action::Act(act, id),
            Mode::Ask(..) => self.tell("nothing was done"),
            // Any key ends the help, those that quit too.
            Mode::Help => {}
            Mode::Delay(text) => self.typed(text, key),
            Mode::Keys => {
                return match self.vcpus {
                    Some(first) => self.vcpu_key(first, key),
                    None => self.domain_key(key),
                };
            }
        }
        Action::None
    }

    fn vcpu_key(&mut self, first: usize, key: Key) -> Action {
        let count = self.selected.and_then(|id| self.now.domains.get(&id)).map_or(0, |d| d.vcpus.len());
        let first = match key {
            Key::Escape | Key::Char('v') => {
                self.vcpus = None;
                return Action::None;
            }
            Key::Up | Key::Char('k') => first.saturating_sub(1),
            Key::Down | Key::Char('j') => first + 1,
            Key::PageUp => first.saturating_sub(self.page),
            Key::PageDown => first + self.page,
            Key::Home => 0,
            Key::End => count,
            // The others do what they do elsewhere.
            _ => return self.domain_key(key),
        };
        self.vcpus = Some(first.min(count.saturating_sub(self.page)));
        Action::None
    }

    fn domain_key(&mut self, key: Key) -> Action {
        let (place, last) = (self.place().unwrap_or(0), self.rows.len());
        match key {
            Key::Char('q') | Key::Escape => return Action::Quit,
            Key::Up | Key::Char('k') => self.select(place.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.select(place + 1),
            Key::PageUp => self.select(place.saturating_sub(self.page)),
            Key::PageDown => self.select(place + self.page),
            Key::Home => self.select(0),
            Key::End => self.select(last),
            Key::Char('c') => self.order_by(Order::Cpu),
            Key::Char('w') => self.order_by(Order::Wait),
            Key::Char('m') => self.order_by(Order::Memory),
            Key::Char('n') => self.order_by(Order::Name),
            Key::Char('i') => self.order_by(Order::Id),
            Key::Char('r') => {
                self.reversed = !self.reversed;
                self.sort();
            }
            Key::Char('v') if self.selected.is_some() => self.vcpus = Some(0),
            Key::Char('+') => self.delay = longer(self.delay),
            Key::Char('-') => self.delay = shorter(self.delay),
            Key::Char('d' | 's') => self.mode = Mode::Delay(String::new()),
            Key::Char(' ') => self.frozen = !self.frozen,
            Key::Char('p') => self.ask(Act::Pause),
            Key::Char('S') => self.ask(Act::Shutdown),
            Key::Char('?' | 'h') => self.mode = Mode::Help,
            _ => {}
        }
        Action::None
    }

    fn order_by(&mut self, order: Order) {
        self.order = order;
        self.sort();
    }

    /// Asks whether to do it; one that is paused already is let go on.
    fn ask(&mut self, act: Act) {
        let Some((id, seen)) = self.selected.and_then(|id| Some((id, self.now.domains.get(&id)?))) else {
            return;
        };
        match act.of(&seen.domain) {
            Ok(act) => self.mode = Mode::Ask(act, id, seen.domain.name.clone()),
            Err(error) => self.message = Some(error.message),
        }
    }

    fn typed(&mut self, mut text: String, key: Key) {
        match key {
            Key::Escape => return,
            Key::Enter => {
                match text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
                    Some(delay) if (SHORTEST..=LONGEST).contains(&delay) => self.delay = delay,
                    _ => self.tell(format!("`{text}` is no number of seconds from 0.1 to 3600")),
                }
                return;
            }
            Key::Backspace => drop(text.pop()),
            Key::Char(c @ ('0'..='9' | '.')) if text.len() < 8 => text.push(c),
            _ => {}
        }
        self.mode = Mode::Delay(text);
    }
}

/// A second more; below one, a tenth.
fn longer(delay: Duration) -> Duration {
    let step = if delay < Duration::from_secs(1) { SHORTEST } else { Duration::from_secs(1) };
    (delay + step).min(LONGEST)
}

/// A second less; below one, a tenth.
fn shorter(delay: Duration) -> Duration {
    let step = if delay <= Duration::from_secs(1) { SHORTEST } else { Duration::from_secs(1) };
    delay.saturating_sub(step).max(SHORTEST)
}
