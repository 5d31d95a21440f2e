//! The program itself, through its socket: with this repository's client, and with Debian's.

use lith_client::store::{Permission, Store};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

struct Daemon {
    dir: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    fn start() -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let child = Daemon::spawn(dir.path());
        let daemon = Daemon { dir, child };
        daemon.wait();
        daemon
    }

    fn spawn(dir: &Path) -> Child {
        Command::new(env!("CARGO_BIN_EXE_lith-xenstored"))
            .arg("--no-hypervisor")
            .arg("--socket")
            .arg(dir.join("socket"))
            .arg("--state")
            .arg(dir.join("state"))
            .spawn()
            .unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < until, "the daemon does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn store(&self) -> Store {
        Store::connect(&self.socket()).unwrap()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn kill_and_start(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Daemon::spawn(self.dir.path());
        self.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_client_and_the_daemon_understand_each_other() {
    let daemon = Daemon::start();
    let (mut one, mut two) = (daemon.store(), daemon.store());
    assert_eq!(one.read_text("/local/domain/0/name").unwrap(), "Domain-0");
    two.watch("/a", "token").unwrap();
    assert_eq!(two.next_event(None).unwrap().unwrap().path, "/a");
    one.write("/a/b", "value").unwrap();
    let event = two.next_event(Some(Duration::from_secs(5))).unwrap().unwrap();
    assert_eq!((event.path.as_str(), event.token.as_str()), ("/a/b", "token"));
    assert_eq!(two.read_text("/a/b").unwrap(), "value");
    one.set_permissions("/a/b", &[Permission::none(0), Permission::read(3)]).unwrap();
    assert_eq!(two.permissions("/a/b").unwrap(), [Permission::none(0), Permission::read(3)]);
    let names: Vec<_> = (0..700).map(|n| format!("n{n:04}")).collect();
    one.transaction(|store| names.iter().try_for_each(|name| store.write(&format!("/d/{name}"), name)))
        .unwrap();
    assert_eq!(two.directory("/d").unwrap(), names, "more than one message holds");
    one.remove("/d").unwrap();
    assert!(two.read("/d").unwrap_err().is_missing());
    two.unwatch("/a", "token").unwrap();
    assert_eq!(two.next_event(Some(Duration::ZERO)).unwrap(), None);
    assert!(!one.is_introduced(7).unwrap());
    assert_eq!(one.control(&["check"]).unwrap(), "OK");
}

#[test]
fn contended_counters_count() {
    let daemon = Daemon::start();
    daemon.store().write("/count", "0").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut store = daemon.store();
                for _ in 0..50 {
                    store
                        .transaction(|store| {
                            let count: u32 = store.read_text("/count")?.parse().unwrap();
                            store.write("/count", (count + 1).to_string())
                        })
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(daemon.store().read_text("/count").unwrap(), "200");
}

#[test]
fn a_daemon_that_is_killed_knows_everything_afterwards() {
    let mut daemon = Daemon::start();
    for n in 0..20 {
        let mut store = daemon.store();
        store.write(&format!("/n/{n}"), "kept").unwrap();
        daemon.kill_and_start();
        assert!(store.read("/n").is_err(), "the connection is gone");
    }
    let mut store = daemon.store();
    assert_eq!(store.directory("/n").unwrap().len(), 20);
    daemon.signal("-TERM");
    daemon.child.wait().unwrap();
    daemon.child = Daemon::spawn(daemon.dir.path());
    daemon.wait();
    assert_eq!(daemon.store().directory("/n").unwrap().len(), 20);
}

#[test]
fn a_daemon_that_starts_itself_again_keeps_its_connections() {
    let daemon = Daemon::start();
    let mut store = daemon.store();
    store.watch("/a", "kept").unwrap();
    store.next_event(None).unwrap();
    for n in 0..5 {
        store.write("/b", n.to_string()).unwrap();
        if n % 2 == 0 {
            daemon.signal("-HUP");
        } else {
            assert_eq!(store.control(&["live-update", "-s"]).unwrap(), "OK");
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(store.read_text("/b").unwrap(), n.to_string());
    }
    daemon.store().write("/a", "x").unwrap();
    assert_eq!(store.next_event(Some(Duration::from_secs(5))).unwrap().unwrap().token, "kept");
}

#[test]
fn a_reader_that_does_not_read_keeps_nobody_waiting() {
    let daemon = Daemon::start();
    let mut deaf = UnixStream::connect(daemon.socket()).unwrap();
    let mut requests = Vec::new();
    for _ in 0..2000 {
        lith_client::wire::encode(&mut requests, 1, 1, 0, &[b"/\0"]);
    }
    deaf.set_nonblocking(true).unwrap();
    for _ in 0..200 {
        if deaf.write(&requests).is_err() {
            break;
        }
    }
    let mut store = daemon.store();
    let start = Instant::now();
    for _ in 0..100 {
        store.write("/a", "x").unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    // And it still has its answers, in order and whole.
    deaf.set_nonblocking(false).unwrap();
    let mut head = [0; 16];
    deaf.read_exact(&mut head).unwrap();
    assert_eq!(head[0], 1);
}

#[test]
fn there_is_one_daemon() {
    let daemon = Daemon::start();
    let mut second = Daemon::spawn(daemon.dir.path());
    assert!(!second.wait().unwrap().success());
    daemon.store().write("/a", "the first still answers").unwrap();
}

/// Debian's clients: those that are installed, or the package's, unpacked.
fn debian() -> Option<PathBuf> {
    for dir in std::env::split_paths(&std::env::var_os("PATH")?) {
        if dir.join("xenstore-read").exists() {
            return Some(dir);
        }
    }
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("xenstore-utils");
    if !cache.join("usr/bin/xenstore-read").exists() {
        std::fs::create_dir_all(&cache).ok()?;
        let run = |command: &mut Command| command.output().ok().filter(|output| output.status.success());
        run(Command::new("apt-get")
            .args(["download", "xenstore-utils", "libxenstore4"])
            .current_dir(&cache))?;
        for entry in std::fs::read_dir(&cache).ok()?.flatten() {
            if entry.path().extension().is_some_and(|end| end == "deb") {
                run(Command::new("dpkg").arg("-x").arg(entry.path()).arg(&cache))?;
            }
        }
    }
    Some(cache.join("usr/bin"))
}

#[test]
fn debians_clients_are_served() {
    let Some(bin) = debian() else { return eprintln!("skipped: no xenstore-utils to be had") };
    let daemon = Daemon::start();
    let run = |tool: &str, words: &[&str]| {
        let output = Command::new(bin.join(tool))
            .args(words)
            .env("XENSTORED_PATH", daemon.socket())
            .env("LD_LIBRARY_PATH", bin.parent().unwrap().join("lib/x86_64-linux-gnu"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
    };
    let ok = |tool: &str, words: &[&str]| {
        let (good, text) = run(tool, words);
        assert!(good, "{tool} {words:?}: {text}");
        text
    };
    ok("xenstore-write", &["-s", "/a/b", "value", "/a/c", "other"]);
    assert_eq!(ok("xenstore-read", &["-s", "/a/b"]), "value\n");
    assert_eq!(ok("xenstore-list", &["-s", "/a"]), "b\nc\n");
    ok("xenstore-chmod", &["-s", "-r", "/a", "n0", "r7"]);
    let tree = ok("xenstore-ls", &["-s", "-f", "-p", "/a"]);
    assert!(tree.contains("/a/b = \"value\"") && tree.contains("(n0,r7)"), "{tree}");
    ok("xenstore-exists", &["-s", "/a/b"]);
    assert!(!run("xenstore-exists", &["-s", "/a/d"]).0);
    ok("xenstore-rm", &["-s", "/a/b"]);
    assert!(!run("xenstore-read", &["-s", "/a/b"]).0);
    assert_eq!(ok("xenstore-watch", &["-s", "-n", "1", "/a"]), "/a\n");
    let many: Vec<_> = (0..900).map(|n| format!("/many/node-{n:05}")).collect();
    for names in many.chunks(100) {
        let words: Vec<_> =
            ["-s"].into_iter().chain(names.iter().flat_map(|name| [name.as_str(), "x"])).collect();
        ok("xenstore-write", &words);
    }
    assert_eq!(ok("xenstore-list", &["-s", "/many"]).lines().count(), 900);
}
