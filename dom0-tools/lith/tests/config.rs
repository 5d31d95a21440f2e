//! Configuration files: the grammar, what it means, and what is said about mistakes.

mod common;

use common::{golden, tests_dir};
use lith::config::{CpuSet, Disk, Vif, device_number, parse, parse_mac, parse_memory, to_json};
use proptest::prelude::*;
use std::fmt::Write as _;

const LEAST: &str = "name=\"g\"\nkernel=\"/k\"\n";

fn read(name: &str) -> String {
    std::fs::read_to_string(tests_dir().join("configs").join(name)).unwrap()
}

fn shown(text: &str) -> String {
    match parse("web.cfg", text, &[]) {
        Ok(parsed) => {
            parsed.warnings.iter().map(|w| format!("warning: {w}{}\n", hint(&w.hint))).collect::<String>()
        }
        Err(error) => format!("error: {error}{}\n{}\n", hint(&error.hint), error.excerpt()),
    }
}

fn hint(hint: &Option<String>) -> String {
    hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default()
}

#[test]
fn a_whole_file() {
    let text = read("web.cfg");
    let parsed = parse("web.cfg", &text, &["vcpus=3".to_owned()]).unwrap();
    assert_eq!(parsed.config.vcpus, 3, "the command line wins");
    let shell = ["extra=a=b \"c\" \\ d".to_owned(), "memory=768M".to_owned(), "extra += ' e'".to_owned()];
    let config = parse("x.cfg", LEAST, &shell).unwrap().config;
    assert_eq!((config.cmdline.as_str(), config.memory), ("a=b \"c\" \\ d e", 768 << 20));
    golden("web.json", &format!("{:#}\n", to_json(&parsed.config)));
    golden("web.warnings", &shown(&text));
}

#[test]
fn toml_says_the_same() {
    let xl = parse("web.cfg", &read("web.cfg"), &[]).unwrap().config;
    let toml = parse("web.toml", &read("web.toml"), &[]).unwrap();
    assert!(toml.warnings.is_empty(), "{:?}", toml.warnings);
    assert_eq!(xl, toml.config);
    let error = parse("web.toml", "name = \"x\"\nmemory = 1.5\n", &[]).unwrap_err();
    assert_eq!(error.location(), "web.toml:2:10");
}

#[test]
fn mistakes_are_shown_where_they_are() {
    let mut all = String::new();
    for text in [
        "name = \"web\"\nmemory = 512 vcpus = 2\n",
        "name = web\n",
        "Name = \"web\"\n",
        "name = \"web\n",
        "name = \"a\\qb\"\n",
        "disk = [ 'a' 'b' ]\n",
        "import os\n",
        "memory = lambda\n",
        "name = \"web\"\n\tvcpus = 0x200x\nkernel = \"/k\"\n",
        "name = \"web\"\n",
        "kernel = \"/k\"\n",
        "name = \"7\"\nkernel = \"/k\"\n",
        &format!("{LEAST}memory = \"lots\"\n"),
        &format!("{LEAST}memory = 64\nmaxmem = 32\n"),
        &format!("{LEAST}type = \"hvm\"\n"),
        &format!("{LEAST}on_crash = \"explode\"\n"),
        &format!("{LEAST}disk = 'phy:/dev/x,xvda,w'\n"),
        &format!("{LEAST}disk = [ 'phy:/dev/x,xvda,w', '/dev/y,raw,xvda,w' ]\n"),
        &format!("{LEAST}disk = [ '/a.qcow2,qcow2,xvda,w' ]\n"),
        &format!("{LEAST}disk = [ '/a,,zvda' ]\n"),
        &format!("{LEAST}vif = [ 'mac=01:00:00:00:00:00' ]\n"),
        &format!("{LEAST}vif = [ 'brigde=x' ]\n"),
        &format!("{LEAST}cpus = \"3-1\"\n"),
        &format!("{LEAST}bootloader = \"pygrub\"\n"),
        &format!("{LEAST}pci = [ '01:00.0' ]\n"),
        &format!("{LEAST}vcpus = 600\n"),
        &format!("{LEAST}extra = \"a\"\nextra += [ 'b' ]\n"),
        &format!("{LEAST}disk = {}\n", "[".repeat(100)),
        &format!("{LEAST}cmdline = 'x'\nroot = 'y'\nmemorry = 5\nqwertz = 1\nhap = 1\n"),
    ] {
        let shown = shown(text);
        assert!(!shown.is_empty(), "accepted: {text}");
        let _ = writeln!(all, "{shown}");
    }
    golden("config-errors.txt", &all);
}

#[test]
fn disks_in_every_spelling() {
    let disk = |spec: &str| Disk::parse(spec).unwrap();
    let plain = disk("/dev/vg/guest,raw,xvda,rw");
    for spec in [
        "/dev/vg/guest,,xvda",
        "format=raw, vdev=xvda, access=rw, target=/dev/vg/guest",
        "raw:/dev/vg/guest,xvda,w",
        "phy:vg/guest,xvda,w",
        "tap:aio:/dev/vg/guest,xvda,w",
        "xvda,vdev=xvda,target=/dev/vg/guest",
    ] {
        match Disk::parse(spec) {
            Ok(other) => assert_eq!(plain, other, "{spec}"),
            Err(_) => assert!(spec.starts_with("xvda"), "{spec}"),
        }
    }
    let iso = disk("/root/image.iso,,hdc,cdrom");
    assert!(iso.cdrom && iso.read_only);
    for spec in ["/root/image.iso,,hdc,,cdrom", "raw:/root/image.iso,hdc:cdrom,ro"] {
        assert_eq!(disk(spec), iso, "{spec}");
    }
    assert!(disk(",,xvda,,cdrom").target.is_empty());
    assert!(Disk::parse(",,xvda").is_err());
    assert!(!disk("/x,,xvda,,no-discard").discard);
}

