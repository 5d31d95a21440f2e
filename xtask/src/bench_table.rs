//! The table of `bench`: a column a hypervisor, the ratios between them, what was counted, and the bars.

use crate::machine::Hypervisor;
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::process::ExitCode;

/// What all benchmarks are told on their command lines.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flags {
    /// A ratio above its bar is a failure.
    pub check: bool,
    /// Each serial line is shown.
    pub verbose: bool,
}

impl Flags {
    /// Reads a command line. `other` is given each option that is not one of these, with what reads its value, and answers whether it
    /// knows it. Nothing: `help` was asked for, and printed.
    pub fn parse(
        args: &[String],
        help: &str,
        mut other: impl FnMut(&str, &mut dyn FnMut() -> Result<String>) -> Result<bool>,
    ) -> Result<Option<Flags>> {
        let mut flags = Flags::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--check" => flags.check = true,
                "--verbose" => flags.verbose = true,
                "--help" | "-h" => {
                    print!("{help}");
                    return Ok(None);
                }
                _ => {
                    let mut value = || args.next().cloned().with_context(|| format!("{arg} needs a value"));
                    ensure!(other(arg, &mut value)?, "unknown option {arg}\n{help}");
                }
            }
        }
        Ok(Some(flags))
    }

    /// The same of a benchmark whose one option is `--on`: a list of Xen and Xenolith, both unless it says otherwise.
    pub fn parse_with_both(args: &[String], help: &str) -> Result<Option<(Vec<Hypervisor>, Flags)>> {
        let mut on = vec![Hypervisor::Xen, Hypervisor::Xenolith];
        let flags = Flags::parse(args, help, |option, value| {
            if option == "--on" {
                on = hypervisors(&value()?, &on)?;
            }
            Ok(option == "--on")
        })?;
        Ok(flags.map(|flags| (on, flags)))
    }

    /// Names the rows above their bars, and says how the verb ends.
    pub fn verdict(self, above: &[impl AsRef<str>]) -> ExitCode {
        if !above.is_empty() {
            let names: Vec<&str> = above.iter().map(AsRef::as_ref).collect();
            println!("above their bars: {}", names.join(", "));
        }
        ExitCode::from(u8::from(self.check && !above.is_empty()))
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Nanoseconds of virtual time, which are instructions.
    pub time: f64,
    /// Root tables loaded and TLB flushes, where the hypervisor counts them.
    pub counted: Option<[f64; 2]>,
}

/// What was measured below one kernel.
pub struct Column {
    /// What runs below it.
    pub hypervisor: Hypervisor,
    /// All operations.
    pub rows: Vec<Row>,
}

/// The columns, and the ratios between them.
pub struct Table<'a> {
    columns: &'a [Column],
    rows: Vec<&'a str>,
}

/// Each ratio: what is divided by what.
const RATIOS: [(Hypervisor, Hypervisor); 3] = [
    (Hypervisor::Xen, Hypervisor::Bare),
    (Hypervisor::Xenolith, Hypervisor::Bare),
    (Hypervisor::Xenolith, Hypervisor::Xen),
];

/// Ratios of Xenolith to Xen that must not be exceeded; for the rest 1.00.
const BARS: [(&str, f64); 5] =
    [("getpid", 0.75), ("write-null", 0.75), ("page-fault", 0.75), ("fork-exit", 0.75), ("fork-exec", 0.75)];

fn bar(row: &str) -> f64 {
    BARS.iter().find(|bar| bar.0 == row).map_or(1.0, |bar| bar.1)
}

/// The name of a column.
pub fn name(hypervisor: Hypervisor) -> &'static str {
    match hypervisor {
        Hypervisor::Bare => "bare",
        Hypervisor::Xen => "xen",
        Hypervisor::Xenolith => "xenolith",
    }
}

