use super::*;
use guest_abi::io::XenstoreDomainInterface as Interface;
use lith_client::Mapping;
use lith_client::wire::{Kind, Message};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::mem::offset_of;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// The journal's path, and what was in it.
type Files = (PathBuf, Vec<u8>);

/// A host whose daemon can be killed before any of its stores to a ring.
#[derive(Clone, Default)]
struct Host {
    pages: Rc<RefCell<BTreeMap<u16, Arc<Mapping>>>>,
    lives: Rc<RefCell<BTreeMap<u16, Life>>>,
    fired: Rc<RefCell<(Vec<u32>, bool)>>,
    notified: Rc<RefCell<Vec<u32>>>,
    /// Stores until it is killed, and what its journal is then.
    left: Rc<Cell<u32>>,
    journal: Rc<RefCell<Option<Files>>>,
    /// What the kernel does just before this side tells it how far it is.
    meanwhile: Rc<RefCell<Option<Guest>>>,
}

struct Page {
    shared: Arc<Mapping>,
    host: Host,
}

impl Page {
    fn alive(&self) -> bool {
        let left = self.host.left.get();
        if left == 1
            && let Some((path, bytes)) = &mut *self.host.journal.borrow_mut()
        {
            *bytes = std::fs::read(&*path).unwrap();
        }
        self.host.left.set(left.saturating_sub(1));
        left > 1
    }
}

impl SharedPage for Page {
    fn load(&self, offset: usize) -> u32 {
        self.shared.load(offset)
    }
    fn store(&self, offset: usize, value: u32) {
        if offset == offset_of!(Interface, rsp_prod)
            && let Some(mut guest) = self.host.meanwhile.borrow_mut().take()
        {
            guest.exchange();
        }
        if self.alive() {
            self.shared.store(offset, value);
        }
    }
    fn read(&self, offset: usize, to: &mut [u8]) {
        self.shared.read(offset, to);
    }
    fn write(&self, offset: usize, from: &[u8]) {
        if self.alive() {
            self.shared.write(offset, from);
        }
    }
}

/// This side's port of a domain.
fn port(domid: u16) -> u32 {
    100 + u32::from(domid)
}

impl Hypervisor for Host {
    type Page = Page;
    fn kernel(&mut self) -> Result<Option<(Page, u32)>, String> {
        self.map(0, 0).map(|page| Some((page, port(0)))).map_err(|_| "none".to_owned())
    }
    fn map(&mut self, domid: u16, _: u64) -> Result<Page, Errno> {
        let shared = self.pages.borrow().get(&domid).cloned().ok_or(Errno::EINVAL)?;
        Ok(Page { shared, host: self.clone() })
    }
    fn bind(&mut self, domid: u16, _: u32) -> Result<u32, Errno> {
        Ok(port(domid))
    }
    fn unbind(&mut self, _: u32) {}
    fn notify(&mut self, port: u32) {
        self.notified.borrow_mut().push(port);
    }
    fn fired(&mut self) -> (Vec<u32>, bool) {
        std::mem::take(&mut *self.fired.borrow_mut())
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn life(&mut self, domid: u16) -> Life {
        self.lives.borrow().get(&domid).copied().unwrap_or(Life::Gone)
    }
}

/// A guest's kernel: sends what it has, takes what comes.
struct Guest {
    domid: u16,
    page: Arc<Mapping>,
    out: Vec<u8>,
    got: Vec<u8>,
}

impl Guest {
    fn pump(&mut self, host: &Host) {
        self.exchange();
        host.fired.borrow_mut().0.push(port(self.domid));
    }

