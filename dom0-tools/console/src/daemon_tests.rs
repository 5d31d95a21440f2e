use super::*;
use crate::limit::{BURST, RATE};
use crate::protocol::{Attached, ask};
use guest_abi::io::XenconsInterface as Interface;
use lith_client::Mapping;
use std::io::{Read, Write};
use std::mem::offset_of;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

#[derive(Default)]
struct Host {
    pages: BTreeMap<u16, Arc<Mapping>>,
    fired: Vec<u32>,
    masked: Vec<u32>,
    notified: Vec<u32>,
}

fn port(domid: u16) -> u32 {
    100 + u32::from(domid)
}

impl Hypervisor for Host {
    type Page = Arc<Mapping>;
    fn map(&mut self, domid: u16, _: u64) -> Result<Arc<Mapping>, String> {
        self.pages.get(&domid).cloned().ok_or_else(|| "no page".to_owned())
    }
    fn bind(&mut self, domid: u16, _: u32) -> Result<u32, String> {
        Ok(port(domid))
    }
    fn unbind(&mut self, _: u32) {}
    fn notify(&mut self, port: u32) {
        self.notified.push(port);
    }
    fn unmask(&mut self, port: u32) {
        self.masked.retain(|masked| *masked != port);
    }
    fn fired(&mut self) -> Vec<u32> {
        let (now, later) =
            std::mem::take(&mut self.fired).into_iter().partition(|p| !self.masked.contains(p));
        self.fired = later;
        self.masked.extend(&now);
        now
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[derive(Default)]
struct List {
    entries: Vec<Entry>,
    changed: bool,
    /// What changes while they are listed.
    next: Option<Vec<Entry>>,
}

impl Directory for List {
    fn changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
    fn list(&mut self) -> Option<Vec<Entry>> {
        let entries = self.entries.clone();
        if let Some(next) = self.next.take() {
            (self.entries, self.changed) = (next, true);
        }
        Some(entries)
    }
    fn has_unread(&self) -> bool {
        self.changed
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

struct Bench {
    dir: tempfile::TempDir,
    daemon: Daemon<Host, List>,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Bench::start(dir.path(), Host::default(), List::default());
        Bench { dir, daemon }
    }

    fn start(dir: &Path, host: Host, list: List) -> Daemon<Host, List> {
        let options =
            Options { socket: dir.join("socket"), directory: dir.join("logs"), size: history::SIZE };
        Daemon::start(options, host, list).unwrap()
    }

    fn add(&mut self, domid: u16, name: &str) -> Arc<Mapping> {
        let page = Arc::new(Mapping::private(1).unwrap());
        self.daemon.hypervisor().pages.insert(domid, page.clone());
        let list = self.daemon.directory();
        list.entries.push(Entry { domid, name: name.to_owned(), frame: 1, port: 2 });
        list.changed = true;
        page
    }

    fn remove(&mut self, domid: u16) {
        let list = self.daemon.directory();
        list.entries.retain(|entry| entry.domid != domid);
        list.changed = true;
    }

    fn turn(&mut self) {
        self.daemon.turn(None, Some(Duration::ZERO)).unwrap();
    }

    /// Attaches while the daemon runs.
    fn ask(&mut self, mode: Mode, who: &str) -> Result<Attached, crate::protocol::Refused> {
        let socket = self.dir.path().join("socket");
        let request = Request { mode, who: who.to_owned(), history: 1 << 20 };
        let asking = std::thread::spawn(move || ask(&socket, &request));
        while !asking.is_finished() {
            self.daemon.turn(None, Some(Duration::from_millis(1))).unwrap();
        }
        asking.join().unwrap()
    }
}

/// The guest writes as much as fits, and notifies.
fn say(bench: &mut Bench, domid: u16, page: &Mapping, text: &[u8]) -> usize {
    let (prod, cons) =
        (page.load(offset_of!(Interface, out_prod)), page.load(offset_of!(Interface, out_cons)));
    let count = text.len().min(2048 - prod.wrapping_sub(cons) as usize);
    for (index, byte) in text[..count].iter().enumerate() {
        let at = prod.wrapping_add(index as u32) as usize % 2048;
        page.write(offset_of!(Interface, output) + at, &[*byte]);
    }
    page.store(offset_of!(Interface, out_prod), prod.wrapping_add(count as u32));
    bench.daemon.hypervisor().fired.push(port(domid));
    count
}

fn read(attached: &mut Attached, len: usize) -> String {
    let mut bytes = vec![0; len];
    attached.output.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn log(bench: &Bench, name: &str) -> Vec<u8> {
    history::read(&bench.dir.path().join("logs"), name, u64::MAX).unwrap()
}

#[test]
fn a_domain_that_goes_while_others_are_looked_for_is_lost() {
    let mut bench = Bench::new();
    let page = bench.add(1, "one");
    bench.daemon.directory().next = Some(Vec::new());
    bench.turn();
    assert_eq!(bench.daemon.consoles.len(), 1, "it was there when the list was begun");
    // Nothing wakes the daemon, and nothing has to.
    let (begun, limit) = (Instant::now(), Duration::from_mins(1));
    bench.daemon.turn(None, Some(limit)).unwrap();
    assert!(begun.elapsed() < limit);
    assert_eq!(bench.daemon.consoles.len(), 0);
    bench.daemon.hypervisor().pages.clear();
    assert_eq!(Arc::strong_count(&page), 1, "nobody has it mapped");
}

#[test]
fn what_a_domain_writes_is_kept_also_when_it_is_gone() {
    let mut bench = Bench::new();
    let page = bench.add(5, "web");
    // Before the daemon knew it, and without anybody notified.
    say(&mut bench, 5, &page, b"early ");
    bench.daemon.hypervisor().fired.clear();
    bench.turn();
    say(&mut bench, 5, &page, b"middle ");
    bench.turn();
    say(&mut bench, 5, &page, b"last");
    bench.daemon.hypervisor().fired.clear();
    bench.remove(5);
    bench.turn();
    assert_eq!(log(&bench, "web"), b"early middle last");
    let mut attached = bench.ask(Mode::Log, "web").unwrap();
    assert_eq!(attached.granted, Granted { domid: None, name: "web".to_owned() });
    bench.turn();
    assert_eq!(read(&mut attached, 17), "early middle last");
    assert!(bench.ask(Mode::Attach, "web").unwrap_err().is_missing());
    assert!(bench.ask(Mode::Log, "other").unwrap_err().is_missing());
}

#[test]
fn a_domain_takes_its_history_to_its_new_name() {
    let mut bench = Bench::new();
    let old = bench.add(5, "web");
    bench.turn();
    say(&mut bench, 5, &old, b"it crashed");
    bench.turn();
    // The store's order is its own.
    let new = bench.add(6, "web");
    bench.daemon.directory().entries.reverse();
    bench.daemon.directory().entries[1].name = "web-1".to_owned();
    bench.turn();
    say(&mut bench, 6, &new, b"it lives");
    say(&mut bench, 5, &old, b" here");
    bench.turn();
    assert_eq!(
        (log(&bench, "web-1").as_slice(), log(&bench, "web").as_slice()),
        (&b"it crashed here"[..], &b"it lives"[..])
    );
}

#[test]
fn who_is_attached_hears_and_speaks() {
    let mut bench = Bench::new();
    let page = bench.add(5, "web");
    say(&mut bench, 5, &page, b"before ");
    bench.turn();
    let mut one = bench.ask(Mode::Attach, "web").unwrap();
    let mut two = bench.ask(Mode::Follow, "5").unwrap();
    assert_eq!(one.granted.domid, Some(5));
    say(&mut bench, 5, &page, b"now");
    one.input.write_all(b"ls\n").unwrap();
    two.input.write_all(b"no\n").unwrap();
    for _ in 0..3 {
        bench.turn();
    }
    assert_eq!(read(&mut one, 10), "before now");
    assert_eq!(read(&mut two, 10), "before now");
    let mut input = [0; 3];
    page.read(offset_of!(Interface, input), &mut input);
    assert_eq!((&input, page.load(offset_of!(Interface, in_prod))), (b"ls\n", 3));
    assert!(bench.daemon.hypervisor().notified.contains(&port(5)));
    bench.remove(5);
    bench.turn();
    assert_eq!(one.output.read(&mut [0]).unwrap(), 0, "it ends with the domain");
}

#[test]
fn input_that_the_domain_does_not_take_waits_outside() {
    let mut bench = Bench::new();
    let page = bench.add(5, "web");
    bench.turn();
    let one = bench.ask(Mode::Attach, "web").unwrap();
    one.input.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(len) = (&one.input).write(&[b'x'; 4096]) {
        sent += len;
        bench.turn();
    }
    assert!(sent > 4096);
    assert_eq!(page.load(offset_of!(Interface, in_prod)), 1024);
    assert!(bench.daemon.clients[0].input.len() <= 1024);
}

#[test]
fn a_storm_costs_its_domain_and_nobody_else() {
    let mut bench = Bench::new();
    let (storm, calm) = (bench.add(1, "storm"), bench.add(2, "calm"));
    let start = Instant::now();
    let mut said = 0;
    for turn in 0..2000 {
        said += say(&mut bench, 1, &storm, &[b'x'; 2048]);
        if turn % 100 == 0 {
            say(&mut bench, 2, &calm, b".");
        }
        bench.turn();
    }
    let most = BURST as usize + (RATE as f64 * start.elapsed().as_secs_f64()) as usize + 4096;
    assert!(said <= most, "{said} of {most}");
    assert_eq!(log(&bench, "calm"), [b'.'; 20]);
    assert!(log(&bench, "storm").len() as u64 <= 2 * history::SIZE);
}

#[test]
fn a_client_that_does_not_read_is_told_what_it_missed() {
    let mut bench = Bench::new();
    let page = bench.add(1, "web");
    bench.turn();
    let mut deaf = bench.ask(Mode::Attach, "web").unwrap();
    for _ in 0..400 {
        say(&mut bench, 1, &page, &[b'x'; 1024]);
        bench.daemon.consoles.get_mut(&1).unwrap().share = Share::new(Instant::now());
        bench.turn();
    }
    assert!(bench.daemon.clients[0].wants_write());
    deaf.output.get_ref().set_nonblocking(true).unwrap();
    let mut heard = Vec::new();
    for _ in 0..200 {
        let _ = deaf.output.read_to_end(&mut heard);
        bench.turn();
    }
    say(&mut bench, 1, &page, b"end");
    bench.turn();
    let _ = deaf.output.read_to_end(&mut heard);
    assert!(heard.ends_with(b"bytes left out]\r\nend"), "{:?}", &heard[heard.len() - 40..]);
}

#[test]
fn a_daemon_started_again_goes_on() {
    let mut bench = Bench::new();
    let page = bench.add(5, "web");
    say(&mut bench, 5, &page, b"one ");
    bench.turn();
    say(&mut bench, 5, &page, b"two ");
    let (host, list) = (std::mem::take(bench.daemon.hypervisor()), std::mem::take(bench.daemon.directory()));
    let Bench { dir, daemon } = bench;
    drop(daemon);
    let daemon = Bench::start(dir.path(), host, list);
    let mut bench = Bench { dir, daemon };
    bench.turn();
    say(&mut bench, 5, &page, b"three");
    bench.turn();
    assert_eq!(log(&bench, "web"), b"one two three");
}

#[test]
fn nonsense_is_refused() {
    let mut bench = Bench::new();
    let mut socket = UnixStream::connect(bench.dir.path().join("socket")).unwrap();
    socket.write_all(b"GET / HTTP/1.0\r\n").unwrap();
    for _ in 0..3 {
        bench.turn();
    }
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    assert_eq!(text, "error EINVAL a line that is no request\n");
    assert!(bench.daemon.clients.is_empty());
}