#[test]
fn disks_have_xens_numbers() {
    // The examples of xen-vbd-interface(7) and the first disk behind each boundary.
    for (name, number) in [
        ("xvda", 202 << 8),
        ("xvda1", 202 << 8 | 1),
        ("xvdb", 202 << 8 | 1 << 4),
        ("xvdp15", 202 << 8 | 15 << 4 | 15),
        ("xvdq", 1 << 28 | 16 << 8),
        ("xvda16", 1 << 28 | 16),
        ("xvdaa", 1 << 28 | 26 << 8),
        ("d2p3", 202 << 8 | 2 << 4 | 3),
        ("hda", 3 << 8),
        ("hdb2", 3 << 8 | 64 | 2),
        ("hdc", 22 << 8),
        ("sdb1", 8 << 8 | 1 << 4 | 1),
        ("51712", 51712),
    ] {
        assert_eq!(device_number(name), Some(number), "{name}");
    }
    for name in ["", "xvd", "xvdA", "vda", "hde", "sda16", "xvda01", "xvd1"] {
        assert_eq!(device_number(name), None, "{name}");
    }
}

#[test]
fn interfaces() {
    let vif = Vif::parse(" mac=0:16:3e:1:2:3 , bridge=br0,rate=1MB/s,mtu=9000").unwrap();
    assert_eq!(vif.mac.as_deref(), Some("00:16:3e:01:02:03"));
    assert_eq!(vif.rate.map(|r| (r.bytes, r.interval_us)), Some((50_000, 50_000)));
    assert_eq!(vif.mtu, Some(9000));
    assert!(Vif::parse("rate=10Mb").is_err() && Vif::parse("mtu=10").is_err());
    assert!(Vif::parse("vifname=0123456789abcdef").is_err() && Vif::parse("type=ioemu").is_err());
    assert_eq!(parse_mac("00:00:00:00:00:00"), None);
    assert_eq!(parse_mac("00:16:3e:01:02:03:04"), None);
}

#[test]
fn memory_has_units() {
    for (text, bytes) in [
        ("512", 512 << 20),
        ("0x10", 16 << 20),
        ("010", 8 << 20),
        ("4G", 4 << 30),
        ("4GiB", 4 << 30),
        ("1024KB", 1 << 20),
        ("1 T", 1 << 40),
        ("4096B", 4096),
    ] {
        assert_eq!(parse_memory(text), Some(bytes), "{text}");
    }
    for text in ["", "G", "4X", "-1", "1.5G", "99999999999999999999", "99999999999999T"] {
        assert_eq!(parse_memory(text), None, "{text}");
    }
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("name".to_owned()),
        Just("=".to_owned()),
        Just("+=".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just(",".to_owned()),
        Just("\n".to_owned()),
        Just(";".to_owned()),
        Just("disk".to_owned()),
        Just("0x1f".to_owned()),
        Just("'phy:/dev/x,xvda,w'".to_owned()),
        Just("\"a\\x41\"".to_owned()),
        Just("# c\n".to_owned()),
        "\\PC{0,6}",
    ]
}

proptest! {
    /// Whatever is in a file, there is an answer, and an error's place is in the file.
    #[test]
    fn no_text_breaks_the_parser(words in proptest::collection::vec(word(), 0..30), toml in any::<bool>()) {
        let text = words.concat();
        let name = if toml { "x.toml" } else { "x.cfg" };
        if let Err(error) = parse(name, &text, &[]) {
            let (line, column) = error.place.line_column();
            prop_assert!(line <= text.matches('\n').count() + 1 && column >= 1);
            let _ = error.excerpt();
        }
    }

    /// A string that is quoted comes back as it was.
    #[test]
    fn strings_come_back(text in "[ -~]{0,40}", quote in prop_oneof![Just('"'), Just('\'')]) {
        let escaped = text.replace('\\', "\\\\").replace(quote, &format!("\\{quote}"));
        let file = format!("name=\"g\"\nkernel=\"/k\"\ncmdline = {quote}{escaped}{quote} # end\n");
        prop_assert_eq!(parse("x.cfg", &file, &[]).unwrap().config.cmdline, text);
    }

    /// A set of CPUs, printed and read again, is the same set.
    #[test]
    fn cpu_sets_come_back(cpus in proptest::collection::btree_set(0_u32..200, 1..40)) {
        let set = CpuSet { cpus: Some(cpus.into_iter().collect()) };
        prop_assert_eq!(&CpuSet::parse(&set.to_string()).unwrap(), &set);
        prop_assert_eq!(CpuSet::from_bitmap(&set.bitmap(256), 256), set);
    }

    /// No disk or interface breaks its reader, and what a disk accepts has a number.
    #[test]
    fn device_texts_have_an_answer(text in "[a-z0-9:=,/@ ]{0,40}") {
        if let Ok(disk) = Disk::parse(&text) {
            prop_assert_eq!(device_number(&disk.vdev), Some(disk.number()));
        }
        let _ = Vif::parse(&text);
    }

    /// Numbers and names of whole disks do not collide.
    #[test]
    fn disk_numbers_differ(a in 0_u32..700, b in 0_u32..700) {
        let number = |n: u32| device_number(&format!("d{n}p0")).unwrap();
        prop_assert_eq!(a == b, number(a) == number(b));
    }
}
