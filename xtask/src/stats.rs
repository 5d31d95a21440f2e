//! `stats`: how large each room is and how much of it may be unsafe.

use crate::{paths, sh};
use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Command;

/// The hypervisor's rooms; those in the second list may hold unsafe code.
const SAFE: &[&str] = &["guest-abi", "boot/image", "hypervisor/types", "hypervisor/core", "hypervisor/pv"];
const UNSAFE: &[&str] = &["boot/entry", "hypervisor/x86", "hypervisor/src"];
const OTHERS: &[&str] =
    &["tests/model", "tests/guests", "tests/system", "bench", "dom0-tools", "xtask", "scripts"];

/// What is counted of a room.
#[derive(Default)]
struct Count {
    files: usize,
    code: usize,
    tests: usize,
    unsafes: usize,
    argued: usize,
}

/// The verb.
pub fn run(args: &[String]) -> Result<()> {
    ensure!(args.is_empty(), "`stats` takes no arguments");
    println!("{:<18} {:>6} {:>7} {:>7} {:>7} {:>7}", "room", "files", "code", "tests", "unsafe", "SAFETY");
    let mut sums = [0, 0];
    for (group, rooms) in [SAFE, UNSAFE, OTHERS].iter().enumerate() {
        for room in *rooms {
            let count = count(room)?;
            if let Some(sum) = sums.get_mut(group) {
                *sum += count.code;
            }
            let Count { files, code, tests, unsafes, argued } = count;
            println!("{room:<18} {files:>6} {code:>7} {tests:>7} {unsafes:>7} {argued:>7}");
        }
    }
    let [safe, unsafe_capable] = sums;
    let share = 100 * unsafe_capable / (safe + unsafe_capable).max(1);
    println!("hypervisor code in rooms that may be unsafe: {share} %");
    Ok(())
}

/// Counts the files that git knows under a room.
fn count(room: &str) -> Result<Count> {
    let list = sh::text(Command::new("git").current_dir(paths::repo()).args(["ls-files", "--", room]))?;
    let mut sum = Count::default();
    for file in
        list.lines().filter(|file| file.ends_with(".rs") || file.ends_with(".sh") || file.ends_with(".s"))
    {
        let text = String::from_utf8_lossy(&sh::read(&paths::repo().join(file))?).into_owned();
        sum.files += 1;
        count_file(Path::new(file), &text, &mut sum);
    }
    Ok(sum)
}

/// Adds a file: lines that are neither empty nor a comment, those from `#[cfg(test)]` on as tests.
fn count_file(path: &Path, text: &str, sum: &mut Count) {
    let all_tests = path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
    let mut tests = all_tests;
    for line in text.lines().map(str::trim) {
        tests |= line.starts_with("#[cfg(test)]");
        sum.argued += usize::from(line.starts_with("// SAFETY:"));
        if line.is_empty() || line.starts_with("//") || line.starts_with("# ") {
            continue;
        }
        let counter = if tests { &mut sum.tests } else { &mut sum.code };
        *counter += 1;
        let word =
            |w| line.starts_with(w) || line.contains(&format!(" {w}")) || line.contains(&format!("({w}"));
        sum.unsafes += usize::from(word("unsafe {") || word("unsafe impl"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_tests_and_unsafe_are_told_apart() {
        let text = "//! Doc.\n\nfn a() {\n    // SAFETY: fine.\n    unsafe { b() }\n}\n#[cfg(test)]\nmod tests {\n}\n";
        let mut count = Count::default();
        count_file(Path::new("x.rs"), text, &mut count);
        assert_eq!((count.code, count.tests, count.unsafes, count.argued), (3, 3, 1, 1));
    }
}
