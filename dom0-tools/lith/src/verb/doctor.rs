//! `doctor`: whether everything that domains need is there.

use crate::config::bytes_text;
use crate::device::Network;
use crate::domain;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::output::{Cell, Format, Table, left};
use std::io::Write;
use std::path::Path;

enum Verdict {
    Well(String),
    Odd(String, &'static str),
    Bad(String, &'static str),
}

/// The verb.
pub(super) fn doctor(host: Result<&dyn Host>, format: Format, out: &mut dyn Write) -> Result<()> {
    let mut checks = vec![("xen", xenfs())];
    match host {
        Err(error) => checks
            .push(("hypervisor", Verdict::Bad(error.message, "boot Xenolith; run this as root in dom0"))),
        Ok(host) => checks.extend(with_host(host)),
    }
    let mut table = Table::new(
        "doctor",
        &[
            left("CHECK", "check"),
            left("RESULT", "result"),
            left("FOUND", "found"),
            left("WHAT TO DO", "advice"),
        ],
    );
    let mut bad = 0;
    for (name, verdict) in checks {
        let (word, found, advice) = match verdict {
            Verdict::Well(found) => ("well", found, ""),
            Verdict::Odd(found, advice) => ("odd", found, advice),
            Verdict::Bad(found, advice) => {
                bad += 1;
                ("bad", found, advice)
            }
        };
        table.row(vec![Cell::plain(name), Cell::plain(word), Cell::plain(found), Cell::plain(advice)]);
    }
    table.print(format, out)?;
    match bad {
        0 => Ok(()),
        _ => Err(Error::new(Kind::Other, format!("{bad} of what domains need is missing"))),
    }
}

fn xenfs() -> Verdict {
    match std::fs::read_to_string("/proc/xen/capabilities") {
        Ok(text) if text.contains("control_d") => Verdict::Well("this is dom0".to_owned()),
        Ok(_) => Verdict::Bad("this is not dom0".to_owned(), "run this in dom0"),
        Err(_) => Verdict::Odd(
            "/proc/xen/capabilities cannot be read".to_owned(),
            "modprobe xenfs; mount -t xenfs xenfs /proc/xen",
        ),
    }
}

fn with_host(host: &dyn Host) -> Vec<(&'static str, Verdict)> {
    vec![
        ("control", control(host)),
        ("store", store(host)),
        ("memory", memory(host)),
        ("bridge", bridge(host)),
        ("block backend", module(host, "xen_blkback", "modprobe xen-blkback")),
        ("network backend", module(host, "xen_netback", "modprobe xen-netback")),
        ("failures", failures(host)),
    ]
}

fn control(host: &dyn Host) -> Verdict {
    match host.version() {
        Ok(version) => {
            Verdict::Well(format!("version {} with {} operations", version.abi, version.operations))
        }
        Err(error) => Verdict::Bad(error.to_string(), "boot a Xenolith with a control interface"),
    }
}

fn store(host: &dyn Host) -> Verdict {
    match host.read("/local/domain/0/name") {
        Ok(Some(name)) => Verdict::Well(format!("it answers, and dom0 is {name}")),
        Ok(None) => Verdict::Odd("dom0 has no name".to_owned(), "restart the store's daemon: lith-xenstored"),
        Err(error) => Verdict::Bad(error.to_string(), "start the store's daemon: lith-xenstored"),
    }
}

fn memory(host: &dyn Host) -> Verdict {
    match host.host_info() {
        Ok(info) => {
            let free = format!("{} free", bytes_text(info.free_pages * 4096));
            if info.free_pages < 8192 {
                return Verdict::Odd(free, "lith mem-set 0 SIZE, or dom0_mem= for the hypervisor");
            }
            Verdict::Well(free)
        }
        Err(error) => Verdict::Bad(error.to_string(), "boot a Xenolith with a control interface"),
    }
}

fn bridge(host: &dyn Host) -> Verdict {
    let name = Network::default_bridge();
    match host.has_interface(name) {
        true => Verdict::Well(name.to_owned()),
        false => Verdict::Odd(
            format!("there is no {name}"),
            "ip link add xenbr0 type bridge; ip link set xenbr0 up",
        ),
    }
}

/// A driver that is built in has a directory too.
fn module(host: &dyn Host, name: &str, advice: &'static str) -> Verdict {
    let loaded = host.read_file(Path::new("/proc/modules")).unwrap_or_default();
    let loaded = String::from_utf8_lossy(&loaded).lines().any(|line| line.split(' ').next() == Some(name));
    match loaded || Path::new("/sys/module").join(name).is_dir() {
        true => Verdict::Well("loaded".to_owned()),
        false => Verdict::Odd("not loaded".to_owned(), advice),
    }
}

fn failures(host: &dyn Host) -> Verdict {
    let lost = domain::list(host).map(|all| all.iter().filter(|d| d.state().contains(&"dying")).count());
    match lost {
        Ok(0) => Verdict::Well("no domain is stuck".to_owned()),
        Ok(n) => Verdict::Odd(format!("{n} dying"), "`lith show` says who holds their pages"),
        Err(error) => Verdict::Bad(error.to_string(), "lith why"),
    }
}
