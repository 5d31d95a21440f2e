//! What a guest sees and does from inside: a file system on its disk, programs of 32 bits, and nothing that is another's.

use crate::domains::{machine_with, run_with};
use crate::guest::assert_line;
use crate::programs::{assembly_32, assert_32_bits, c_program};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;
use xtask::machine::Spec;
use xtask::{paths, sh};

/// A machine with a packed ext4 file system, `disk.img.gz`, that has the programs; dom0 has them, too.
fn machine_with_disk(name: &str, programs: Vec<PathBuf>) -> Result<Spec> {
    let dir = paths::out().join(name);
    let _ = std::fs::remove_dir_all(&dir);
    let (files, image) = (dir.join("files"), dir.join("disk.img"));
    std::fs::create_dir_all(&files)?;
    for program in &programs {
        std::fs::copy(program, files.join(program.file_name().context("a program has a name")?))?;
    }
    sh::quiet(
        Command::new("/sbin/mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&files).arg(&image).arg("16M"),
    )?;
    sh::quiet(Command::new("gzip").arg("-n").arg(&image))?;
    let mut spec = machine_with("idle")?;
    spec.programs.extend(programs);
    spec.programs.push(dir.join("disk.img.gz"));
    Ok(spec)
}

/// A guest with the disk, which it has mounted, and has run its 32-bit program from.
const MOUNTED: &str = r#"
zcat /exec/bin/disk.img.gz >disk.img
sed "s|^vif.*|&\ndisk = ['/root/disk.img,,xvda,w']|" tiny.cfg >disk.cfg
lith create disk.cfg >/dev/null || exit 1
prompts 1
inside 'modprobe ext4; mount -t ext4 /dev/xvda /mnt && mount | grep -o "/mnt type ext4"; /mnt/compat; echo status $?'
"#;

/// Files, written and looked at after the file system was mounted again; then one more, and the guest ends as when the power fails:
/// dom0 finds all of it.
const FILES: &str = r#"
inside 'mkdir /mnt/files; cd /mnt/files; for n in $(seq 40); do dd if=/dev/urandom of=$n bs=${n}k count=9 2>/dev/null; done; rm 7 17 27; mv 8 moved; ln -s 9 link; md5sum [0-9]* moved >/mnt/sums; cd /; umount /mnt && echo unmounted'
inside 'mount -t ext4 /dev/xvda /mnt && cd /mnt/files && md5sum -c -s /mnt/sums && echo "mounted again: $(ls | wc -l) files"'
inside 'dd if=/dev/urandom of=last bs=64k count=16 2>/dev/null; md5sum last >>/mnt/sums; sync; echo synced'
lith destroy tiny; gone tiny
modprobe ext4; mkdir m
mount -o loop -t ext4 disk.img m && cd m/files && md5sum -c -s ../sums && echo "in dom0: $(ls | wc -l) files, and $(readlink link)"
cd /root; umount m
dmesg | grep -q 'EXT4-fs (loop.*recovery complete' && echo the journal was needed
dmesg | grep 'EXT4-fs error'
"#;

/// What is there for a guest beside its own memory and devices: nothing. What it is not shown is there in dom0.
const OWN: &str = r#"
port() { dd if=/dev/port bs=1 skip=100 count=1 2>/dev/null | hexdump -e '"%x"'; }
[ $(port) != ff ] && [ $(ls /sys/bus/pci/devices | wc -l) != 0 ] && grep -q xen-pirq /proc/interrupts && [ -d /sys/firmware/acpi ] && echo dom0 has a machine
inside 'echo $(ls /sys/bus/pci/devices | wc -l) PCI devices; grep xen-pirq /proc/interrupts; ls -d /sys/firmware/acpi; awk "/System RAM/ { print \$1 }" /proc/iomem'
# What restarts a PC.
inside 'printf "\376" | dd of=/dev/port bs=1 seek=100 2>/dev/null; dd if=/dev/port bs=1 skip=100 count=1 2>/dev/null | hexdump -e "\"port %x\""; echo'
[ "$(inside 'cat /sys/hypervisor/uuid')" = "$(lith show tiny --format json | sed -n 's/.*"uuid": "\(.*\)".*/\1/p')" ] && echo its own UUID
printf "name = 'other'\nmemory = 16\nkernel = '/exec/bin/idle'\nvif = ['bridge=xenbr0']\n" >other.cfg
lith create other.cfg >/dev/null
me=$(lith domid tiny) other=$(lith domid other)
for path in / /vm /local/domain /local/domain/0 /local/domain/0/name /local/domain/$other /local/domain/$other/name /local/domain/0/backend/vif/$other/0; do
    store ls $path >here; echo "$(wc -l <here) here: $path"
    echo "/mnt/store ls $path"
done >paths
grep ' here: ' paths
inside "$(grep ^/mnt paths | tr '\n' ';') true" | awk '{ print $2 }' | sort | uniq -c
inside "for p in /local/domain/$other/data/x /local/domain/$other/name /local/domain/0/x name /local/domain/0/backend/vif/$me/0/mac /vm/x; do /mnt/store write \$p new; done; /mnt/store write data/x new"
store ls /local/domain/$me/data/x
inside '/mnt/store ls name; /mnt/store ls device/vif/0/backend-id'
inside '(/mnt/store watch /local/domain >/events) & sleep 1'
lith rename other another; lith vcpu-set tiny 1
inside 'cat /events; killall store' >events
sed "s|domain/$me/|domain/ME/|; s|domain/$other/|domain/OTHER/|" events
lith destroy another; gone another
"#;

fn programs() -> Result<Vec<PathBuf>> {
    Ok(vec![assembly_32("compat")?, c_program("store", &[])?])
}

/// Files are as they were written, here and in dom0; 32-bit programs enter by `int 0x80` and by what AMD's CPUs have; and a guest sees
/// its own part of the store and of the machine.
#[test]
fn a_guest_has_what_is_its_own() -> Result<()> {
    let script = format!("before=$(free_pages)\n{MOUNTED}{OWN}{FILES}same_memory $before\n");
    let Some(output) = run_with(machine_with_disk("inside", programs()?)?, &script)? else { return Ok(()) };
    assert_line(&output, "/mnt type ext4");
    assert_32_bits(&output, "syscall");
    for line in ["unmounted", "mounted again: 38 files", "in dom0: 39 files, and 9", "the journal was needed"]
    {
        assert_line(&output, line);
    }
    // Its 128 MiB, and the one that Linux's ballooning may be off by.
    for line in ["dom0 has a machine", "0 PCI devices", "00100000-080fffff", "port ff", "its own UUID"] {
        assert_line(&output, line);
    }
    for bad in ["xen-pirq", "\n/sys/firmware/acpi", "EXT4-fs error", "failed"] {
        assert!(!output.contains(bad), "{output}");
    }
    // Eight places, neither their value nor what is in them.
    assert_eq!(output.matches(" here: /").count(), 8, "{output}");
    assert!(!output.contains("\n0 here"), "{output}");
    assert_line(output.as_str(), "     16 EACCES");
    let written: Vec<_> = output.lines().filter_map(|line| line.split_once(": EACCES")).collect();
    assert_eq!(written.len(), 6, "{output}");
    for line in ["data/x: OK", "data/x: new", "name: tiny", "device/vif/0/backend-id: 0"] {
        assert!(output.contains(line), "{line}: {output}");
    }
    assert_line(&output, "event /local/domain/ME/cpu/0/availability");
    assert!(!output.contains("event /local/domain/OTHER"), "{output}");
    assert_line(&output, "same memory");
    Ok(())
}

/// Intel's CPUs enter by sysenter.
#[test]
fn programs_of_32_bits_on_an_intel_cpu() -> Result<()> {
    let spec = machine_with_disk("inside-intel", programs()?)?;
    let spec = Spec { cpu: Some("max,vendor=GenuineIntel".to_owned()), ..spec };
    let script = format!("compat; echo status $?\necho then a guest\n{MOUNTED}");
    let Some(output) = run_with(spec, &script)? else { return Ok(()) };
    let (dom0, guest) = output.split_once("then a guest\n").context("dom0's part")?;
    assert_32_bits(dom0, "sysenter");
    assert_32_bits(guest, "sysenter");
    Ok(())
}
