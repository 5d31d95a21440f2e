//! The disk a machine boots from: GRUB for BIOS and for UEFI, one FAT partition with the menu, the hypervisor,
//! the kernel and the initramfs. Made without mounting anything and without `grub-install`.

use super::key::Key;
use crate::{paths, sh};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SECTOR: u64 = 512;
/// The partition's first byte; GRUB's core image lies between the first sector and here.
const PARTITION: u64 = 1024 * 1024;
const EARLY: &str = include_str!("../../../boot/grub/early.cfg");
const XEN_MENU: &str = include_str!("../../../boot/grub/xen.cfg");
const BARE_MENU: &str = include_str!("../../../boot/grub/bare.cfg");
const MODULES: &[&str] = &[
    "part_msdos",
    "fat",
    "normal",
    "configfile",
    "multiboot2",
    "linux",
    "gzio",
    "echo",
    "test",
    "reboot",
    "halt",
];

/// What the menu loads.
pub enum Menu<'a> {
    /// A hypervisor, then modules.
    Hypervisor {
        /// The image, gzip or not.
        image: &'a Path,
        /// The menu's title.
        title: &'a str,
        /// Its command line.
        options: &'a str,
        /// The kernel and its command line; absent for tests of what happens without.
        kernel: Option<(&'a Path, &'a str)>,
        /// The initramfs, as parts to be concatenated.
        initrd: &'a [Vec<u8>],
        /// The screen stays in text mode.
        text_screen: bool,
    },
    /// Linux by itself.
    Bare {
        /// The kernel and its command line.
        kernel: (&'a Path, &'a str),
        /// The initramfs, as parts to be concatenated.
        initrd: &'a [Vec<u8>],
    },
}

/// Writes the disk image.
pub fn write(disk: &Path, menu: &Menu) -> Result<()> {
    let dir = disk.with_extension("files");
    let boot = dir.join("boot");
    std::fs::create_dir_all(boot.join("grub"))?;
    std::fs::create_dir_all(dir.join("EFI/BOOT"))?;
    std::fs::copy(core("x86_64-efi", &["efi_gop", "efi_uga"])?, dir.join("EFI/BOOT/BOOTX64.EFI"))?;
    std::fs::write(boot.join("grub/grub.cfg"), fill(menu, &boot)?)?;
    let written = partition(disk, &dir);
    std::fs::remove_dir_all(&dir)?;
    written
}

/// Copies the menu's files and returns its text.
fn fill(menu: &Menu, boot: &Path) -> Result<String> {
    let copy = |from: &Path, name: &str| {
        std::fs::copy(from, boot.join(name)).with_context(|| format!("cannot copy {}", from.display()))
    };
    match menu {
        Menu::Bare { kernel: (kernel, options), initrd } => {
            copy(kernel, "vmlinuz")?;
            std::fs::write(boot.join("initrd.img"), initrd.concat())?;
            Ok(BARE_MENU.replace("@KERNEL_OPTIONS@", options))
        }
        Menu::Hypervisor { image, title, options, kernel, initrd, text_screen } => {
            let name = image.file_name().context("an image has a name")?.to_string_lossy();
            copy(image, &name)?;
            // Loading the image has set the variable to what its header asks for.
            let mut modules = if *text_screen { "\tset gfxpayload=text\n" } else { "" }.to_owned();
            if let Some((kernel, options)) = kernel {
                copy(kernel, "vmlinuz")?;
                modules += &format!("\tmodule2 /boot/vmlinuz placeholder {options}\n");
            }
            if !initrd.is_empty() {
                std::fs::write(boot.join("initrd.img"), initrd.concat())?;
                modules += "\tmodule2 --nounzip /boot/initrd.img\n";
            }
            Ok(XEN_MENU
                .replace("@TITLE@", title)
                .replace("@HYPERVISOR@", &name)
                .replace("@HYPERVISOR_OPTIONS@", options)
                .replace("@MODULES@\n", &modules))
        }
    }
}

/// Lays the disk out: boot sector, core image, partition.
fn partition(disk: &Path, dir: &Path) -> Result<()> {
    let size = (content(dir)? * 21 / 20 + (4 << 20)).next_multiple_of(1 << 20).max(40 << 20);
    let file = File::create(disk).with_context(|| format!("cannot create {}", disk.display()))?;
    file.set_len(PARTITION + size)?;
    let grub = Path::new("/usr/lib/grub/i386-pc");
    let mut sector = sh::read(&grub.join("boot.img"))?;
    ensure!(sector.len() == 512, "GRUB's boot.img is not one sector");
    sector[446..].copy_from_slice(&partition_table(size));
    let core = sh::read(&core("i386-pc", &["biosdisk"])?)?;
    ensure!(SECTOR + core.len() as u64 <= PARTITION, "GRUB's core image does not fit before the partition");
    file.write_all_at(&sector, 0)?;
    // boot.img loads the sector after itself, and the core image's own block list begins one after that.
    file.write_all_at(&core, SECTOR)?;
    let part = format!("{}@@{PARTITION}", disk.display());
    let sectors = (size / SECTOR).to_string();
    sh::quiet(Command::new("mformat").args(["-i", &part, "-F", "-T", &sectors, "-v", "XENBOOT", "::"]))?;
    sh::quiet(
        Command::new("mcopy")
            .args(["-i", &part, "-s", "-Q"])
            .args([dir.join("boot"), dir.join("EFI")])
            .arg("::"),
    )
}

/// One active partition of the EFI system type.
fn partition_table(size: u64) -> [u8; 66] {
    let mut table = [0; 66];
    table[0] = 0x80;
    table[4] = 0xef;
    table[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
    table[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    table[8..12].copy_from_slice(&((PARTITION / SECTOR) as u32).to_le_bytes());
    table[12..16].copy_from_slice(&((size / SECTOR) as u32).to_le_bytes());
    table[64..].copy_from_slice(&[0x55, 0xaa]);
    table
}

fn content(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { content(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}

/// GRUB's core image for a platform, cached.
fn core(platform: &str, more: &[&str]) -> Result<PathBuf> {
    let version = sh::text(Command::new("grub-mkimage").arg("--version"))?;
    let modules: Vec<&str> = MODULES.iter().chain(more).copied().collect();
    let key = Key::new().with(&version).with(EARLY).with(&modules);
    let file = paths::cache()?.join("grub").join(format!("{platform}-{key}"));
    let _lock = paths::lock_cache()?;
    if file.exists() {
        return Ok(file);
    }
    let dir = file.parent().context("a cache directory")?;
    std::fs::create_dir_all(dir)?;
    let early = dir.join(format!("early.{}", std::process::id()));
    let partial = dir.join(format!("core.{}", std::process::id()));
    std::fs::write(&early, EARLY)?;
    sh::quiet(
        Command::new("grub-mkimage")
            .args(["-O", platform, "-p", "(,msdos1)/boot/grub", "-c"])
            .arg(&early)
            .arg("-o")
            .arg(&partial)
            .args(&modules),
    )?;
    std::fs::remove_file(&early)?;
    std::fs::rename(&partial, &file)?;
    Ok(file)
}
