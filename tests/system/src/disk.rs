//! A Debian 12 root file system on a disk: systemd to the login, files that stay.

use crate::guest::{DEBIAN, Guest, assert_line, command, hypervisor, spec};
use anyhow::Result;
use std::time::Duration;
use xtask::machine::{Domains, Hypervisor, Kernel, Root, Spec};

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

fn assert_checked(output: &str, driver: &str) {
    assert!(output.lines().any(|line| line.starts_with("ext4")), "{output}");
    assert_line(output, &format!("source {driver}"));
    assert_line(output, "same");
    assert!(!output.contains("failed "), "{output}");
    assert!(output.contains("xen-pirq"), "the disk's interrupts are no PIRQs:\n{output}");
}

#[test]
fn debian_12_on_ahci_with_pcie() -> Result<()> {
    let spec = Spec { root: Root::Ahci, machine: "q35".to_owned(), kernel: Kernel::V6_12, ..spec() };
    assert_checked(&command(Spec { memory: 2048, ..spec }, CHECK, DEBIAN)?, "sd");
    Ok(())
}

/// A person's shell on a Debian that systemd runs.
struct Shell(Guest);

impl Shell {
    fn login(mut guest: Guest) -> Result<Shell> {
        guest.wait_for("dom0 login: ", DEBIAN)?;
        guest.wait_for("root@dom0:~# ", DEBIAN)?;
        Ok(Shell(guest))
    }

    /// Types a script and runs it; what it says.
    fn run(&mut self, script: &str) -> Result<String> {
        self.0.console.send(&format!("cat >/run/script <<'END'\n{script}\nEND\n"))?;
        // What is typed before the shell reads it is said twice, by the terminal and by the shell.
        self.0.wait_for("root@dom0:~# ", DEBIAN)?;
        // The shell says the words that stand on the line, too: these differ.
        self.0.console.send("echo; sh /run/script; echo \"ended\" $?\n")?;
        self.0.wait_for("echo \"ended\" $?", DEBIAN)?;
        let output = self.0.wait_for("ended 0", DEBIAN)?;
        self.0.wait_for("root@dom0:~# ", DEBIAN)?;
        // The guest's terminal and the hypervisor's each put one in front of a line's end.
        Ok(output.replace('\r', ""))
    }
}

impl Shell {
    /// Pauses `tiny` by the keys of `lith top`, once it runs: the login may be there before.
    fn pause_by_screen(&mut self) -> Result<()> {
        self.run("until lith list tiny | grep -qE 'running|blocked'; do sleep 1; done")?;
        self.0.console.send("lith top\n")?;
        self.0.wait_for("Domain-0", DEBIAN)?;
        // By name; the last one; what is asked; yes; its vCPUs, and back.
        for (key, word) in [
            ("n", "tiny"),
            ("\x1b[F", ">tiny"),
            ("p", ")?"),
            ("y", "paused"),
            ("v", "PREFERS"),
            ("\x1b", "MEMORY"),
        ] {
            self.0.console.send(key)?;
            // A key that may begin a longer one is one by itself if nothing follows at once. The whole screen comes again: of
            // one that changes there comes what is new only, and of a new one the words.
            std::thread::sleep(Duration::from_secs(1));
            self.0.console.send("\x0c")?;
            self.0.wait_for(word, DEBIAN)?;
        }
        self.0.console.send("q")?;
        self.0.wait_for("root@dom0:~# ", DEBIAN)?;
        Ok(())
    }
}

/// A person logs in, uses the disk, and has a domain started and ended as it is with the machine. It is paused on the screen; the store's
/// end ends no domain. By name the machine reboots in between, which ends the domain in order and starts it again:
/// `XENOLITH_REBOOT=1 cargo test -p tests-system systemd`.
#[test]
fn systemd_with_domains_to_the_login_and_a_clean_poweroff() -> Result<()> {
    let xenolith = hypervisor() == Hypervisor::Xenolith;
    let domains = if xenolith { Domains::Tools } else { Domains::None };
    let spec = Spec { memory: 2048, root: Root::Virtio, reboot: true, domains, ..spec() };
    let mut shell = Shell::login(Guest::start(&spec)?)?;
    assert_checked(&shell.run(CHECK)?, "virtio_blk");
    if xenolith {
        shell.run(
            "mkdir -p /etc/xenolith/auto
            sed '/^vif/d' tiny.cfg >/etc/xenolith/auto/tiny.cfg
            systemctl restart lith-domains
            until lith logs tiny | grep -q Enter; do sleep 1; done",
        )?;
    }
    if std::env::var_os("XENOLITH_REBOOT").is_some() {
        shell.0.console.send("systemctl reboot\n")?;
        shell = Shell::login(shell.0)?;
    } else if xenolith {
        shell.run("systemctl restart lith-domains")?;
    }
    if xenolith {
        shell.pause_by_screen()?;
        let output = shell.run(DOMAINS)?;
        for line in ["paused", "4 active", "reboot: System halted", "tiny", "tiny 1", "left 0"] {
            assert_line(&output, line);
        }
    }
    shell.0.console.send("systemctl poweroff\n")?;
    shell.0.wait_for("Power down", Duration::from_secs(180))?;
    shell.0.wait_end(Duration::from_secs(30))
}

/// The domain that ended and was started with the machine, the end of the store, and the end of the domain.
const DOMAINS: &str = r"
lith list tiny | grep -o paused
lith unpause tiny
systemctl is-active proc-xen.mount lith-xenstored lith-consoled lith-domains | sort | uniq -c | sed 's/^ *//'
lith logs tiny | grep -o 'reboot: .*' | head -1
lith list tiny | awk 'END { print $1 }'
kill -9 $(pidof lith-xenstored)
lith list tiny | awk 'END { print $1, NR - 1 }'
systemctl stop lith-domains
for i in $(seq 60); do lith domid tiny >/dev/null 2>&1 || break; sleep 1; done
echo left $(lith list | grep -c tiny)
";
