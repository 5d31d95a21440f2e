//! Debian packages of a chosen suite, fetched through a private apt configuration: the system's own sources
//! and state stay as they are.

use crate::{paths, sh};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// How long the suite's package lists count as fresh.
const LISTS_ARE_FRESH: Duration = Duration::from_secs(7 * 24 * 3600);
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A Debian release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12
    Bookworm,
    /// Newer versions for Debian 12
    BookwormBackports,
    /// Debian 13
    Trixie,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Suite::Bookworm => "bookworm",
            Suite::BookwormBackports => "bookworm-backports",
            Suite::Trixie => "trixie",
        }
    }
}

/// The Debian mirror; `XENOLITH_MIRROR` overrides it.
pub fn mirror() -> String {
    std::env::var("XENOLITH_MIRROR").unwrap_or_else(|_| "http://deb.debian.org/debian".to_owned())
}

/// A suite's private apt directory, with package lists.
pub struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Opens a suite; fetches its lists when there are none or they are old. Old lists do when the network
    /// does not answer.
    pub fn open(suite: Suite) -> Result<Apt> {
        let apt = Apt { dir: paths::cache()?.join("apt").join(suite.name()) };
        let stamp = apt.dir.join("updated");
        let age = std::fs::metadata(&stamp).and_then(|m| m.modified()).ok();
        let fresh =
            age.is_some_and(|t| SystemTime::now().duration_since(t).is_ok_and(|d| d < LISTS_ARE_FRESH));
        if fresh {
            return Ok(apt);
        }
        apt.configure(suite)?;
        eprintln!("fetching Debian {}'s package lists", suite.name());
        let updated = sh::quiet(&mut apt.get(&["update", "-q", "-o", "APT::Update::Error-Mode=any"]));
        match (updated, age) {
            (Ok(()), _) => sh::write(&stamp, b"")?,
            (Err(error), Some(_)) => eprintln!("using the old package lists: {error:#}"),
            (Err(error), None) => return Err(error),
        }
        Ok(apt)
    }

    fn configure(&self, suite: Suite) -> Result<()> {
        for dir in
            ["etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial", "debs"]
        {
            std::fs::create_dir_all(self.dir.join(dir))?;
        }
        let (name, mirror) = (suite.name(), mirror());
        let security = mirror.strip_suffix("/debian").map(|base| format!("{base}/debian-security"));
        let security = security.filter(|_| suite != Suite::BookwormBackports);
        let mut sources = format!("deb [signed-by={KEYRING}] {mirror} {name} main\n");
        if let Some(security) = security {
            sources += &format!("deb [signed-by={KEYRING}] {security} {name}-security main\n");
        }
        std::fs::write(self.dir.join("etc/sources.list"), sources)?;
        let dir = self.dir.display();
        let config = format!(
            "Dir::Etc \"{dir}/etc\";\nDir::State \"{dir}/state\";\nDir::State::status \"/dev/null\";\n\
             Dir::Cache \"{dir}/cache\";\nAPT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
             APT::Sandbox::User \"\";\nAcquire::Languages \"none\";\n"
        );
        Ok(std::fs::write(self.dir.join("apt.conf"), config)?)
    }

    fn get(&self, args: &[&str]) -> Command {
        self.command("apt-get", args)
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt.conf")).env("LC_ALL", "C").args(args);
        command
    }

    /// The package that a meta package such as `linux-image-amd64` depends on.
    pub fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let text = sh::text(&mut self.command("apt-cache", &["depends", "--no-recommends", package]))?;
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("{package} depends on no {prefix}*:\n{text}"))
    }

    /// Fetches a package (apt checks signature and hash) and returns the file; a fetched one is kept.
    pub fn fetch(&self, package: &str) -> Result<PathBuf> {
        let debs = self.dir.join("debs");
        let show = sh::text(&mut self.command("apt-cache", &["show", "--no-all-versions", package]))?;
        let filename = show
            .lines()
            .find_map(|line| line.strip_prefix("Filename: "))
            .with_context(|| format!("Debian has no package {package}"))?;
        let file = debs.join(filename.rsplit('/').next().unwrap_or(filename));
        if !file.exists() {
            let fetching = debs.join(format!("fetching.{}", std::process::id()));
            std::fs::create_dir_all(&fetching)?;
            eprintln!("fetching {package}");
            sh::quiet(self.get(&["download", "-q", package]).current_dir(&fetching))?;
            let fetched: Vec<_> = std::fs::read_dir(&fetching)?.collect::<Result<_, _>>()?;
            ensure!(fetched.len() == 1, "apt-get download {package} gave {} files", fetched.len());
            std::fs::rename(fetched[0].path(), &file)?;
            std::fs::remove_dir(&fetching)?;
        }
        Ok(file)
    }
}

/// Unpacks a package into a directory.
pub fn unpack(deb: &Path, into: &Path) -> Result<()> {
    std::fs::create_dir_all(into)?;
    sh::quiet(Command::new("dpkg-deb").arg("-x").arg(deb).arg(into))
}