/// The hypervisors of a list, each of which is one of those that are known.
pub fn hypervisors(list: &str, known: &[Hypervisor]) -> Result<Vec<Hypervisor>> {
    let find = |word: &str| known.iter().copied().find(|&hypervisor| name(hypervisor) == word);
    let names = || known.iter().map(|&hypervisor| name(hypervisor)).collect::<Vec<_>>().join(", ");
    list.split(',')
        .map(|word| find(word).with_context(|| format!("{word} is not one of {}", names())))
        .collect()
}

/// A cell, or a dash.
fn shown(number: Option<f64>, digits: usize) -> String {
    number.map_or("-".to_owned(), |number| format!("{number:.digits$}"))
}

impl<'a> Table<'a> {
    /// The table of these columns; the rows are those of the first, then what others have besides.
    pub fn new(columns: &'a [Column]) -> Self {
        let mut rows = Vec::new();
        for name in columns.iter().flat_map(|column| &column.rows).map(|row| row.name.as_str()) {
            if !rows.contains(&name) {
                rows.push(name);
            }
        }
        Self { columns, rows }
    }

    fn row(&self, name: &str, hypervisor: Hypervisor) -> Option<&Row> {
        let column = self.columns.iter().find(|column| column.hypervisor == hypervisor)?;
        column.rows.iter().find(|row| row.name == name)
    }

    fn ratio(&self, name: &str, above: Hypervisor, below: Hypervisor) -> Option<f64> {
        Some(self.row(name, above)?.time / self.row(name, below)?.time)
    }

    fn has(&self, hypervisor: Hypervisor) -> bool {
        self.columns.iter().any(|column| column.hypervisor == hypervisor)
    }

    /// The ratios that both columns exist for.
    fn ratios(&self) -> Vec<(Hypervisor, Hypervisor)> {
        RATIOS.into_iter().filter(|&(above, below)| self.has(above) && self.has(below)).collect()
    }

    /// What has counters: the columns with a hypervisor.
    fn counting(&self) -> impl Iterator<Item = Hypervisor> {
        [Hypervisor::Xen, Hypervisor::Xenolith].into_iter().filter(|hypervisor| self.has(*hypervisor))
    }

