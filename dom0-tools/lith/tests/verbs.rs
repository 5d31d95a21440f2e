//! Sessions of the command on a machine in memory, kept as text: what was typed, the exit code, both streams.

mod common;
#[path = "common/kernel.rs"]
mod kernel;

use common::golden;
use guest_abi::control::DOMAIN_DYING;
use lith::host::fake::{Behaviour, Fake};
use lith::host::{self, Host, NewDomain};
use lith::supervise::supervise;
use lith::verb::{Streams, run};
use std::ffi::OsString;
use std::fmt::Write as _;

const CONFIG: &str = r#"
name = "web"
uuid = "8f3c1c1e-0d5f-4b1a-9e53-1c2d3e4f5a6b"
memory = 64
maxmem = 96
vcpus = 1
maxvcpus = 2
kernel = "/boot/vmlinuz"
ramdisk = "/boot/initrd.img"
extra = "console=hvc0"
disk = [ '/srv/web.img,,xvda,w', 'phy:vg/data,xvdb,r' ]
vif = [ 'mac=00:16:3e:01:02:03', 'bridge=xenbr0,rate=10Mb/s' ]
on_crash = "restart"
"#;

struct Session {
    host: Fake,
    text: String,
}

impl Session {
    fn new() -> Session {
        let fake = Fake::new();
        fake.add_file("/boot/vmlinuz", &kernel::elf(true));
        fake.add_file("/boot/initrd.img", &[7; 5000]);
        fake.add_file("/srv/web.img", b"");
        fake.add_file("/srv/more.img", b"");
        fake.add_file("/etc/web.cfg", CONFIG.as_bytes());
        Session { host: fake, text: String::new() }
    }

    fn fake(&self) -> &Fake {
        &self.host
    }

    /// Runs a line and keeps what it said.
    fn lith(&mut self, line: &str) -> u8 {
        let (code, out, err) = self.output(line);
        let _ = writeln!(self.text, "$ lith {line}");
        self.text += &out;
        self.text += &err.lines().map(|line| format!("! {line}\n")).collect::<String>();
        if code != 0 {
            let _ = writeln!(self.text, "? {code}");
        }
        self.text.push('\n');
        code
    }

