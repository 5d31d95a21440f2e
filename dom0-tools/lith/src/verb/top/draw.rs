//! The screen as text: below the machine its domains, or one's vCPUs, and a last line.

use super::columns::{self, Column};
use super::header;
use super::sample::Vcpu;
use super::state::{Look, Mode, State};
use super::{Id, KEYS, Rate};
use crate::config::CpuSet;
use guest_abi::control::{VCPU_BLOCKED, VCPU_ONLINE, VCPU_RUNNING};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::{Block, Clear, Widget};

/// How something is written. What it means is to be seen without colours too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Strong,
    Faint,
    /// The one that is meant.
    Marked,
    Good,
    Warn,
    Bad,
    Odd,
}

/// Writes into a screen and never beside it.
pub(super) struct Pen<'a> {
    buffer: &'a mut Buffer,
    look: Look,
}

impl Pen<'_> {
    pub(super) fn width(&self) -> u16 {
        self.buffer.area.width
    }

    fn height(&self) -> u16 {
        self.buffer.area.height
    }

    fn style(&self, tone: Tone) -> Style {
        let (colour, modifier) = match tone {
            Tone::Plain => (Color::Reset, Modifier::empty()),
            Tone::Strong => (Color::Reset, Modifier::BOLD),
            Tone::Faint => (Color::Reset, Modifier::DIM),
            Tone::Marked => (Color::Reset, Modifier::REVERSED),
            Tone::Good => (Color::Green, Modifier::empty()),
            Tone::Warn => (Color::Yellow, Modifier::empty()),
            Tone::Bad => (Color::Red, Modifier::empty()),
            Tone::Odd => (Color::Cyan, Modifier::empty()),
        };
        let style = Style::new().add_modifier(modifier);
        if self.look.colour { style.fg(colour) } else { style }
    }

    /// Writes at most `width` cells, and returns how many.
    pub(super) fn put(&mut self, x: u16, y: u16, width: u16, text: &str, tone: Tone) -> u16 {
        if x >= self.width() || y >= self.height() {
            return 0;
        }
        let style = self.style(tone);
        self.buffer.set_stringn(x, y, text, width.into(), style).0 - x
    }

    /// A whole line.
    pub(super) fn line(&mut self, y: u16, text: &str, tone: Tone) {
        let used = self.put(0, y, u16::MAX, text, tone);
        if tone == Tone::Marked {
            self.put(used, y, u16::MAX, &" ".repeat(self.width().into()), tone);
        }
    }

    fn cell(&mut self, x: u16, y: u16, column: &Column, text: &str, tone: Tone) {
        let len = u16::try_from(text.chars().count()).unwrap_or(u16::MAX);
        let skip = if column.right { column.width.saturating_sub(len) } else { 0 };
        self.put(x + skip, y, column.width - skip, text, tone);
    }
}

