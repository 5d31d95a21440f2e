//! The hypercall table's `implemented` column, against what the hypervisor answered to the guest `survey`.

use crate::{paths, sh};
use anyhow::{Context, Result};
use guest_abi::call::Status;
use guest_abi::{Hypercall, call::Suboperation};
use std::collections::BTreeMap;
use std::process::Command;

/// The guest that asks.
pub const GUEST: &str = "survey";

/// What the guest would say if the table were right, for the lines that it did say.
pub fn expected(said: &str) -> String {
    let table = table();
    let known = |name: &str| table.get(name).map(|status| format!("{name}: {}\n", word(*status)));
    said.lines().filter_map(|line| known(line.split(": ").next()?)).collect()
}

/// Guests whose subject is an operation, as the table names it.
const NEEDS: &[(&str, &str)] = &[("grant_maps", "grant_table_op/map_grant_ref")];

/// What the guest is about and the table says is not implemented yet; it has nothing to claim until then.
pub fn lacks(guest: &str) -> Option<&'static str> {
    let (_, operation) = NEEDS.iter().find(|(name, _)| *name == guest)?;
    (table().get(*operation) == Some(&Status::Unimplemented)).then_some(*operation)
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Implemented => "yes",
        Status::Unimplemented => "no",
    }
}

/// Every call, and every operation as `call/operation`.
fn table() -> BTreeMap<String, Status> {
    let mut table = BTreeMap::new();
    for call in Hypercall::ALL {
        table.insert(call.name().to_owned(), call.status());
        let operations = call.suboperations().iter();
        table.extend(operations.map(|op: &Suboperation| (format!("{}/{}", call.name(), op.name), op.status)));
    }
    table
}

/// Writes what the guest said into the table, and the status page from it.
pub fn record(said: &str) -> Result<()> {
    let answers: BTreeMap<&str, bool> = said
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, yes)| (name, yes == "yes"))
        .collect();
    let file = paths::repo().join("guest-abi/src/call.rs");
    let source = String::from_utf8(sh::read(&file)?).context("the table is text")?;
    sh::write(&file, rewritten(&source, &answers).as_bytes())?;
    let mut test = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    test.current_dir(paths::repo()).env("XENOLITH_UPDATE_DOCS", "1").args([
        "test",
        "-q",
        "-p",
        "guest-abi",
        "status",
    ]);
    sh::quiet(&mut test)
}

/// The table's source with the last word of each row that was asked for replaced.
fn rewritten(source: &str, answers: &BTreeMap<&str, bool>) -> String {
    let variants: BTreeMap<String, &str> =
        Hypercall::ALL.iter().map(|c| (format!("{c:?} {{"), c.name())).collect();
    let mut call = None;
    let mut out = String::new();
    for line in source.lines() {
        call = variants.get(line.trim()).copied().or(call);
        let answer = row(line).and_then(|name| match call {
            Some(call) => answers.get(format!("{call}/{name}").as_str()),
            None => answers.get(name),
        });
        match (answer, line.rsplit_once(' ')) {
            (Some(yes), Some((row, _))) => {
                out += row;
                out += if *yes { " implemented;" } else { " unimplemented;" };
            }
            _ => out += line,
        }
        out.push('\n');
    }
    out
}

/// The quoted name in a row of either table.
fn row(line: &str) -> Option<&str> {
    let is_row = line.ends_with(" implemented;") || line.ends_with(" unimplemented;");
    if !is_row { None } else { line.split('"').nth(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_has_the_lines_that_were_said_and_no_other() {
        let said = "iret: maybe\nnonsense: yes\nsched_op/yield: maybe\n";
        let names: Vec<_> = expected(said).lines().map(|l| l.split(':').next().unwrap().to_owned()).collect();
        assert_eq!(names, ["iret", "sched_op/yield"]);
    }

    #[test]
    fn rows_are_rewritten_by_call_and_operation() {
        let source = "23 Iret IRET \"iret\" 0 any whole unimplemented;\n\
                      SchedOp {\n0 \"yield\" implemented;\n1 \"block\" implemented;\n}\n";
        let answers = BTreeMap::from([("iret", true), ("sched_op/yield", false), ("block", false)]);
        let wanted =
            source.replace("whole unimplemented", "whole implemented").replace("yield\" im", "yield\" unim");
        assert_eq!(rewritten(source, &answers), wanted);
    }
}
