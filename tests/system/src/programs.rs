//! Programs that need more from the CPU than Debian's shell does: 32-bit ones, vector registers.

use crate::guest::{BOOT, assert_line, command, spec};
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;
use xtask::machine::Spec;
use xtask::{paths, sh};

fn source(name: &str) -> PathBuf {
    paths::repo().join("tests/system/programs").join(name)
}

fn built(name: &str) -> Result<PathBuf> {
    let dir = paths::out().join("programs");
    std::fs::create_dir_all(&dir)?;
    Ok(dir.join(name))
}

pub fn c_program(name: &str, options: &[&str]) -> Result<PathBuf> {
    let program = built(name)?;
    sh::quiet(
        Command::new("cc")
            .args(["-O1", "-static", "-Wall", "-Werror"])
            .args(options)
            .arg("-o")
            .arg(&program)
            .arg(source(&format!("{name}.c"))),
    )?;
    Ok(program)
}

/// Assembled and linked by binutils alone: there need be no 32-bit C library.
pub fn assembly_32(name: &str) -> Result<PathBuf> {
    let (object, program) = (built(&format!("{name}.o"))?, built(name)?);
    sh::quiet(Command::new("as").arg("--32").arg("-o").arg(&object).arg(source(&format!("{name}.s"))))?;
    sh::quiet(Command::new("ld").args(["-m", "elf_i386", "-o"]).arg(&program).arg(&object))?;
    Ok(program)
}

/// Asserts that `compat; echo status $?` said what it says where the vDSO enters by an instruction.
#[track_caller]
pub fn assert_32_bits(output: &str, instruction: &str) {
    for line in ["int 0x80 works", &format!("the vDSO has {instruction}"), "the vDSO works", "status 42"] {
        assert_line(output, line);
    }
}

/// `int 0x80` from 32-bit code, and the vDSO's fast entry, which is syscall on AMD's CPUs; `inside` has Intel's. `int 0x80` from 64-bit
/// code, breakpoints, single steps, divide errors: exceptions reach the process as signals. Upper halves of vector registers survive
/// other processes' use of them and the hypervisor itself.
#[test]
fn programs_get_what_they_need() -> Result<()> {
    let programs =
        vec![assembly_32("compat")?, c_program("signals", &[])?, c_program("vectors", &["-mavx"])?];
    let script = format!("compat; echo status $?; signals; {VECTORS}");
    let output = command(Spec { programs, ..spec() }, &script, BOOT)?;
    assert_32_bits(&output, "syscall");
    for line in [
        "int80 20",
        "divide SIGFPE",
        "breakpoint SIGTRAP",
        "step SIGTRAP",
        "illegal SIGILL",
        "privileged SIGSEGV",
        "null SIGSEGV",
        "non-canonical SIGSEGV",
        "watchpoint SIGTRAP",
        "fsbase kept",
        VECTORS_KEPT,
    ] {
        assert_line(&output, line);
    }
    Ok(())
}

/// Vector registers also survive on another CPU; and time never goes back on any, with a TSC that no CPU vouches for: QEMU's emulator
/// does not say that it is invariant.
#[test]
fn programs_on_two_cpus() -> Result<()> {
    let programs = vec![c_program("vectors", &["-mavx"])?, c_program("clock", &["-pthread"])?];
    let output = command(Spec { programs, cpus: 2, ..spec() }, &format!("{VECTORS}; clock"), BOOT)?;
    for line in [VECTORS_KEPT, "back 0 by a call"] {
        assert_line(&output, line);
    }
    Ok(())
}

const VECTORS: &str = "grep -q ' avx ' /proc/cpuinfo && vectors";
const VECTORS_KEPT: &str = "8 processes, 0 wrong";