impl State {
    /// Draws everything, on a screen of any size.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let mut pen = Pen { buffer: frame.buffer_mut(), look: self.look };
        if area.is_empty() {
            return;
        }
        let top = header::lines(area.height);
        self.draw_header(&mut pen, top);
        // Titles and the last line are the next to go.
        let titles = u16::from(area.height >= 3);
        let footer = u16::from(area.height >= 2);
        let rows = area.height - top - titles - footer;
        self.page = usize::from(rows);
        match self.vcpus {
            Some(first) => self.draw_vcpus(&mut pen, top, titles, first),
            None => self.draw_domains(&mut pen, top, titles),
        }
        if self.mode == Mode::Help {
            draw_help(&mut pen);
        }
        self.draw_footer(&mut pen, footer == 1);
    }

    fn draw_domains(&mut self, pen: &mut Pen<'_>, top: u16, titles: u16) {
        let names = self.names().into_iter().map(|name| name.chars().count()).max();
        let longest = u16::try_from(names.unwrap_or(0)).unwrap_or(u16::MAX);
        // Left of the names is the mark of the selected domain.
        let columns = columns::fitting(pen.width().saturating_sub(1), longest);
        let y = top;
        let mut x = 1;
        for column in columns.iter().filter(|_| titles == 1) {
            let tone = if column.order == Some(self.order) { Tone::Marked } else { Tone::Strong };
            pen.cell(x, y, column, column.title, tone);
            x += column.width + 1;
        }
        let place = self.place().unwrap_or(0);
        let last = self.rows.len().saturating_sub(self.page);
        self.first = self.first.clamp((place + 1).saturating_sub(self.page), place).min(last);
        for (y, (id, rate)) in (top + titles..).zip(self.rows.iter().skip(self.first).take(self.page)) {
            self.draw_domain(pen, y, &columns, *id, *rate);
        }
    }

    fn draw_domain(&self, pen: &mut Pen<'_>, y: u16, columns: &[Column], id: Id, rate: Rate) {
        let Some(seen) = self.now.domains.get(&id) else { return };
        let selected = self.selected == Some(id);
        if selected {
            pen.line(y, ">", Tone::Marked);
        }
        let mut x = 1;
        for column in columns {
            let tone = match column.what {
                _ if selected => Tone::Marked,
                columns::What::Wait if rate.waited >= 200 => Tone::Bad,
                columns::What::Wait if rate.waited >= 50 => Tone::Warn,
                columns::What::Cpu | columns::What::Graph if rate.ran > 0 => Tone::Good,
                _ => Tone::Plain,
            };
            pen.cell(x, y, column, &columns::text(self, column, id, rate, seen), tone);
            x += column.width + 1;
        }
    }

    fn draw_vcpus(&self, pen: &mut Pen<'_>, top: u16, titles: u16, first: usize) {
        let Some((id, seen)) = self.selected.and_then(|id| Some((id, self.now.domains.get(&id)?))) else {
            return;
        };
        if titles == 1 {
            let title = format!("{:<5} {:>4} {:<8}", "VCPU", "CPU", "STATE");
            let rest = format!("{:>6} {:>6} {:>8}  {:<12} PREFERS", "RUN %", "WAIT %", "TIME", "MAY RUN ON");
            pen.line(top, &format!("{title} {rest}"), Tone::Strong);
        }
        let shown = seen.vcpus.iter().enumerate().skip(first).take(self.page);
        for (y, (index, vcpu)) in (top + titles..).zip(shown) {
            pen.line(y, &self.vcpu(vcpu, self.vcpu_rate(id, index)), Tone::Plain);
        }
    }

    fn vcpu(&self, vcpu: &Vcpu, rate: Rate) -> String {
        let info = &vcpu.info;
        let online = info.flags & VCPU_ONLINE != 0;
        let word = match info.flags {
            _ if !online => "offline",
            flags if flags & VCPU_RUNNING != 0 => "running",
            flags if flags & VCPU_BLOCKED != 0 => "blocked",
            _ => "waiting",
        };
        let cpu = if online { info.cpu.to_string() } else { "-".to_owned() };
        let set = |map: &[u64]| CpuSet::from_bitmap(map, self.now.host.max_cpus).to_string();
        let (ran, waited) = (columns::tenths(rate.ran), columns::tenths(rate.waited));
        let (time, hard, soft) = (columns::time(info.cpu_time), set(&vcpu.hard), set(&vcpu.soft));
        format!("{:<5} {cpu:>4} {word:<8} {ran:>6} {waited:>6} {time:>8}  {hard:<12} {soft}", info.vcpu)
    }

    /// A question, what happened, or the keys. Where there is no line for it, the first two take the only one.
    fn draw_footer(&self, pen: &mut Pen<'_>, own: bool) {
        let (text, tone) = match (&self.mode, &self.message, &self.failed) {
            (Mode::Ask(act, id, name), ..) => {
                (format!("{} {name} ({})? y or n", act.word(), id.0), Tone::Marked)
            }
            (Mode::Delay(text), ..) => (format!("seconds between two looks: {text}_"), Tone::Marked),
            (_, Some(message), _) => (message.clone(), Tone::Strong),
            (_, None, Some(failed)) => (format!("not to be seen: {failed}"), Tone::Strong),
            _ if !own => return,
            _ if self.vcpus.is_some() => {
                let name = self.selected.and_then(|id| self.name(id)).unwrap_or_default();
                (format!("vCPUs of {name}: v back  up/down scroll  ? keys  q quit"), Tone::Faint)
            }
            _ => (
                "q quit  ? keys  cwmni sort  r reverse  v vCPUs  p pause  S shutdown  +- delay".to_owned(),
                Tone::Faint,
            ),
        };
        let y = pen.height() - 1;
        pen.line(y, &" ".repeat(pen.width().into()), Tone::Plain);
        pen.line(y, &text, tone);
    }
}

fn draw_help(pen: &mut Pen<'_>) {
    let area = pen.buffer.area;
    let (width, height) = (70.min(area.width), (KEYS.len() as u16 + 2).min(area.height));
    let place = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    Clear.render(place, pen.buffer);
    let ascii = ratatui::symbols::border::Set {
        top_left: "+",
        top_right: "+",
        bottom_left: "+",
        bottom_right: "+",
        vertical_left: "|",
        vertical_right: "|",
        horizontal_top: "-",
        horizontal_bottom: "-",
    };
    let block = Block::bordered().title(" keys ");
    let block = if pen.look.unicode { block } else { block.border_set(ascii) };
    let inner = block.inner(place);
    block.render(place, pen.buffer);
    for (y, (key, what)) in (inner.top()..inner.bottom()).zip(KEYS) {
        let room = inner.width.saturating_sub(1);
        pen.put(inner.x + 1, y, room.min(17), key, Tone::Strong);
        pen.put(inner.x + 18, y, room.saturating_sub(17), what, Tone::Plain);
    }
}
