//! What domains wrote, in files that anybody can read: `NAME.log`, and before it `NAME.log.1`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where the files are.
pub const DIRECTORY: &str = "/var/log/xenolith/console";
/// Bytes of a file after which the next is begun; two are kept.
pub const SIZE: u64 = 1024 * 1024;

/// A domain's name as part of a file's: whatever it is, it is in the directory.
pub fn file_stem(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    let stem: String = name.chars().take(100).map(|c| if allowed(c) { c } else { '_' }).collect();
    match stem.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None if stem.is_empty() => "_".to_owned(),
        None => stem,
    }
}

fn paths(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
    let stem = file_stem(name);
    (directory.join(format!("{stem}.log")), directory.join(format!("{stem}.log.1")))
}

/// One domain's file, being written.
#[derive(Debug)]
pub struct History {
    directory: PathBuf,
    name: String,
    file: Option<File>,
    len: u64,
    size: u64,
}

impl History {
    /// Goes on with the domain's file, or begins it. A file that cannot be written costs the history, not the console.
    pub fn open(directory: &Path, name: &str, size: u64) -> History {
        let mut history =
            History { directory: directory.to_owned(), name: name.to_owned(), file: None, len: 0, size };
        if let Err(error) = history.reopen() {
            eprintln!("lith-consoled: no history of {name}: {error}");
        }
        history
    }

    /// Opens the file anew, for somebody may have moved it away.
    ///
    /// # Errors
    /// The system's.
    pub fn reopen(&mut self) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let path = paths(&self.directory, &self.name).0;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        self.len = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// The domain has another name, and so have its files. What some domain left under that name comes before.
    pub fn rename(&mut self, name: &str) {
        let (now, before) = paths(&self.directory, &self.name);
        let (new, new_before) = paths(&self.directory, name);
        name.clone_into(&mut self.name);
        if now == new {
            return;
        }
        // Whatever fails costs a piece of the history.
        let _ = if new.exists() {
            std::fs::rename(&new, new_before).and_then(|()| std::fs::remove_file(before))
        } else {
            std::fs::rename(before, new_before)
        };
        let _ = std::fs::rename(now, new);
    }

    /// Appends what the domain wrote.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.len.saturating_add(bytes.len() as u64) > self.size && self.len > 0 {
            let (now, before) = paths(&self.directory, &self.name);
            let _ = std::fs::rename(now, before);
            let _ = self.reopen();
        }
        if let Some(file) = &mut self.file {
            // On a full disk the console still works.
            let _ = file.write_all(bytes);
            self.len += bytes.len() as u64;
        }
    }
}

/// The last `most` bytes that a domain of this name wrote.
///
/// # Errors
/// `NotFound` when none of that name ever wrote.
pub fn read(directory: &Path, name: &str, most: u64) -> io::Result<Vec<u8>> {
    let (now, before) = paths(directory, name);
    let last = tail(&now, most)?;
    let mut bytes = tail(&before, most - last.len() as u64).unwrap_or_default();
    bytes.extend_from_slice(&last);
    Ok(bytes)
}

fn tail(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::open(dir.path(), "web", 100);
        for n in 0..50 {
            history.append(format!("line {n:04}\n").as_bytes());
        }
        let all = read(dir.path(), "web", u64::MAX).unwrap();
        assert_eq!(all.len() % 10, 0);
        assert!((100..=200).contains(&all.len()) && all.ends_with(b"line 0049\n"));
        assert_eq!(read(dir.path(), "web", 15).unwrap(), b"0048\nline 0049\n");
        assert_eq!(read(dir.path(), "web", 110).unwrap().len(), 110, "from both");
    }

    #[test]
    fn files_go_with_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut old = History::open(dir.path(), "web", 10);
        old.append(b"first....");
        old.append(b"second ");
        old.rename("web-1");
        old.append(b"on");
        History::open(dir.path(), "web", 10).append(b"anew");
        assert_eq!(read(dir.path(), "web-1", 100).unwrap(), b"first....second on");
        assert_eq!(read(dir.path(), "web", 100).unwrap(), b"anew");
        // Where another domain's history is.
        old.rename("web");
        assert_eq!(read(dir.path(), "web", 100).unwrap(), b"anewsecond on");
        assert!(read(dir.path(), "web-1", 100).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        old.rename("web");
        assert_eq!(read(dir.path(), "web", 100).unwrap(), b"anewsecond on");
    }

    #[test]
    fn another_daemon_goes_on_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        History::open(dir.path(), "web", SIZE).append(b"one ");
        History::open(dir.path(), "web", SIZE).append(b"two");
        assert_eq!(read(dir.path(), "web", 100).unwrap(), b"one two");
        assert_eq!(read(dir.path(), "other", 100).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_that_was_moved_away_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::open(dir.path(), "web", SIZE);
        history.append(b"one");
        std::fs::rename(dir.path().join("web.log"), dir.path().join("kept")).unwrap();
        history.reopen().unwrap();
        history.append(b"two");
        assert_eq!(read(dir.path(), "web", 100).unwrap(), b"two");
    }

    #[test]
    fn no_name_leaves_the_directory() {
        for name in ["../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "a\0b", "ä"] {
            let stem = file_stem(name);
            assert!(
                !stem.contains(['/', '\0']) && !stem.starts_with('.') && !stem.is_empty(),
                "{name:?}: {stem}"
            );
        }
        assert_eq!(file_stem("web-1.example+x_y"), "web-1.example+x_y");
    }
}