    fn exchange(&mut self) {
        let page = &self.page;
        let (prod, cons) =
            (page.load(offset_of!(Interface, req_prod)), page.load(offset_of!(Interface, req_cons)));
        let count = self.out.len().min(1024 - prod.wrapping_sub(cons) as usize);
        for (index, byte) in self.out.drain(..count).enumerate() {
            page.write((prod.wrapping_add(index as u32) % 1024) as usize, &[byte]);
        }
        page.store(offset_of!(Interface, req_prod), prod.wrapping_add(count as u32));
        let (prod, cons) =
            (page.load(offset_of!(Interface, rsp_prod)), page.load(offset_of!(Interface, rsp_cons)));
        for index in 0..prod.wrapping_sub(cons) {
            let mut byte = [0];
            page.read(1024 + (cons.wrapping_add(index) % 1024) as usize, &mut byte);
            self.got.push(byte[0]);
        }
        page.store(offset_of!(Interface, rsp_cons), prod);
    }

    fn send(&mut self, request: u32, kind: Kind, payload: &[u8]) {
        Message::new(kind, request, 0, payload.to_vec()).encode(&mut self.out);
    }

    fn messages(&mut self) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some((message, len)) = wire::decode(&self.got).unwrap() {
            all.push(message);
            self.got.drain(..len);
        }
        all
    }
}

struct Bench {
    dir: tempfile::TempDir,
    host: Host,
}

impl Bench {
    fn new() -> Bench {
        let host = Host::default();
        host.left.set(u32::MAX);
        Bench { dir: tempfile::tempdir().unwrap(), host }
    }

    fn options(&self) -> Options {
        let at = |name: &str| self.dir.path().join(name);
        Options { socket: at("socket"), state: at("state"), boot: b"boot".to_vec() }
    }

    fn start(&self) -> Daemon<Host> {
        Daemon::start(&self.options(), self.host.clone(), &mut None, &Legacy::default()).unwrap()
    }

    fn guest(&self, domid: u16) -> Guest {
        let page = Arc::new(Mapping::private(1).unwrap());
        self.host.pages.borrow_mut().insert(domid, page.clone());
        self.host.lives.borrow_mut().insert(domid, Life::Running);
        Guest { domid, page, out: Vec::new(), got: Vec::new() }
    }

    /// The kernel introduces a domain and gives it its home.
    fn introduce(kernel: &mut Guest, domid: u16) {
        kernel.send(1, Kind::Introduce, format!("{domid}\x001\x005\0").as_bytes());
        kernel.send(2, Kind::Mkdir, format!("/local/domain/{domid}\0").as_bytes());
        kernel.send(3, Kind::SetPerms, format!("/local/domain/{domid}\0n{domid}\0").as_bytes());
    }

    fn run(&self, daemon: &mut Daemon<Host>, guests: &mut [&mut Guest], turns: usize) {
        for _ in 0..turns {
            for guest in guests.iter_mut() {
                guest.pump(&self.host);
            }
            daemon.turn(None, Some(Duration::ZERO)).unwrap();
        }
    }
}

fn texts(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|m| String::from_utf8_lossy(&m.payload).replace('\0', "|")).collect()
}

#[test]
fn a_message_longer_than_the_ring_goes_through_both_ways() {
    let bench = Bench::new();
    let mut kernel = bench.guest(0);
    let mut daemon = bench.start();
    kernel.send(1, Kind::Write, &[b"/big\0", &[b'x'; 4000][..]].concat());
    kernel.send(2, Kind::Read, b"/big\0");
    bench.run(&mut daemon, &mut [&mut kernel], 20);
    let messages = kernel.messages();
    assert_eq!((messages.len(), messages[1].payload.len()), (2, 4000));
}

