//! A machine in QEMU: what it is made of, the disk it boots from, the QEMU command.

use crate::image::{self, apt::Suite, bootdisk, guest, initramfs, kernel, rootdisk, xl};
use crate::{build, paths, sh};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// What runs below the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hypervisor {
    /// This repository's.
    Xenolith,
    /// Debian's Xen 4.17.
    Xen,
    /// None.
    Bare,
}

/// Which kernel is dom0's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Debian 12's.
    V6_1,
    /// Debian 13's.
    V6_12,
    /// Any other; it gets the initramfs of Debian 12's.
    File(PathBuf),
    /// The hypervisor is given no module at all.
    None,
}

/// Where dom0's root file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// In the initramfs: busybox.
    Initramfs,
    /// On a virtio-blk disk: Debian 12.
    Virtio,
    /// On an AHCI disk: Debian 12.
    Ahci,
}

/// What dom0 has for domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domains {
    /// Nothing: it is looked at by itself.
    None,
    /// The tools, and a guest in memory.
    Tools,
    /// The same, and a disk with a Debian for a guest.
    Debian,
}

/// The machine's firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS
    Bios,
    /// OVMF
    Uefi,
}

/// A machine to be.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What runs below the kernel.
    pub hypervisor: Hypervisor,
    /// The firmware GRUB starts from.
    pub firmware: Firmware,
    /// Number of CPUs.
    pub cpus: u32,
    /// Threads of each core.
    pub threads: u32,
    /// A second processor with this APIC id instead, on q35 and by QEMU 10: older ones have no local APIC for numbers above 254.
    pub apic_id: Option<u32>,
    /// QEMU 10 where there is no KVM: with several processors the emulator of Debian 12's keeps, now and then, what it has made of code
    /// that another processor is just changing.
    pub newer_qemu: bool,
    /// Memory in MiB.
    pub memory: u32,
    /// A file that is the memory, with holes where nobody wrote: for more of it than there is here.
    pub memory_file: Option<PathBuf>,
    /// dom0 gets what the hypervisor gives it when nobody says how much, instead of half of the memory.
    pub default_dom0_memory: bool,
    /// QEMU's CPU model; its richest when absent.
    pub cpu: Option<String>,
    /// QEMU's machine type.
    pub machine: String,
    /// QEMU's network card model.
    pub nic: String,
    /// More of QEMU's `-netdev user` option, such as `,hostfwd=...`.
    pub net_options: String,
    /// dom0's kernel.
    pub kernel: Kernel,
    /// dom0's root file system.
    pub root: Root,
    /// A changed initramfs instead of the normal one, uncompressed.
    pub initrd: Option<Vec<u8>>,
    /// Options for the hypervisor behind the usual ones.
    pub append: String,
    /// Options for dom0's kernel behind the usual ones.
    pub dom0_append: String,
    /// A command for dom0 to run instead of a shell.
    pub command: Option<String>,
    /// Programs the command may use by name.
    pub programs: Vec<PathBuf>,
    /// So many bytes more in the initramfs.
    pub padding: usize,
    /// What dom0 has for domains.
    pub domains: Domains,
    /// On a BIOS: GRUB leaves the screen in VGA's text mode.
    pub text_screen: bool,
    /// Wait for a debugger on port 1234.
    pub gdb: bool,
    /// Restart on a reset instead of ending.
    pub reboot: bool,
    /// Virtual time is instructions executed, a nanosecond each, and begins at a fixed date: for measurements.
    pub icount: bool,
}

/// Of a machine's files, what QEMU says of resets.
const RESETS: &str = "resets";

impl Default for Spec {
    fn default() -> Self {
        Spec {
            hypervisor: Hypervisor::Xenolith,
            firmware: Firmware::Bios,
            cpus: 1,
            threads: 1,
            apic_id: None,
            newer_qemu: false,
            memory: 1024,
            memory_file: None,
            default_dom0_memory: false,
            cpu: None,
            machine: "pc".to_owned(),
            nic: "virtio-net-pci".to_owned(),
            net_options: String::new(),
            kernel: Kernel::V6_1,
            root: Root::Initramfs,
            initrd: None,
            append: String::new(),
            dom0_append: String::new(),
            command: None,
            programs: Vec::new(),
            padding: 0,
            domains: Domains::None,
            text_screen: false,
            gdb: false,
            reboot: false,
            icount: false,
        }
    }
}