    /// The rows above their bars.
    pub fn above(&self) -> Vec<&'a str> {
        let ratio = |row: &str| self.ratio(row, Hypervisor::Xenolith, Hypervisor::Xen);
        self.rows.iter().copied().filter(|row| ratio(row).is_some_and(|ratio| ratio > bar(row))).collect()
    }

    /// As text.
    pub fn text(&self) -> String {
        let mut text = format!("{:<18}", "operation");
        for column in self.columns {
            let _ = write!(text, "{:>11}", name(column.hypervisor));
        }
        for (above, below) in self.ratios() {
            let _ = write!(text, "{:>14}", format!("{}/{}", name(above), name(below)));
        }
        if self.has(Hypervisor::Xen) && self.has(Hypervisor::Xenolith) {
            let _ = write!(text, "{:>6}", "bar");
        }
        for hypervisor in self.counting() {
            let _ = write!(
                text,
                "{:>15}{:>17}",
                name(hypervisor).to_owned() + ":loads",
                name(hypervisor).to_owned() + ":flushes"
            );
        }
        text.push('\n');
        self.rows.iter().for_each(|row| self.line(row, &mut text));
        text
    }

    fn line(&self, row: &str, text: &mut String) {
        let _ = write!(text, "{row:<18}");
        for column in self.columns {
            let time = self.row(row, column.hypervisor).map(|row| row.time);
            let _ = write!(text, "{:>11}", shown(time, 0));
        }
        for (above, below) in self.ratios() {
            let _ = write!(text, "{:>14}", shown(self.ratio(row, above, below), 2));
        }
        if self.has(Hypervisor::Xen) && self.has(Hypervisor::Xenolith) {
            let _ = write!(text, "{:>6.2}", bar(row));
        }
        for hypervisor in self.counting() {
            let counted = self.row(row, hypervisor).and_then(|row| row.counted);
            let [loads, flushes] = [0, 1].map(|n| shown(counted.map(|counted| counted[n]), 2));
            let _ = write!(text, "{loads:>15}{flushes:>17}");
        }
        text.push('\n');
    }

    /// One object a row: the columns by name, then the ratios, then what was counted. All names are plain words.
    pub fn json(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            let cells = self.columns.iter().filter_map(|column| {
                let time = self.row(row, column.hypervisor)?.time;
                Some(format!("\"{}\": {time:.1}", name(column.hypervisor)))
            });
            let ratios = self.ratios().into_iter().filter_map(|(above, below)| {
                let ratio = self.ratio(row, above, below)?;
                Some(format!("\"{}/{}\": {ratio:.4}", name(above), name(below)))
            });
            let counted = self.counting().filter_map(|hypervisor| {
                let [loads, flushes] = self.row(row, hypervisor)?.counted?;
                let name = name(hypervisor);
                Some(format!("\"{name}:loads\": {loads:.2}, \"{name}:flushes\": {flushes:.2}"))
            });
            format!("  \"{row}\": {{{}}}", cells.chain(ratios).chain(counted).collect::<Vec<_>>().join(", "))
        });
        format!("{{\n{}\n}}\n", rows.collect::<Vec<_>>().join(",\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_told_from_a_verbs_own_options() {
        let read = |line: &str| {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let mut rounds = 0;
            let flags = Flags::parse(&args, "help", |option, value| {
                if option == "--rounds" {
                    rounds = value()?.parse()?;
                }
                Ok(option == "--rounds")
            });
            flags.map(|flags| (flags, rounds))
        };
        assert_eq!(read("--check --rounds 7").unwrap(), (Some(Flags { check: true, verbose: false }), 7));
        assert_eq!(read("--help --nonsense").unwrap().0, None);
        assert!(read("--nonsense").unwrap_err().to_string().starts_with("unknown option --nonsense"));
        assert!(read("--rounds").is_err() && read("--rounds x").is_err());
    }

    fn column(hypervisor: Hypervisor, time: f64, counted: Option<[f64; 2]>) -> Column {
        Column { hypervisor, rows: vec![Row { name: "getpid".to_owned(), time, counted }] }
    }

    fn words(text: &str) -> Vec<Vec<&str>> {
        text.lines().map(|line| line.split_whitespace().collect()).collect()
    }

    #[test]
    fn the_table_has_the_ratios_of_what_was_measured() {
        let columns = [column(Hypervisor::Bare, 200.0, None), column(Hypervisor::Xen, 500.0, None)];
        let table = Table::new(&columns);
        let text = "operation bare xen xen/bare xen:loads xen:flushes\ngetpid 200 500 2.50 - -\n";
        assert_eq!(words(&table.text()), words(text));
        let json = "{\n  \"getpid\": {\"bare\": 200.0, \"xen\": 500.0, \"xen/bare\": 2.5000}\n}\n";
        assert_eq!(table.json(), json);
    }

    #[test]
    fn rows_that_not_all_have_come_last() {
        let mut columns = [column(Hypervisor::Bare, 200.0, None), column(Hypervisor::Xen, 500.0, None)];
        columns[1].rows.insert(0, Row { name: "entry".to_owned(), time: 7.0, counted: None });
        let text = Table::new(&columns).text();
        assert_eq!(
            words(&text)[1..],
            [vec!["getpid", "200", "500", "2.50", "-", "-"], vec!["entry", "-", "7", "-", "-", "-"]]
        );
    }

    #[test]
    fn bars_hold_for_xenolith_against_xen() {
        let mut columns =
            [column(Hypervisor::Xen, 500.0, None), column(Hypervisor::Xenolith, 375.0, Some([2.0, 0.5]))];
        assert!(Table::new(&columns).above().is_empty(), "0.75 is not above 0.75");
        columns[1].rows[0].time = 376.0;
        let table = Table::new(&columns);
        assert_eq!(table.above(), ["getpid"]);
        let line = "getpid 500 376 0.75 0.75 - - 2.00 0.50";
        assert_eq!(words(&table.text())[1], words(line)[0]);
        assert!(table.json().contains("\"xenolith:loads\": 2.00, \"xenolith:flushes\": 0.50"));
    }
}