/// The whole life of a guest, as the guest and the kernel see it.
fn play(bench: &Bench, kills: impl Iterator<Item = u32>) -> (Vec<Message>, Vec<Message>, u32) {
    let (mut kernel, mut guest) = (bench.guest(0), bench.guest(1));
    Bench::introduce(&mut kernel, 1);
    kernel.send(4, Kind::Watch, b"/local/domain/1\0watch\0");
    for n in 0..12u32 {
        guest.send(
            2 * n,
            Kind::Write,
            format!("device/{n}\0{}", "v".repeat(200 * n as usize % 1700)).as_bytes(),
        );
        guest.send(2 * n + 1, Kind::Read, format!("device/{n}\0").as_bytes());
    }
    let (mut kills, mut restarts) = (kills, 0);
    let state = bench.options().state;
    let mut next = |restarts: &mut u32| {
        let left = kills.next();
        *restarts += u32::from(left.is_some());
        *bench.host.journal.borrow_mut() = Some((state.clone(), Vec::new()));
        bench.host.left.set(left.unwrap_or(u32::MAX));
    };
    next(&mut restarts);
    let mut daemon = bench.start();
    for _ in 0..200 {
        bench.run(&mut daemon, &mut [&mut kernel, &mut guest], 1);
        while bench.host.left.get() == 0 {
            // It died in there; whatever it did to its files afterwards it did not do.
            drop(daemon);
            let (path, bytes) = bench.host.journal.borrow_mut().take().unwrap();
            if bytes.is_empty() {
                remove(&path)
            } else {
                std::fs::write(&path, &bytes).unwrap()
            }
            next(&mut restarts);
            daemon = bench.start();
        }
    }
    assert!(daemon.machine().is_consistent());
    (kernel.messages(), guest.messages(), restarts)
}

fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

#[test]
fn a_guest_does_not_notice_that_the_daemon_is_killed() {
    let (kernel, guest, _) = play(&Bench::new(), std::iter::empty());
    assert_eq!(guest.len(), 24);
    assert!(guest.iter().skip(1).step_by(2).enumerate().all(|(n, m)| m.payload.len() == 200 * n % 1700));
    assert!(texts(&kernel).contains(&"/local/domain/1/device/11|watch|".to_owned()));
    for first in 1..60 {
        let kills = [first, 7 + first % 5, 13, first / 2 + 5, 23].into_iter();
        let (kernel_again, guest_again, restarts) = play(&Bench::new(), kills);
        assert!(restarts > 0);
        assert_eq!(texts(&guest_again), texts(&guest), "killed at {first}");
        assert_eq!(guest_again, guest);
        let replies = |all: &[Message]| {
            all.iter().filter(|m| m.kind != Kind::WatchEvent as u32).cloned().collect::<Vec<_>>()
        };
        assert_eq!(replies(&kernel_again), replies(&kernel));
        let last = texts(&kernel_again);
        assert!(last.contains(&"/local/domain/1/device/11|watch|".to_owned()), "killed at {first}");
    }
}

#[test]
fn a_guest_that_floods_does_not_keep_another_waiting() {
    let bench = Bench::new();
    let (mut kernel, mut flood, mut calm) = (bench.guest(0), bench.guest(1), bench.guest(2));
    let mut daemon = bench.start();
    Bench::introduce(&mut kernel, 1);
    Bench::introduce(&mut kernel, 2);
    bench.run(&mut daemon, &mut [&mut kernel], 8);
    for n in 0..20_000 {
        flood.send(n, Kind::Write, b"x\0");
    }
    bench.run(&mut daemon, &mut [&mut flood], 50);
    calm.send(1, Kind::Write, b"x\0calm");
    bench.run(&mut daemon, &mut [&mut flood, &mut calm], 2);
    assert_eq!(texts(&calm.messages()), ["OK|"]);
    let answered = flood.messages().len();
    assert!((100..=52 * BURST).contains(&answered), "{answered}");
}

