//! Compiles a C program against the public headers and compares every number, size and offset.

use super::Layout;
use crate::{Hypercall, errno::ERRNOS};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use tempfile::TempDir;

const HEADERS: &[&str] = &[
    "xen.h",
    "callback.h",
    "elfnote.h",
    "errno.h",
    "event_channel.h",
    "features.h",
    "grant_table.h",
    "memory.h",
    "nmi.h",
    "physdev.h",
    "platform.h",
    "sched.h",
    "vcpu.h",
    "version.h",
    "io/console.h",
    "io/xs_wire.h",
];

fn constants() -> Vec<(&'static str, i128)> {
    [
        crate::callback::CONSTANTS,
        crate::elfnote::CONSTANTS,
        crate::event_channel::CONSTANTS,
        crate::features::CONSTANTS,
        crate::grant_table::CONSTANTS,
        crate::io::CONSTANTS,
        crate::memory::CONSTANTS,
        crate::nmi::CONSTANTS,
        crate::physdev::CONSTANTS,
        crate::platform::CONSTANTS,
        crate::sched::CONSTANTS,
        crate::vcpu::CONSTANTS,
        crate::version::CONSTANTS,
        crate::vga::CONSTANTS,
        crate::x86_64::CONSTANTS,
        crate::xen::CONSTANTS,
    ]
    .concat()
}

fn layouts() -> Vec<Layout> {
    [
        crate::callback::layouts as fn() -> Vec<Layout>,
        crate::event_channel::layouts,
        crate::grant_table::layouts,
        crate::io::layouts,
        crate::memory::layouts,
        crate::nmi::layouts,
        crate::physdev::layouts,
        crate::platform::layouts,
        crate::sched::layouts,
        crate::vcpu::layouts,
        crate::version::layouts,
        crate::vga::layouts,
        crate::x86_64::layouts,
        crate::xen::layouts,
    ]
    .iter()
    .flat_map(|list| list())
    .collect()
}

/// What a call's operations are called in the headers, before their own names.
fn prefix(call: Hypercall) -> &'static str {
    match call {
        Hypercall::PlatformOp => "XENPF_",
        Hypercall::MemoryOp => "XENMEM_",
        Hypercall::XenVersion => "XENVER_",
        Hypercall::ConsoleIo => "CONSOLEIO_",
        Hypercall::GrantTableOp => "GNTTABOP_",
        Hypercall::VmAssist => "VMASST_TYPE_",
        Hypercall::VcpuOp => "VCPUOP_",
        Hypercall::SetSegmentBase => "SEGBASE_",
        Hypercall::MmuextOp => "MMUEXT_",
        Hypercall::NmiOp => "XENNMI_",
        Hypercall::SchedOp => "SCHEDOP_",
        Hypercall::CallbackOp => "CALLBACKOP_",
        Hypercall::EventChannelOp => "EVTCHNOP_",
        Hypercall::PhysdevOp => "PHYSDEVOP_",
        other => panic!("no prefix known for the operations of {}", other.name()),
    }
}

/// Every number that the header must agree on, under the header's name in capitals.
fn numbers() -> Vec<(String, i128)> {
    let mut all: Vec<_> = constants().iter().map(|(name, value)| (name.to_string(), *value)).collect();
    for call in Hypercall::ALL.iter().filter(|c| c.is_of_xen()) {
        all.push((format!("__HYPERVISOR_{}", call.name()).to_uppercase(), i128::from(call.number())));
        for op in call.suboperations() {
            all.push((format!("{}{}", prefix(*call), op.name).to_uppercase(), i128::from(op.number)));
        }
    }
    all
}

fn includes() -> String {
    let mut c = String::from(
        "#define __XEN_TOOLS__ 1\n#include <stdint.h>\n#include <stddef.h>\n#include <stdio.h>\n",
    );
    c.push_str("#define offset_of(t, m) __builtin_offsetof(t, m)\n");
    for header in HEADERS {
        writeln!(c, "#include <xen/{header}>").unwrap();
    }
    c
}

fn compiler(source: &str, arguments: &[&str]) -> (TempDir, Command) {
    assert!(
        std::path::Path::new("/usr/include/xen/xen.h").exists(),
        "the layout tests need Xen's public headers: install Debian's package libxen-dev"
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("layout.c"), source).unwrap();
    let mut command = Command::new("cc");
    command.current_dir(dir.path()).args(["-std=gnu11", "layout.c"]).args(arguments);
    (dir, command)
}

