//! Prints what is in a kernel file and where its parts would go in a new domain.
//!
//! `cargo run -p boot-image --example inspect -- VMLINUZ [MEMORY_MIB [INITRD_BYTES]]`

use boot_image::{BuildPlan, KernelFile, KernelInfo, PlanInput, Region};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: inspect VMLINUZ [MEMORY_MIB [INITRD_BYTES]]")?;
    let mib: u64 = args.next().map_or(Ok(1024), |text| text.parse())?;
    let initrd_len: u64 = args.next().map_or(Ok(0), |text| text.parse())?;

    let bytes = std::fs::read(path)?;
    let file = KernelFile::parse(&bytes)?;
    println!("format      {}, {} bytes uncompressed", file.format().name(), file.uncompressed_len());
    let started = std::time::Instant::now();
    let mut elf = vec![0; file.uncompressed_len()];
    file.extract_into(&mut elf)?;
    println!("extracted   in {:?}", started.elapsed());

    let kernel = KernelInfo::parse(&elf)?;
    println!("{:#x?}", kernel.notes());
    match kernel.check_dom0() {
        Ok(()) => println!("dom0        yes"),
        Err(error) => println!("dom0        {error}"),
    }
    for segment in kernel.segments() {
        println!(
            "segment     {:#x}, {:#x} of {:#x} bytes in the file",
            segment.va,
            segment.data.len(),
            segment.mem_len
        );
    }

    let input = PlanInput { nr_pages: mib * 256, initrd_len, rings: false };
    let plan = BuildPlan::new(&kernel, input)?;
    show("bootstrap", &plan.bootstrap);
    show("kernel", &plan.kernel);
    println!("initrd      {:x?}", plan.initrd);
    show("p2m", &plan.p2m);
    println!("p2m frames  {:#x?}", plan.p2m_frames);
    show("start_info", &plan.start_info);
    show("page tables", &plan.page_tables);
    show("stack", &plan.stack);
    println!("entry       {:#x}", plan.entry);
    println!("next pfn    {:#x}", plan.next_pfn);
    for level in (1..=4).rev() {
        let count = plan.page_table_entries().filter(|entry| entry.level == level).count();
        println!("level {level}     {count} entries");
    }
    Ok(())
}

fn show(name: &str, region: &Region) {
    println!(
        "{name:<11} {:#x}..{:#x}, pfn {:#x}, {} pages",
        region.va,
        region.va_end(),
        region.pfn,
        region.pages
    );
}
