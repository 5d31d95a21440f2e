//! Bochs, for what QEMU's emulator lacks: address-space tags (PCID, INVPCID), x2APIC and the TSC-deadline timer.

use crate::sh;
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// The processor: the first generation with INVPCID.
const CPU: &str = "corei7_haswell_4770";
/// Bochs' own firmware has GRUB stumble.
const FIRMWARE: &str = "/usr/share/seabios/bios.bin";
const SCREEN_FIRMWARE: &str = "/usr/share/vgabios/vgabios.bin";

/// A command that boots `disk` and has the serial line on standard output. Its files are beside the disk.
pub fn command(disk: &Path, memory: u32) -> Result<Command> {
    let (settings, script) = (disk.with_extension("bochsrc"), disk.with_extension("bochs"));
    let disk = disk.display();
    let text = format!(
        "\
plugin_ctrl: speaker=0, parallel=0
display_library: rfb, options=\"timeout=0\"
romimage: file={FIRMWARE}
vgaromimage: file={SCREEN_FIRMWARE}
cpu: model={CPU}, count=1, ips=100000000, ignore_bad_msrs=1
memory: guest={memory}, host={memory}
clock: sync=none
pci: enabled=1, chipset=i440fx
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path={disk}, mode=volatile, journal={disk}.changes
boot: disk
com1: enabled=1, mode=file, dev=/dev/stdout
log: {disk}.log
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"
    );
    sh::write(&settings, text.as_bytes())?;
    // Debian's Bochs begins in its debugger.
    sh::write(&script, b"continue\n")?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    // What it says about itself belongs to the transcript.
    command
        .args(["sh", "-c", "exec bochs \"$@\" 2>&1", "sh", "-q", "-f"])
        .arg(settings)
        .arg("-rc")
        .arg(script);
    Ok(command)
}

/// Removes a run's disk and what Bochs may have put beside it.
pub fn clean(disk: &Path) {
    for extension in ["img", "img.lock", "img.changes", "img.changes.lock", "img.log", "bochsrc", "bochs"] {
        let _ = std::fs::remove_file(disk.with_extension(extension));
    }
}