/// A machine whose files are ready. Dropping it removes them.
pub struct Machine {
    dir: PathBuf,
    qemu: Vec<String>,
}

impl Machine {
    /// Builds and fetches all that is missing.
    pub fn prepare(spec: &Spec) -> Result<Machine> {
        let mut machine = Machine { dir: run_dir()?, qemu: Vec::new() };
        let disk = machine.dir.join("boot.img");
        write_boot_disk(spec, &disk)?;
        machine.qemu = qemu_words(spec, &disk, &machine.dir)?;
        Ok(machine)
    }

    /// The command that runs it, with the serial line on standard input and output when `interactive`, else
    /// only on standard output. QEMU ends with the thread that started it.
    pub fn command(&self, interactive: bool) -> Command {
        let mut command = Command::new("setpriv");
        // Asked to end, QEMU gives a person's terminal back its settings.
        command.args(["--pdeathsig", if interactive { "TERM" } else { "KILL" }, "--"]).args(&self.qemu);
        if interactive {
            command.args(["-serial", "mon:stdio"]);
        } else {
            let monitor = format!("unix:{},server=on,wait=off", self.monitor().display());
            command.args(["-serial", "stdio", "-monitor", &monitor]);
        }
        command
    }

    /// The socket of QEMU's monitor, while the machine does not run on a person's terminal.
    pub fn monitor(&self) -> PathBuf {
        self.dir.join("monitor")
    }

    /// True if a processor gave up: nothing that it could do led anywhere.
    pub fn had_triple_fault(&self) -> bool {
        std::fs::read_to_string(self.dir.join(RESETS)).is_ok_and(|log| log.contains("Triple fault"))
    }

    /// The QEMU line as one would type it.
    pub fn shown(&self) -> String {
        sh::show(&sh::cmd(&self.qemu))
    }