    fn output(&self, line: &str) -> (u8, String, String) {
        let args = std::iter::once("lith").chain(line.split(' ')).map(OsString::from);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { out: &mut out, err: &mut err, terminal: false };
        let open = || Ok(&self.host as &dyn Host);
        let code = run(args, &open, &mut streams);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn end(self, name: &str) {
        golden(name, &self.text);
    }
}

#[test]
fn a_domains_life() {
    let mut s = Session::new();
    let free = s.fake().free_pages();
    s.lith("prepare");
    s.lith("check /etc/web.cfg");
    s.lith("create /etc/web.cfg --wait");
    assert_eq!(s.fake().supervised(), [1]);
    s.text += &s.fake().store_text();
    s.text.push('\n');
    for line in [
        "list",
        "list --format json",
        "list web --format jsonl",
        "destroy we",
        "show web",
        "show 8f3c",
        "show 8f3c1c1e --format json",
        "domid web",
        "domname 1",
        "vcpu-list",
        "block-list web",
        "network-list web --format json",
        "vcpu-list web --format jsonl",
        "create /etc/web.cfg",
        "pause web",
        "list web",
        "shutdown web",
        "unpause web",
        "rename web shop",
        "rename shop Domain-0",
        "rename shop 5",
        "wait shop --for running",
        "shutdown shop --wait",
        "list",
        "wait shop --for stopped",
        "destroy shop",
        "wait shop --for gone",
        "list --format json",
    ] {
        s.lith(line);
    }
    assert_eq!(s.fake().free_pages(), free);
    assert!(s.fake().loops().is_empty(), "{:?}", s.fake().loops());
    assert_eq!(s.fake().interfaces().len(), 1);
    s.text += &s.fake().store_text();
    s.end("life.txt");
}

#[test]
fn resources() {
    let mut s = Session::new();
    s.lith("-q create /etc/web.cfg memory=80 --wait");
    for line in [
        "info --memory",
        "info --format json",
        "mem-set web 64M",
        "mem-set web 1G",
        "mem-max web 700",
        "mem-set web 600",
        "mem-max web 2G",
        "mem-set web 1G",
        "mem-set web lots",
        "vcpu-set web 2",
        "vcpu-set web 3",
        "vcpu-pin web all 0-1 3",
        "vcpu-pin web 1 - all",
        "vcpu-pin web 0 9-10",
        "vcpu-pin web 7 0",
        "vcpu-list web",
        "sched",
        "sched web --priority high",
        "sched web --cap 50",
        "sched web --weight 0",
        "sched --format json",
        "why",
        "why web --format jsonl",
        "top -n 2 --batch",
        "dmesg",
        "dmesg --format json",
    ] {
        s.lith(line);
    }
    s.end("resources.txt");
}

#[test]
fn devices_come_and_go() {
    let mut s = Session::new();
    s.lith("-q create /etc/web.cfg --wait");
    for line in [
        "block-attach web /srv/more.img,,xvdc,ro",
        "block-attach web /srv/more.img,,xvdc,ro",
        "block-attach web /srv/none.img,,xvdd",
        "block-attach web /srv/a.qcow2,qcow2,xvdd",
        "block-list web",
        "block-detach web xvdc",
        "block-detach web xvdc",
        "network-attach web bridge=xenbr0",
        "network-attach web bridge=br7",
        "network-list web",
        "network-detach web 2",
        "network-detach web 00:16:3e:01:02:03",
        "network-detach web 00:16:3e:01:02:03",
        "network-list web",
        "block-list web --format json",
        "block-attach 0 /srv/more.img,,xvdc",
    ] {
        s.lith(line);
    }
    s.end("devices.txt");
}

#[test]
fn a_guest_without_drivers_is_waited_for_and_named() {
    let mut s = Session::new();
    s.fake().guests(Behaviour { connects: false, obeys: false, balloons: false, ..Behaviour::default() });
    s.lith("-q create /etc/web.cfg");
    for line in [
        "block-attach web /srv/more.img,,xvdc",
        "block-list web",
        "wait web --for connected --timeout 3",
        "mem-set web 16 --timeout 2",
        "shutdown web --wait --timeout 3",
        "shutdown web --then-destroy --timeout 3",
        "list",
    ] {
        s.lith(line);
    }
    assert!(s.fake().loops().is_empty());
    s.end("refusing.txt");
}

/// Between the look at what is free and the domain's memory another domain came: the error is about memory, and comes before
/// there is any.
#[test]
fn memory_that_another_was_quicker_to_claim() {
    let mut s = Session::new();
    let free = s.fake().free_pages();
    s.fake().promise_at_create(free - 100);
    assert_ne!(s.lith("create /etc/web.cfg"), 0);
    for part in ["phase `memory`", "are free", "are promised to domains that are being made"] {
        assert!(s.text.contains(part), "{part}: {}", s.text);
    }
    assert_eq!(s.fake().free_pages(), 100);
}

#[test]
fn what_fails_leaves_nothing_behind() {
    for (what, errno, reason) in [
        ("create", 12, "no memory for the domain's tables"),
        ("max_vcpus", 22, "more vCPUs than the scheduler has room for"),
        ("claim", 12, "there is not so much memory that nobody has or was promised"),
        ("populate", 12, "the domain's allowance is used up"),
        ("write_frames", 14, "the frame belongs to another domain"),
        ("pin_root", 22, "an entry maps a page table writable"),
        ("grant", 22, "the grant table is full"),
        ("set_vcpu_context", 22, "cr3 is not a pinned root"),
        ("introduce", 2, "the store does not know the frame"),
    ] {
        let mut s = Session::new();
        let (free, nodes) = (s.fake().free_pages(), s.fake().store_text());
        s.fake().refuse(what, errno, reason);
        assert_ne!(s.lith("create /etc/web.cfg"), 0, "{what}");
        assert!(s.text.contains("phase `") && s.text.contains(reason), "{what}: {}", s.text);
        assert_eq!(s.fake().free_pages(), free, "{what}");
        let left: Vec<_> =
            s.fake().store_text().lines().filter(|l| !nodes.contains(l)).map(str::to_owned).collect();
        assert!(left.iter().all(|l| l.contains("= \"\"")), "{what}: {left:?}");
        assert!(s.fake().loops().is_empty() && s.fake().supervised().is_empty(), "{what}");
    }
}

#[test]
fn failures_say_what_to_do() {
    let mut s = Session::new();
    for line in [
        "create /etc/none.cfg",
        "create /etc/web.cfg memory=2G",
        "create /etc/web.cfg memory=900 maxmem=900",
        "create /etc/web.cfg memory=1",
        "create /etc/web.cfg kernel='/etc/web.cfg'",
        "create /etc/web.cfg ramdisk='/none'",
        "create /etc/web.cfg disk=['/none,,xvda']",
        "create /etc/web.cfg vif=['bridge=br7']",
        "create /etc/web.cfg memory",
        "create /etc/web.cfg --format json memory=900 maxmem=900",
        "check /etc/web.cfg memroy=5",
        "check /etc/web.cfg --format jsonl memroy=5",
        "destroy nobody",
        "destroy 0",
        "destroy",
        "frobnicate",
        "help nothing",
        "wait x --for lunch",
    ] {
        s.lith(line);
    }
    s.fake().refuse("create", 12, "no memory for the domain's tables");
    s.lith("create /etc/web.cfg");
    s.lith("why");
    s.end("failures.txt");
}

#[test]
fn domains_are_supervised() {
    let mut s = Session::new();
    let file = |name: &str, more: &str| {
        let text = CONFIG.replace("\"web\"", &format!("\"{name}\"")).replace("uuid", "#");
        s.host.add_file(&format!("/etc/{name}.cfg"), format!("{text}{more}\n").as_bytes());
    };
    file("reboots", "on_reboot=\"restart\"");
    file("kept", "on_poweroff=\"preserve\"");
    // The one that is kept keeps its UUID.
    file("renamed", "on_crash=\"rename-restart\"\nuuid=\"52454e41-4d45-4d45-8052-454e414d4544\"");
    // There is nothing to dump, which is no reason not to go on.
    file("dumped", "on_crash=\"coredump-destroy\"");
    file("redumped", "on_crash=\"coredump-restart\"");
    file("gone", "");
    let disks = "disk=[]";
    for (name, reason) in
        [("gone", 0), ("reboots", 1), ("kept", 0), ("renamed", 3), ("dumped", 3), ("redumped", 3)]
    {
        s.lith(&format!("-q create /etc/{name}.cfg {disks} --wait"));
        let before = s.fake().supervised().len();
        let domid = *s.fake().supervised().last().unwrap();
        assert_eq!(before, s.fake().supervised().len());
        s.fake().ended(domid, reason);
        // A domain that runs on is supervised for ever; the test ends it when it was told of the new one.
        let mut told = Vec::new();
        supervise(&s.host, domid, &mut |line| {
            told.push(line.to_owned());
            if let Some(new) = line.split(" is domain ").nth(1).and_then(|rest| rest.split(' ').next()) {
                host::Hypervisor::unpause(&s.host, new.parse().unwrap()).unwrap();
                host::Hypervisor::destroy(&s.host, new.parse().unwrap()).unwrap();
            }
        })
        .unwrap();
        s.text += &told.iter().map(|line| format!("supervisor: {line}\n")).collect::<String>();
        s.lith("list");
    }
    s.end("supervised.txt");
}

#[test]
fn a_domain_is_started_again_although_its_last_pages_are_held() {
    let s = Session::new();
    let text = format!("{CONFIG}on_reboot = \"restart\"\n");
    s.fake().add_file("/etc/web.cfg", text.as_bytes());
    assert_eq!(s.output("-q create /etc/web.cfg --wait").0, 0);
    let uuid = s.fake().fake_domain(1).unwrap().info.handle;
    s.fake().hold_pages(1);
    s.fake().ended(1, 1);
    let mut told = String::new();
    supervise(&s.host, 1, &mut |line| {
        told += &format!("{line}\n");
        if line == "web is domain 2 now" {
            s.fake().hold_pages(0);
            host::Hypervisor::destroy(&s.host, 2).unwrap();
        }
    })
    .unwrap();
    assert!(told.contains("1 of domain 1's pages are still held"), "{told}");
    assert!(told.contains("web is domain 2 now"), "{told}");
    let old = s.fake().fake_domain(1).unwrap().info;
    assert!(old.state & DOMAIN_DYING != 0 && old.handle == uuid);
}

#[test]
fn a_domain_that_crashes_at_once_is_not_started_for_ever() {
    let s = Session::new();
    s.fake().guests(Behaviour { crashes: true, ..Behaviour::default() });
    assert_eq!(s.output("create /etc/web.cfg").0, 0);
    let mut told = String::new();
    supervise(&s.host, 1, &mut |line| told += &format!("{line}\n")).unwrap();
    golden("crash-loop.txt", &told);
}

#[test]
fn consoles_are_read_after_the_end() {
    let mut s = Session::new();
    s.fake().console_output("web", "Linux version 6.1\nlogin: ");
    s.lith("-q create /etc/web.cfg --wait");
    assert_eq!(s.lith("wait web --for console=login: --timeout 1"), 0);
    assert_ne!(s.lith("wait web --for console=panic --timeout 1"), 0);
    s.lith("destroy web");
    s.lith("logs web");
    s.lith("logs other");
    s.end("logs.txt");
}

#[test]
fn events_are_told_as_they_happen() {
    let s = Session::new();
    s.fake().guests(Behaviour { crashes: true, ..Behaviour::default() });
    assert_eq!(s.output("-q create /etc/web.cfg").0, 0);
    let (code, out, _) = s.output("events --count 1 --format json --timeout 5");
    assert_eq!(code, 0);
    assert!(out.contains(r#""event":"crashed""#), "{out}");
}

#[test]
fn every_verb_is_in_the_manual_and_in_the_completions() {
    let s = Session::new();
    let dir = tempfile::tempdir().unwrap();
    let (code, _, err) = s.output(&format!("help --man {}", dir.path().display()));
    assert_eq!((code, err.as_str()), (0, ""));
    let (_, list, _) = s.output("help --format json");
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let (_, bash, _) = s.output("completions bash");
    for verb in list["verbs"].as_array().unwrap() {
        let name = verb["verb"].as_str().unwrap();
        let page = std::fs::read_to_string(dir.path().join(format!("lith-{name}.1"))).unwrap();
        assert!(page.contains(".SH NAME") && bash.contains(name), "{name}");
        assert!(verb["about"].is_string(), "{name} has no description");
        let (code, help, _) = s.output(&format!("help {name}"));
        assert!(code == 0 && help.contains("Usage: "), "{name}: {help}");
    }
    assert!(dir.path().join("lith.1").exists());
    for shell in ["zsh", "fish"] {
        assert!(s.output(&format!("completions {shell}")).1.contains("vcpu-pin"));
    }
}

#[test]
fn json_is_always_json() {
    let s = Session::new();
    assert_eq!(s.output("-q create /etc/web.cfg --wait").0, 0);
    for line in [
        "list",
        "show web",
        "info",
        "why",
        "sched",
        "vcpu-list",
        "block-list web",
        "network-list web",
        "pause web",
        "unpause web",
        "doctor",
        "domid web",
        "check /etc/web.cfg name=x",
        "help",
        "destroy nobody",
    ] {
        let (code, out, err) = s.output(&format!("{line} --format json"));
        let text = if code == 0 || !out.is_empty() { out } else { err };
        let value: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line}: {e}: {text}"));
        assert!(value["schema"].as_str().is_some_and(|s| s.ends_with("/1")), "{line}: {text}");
    }
}

/// Nobody lets a domain go that is half made, and it is seen that it is one.
#[test]
fn a_domain_that_is_being_made_is_left_alone() {
    let mut s = Session::new();
    let new = NewDomain { max_pages: 16, max_vcpus: 1, ..NewDomain::default() };
    let domid = host::Hypervisor::create(&s.host, &new).unwrap();
    host::Store::write(&s.host, &format!("/local/domain/{domid}/name"), "half").unwrap();
    for line in
        ["list half", "unpause half", "pause half", "show half --format json", "destroy half", "list half"]
    {
        s.lith(line);
    }
    golden("building", &s.text);
}
