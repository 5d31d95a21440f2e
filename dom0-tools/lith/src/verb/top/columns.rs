//! Columns, and which of them a width has room for.

use super::sample::Seen;
use super::state::{HISTORY, Order, State};
use super::{Id, PAGE, Rate};
use crate::config::bytes_text;

/// What a column tells about a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Name,
    Id,
    State,
    Cpu,
    Wait,
    Time,
    Memory,
    Most,
    Vcpus,
    Grants,
    Events,
    Graph,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) what: What,
    pub(super) title: &'static str,
    /// In cells, without the space between columns.
    pub(super) width: u16,
    pub(super) right: bool,
    /// What it sorts by.
    pub(super) order: Option<Order>,
    /// Those with the highest go first when there is no room.
    rank: u8,
}

const NAME_LEAST: u16 = 12;
const NAME_MOST: u16 = 32;

const COLUMNS: [Column; 12] = {
    const fn new(what: What, title: &'static str, width: u16, rank: u8) -> Column {
        Column { what, title, width, right: true, order: None, rank }
    }
    [
        Column { right: false, order: Some(Order::Name), ..new(What::Name, "NAME", NAME_LEAST, 0) },
        Column { order: Some(Order::Id), ..new(What::Id, "ID", 5, 4) },
        Column { right: false, ..new(What::State, "STATE", 6, 5) },
        Column { order: Some(Order::Cpu), ..new(What::Cpu, "CPU %", 6, 1) },
        Column { order: Some(Order::Wait), ..new(What::Wait, "WAIT %", 6, 2) },
        new(What::Time, "TIME", 8, 6),
        Column { order: Some(Order::Memory), ..new(What::Memory, "MEMORY", 10, 3) },
        new(What::Most, "AT MOST", 10, 8),
        new(What::Vcpus, "VCPUS", 5, 7),
        new(What::Grants, "GRANTS", 6, 11),
        new(What::Events, "EVENTS", 6, 10),
        new(What::Graph, "CPU SO FAR", 10, 9),
    ]
};

/// The columns for a width. What is left over goes to the names, as far as `longest` wants it, and to the graphs.
pub(super) fn fitting(width: u16, longest: u16) -> Vec<Column> {
    let mut columns = COLUMNS.to_vec();
    let needs = |columns: &[Column]| columns.iter().map(|column| column.width + 1).sum::<u16>() - 1;
    while columns.len() > 1 && needs(&columns) > width {
        let last = columns.iter().map(|column| column.rank).max();
        columns.retain(|column| Some(column.rank) != last);
    }
    let mut rest = width.saturating_sub(needs(&columns));
    for column in &mut columns {
        let most = match column.what {
            What::Name => longest.min(NAME_MOST),
            What::Graph => HISTORY as u16,
            _ => continue,
        };
        let more = most.saturating_sub(column.width).min(rest);
        column.width += more;
        rest -= more;
    }
    columns
}

/// A cell.
pub(super) fn text(state: &State, column: &Column, id: Id, rate: Rate, seen: &Seen) -> String {
    let info = &seen.domain.info;
    match column.what {
        What::Name if seen.domain.name.is_empty() => "(no name)".to_owned(),
        What::Name => seen.domain.name.clone(),
        What::Id => info.domid.to_string(),
        What::State => seen.domain.letters(),
        What::Cpu => tenths(rate.ran),
        What::Wait => tenths(rate.waited),
        What::Time => time(info.cpu_time),
        What::Memory => bytes_text(info.pages * PAGE),
        // More than there is: no limit.
        What::Most if info.max_pages > state.now.host.total_pages => "-".to_owned(),
        What::Most => bytes_text(info.max_pages * PAGE),
        What::Vcpus => info.online_vcpus.to_string(),
        What::Grants => info.grant_frames.to_string(),
        What::Events => info.evtchns.to_string(),
        What::Graph => {
            let past = state.history.get(&id).into_iter().flatten().copied();
            let full = 1000 * u64::from(info.vcpus.max(1));
            graph(past.collect(), full, column.width, state.look.unicode)
        }
    }
}

/// Tenths of a per cent.
pub(super) fn tenths(permille: u64) -> String {
    format!("{}.{}", permille / 10, permille % 10)
}

/// A time in ns, in eight cells.
pub(super) fn time(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        0..600 => format!("{seconds}.{} s", ns / 100_000_000 % 10),
        600..36_000 => format!("{hours}:{:02}:{:02}", minutes % 60, seconds % 60),
        36_000..864_000 => format!("{hours}h {:02}m", minutes % 60),
        864_000..86_400_000 => format!("{}d {:02}h", hours / 24, hours % 24),
        _ => format!("{}d", hours / 24),
    }
}

/// Values up to `full` as heights, the newest on the right.
fn graph(values: Vec<u64>, full: u64, width: u16, unicode: bool) -> String {
    let levels: &[char] = match unicode {
        true => &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
        false => &['_', '.', '-', '=', '+', '*', '#', '@'],
    };
    let last = levels.len() as u64 - 1;
    let height = |value: u64| (value.min(full) * last).div_ceil(full);
    let shown = values.iter().skip(values.len().saturating_sub(width.into()));
    let text: String = shown.map(|value| levels[height(*value) as usize]).collect();
    format!("{text:>width$}", width = usize::from(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_and_the_important_ones_stay() {
        for width in 0..300 {
            let columns = fitting(width, 20);
            let sum: u16 = columns.iter().map(|c| c.width + 1).sum::<u16>() - 1;
            assert!(sum <= width.max(NAME_LEAST), "{width}: {sum}");
            assert_eq!(columns[0].what, What::Name);
        }
        let shown = |width| fitting(width, 12).iter().map(|c| c.what).collect::<Vec<_>>();
        assert_eq!(shown(40), [What::Name, What::Cpu, What::Wait, What::Memory]);
        assert!(shown(80).contains(&What::Most) && !shown(80).contains(&What::Graph));
        assert_eq!(shown(120).len(), COLUMNS.len());
    }

    #[test]
    fn times_stay_short() {
        assert_eq!(time(8_250_000_000), "8.2 s");
        assert_eq!(time(3_725_000_000_000), "1:02:05");
        assert_eq!(time(90_000_000_000_000), "25h 00m");
        assert_eq!(time(100 * 86_400_000_000_000), "100d 00h");
        for shift in 0..64 {
            assert!(time(1_u64 << shift).len() <= 8, "{}", time(1_u64 << shift));
        }
    }

    #[test]
    fn graphs_show_the_newest() {
        assert_eq!(graph(vec![9, 0, 1, 500, 1000, 5000], 1000, 5, false), "_.+@@");
        assert_eq!(graph(vec![0, 1000], 1000, 4, true), "  ▁█");
    }
}