    /// The directory of this run's files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A fresh directory for one run; those of runs that were killed go.
fn run_dir() -> Result<PathBuf> {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let base = paths::out().join("run");
    std::fs::create_dir_all(&base)?;
    for entry in std::fs::read_dir(&base)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let alive = name.split('.').next().is_some_and(|pid| Path::new("/proc").join(pid).exists());
        if !alive {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let dir = base.join(format!("{}.{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// Debian's kernel that is meant, or whose modules another one gets.
pub fn debian(kernel: &Kernel) -> Result<kernel::Kernel> {
    match kernel {
        Kernel::V6_12 => kernel::debian(Suite::Trixie),
        Kernel::V6_1 | Kernel::File(_) | Kernel::None => kernel::debian(Suite::Bookworm),
    }
}

fn write_boot_disk(spec: &Spec, disk: &Path) -> Result<()> {
    let kernel = debian(&spec.kernel)?;
    let vmlinuz = match &spec.kernel {
        Kernel::File(file) => file,
        _ => &kernel.vmlinuz,
    };
    let initrd = match &spec.initrd {
        Some(bytes) => vec![bytes.clone()],
        None => initrd(spec, &kernel)?,
    };
    let kernel_options = kernel_options(spec);
    if spec.hypervisor == Hypervisor::Bare {
        return bootdisk::write(
            disk,
            &bootdisk::Menu::Bare { kernel: (vmlinuz, &kernel_options), initrd: &initrd },
        );
    }
    let (image, title) = match spec.hypervisor {
        Hypervisor::Xen => (image::xen()?, "Xen 4.17"),
        _ => (build::build()?.gz, "Xenolith"),
    };
    let options = hypervisor_options(spec);
    let none = spec.kernel == Kernel::None;
    bootdisk::write(
        disk,
        &bootdisk::Menu::Hypervisor {
            image: &image,
            title,
            options: &options,
            kernel: (!none).then_some((vmlinuz.as_path(), kernel_options.as_str())),
            initrd: if none { &[] } else { &initrd },
            text_screen: spec.text_screen,
        },
    )
}

fn initrd(spec: &Spec, kernel: &kernel::Kernel) -> Result<Vec<Vec<u8>>> {
    let mut parts = vec![sh::read(&initramfs::base(kernel)?)?];
    match (spec.hypervisor, spec.domains) {
        (_, Domains::None) | (Hypervisor::Bare, _) => {}
        (Hypervisor::Xenolith, _) => parts.push(guest::dom0(kernel)?),
        (Hypervisor::Xen, _) => parts.push(xl::dom0()?),
    }
    parts.push(initramfs::extra(spec.command.as_deref(), &spec.programs, spec.padding)?);
    Ok(parts)
}

fn hypervisor_options(spec: &Spec) -> String {
    let mut usual = "com1=115200,8n1 console=com1,vga loglvl=all guest_loglvl=all".to_owned();
    if !spec.default_dom0_memory {
        // Half for dom0 leaves the other half for guests, and the initramfs twice fits into the smaller machines.
        let dom0 = spec.memory / 2;
        usual += &format!(" dom0_mem={dom0}M,max:{dom0}M");
    }
    join(&usual, &spec.append)
}

fn kernel_options(spec: &Spec) -> String {
    let console = match spec.hypervisor {
        // On a busy host the emulated timer is too late for the kernel's check of it.
        Hypervisor::Bare => "console=ttyS0,115200 earlyprintk=serial,ttyS0,115200 no_timer_check",
        _ => "console=hvc0 earlyprintk=xen",
    };
    let mut options = format!("{console} panic=-1");
    if spec.root != Root::Initramfs {
        options += &format!(" root=LABEL={} ro", rootdisk::LABEL);
    }
    if spec.command.is_some() {
        options += " quiet";
    }
    join(&options, &spec.dom0_append)
}

fn join(usual: &str, more: &str) -> String {
    if more.is_empty() { usual.to_owned() } else { format!("{usual} {more}") }
}

/// QEMU's words but for the serial line.
fn qemu_words(spec: &Spec, disk: &Path, dir: &Path) -> Result<Vec<String>> {
    let installed = std::env::var("XENOLITH_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".to_owned());
    let needs_newer = spec.apic_id.is_some();
    let accel = if !spec.icount && !needs_newer && kvm_works(&installed) { "kvm" } else { "tcg" };
    let newer = needs_newer || (spec.newer_qemu && accel == "tcg");
    let mut words = if newer { newer_qemu()? } else { vec![installed] };
    words.extend(["-name".to_owned(), "xenolith".to_owned()]);
    let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
    let backend = if spec.memory_file.is_some() { ",memory-backend=ram" } else { "" };
    match spec.apic_id {
        None => {
            add("-machine", format!("{},accel={accel}{backend}", spec.machine));
            add("-smp", format!("{},threads={}", spec.cpus, spec.threads));
        }
        Some(id) => {
            add("-machine", format!("{},accel={accel},kernel-irqchip=split{backend}", spec.machine));
            // A socket for each id: a processor's id is its socket's number.
            add("-smp", format!("1,maxcpus={0},sockets={0},cores=1,threads=1", id + 1));
            add("-device", format!("max-x86_64-cpu,socket-id={id},core-id=0,thread-id=0"));
        }
    }
    add("-cpu", cpu_model(spec, accel));
    add("-m", spec.memory.to_string());
    if let Some(file) = &spec.memory_file {
        let (size, file) = (spec.memory, file.display());
        add("-object", format!("memory-backend-file,id=ram,size={size}M,mem-path={file},share=on"));
    }
    if spec.firmware == Firmware::Uefi {
        let vars = dir.join("vars.fd");
        std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &vars).context("cannot copy OVMF's variables")?;
        add("-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd".to_owned());
        add("-drive", format!("if=pflash,format=raw,file={}", vars.display()));
    }
    add("-drive", format!("if=none,id=boot,format=raw,file={}", disk.display()));
    add("-device", "virtio-blk-pci,drive=boot,bootindex=0,serial=boot".to_owned());
    if spec.root != Root::Initramfs {
        let image = rootdisk::debian()?;
        add("-drive", format!("if=none,id=root,format=raw,snapshot=on,file={}", image.display()));
    }
    if spec.domains == Domains::Debian && spec.root == Root::Initramfs {
        let image = guest::disk()?;
        add("-drive", format!("if=none,id=demo,format=raw,snapshot=on,file={}", image.display()));
        add("-device", format!("virtio-blk-pci,drive=demo,serial={}", guest::DISK_SERIAL));
    }
    match spec.root {
        Root::Initramfs => {}
        Root::Virtio => add("-device", "virtio-blk-pci,drive=root,serial=root".to_owned()),
        Root::Ahci => {
            add("-device", "ahci,id=ahci".to_owned());
            add("-device", "ide-hd,drive=root,bus=ahci.0".to_owned());
        }
    }
    add("-netdev", format!("user,id=net{}", spec.net_options));
    add("-device", format!("{},netdev=net,romfile=", spec.nic));
    add("-device", "isa-debug-exit,iobase=0xf4,iosize=4".to_owned());
    add("-display", "none".to_owned());
    if spec.icount {
        add("-icount", "shift=0,sleep=off".to_owned());
        add("-rtc", "base=2026-01-01,clock=vm".to_owned());
    }
    if spec.gdb {
        words.extend(["-s".to_owned(), "-S".to_owned()]);
    }
    // A triple fault says nothing on the serial line.
    words.extend(["-d".to_owned(), "cpu_reset".to_owned(), "-D".to_owned()]);
    words.push(dir.join(RESETS).display().to_string());
    if !spec.reboot {
        words.push("-no-reboot".to_owned());
    }
    Ok(words)
}

/// QEMU 10 of Debian 12's backports, with the words that it needs where it is not installed.
fn newer_qemu() -> Result<Vec<String>> {
    let packages = ["qemu-system-x86", "qemu-system-data", "qemu-system-common"];
    let root = image::debs::unpacked(image::apt::Suite::BookwormBackports, "qemu", &packages)?;
    let below = |path: &str| root.join(path).display().to_string();
    Ok(vec![
        below("usr/bin/qemu-system-x86_64"),
        "-L".to_owned(),
        below("usr/share/qemu"),
        "-L".to_owned(),
        "/usr/share/seabios".to_owned(),
    ])
}

fn cpu_model(spec: &Spec, accel: &str) -> String {
    match (&spec.cpu, spec.hypervisor) {
        (Some(cpu), _) => cpu.clone(),
        (None, _) if accel == "kvm" => "host".to_owned(),
        // Debian's Xen crashes its dom0 under QEMU 7.2 when it sees SMAP.
        (None, Hypervisor::Xen) => "max,-smap".to_owned(),
        (None, _) => "max".to_owned(),
    }
}

/// Whether KVM runs a guest here: `/dev/kvm` alone does not say so. A KVM without the processor's VMX or SVM has one, too, and
/// interprets what is not of its own kind of guest: GRUB needs an hour there.
fn kvm_works(qemu: &str) -> bool {
    static ANSWER: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let hardware = || std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|cpus| has_virtualisation(&cpus));
    *ANSWER.get_or_init(|| Path::new("/dev/kvm").exists() && hardware() && probe_kvm(qemu).is_ok())
}

/// True if Linux's list of processors (`/proc/cpuinfo`) names VMX or SVM.
fn has_virtualisation(cpus: &str) -> bool {
    let flags = cpus.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm"))
}

/// Boots a sector that leaves through the debug-exit port.
fn probe_kvm(qemu: &str) -> Result<()> {
    // mov $0xf4,%dx; mov $0x10,%al; out %al,%dx; hlt; jmp .
    let mut sector = vec![0xba, 0xf4, 0x00, 0xb0, 0x10, 0xee, 0xf4, 0xeb, 0xfe];
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    let file = paths::out().join(format!("kvm-probe.{}", std::process::id()));
    sh::write(&file, &sector)?;
    let drive = format!("format=raw,file={}", file.display());
    let status = Command::new("timeout")
        .args([
            "-s", "KILL", "10", qemu, "-accel", "kvm", "-cpu", "host", "-m", "16", "-display", "none",
            "-drive", &drive,
        ])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-no-reboot"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    let _ = std::fs::remove_file(&file);
    match status?.code() {
        Some(0x21) => Ok(()),
        other => bail!("the probe ended with {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtualisation_is_a_flag_of_the_processor() {
        let cpus = |flags: &str| {
            format!("processor\t: 0\nvmx flags\t: never\nflags\t\t: fpu {flags} lm\nbugs\t\t:\n")
        };
        for (flags, expected) in [("vmx", true), ("svm", true), ("svm_lock vmx_msr", false)] {
            assert_eq!(has_virtualisation(&cpus(flags)), expected, "{flags}");
        }
        assert!(!has_virtualisation(""));
    }
}