fn run(mut command: Command, what: &str) -> String {
    let output =
        command.output().unwrap_or_else(|e| panic!("{what}: {e}; the layout tests need a C compiler (gcc)"));
    assert!(output.status.success(), "{what}:\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Names of the headers' object-like macros, by their spelling in capitals.
fn macros() -> BTreeMap<String, String> {
    let (_dir, command) = compiler(&includes(), &["-E", "-dM"]);
    let text = run(command, "cc -E");
    let names = text.lines().filter_map(|line| {
        let name = line.strip_prefix("#define ")?.split(' ').next()?;
        (!name.contains('(')).then_some(name)
    });
    names.map(|name| (name.to_uppercase(), name.to_owned())).collect()
}

/// Compiles `lines` of `printf`s into a program, runs it, and returns its lines.
fn answers(lines: &[String]) -> Vec<String> {
    let source = format!("{}int main(void) {{\n{}\nreturn 0;\n}}\n", includes(), lines.join("\n"));
    let (dir, command) = compiler(&source, &["-o", "layout"]);
    run(command, "cc");
    let text = run(Command::new(dir.path().join("layout")), "layout");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn numbers_are_those_of_the_headers() {
    let macros = macros();
    let numbers = numbers();
    let c_names: Vec<String> = numbers
        .iter()
        .map(|(name, _)| macros.get(name).unwrap_or_else(|| panic!("the headers have no {name}")).clone())
        .collect();
    let program: Vec<String> =
        c_names.iter().map(|c| format!("printf(\"%llu\\n\", (unsigned long long)({c}));")).collect();
    let answers = answers(&program);
    assert_eq!(answers.len(), numbers.len());
    for ((name, ours), theirs) in numbers.iter().zip(answers) {
        assert_eq!((*ours as u64).to_string(), theirs, "{name}");
    }
}

#[test]
fn errors_are_those_of_the_header() {
    let public = ERRNOS.iter().filter(|(name, _)| !matches!(*name, "EINTR" | "ERESTART"));
    let (lines, numbers): (Vec<_>, Vec<_>) =
        public.map(|(name, number)| (format!("printf(\"%d\\n\", XEN_{name});"), number.to_string())).unzip();
    assert_eq!(answers(&lines), numbers);
}

#[test]
fn every_hypercall_and_operation_of_the_headers_is_in_the_table() {
    let ours: Vec<String> = numbers().into_iter().map(|(name, _)| name).collect();
    let calls = Hypercall::ALL.iter().filter(|c| c.is_of_xen() && !c.suboperations().is_empty());
    let prefixes: Vec<&str> =
        calls.map(|c| prefix(*c)).filter(|p| *p != "XENMEM_" && *p != "XENPF_").collect();
    for name in macros().into_keys() {
        let is_call = name.starts_with("__HYPERVISOR_") && !name.contains("VIRT_");
        let is_operation = prefixes.iter().any(|p| name.starts_with(p));
        // A second spelling, arguments of an operation, and a list of texts.
        let is_alias = matches!(name.as_str(), "PHYSDEVOP_PIRQ_EOI_GMFN" | "GNTTABOP_ERROR_MSGS")
            || name.starts_with("PHYSDEVOP_DBGP_");
        let is_ours = ours.contains(&name);
        assert!(!(is_call || is_operation) || is_alias || is_ours, "the table lacks {name}");
    }
}

#[test]
fn structures_are_those_of_the_headers() {
    let layouts = layouts();
    let mut lines = Vec::new();
    let mut ours = Vec::new();
    for layout in &layouts {
        let c_type = layout.c_type;
        lines.push(format!("printf(\"{c_type}: %zu\\n\", sizeof({c_type}));"));
        ours.push(format!("{c_type}: {}", layout.size));
        for (field, offset, size) in layout.fields.iter().filter(|(field, ..)| !field.is_empty()) {
            let label = format!("{c_type}.{field}");
            lines.push(format!(
                "printf(\"{label} at %zu, %zu\\n\", offset_of({c_type}, {field}), sizeof((({c_type} *)0)->{field}));"
            ));
            ours.push(format!("{label} at {offset}, {size}"));
        }
    }
    let theirs = answers(&lines);
    let differences: Vec<_> = ours.iter().zip(&theirs).filter(|(a, b)| a != b).collect();
    assert!(differences.is_empty(), "Rust, C: {differences:#?}");
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn every_structure_is_compared() {
    let layouts = layouts();
    assert!(layouts.len() > 90, "{}", layouts.len());
    assert!(layouts.iter().all(|l| l.fields.iter().any(|(field, ..)| !field.is_empty())));
}