#[test]
fn a_guest_that_never_reads_is_left_alone() {
    let bench = Bench::new();
    let (mut kernel, mut deaf) = (bench.guest(0), bench.guest(1));
    let mut daemon = bench.start();
    Bench::introduce(&mut kernel, 1);
    bench.run(&mut daemon, &mut [&mut kernel], 8);
    for n in 0..2000 {
        deaf.send(n, Kind::Read, b"/\0");
    }
    for _ in 0..300 {
        deaf.pump(&bench.host);
        // As if it had read nothing.
        deaf.page.store(offset_of!(Interface, rsp_cons), 0);
        daemon.turn(None, Some(Duration::ZERO)).unwrap();
    }
    let (id, _, _) = daemon.machine().domain(1).unwrap();
    assert!(daemon.machine().peek(id, usize::MAX).len() < 4096);
    kernel.send(9, Kind::Read, b"/\0");
    bench.run(&mut daemon, &mut [&mut kernel], 2);
    assert_eq!(kernel.messages().last().unwrap().request, 9);
}

/// Linux notifies of a request only if the ring said that the ones before it were taken.
#[test]
fn a_request_that_nobody_was_notified_of_is_answered() {
    let bench = Bench::new();
    let mut kernel = bench.guest(0);
    let mut daemon = bench.start();
    bench.run(&mut daemon, &mut [&mut kernel], 2);
    kernel.send(1, Kind::Read, b"/\0");
    kernel.pump(&bench.host);
    let mut late = Guest { domid: 0, page: kernel.page.clone(), out: Vec::new(), got: Vec::new() };
    late.send(2, Kind::Read, b"/\0");
    *bench.host.meanwhile.borrow_mut() = Some(late);
    for _ in 0..2 {
        daemon.turn(None, Some(Duration::ZERO)).unwrap();
    }
    kernel.exchange();
    let requests: Vec<_> = kernel.messages().iter().map(|message| message.request).collect();
    assert_eq!(requests, [1, 2]);
}

/// Linux notifies of room only if the ring was full when it began to read.
#[test]
fn a_reply_goes_on_into_room_that_nobody_was_notified_of() {
    let bench = Bench::new();
    let mut kernel = bench.guest(0);
    let mut daemon = bench.start();
    kernel.send(1, Kind::Write, &[b"/big\0", &[b'x'; 1000][..]].concat());
    bench.run(&mut daemon, &mut [&mut kernel], 4);
    kernel.exchange();
    kernel.messages();
    // Half of the ring is taken by one reply; the next one begins in the other half, and the first is read meanwhile.
    kernel.send(2, Kind::Write, &[b"/half\0", &[b'x'; 500][..]].concat());
    kernel.send(3, Kind::Read, b"/half\0");
    kernel.pump(&bench.host);
    kernel.got.clear();
    daemon.turn(None, Some(Duration::ZERO)).unwrap();
    let unread = kernel.page.load(offset_of!(Interface, rsp_cons));
    kernel.send(4, Kind::Read, b"/big\0");
    kernel.pump(&bench.host);
    kernel.page.store(offset_of!(Interface, rsp_cons), unread);
    kernel.got.clear();
    let reader = Guest { domid: 0, page: kernel.page.clone(), out: Vec::new(), got: Vec::new() };
    *bench.host.meanwhile.borrow_mut() = Some(reader);
    daemon.turn(None, Some(Duration::ZERO)).unwrap();
    let first = kernel.page.load(offset_of!(Interface, rsp_prod)).wrapping_sub(unread);
    assert_eq!(first, 1024, "the first part fills the ring as it was");
    assert!(!daemon.stirred.is_empty(), "it does not wait to be notified");
    daemon.turn(None, Some(Duration::ZERO)).unwrap();
    let all = kernel.page.load(offset_of!(Interface, rsp_prod)).wrapping_sub(unread);
    assert!(all > first, "the rest follows");
}

