//! dom0's network: QEMU's user network answers pings itself and carries TCP to this process.

use crate::guest::{BOOT, assert_line, command, spec};
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;
use xtask::machine::{Kernel, Spec};

const BYTES: usize = 4 << 20;

/// Receives `BYTES` bytes on one connection and closes it, then sends the same on a second one. Listens on the
/// loopback address only.
fn mirror() -> Result<(u16, JoinHandle<Result<()>>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let thread = std::thread::spawn(move || {
        let mut bytes = vec![0; BYTES];
        let (mut upload, _) = listener.accept()?;
        upload.read_exact(&mut bytes).context("the upload")?;
        drop(upload);
        let (mut download, _) = listener.accept()?;
        download.write_all(&bytes).context("the download")
    });
    Ok((port, thread))
}

fn check(spec: Spec, driver: &str) -> Result<()> {
    let (port, server) = mirror()?;
    let script = format!(
        "
        nic=$(ls /sys/class/net | grep -v lo)
        echo driver $(basename $(readlink -f /sys/class/net/$nic/device/driver))
        # The link of an emulated card takes a moment.
        i=0; while [ $(cat /sys/class/net/$nic/carrier) != 1 ] && [ $i -lt 50 ]; do usleep 100000; i=$((i + 1)); done
        ping -c 3 -i 0.2 -W 5 10.0.2.2 | grep received
        head -c {BYTES} /dev/urandom >/tmp/up
        nc 10.0.2.2 {port} </tmp/up
        nc 10.0.2.2 {port} </dev/null >/tmp/down
        cmp /tmp/up /tmp/down && echo same $(wc -c </tmp/down)
        grep -c xen-pirq /proc/interrupts >/dev/null && echo pirq
        "
    );
    let output = command(spec, &script, BOOT)?;
    assert_line(&output, &format!("driver {driver}"));
    assert!(output.contains("3 packets transmitted, 3 packets received"), "{output}");
    assert_line(&output, &format!("same {BYTES}"));
    assert_line(&output, "pirq");
    server.join().expect("the server does not panic")
}

#[test]
fn virtio_net() -> Result<()> {
    check(spec(), "virtio_net")
}

#[test]
fn e1000() -> Result<()> {
    check(Spec { nic: "e1000".to_owned(), ..spec() }, "e1000")
}

#[test]
fn e1000e_with_msi_x() -> Result<()> {
    check(
        Spec { nic: "e1000e".to_owned(), machine: "q35".to_owned(), kernel: Kernel::V6_12, ..spec() },
        "e1000e",
    )
}
