//! `build`: the hypervisor for its own target, and the checks every image must pass.

use crate::{paths, sh, symbols};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

const TARGET: &str = "x86_64-hv.json";
/// A multiboot2 loader looks for the header in this much of the file.
const HEADER_WITHIN: usize = 32 * 1024;
const MULTIBOOT2_MAGIC: [u8; 4] = 0xe852_50d6_u32.to_le_bytes();

/// The built image: the ELF, and the compressed file that goes to `/boot`.
#[derive(Clone)]
pub struct Built {
    /// `target/xenolith/xenolith`
    pub elf: PathBuf,
    /// `target/xenolith/xenolith.gz`
    pub gz: PathBuf,
}

/// A cargo command for the hypervisor's target, up to the verb (`build`, `clippy`).
pub fn cargo(verb: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::repo()).env("RUSTC_BOOTSTRAP", "1").arg(verb).args([
        "-p",
        "xenolith",
        "--target",
        TARGET,
        "-Zbuild-std=core,alloc",
        "-Zbuild-std-features=compiler-builtins-mem",
        "-Zjson-target-spec",
    ]);
    command
}

/// Builds the hypervisor and puts the ELF and its compressed form into `target/xenolith`; once a process, however many
/// threads ask.
pub fn build() -> Result<Built> {
    static BUILT: Mutex<Option<Built>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if built.is_none() {
        *built = Some(build_now()?);
    }
    built.clone().context("just built")
}

fn build_now() -> Result<Built> {
    sh::visible(cargo("build").args(["--release", "--quiet"]))?;
    let from = paths::target().join("x86_64-hv/release/xenolith");
    let out = paths::out();
    std::fs::create_dir_all(&out)?;
    let built = Built { elf: out.join("xenolith"), gz: out.join("xenolith.gz") };
    let mut elf = sh::read(&from)?;
    symbols::embed(&from, &mut elf)?;
    let unchanged = std::fs::read(&built.elf).is_ok_and(|old| old == elf) && built.gz.exists();
    if !unchanged {
        // The loaded file carries no symbols for the debugger; the ELF beside it does.
        let stripped = out.join(format!("stripped.{}", std::process::id()));
        sh::write(&built.elf, &elf)?;
        sh::quiet(Command::new("objcopy").arg("--strip-debug").arg(&built.elf).arg(&stripped))?;
        let gz = sh::output(Command::new("gzip").args(["-9", "-n", "-c"]).arg(&stripped));
        std::fs::remove_file(&stripped)?;
        sh::write(&built.gz, &gz?)?;
    }
    Ok(built)
}

/// Everything an image must satisfy before anyone boots it.
pub fn check(built: &Built) -> Result<()> {
    check_header(&sh::read(&built.elf)?)?;
    for file in [&built.elf, &built.gz] {
        sh::quiet(Command::new("grub-file").arg("--is-x86-multiboot2").arg(file))
            .with_context(|| format!("GRUB does not take {} for a multiboot2 image", file.display()))?;
    }
    let relocations = sh::text(Command::new("readelf").args(["-r", "-W"]).arg(&built.elf))?;
    ensure!(relocations.contains("no relocations"), "the image needs run-time relocation:\n{relocations}");
    check_registers(&built.elf)
}

fn check_header(elf: &[u8]) -> Result<()> {
    let found = elf
        .chunks_exact(8)
        .take(HEADER_WITHIN / 8)
        .any(|chunk| chunk[..4] == MULTIBOOT2_MAGIC && chunk[4..] == [0; 4]);
    ensure!(found, "no aligned multiboot2 header in the image's first {HEADER_WITHIN} bytes");
    Ok(())
}

/// The guest owns the vector and floating-point registers: no instruction of ours may name one.
fn check_registers(elf: &Path) -> Result<()> {
    let listing =
        sh::output(Command::new("objdump").args(["-d", "--no-show-raw-insn", "-M", "att"]).arg(elf))?;
    let listing = String::from_utf8_lossy(&listing);
    let bad: Vec<&str> = listing.lines().filter(|line| names_vector_register(line)).take(10).collect();
    if !bad.is_empty() {
        bail!("the image uses SSE, MMX or x87 registers:\n{}", bad.join("\n"));
    }
    Ok(())
}

fn names_vector_register(line: &str) -> bool {
    // The demangled name in `<...>` may hold anything.
    let code = line.split('<').next().unwrap_or(line);
    ["%xmm", "%ymm", "%zmm", "%mm0", "%mm1", "%mm2", "%mm3", "%mm4", "%mm5", "%mm6", "%mm7", "%st"]
        .iter()
        .any(|name| code.match_indices(name).any(|(at, _)| is_register(&code[at + 1..])))
}

/// `%st` and `%st(1)`, but not a longer word that begins with it.
fn is_register(word: &str) -> bool {
    !word.starts_with("st") || !word[2..].starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// The verb.
pub fn run(args: &[String]) -> Result<()> {
    ensure!(args.is_empty(), "`build` takes no arguments");
    let built = build()?;
    check(&built)?;
    let tools = crate::tools::build()?;
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len() / 1024);
    println!("{} ({} KiB)", built.elf.display(), size(&built.elf));
    println!("{} ({} KiB)", built.gz.display(), size(&built.gz));
    for tool in &tools {
        println!("{} ({} KiB)", tool.display(), size(tool));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_registers_are_seen() {
        for line in [
            "  40: movaps %xmm0,(%rdi)",
            "  40: movq %mm3,%rax",
            "  40: fxch %st(1)",
            "  40: fstp %st",
            "  40: vzeroall %ymm9",
        ] {
            assert!(names_vector_register(line), "{line}");
        }
        for line in
            ["  40: str %ax", "  40: call 77 <core::fmt::%xmm>", "  40: mov %stack,%rax", "  40: fninit"]
        {
            assert!(!names_vector_register(line), "{line}");
        }
    }

    #[test]
    fn header_is_found_only_where_a_loader_looks() {
        let mut file = vec![0_u8; 64 * 1024];
        file[0x1000..0x1004].copy_from_slice(&MULTIBOOT2_MAGIC);
        assert!(check_header(&file).is_ok());
        file[0x1000] = 0;
        assert!(check_header(&file).is_err());
        file[HEADER_WITHIN..HEADER_WITHIN + 4].copy_from_slice(&MULTIBOOT2_MAGIC);
        assert!(check_header(&file).is_err());
    }
}
