//! The kernels that Debian ships, as found in the directory that `XENOLITH_KERNELS` names (`cargo xtask test` fills it
//! and sets the variable): `6.1/vmlinuz` of Debian 12 (xz) and `6.12/vmlinuz` of Debian 13 (zstd).

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use boot_image::{BuildPlan, Format, Initrd, KernelFile, KernelInfo, PlanInput};

fn kernel(version: &str) -> Option<Vec<u8>> {
    let directory = PathBuf::from(std::env::var_os("XENOLITH_KERNELS")?);
    let path = directory.join(version).join("vmlinuz");
    Some(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// What the format's own tool makes of the payload, found here by its magic number and not by the header.
fn reference(file: &[u8], magic: &[u8], tool: &str) -> Vec<u8> {
    let at = file.windows(magic.len()).position(|window| window == magic).expect("no payload");
    let mut child = Command::new(tool)
        .args(["-dcq"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null()) // it complains about what stands behind the payload
        .spawn()
        .expect("the tool is not installed");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let payload = file[at..].to_vec();
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&payload)));
    let output = child.wait_with_output().expect("the tool did not run").stdout;
    feeder.join().expect("the feeder panicked");
    output
}

fn extract(file: &[u8], format: Format) -> Vec<u8> {
    let file = KernelFile::parse(file).unwrap();
    assert_eq!(file.format(), format);
    let mut elf = vec![0; file.uncompressed_len()];
    file.extract_into(&mut elf).unwrap();
    elf
}

fn check_plan(elf: &[u8], initrd_len: u64) {
    let kernel = KernelInfo::parse(elf).unwrap();
    kernel.check_dom0().unwrap();
    assert_eq!(kernel.virt_base(), 0xffff_ffff_8000_0000);
    assert!(kernel.notes().mod_start_pfn);
    let nr_pages = 1 << 18;
    let plan = BuildPlan::new(&kernel, PlanInput { nr_pages, initrd_len, rings: false }).unwrap();
    assert_eq!(plan.p2m.va, kernel.notes().init_p2m.unwrap());
    assert_eq!(plan.bootstrap.va_end() % (4 << 20), 0);
    assert!(plan.bootstrap.va_end() - plan.stack.va_end() >= 512 << 10);
    assert_eq!(plan.initrd, Initrd::Unmapped { pfn: plan.bootstrap.pages, pages: initrd_len.div_ceil(4096) });
    let mut seen = HashSet::new();
    for entry in plan.page_table_entries() {
        assert!(seen.insert((entry.table, entry.index)));
        assert_eq!(plan.page_table_level(entry.table), Some(entry.level));
        assert_eq!(entry.target_is_table, plan.is_page_table(entry.target));
    }
    let mapped = plan.bootstrap.pages + plan.p2m.pages;
    assert_eq!(plan.page_table_entries().filter(|entry| entry.level == 1).count() as u64, mapped);
}

#[test]
fn debian_12() {
    let Some(file) = kernel("6.1") else { return };
    let elf = extract(&file, Format::Xz);
    assert!(elf == reference(&file, b"\xfd7zXZ\0", "xz"), "differs from xz -dc");
    check_plan(&elf, 100 << 20);
}

#[test]
fn debian_13() {
    let Some(file) = kernel("6.12") else { return };
    let elf = extract(&file, Format::Zstd);
    assert!(elf == reference(&file, b"\x28\xb5\x2f\xfd", "zstd"), "differs from zstd -dc");
    check_plan(&elf, 100 << 20);
}
