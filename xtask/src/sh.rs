//! Running other programs, with errors that say which one and why.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A command from its words.
pub fn cmd<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Runs a command whose output is of interest only when it fails.
pub fn quiet(command: &mut Command) -> Result<()> {
    output(command).map(|_| ())
}

/// Runs a command and returns what it wrote to standard output.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let shown = show(command);
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{shown}`"))?;
    if !out.status.success() {
        bail!(
            "`{shown}` failed ({}):\n{}{}",
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(out.stdout)
}

/// As [`output`], as text without the last line end.
pub fn text(command: &mut Command) -> Result<String> {
    let bytes = output(command)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// Runs a command whose output the person at the terminal should see.
pub fn visible(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// The command as one would type it.
pub fn show(command: &Command) -> String {
    let mut line = quote(&command.get_program().to_string_lossy());
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&quote(&arg.to_string_lossy()));
    }
    line
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Puts `sudo` in front unless already root.
pub fn as_root(words: &[&str]) -> Result<Command> {
    if text(&mut cmd(&["id", "-u"]))? == "0" {
        return Ok(cmd(words));
    }
    let mut command = Command::new("sudo");
    command.args(words);
    Ok(command)
}

/// Reads a file, naming it when that fails.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file through a neighbour and a rename, so that nobody sees half of it.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let naming = || format!("cannot write {}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(naming)?;
    }
    static WRITES: AtomicU32 = AtomicU32::new(0);
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    let partial = path.with_extension(format!("partial.{}.{number}", std::process::id()));
    std::fs::write(&partial, bytes).with_context(naming)?;
    std::fs::rename(&partial, path).with_context(naming)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_lines_can_be_pasted_into_a_shell() {
        let line = show(&cmd(&["qemu", "-append", "a b", "it's", ""]));
        assert_eq!(line, r"qemu -append 'a b' 'it'\''s' ''");
    }

    #[test]
    fn a_failure_names_the_program_and_what_it_said() {
        let error = output(&mut cmd(&["sh", "-c", "echo broken >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("broken") && error.contains("exit status: 3"), "{error}");
    }
}
