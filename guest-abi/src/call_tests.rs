//! The table is whole, and the page made from it is current.

use super::{Caller, Hypercall, Status};
use std::fmt::Write;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/hypercalls.md");
const UPDATE: &str = "XENOLITH_UPDATE_DOCS";

fn word(status: Status) -> &'static str {
    match status {
        Status::Implemented => "yes",
        Status::Unimplemented => "no",
    }
}

fn page() -> String {
    let done = Hypercall::ALL.iter().filter(|c| c.status() == Status::Implemented).count();
    let mut out = format!(
        "# Hypercalls\n\nGenerated from the table in `guest-abi/src/call.rs`; do not edit.\n\
         Write it again with `{UPDATE}=1 cargo test -p guest-abi`.\n\n\
         {done} of {} calls are implemented. What is not implemented answers `-ENOSYS`.\n\n\
         | number | call | arguments | caller | preemptible | implemented |\n|---|---|---|---|---|---|\n",
        Hypercall::ALL.len()
    );
    for call in Hypercall::ALL {
        let caller = match call.caller() {
            Caller::Any => "any",
            Caller::Privileged => "privileged",
        };
        let preemptible = if call.preemptible() { "yes" } else { "no" };
        let (number, name, arguments) = (call.number(), call.name(), call.arguments());
        let status = word(call.status());
        writeln!(out, "| {number} | `{name}` | {arguments} | {caller} | {preemptible} | {status} |").unwrap();
    }
    for call in Hypercall::ALL.iter().filter(|c| !c.suboperations().is_empty()) {
        write!(out, "\n## {}\n\n| number | operation | implemented |\n|---|---|---|\n", call.name()).unwrap();
        for op in call.suboperations() {
            writeln!(out, "| {} | `{}` | {} |", op.number, op.name, word(op.status)).unwrap();
        }
    }
    out
}

#[test]
fn the_status_page_is_current() {
    let page = page();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::create_dir_all(std::path::Path::new(PAGE).parent().unwrap()).unwrap();
        std::fs::write(PAGE, &page).unwrap();
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(written == page, "docs/hypercalls.md is stale: run `{UPDATE}=1 cargo test -p guest-abi`");
}

#[test]
fn numbers_decode_to_their_call_and_no_other() {
    for number in 0..=u32::from(u8::MAX) {
        let listed = Hypercall::ALL.iter().copied().find(|c| c.number() == number);
        assert_eq!(Hypercall::from_number(number), listed, "{number}");
    }
    for number in [256, 256 + 14, 1 << 31, u32::MAX] {
        assert_eq!(Hypercall::from_number(number), None, "{number}");
    }
}

#[test]
fn rows_are_in_order_and_suboperations_too() {
    assert!(Hypercall::ALL.is_sorted_by(|a, b| a.number() < b.number()));
    for call in Hypercall::ALL {
        let ops = call.suboperations();
        assert!(ops.is_sorted_by(|a, b| a.number < b.number), "{}", call.name());
        assert!(call.arguments() <= 6);
    }
}

#[test]
fn an_operation_is_not_implemented_in_a_call_that_is_not() {
    for call in Hypercall::ALL.iter().filter(|c| c.status() == Status::Unimplemented) {
        for op in call.suboperations() {
            assert_eq!(op.status, Status::Unimplemented, "{}: {}", call.name(), op.name);
        }
    }
}

#[test]
fn suboperations_have_names() {
    assert_eq!(Hypercall::SchedOp.suboperation_name(2), Some("shutdown"));
    assert_eq!(Hypercall::SchedOp.suboperation_name(99), None);
    assert_eq!(Hypercall::Iret.suboperation_name(0), None);
}
