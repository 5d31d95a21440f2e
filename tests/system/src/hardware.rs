//! What comes from the machine itself: the screen, an NMI, a machine check.

use crate::guest::{BOOT, Guest, REFUSAL, hypervisor, spec};
use anyhow::{Context, Result};
use xtask::machine::{Firmware, Hypervisor, Spec};

/// Lines of text have more bright pixels than this, a cursor and a prompt have fewer.
const SOME_LINES: usize = 2000;
/// What the firmware and GRUB write has fewer.
const A_SCREENFUL: usize = 10_000;

/// The bright pixels of a PPM file.
fn bright(image: &[u8]) -> Option<usize> {
    let pixels = image.splitn(4, |byte| *byte == b'\n').last()?;
    Some(pixels.chunks_exact(3).filter(|pixel| pixel.iter().all(|part| *part > 100)).count())
}

/// The log is drawn until dom0 starts; then the screen is dom0's, whose kernel calls it `name`.
fn the_screen_goes_to_dom0(spec: Spec, name: &str) -> Result<()> {
    let mut guest = Guest::start(&spec)?;
    let picture = |guest: &Guest| -> Result<usize> {
        let file = guest.dir().join("screen.ppm");
        guest.monitor(&format!("screendump {}", file.display()))?;
        bright(&std::fs::read(&file)?).context("no picture")
    };
    if hypervisor() == Hypervisor::Xenolith {
        guest.wait_for("dom0 starts at", BOOT)?;
        let lit = picture(&guest)?;
        assert!(lit > A_SCREENFUL, "{lit} bright pixels: no log");
    }
    guest.wait_for("This is dom0's root shell", BOOT)?;
    guest.wait_for("# ", BOOT)?;
    guest.console.send("cat /proc/fb; dmesg | grep 'Console: '; echo 'that is ''all'\n")?;
    let said = guest.wait_for("that is all", BOOT)?;
    assert!(said.contains(name), "{said}");
    let draw = |guest: &mut Guest, what: &str, done: &str| -> Result<usize> {
        guest.console.send(&format!("{what} >/dev/tty0; sleep 1; echo 'it is ''{done}'\n"))?;
        guest.wait_for(&format!("it is {done}"), BOOT)?;
        picture(guest)
    };
    let dark = draw(&mut guest, "printf '\\033[2J\\033[H'", "dark")?;
    let lit = draw(&mut guest, "seq -w 0 11111111 999999999 | head -n 20", "lit")?;
    assert!(dark < SOME_LINES && lit > dark + SOME_LINES, "dom0 does not draw: {dark}, then {lit}");
    guest.console.send("poweroff -f\n")?;
    guest.wait_end(REFUSAL)
}

#[test]
fn the_screen_of_vga_text() -> Result<()> {
    the_screen_goes_to_dom0(Spec { text_screen: true, ..spec() }, "Console: colour VGA+ 80x25")
}

#[test]
fn the_screen_of_a_bios_in_a_graphics_mode() -> Result<()> {
    the_screen_goes_to_dom0(spec(), "VESA VGA")
}

#[test]
fn the_screen_of_uefi() -> Result<()> {
    the_screen_goes_to_dom0(Spec { firmware: Firmware::Uefi, ..spec() }, "EFI VGA")
}

/// An NMI that nobody asked for is logged, and everything goes on. A machine check is the end, with what the processor says.
#[test]
fn an_nmi_is_logged_and_a_machine_check_is_reported() -> Result<()> {
    if hypervisor() != Hypervisor::Xenolith {
        return Ok(());
    }
    let mut guest = Guest::start(&Spec { cpus: 2, append: "noreboot".to_owned(), ..spec() })?;
    guest.wait_for("This is dom0's root shell", BOOT)?;
    guest.wait_for("# ", BOOT)?;
    guest.monitor("nmi")?;
    guest.wait_for("NMI at 0x", REFUSAL)?;
    guest.console.send("echo $((6 * 7)) goes on\n")?;
    guest.wait_for("42 goes on", REFUSAL)?;
    // Processor 1, bank 4: valid, uncorrected, enabled, with address and MISC, context corrupt.
    guest.monitor("mce 1 4 0xbe00000000000134 0x5 0xdeadb000 0xb")?;
    guest.wait_for("*** Hardware error: machine check on CPU 1, status 5", REFUSAL)?;
    guest.wait_for(
        "bank 4: status be00000000000134 address 00000000deadb000 misc 000000000000000b",
        REFUSAL,
    )?;
    guest.wait_for("The hardware has failed, not Xenolith", REFUSAL)?;
    Ok(())
}