#[test]
fn a_ring_with_bad_indices_is_given_up_alone() {
    let bench = Bench::new();
    let (mut kernel, mut bad, mut good) = (bench.guest(0), bench.guest(1), bench.guest(2));
    let mut daemon = bench.start();
    Bench::introduce(&mut kernel, 1);
    Bench::introduce(&mut kernel, 2);
    bench.run(&mut daemon, &mut [&mut kernel], 8);
    bad.page.store(offset_of!(Interface, req_prod), 5000);
    bench.host.fired.borrow_mut().0.push(port(1));
    daemon.turn(None, Some(Duration::ZERO)).unwrap();
    assert_eq!(bad.page.load(offset_of!(Interface, error)), XENSTORE_ERROR_RINGIDX);
    good.send(1, Kind::Write, b"x\0");
    bench.run(&mut daemon, &mut [&mut good], 2);
    assert_eq!(good.messages().len(), 1);
    // Introduced again, as after a kernel was started over, it is heard.
    let fresh = bench.guest(1);
    bad.page = fresh.page;
    kernel.send(8, Kind::Introduce, b"1\x001\x005\0");
    bench.run(&mut daemon, &mut [&mut kernel], 2);
    bad.send(1, Kind::Write, b"x\0");
    bench.run(&mut daemon, &mut [&mut bad], 2);
    assert_eq!(texts(&bad.messages()), ["OK|"]);
}

#[test]
fn a_message_that_is_too_long_ends_the_conversation() {
    let bench = Bench::new();
    let (mut kernel, mut bad) = (bench.guest(0), bench.guest(1));
    let mut daemon = bench.start();
    Bench::introduce(&mut kernel, 1);
    bench.run(&mut daemon, &mut [&mut kernel], 8);
    bad.send(1, Kind::Write, &[b'x'; 4097]);
    bench.run(&mut daemon, &mut [&mut bad], 8);
    assert_eq!(bad.page.load(offset_of!(Interface, error)), XENSTORE_ERROR_PROTO);
    assert!(bad.messages().is_empty());
}

#[test]
fn a_domain_that_dies_is_told_of_and_forgotten() {
    let bench = Bench::new();
    let (mut kernel, mut guest) = (bench.guest(0), bench.guest(1));
    let mut daemon = bench.start();
    Bench::introduce(&mut kernel, 1);
    kernel.send(9, Kind::Watch, b"@releaseDomain\0gone\0");
    bench.run(&mut daemon, &mut [&mut kernel], 8);
    guest.send(1, Kind::Write, b"x\0");
    bench.run(&mut daemon, &mut [&mut guest], 2);
    kernel.messages();
    for (life, known) in [(Life::Running, true), (Life::ShutDown, true), (Life::Gone, false)] {
        bench.host.lives.borrow_mut().insert(1, life);
        bench.host.fired.borrow_mut().1 = true;
        bench.run(&mut daemon, &mut [&mut kernel], 3);
        assert_eq!(texts(&kernel.messages()).len(), usize::from(life != Life::Running), "{life:?}");
        assert_eq!(daemon.machine().domain(1).is_some(), known);
        assert_eq!(daemon.machine().value("/local/domain/1/x").is_some(), known);
    }
}

#[test]
fn a_domain_that_died_while_no_daemon_was_there_is_missed() {
    let bench = Bench::new();
    let mut kernel = bench.guest(0);
    let _guest = bench.guest(1);
    let mut daemon = bench.start();
    Bench::introduce(&mut kernel, 1);
    kernel.send(9, Kind::Watch, b"@releaseDomain\0gone\0");
    bench.run(&mut daemon, &mut [&mut kernel], 8);
    kernel.messages();
    drop(daemon);
    bench.host.lives.borrow_mut().insert(1, Life::Gone);
    let mut daemon = bench.start();
    bench.run(&mut daemon, &mut [&mut kernel], 2);
    assert_eq!(texts(&kernel.messages()), ["@releaseDomain|gone|"]);
}

#[test]
fn the_kernel_is_notified_when_the_daemon_starts() {
    let bench = Bench::new();
    let _kernel = bench.guest(0);
    let _daemon = bench.start();
    assert_eq!(*bench.host.notified.borrow(), [port(0)]);
}
