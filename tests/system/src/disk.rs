//! A Debian 12 root file system on a disk: systemd to the login, files that stay.

use crate::guest::{DEBIAN, Guest, assert_line, command, spec};
use anyhow::Result;
use std::time::Duration;
use xtask::machine::{Kernel, Root, Spec};

/// Writes through the page cache and reads the device again.
const CHECK: &str = r"
findmnt -n -o FSTYPE,OPTIONS /
echo source $(basename $(readlink -f /sys/dev/block/$(mountpoint -d /)/device/driver))
dd if=/dev/urandom of=/var/tmp/data bs=1M count=16 status=none
md5sum </var/tmp/data >/var/tmp/sum
sync
echo 3 >/proc/sys/vm/drop_caches
[ $(md5sum </var/tmp/data | cut -c1-32) = $(cut -c1-32 /var/tmp/sum) ] && echo same
systemctl --failed --no-legend --plain | sed 's/^/failed /'
grep -c . /proc/interrupts >/dev/null && grep -iE 'virtio|ahci' /proc/interrupts
";

fn check(spec: Spec, driver: &str) -> Result<()> {
    let output = command(Spec { memory: 2048, ..spec }, CHECK, DEBIAN)?;
    assert!(output.starts_with("ext4"), "{output}");
    assert_line(&output, &format!("source {driver}"));
    assert_line(&output, "same");
    assert!(!output.contains("failed "), "{output}");
    assert!(output.contains("xen-pirq"), "the disk's interrupts are no PIRQs:\n{output}");
    Ok(())
}

#[test]
fn debian_12_on_virtio() -> Result<()> {
    check(Spec { root: Root::Virtio, ..spec() }, "virtio_blk")
}

#[test]
fn debian_12_on_ahci_with_pcie() -> Result<()> {
    check(Spec { root: Root::Ahci, machine: "q35".to_owned(), kernel: Kernel::V6_12, ..spec() }, "sd")
}

#[test]
fn systemd_to_the_login_and_a_clean_poweroff() -> Result<()> {
    let mut guest = Guest::start(&Spec { memory: 2048, root: Root::Virtio, ..spec() })?;
    guest.wait_for("dom0 login: ", DEBIAN)?;
    guest.wait_for("root@dom0:~# ", DEBIAN)?;
    guest.console.send("systemctl poweroff\n")?;
    guest.wait_for("Power down", Duration::from_secs(180))?;
    guest.wait_end(Duration::from_secs(30))
}
