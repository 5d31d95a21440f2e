//! A domain that was built, looked at from the guest's side: through its page tables, as its kernel will.

#[path = "common/kernel.rs"]
mod kernel;

use guest_abi::xen::{SIF_MOD_START_PFN, StartInfo};
use kernel::{DATA_OFFSET, P2M, PHYS, VIRT_BASE};
use lith::build::{Kernel, Memory, Rings, fill};
use lith::error::Kind;
use lith::host::fake::{Fake, FakeDomain};
use lith::host::{Hypervisor, NewDomain, StartRegisters};
use proptest::prelude::*;
use zerocopy::FromBytes;

const PAGE: u64 = 4096;
const CMDLINE: &str = "console=hvc0 root=/dev/xvda1";
const RINGS: Rings = Rings { store_port: 1, console_port: 2, shared_info: 0x777 };

struct Built {
    domain: FakeDomain,
    registers: StartRegisters,
    plan: boot_image::BuildPlan,
    memory: Memory,
}

fn build(separate: bool, pages: u64, initrd: &[u8]) -> lith::error::Result<Built> {
    let host = Fake::new();
    let kernel = Kernel::unpack(kernel::elf(separate))?;
    let plan = kernel.plan(pages, initrd.len() as u64)?;
    let domid = host.create(&NewDomain { max_pages: pages, max_vcpus: 1, ..NewDomain::default() })?;
    let memory = Memory::populate(&host, domid, pages, &mut |_| {})?;
    let registers = fill(&host, domid, &kernel, &plan, &memory, (initrd, CMDLINE), RINGS)?;
    let domain = host.fake_domain(domid).unwrap();
    assert!(domain.registers.is_none(), "it could start before it has its devices");
    Ok(Built { domain, registers, plan, memory })
}

impl Built {
    fn frame(&self, mfn: u64) -> Vec<u8> {
        let mut frame = self.domain.frames[&mfn].clone();
        frame.resize(PAGE as usize, 0);
        frame
    }

    fn word(&self, mfn: u64, index: u64) -> u64 {
        let at = index as usize * 8;
        u64::from_le_bytes(self.frame(mfn)[at..at + 8].try_into().unwrap())
    }

    /// Walks the tables as a processor does: the frame, and whether every level allows writing.
    fn walk(&self, va: u64) -> Option<(u64, bool)> {
        let mut table = self.registers.root_mfn;
        let mut writable = true;
        for shift in [39, 30, 21, 12] {
            let entry = self.word(table, va >> shift & 511);
            if entry & 1 == 0 {
                return None;
            }
            writable &= entry & 2 != 0;
            table = entry >> 12 & 0xff_ffff_ffff;
        }
        Some((table, writable))
    }

    fn read(&self, va: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let at = va + bytes.len() as u64;
            let (mfn, _) = self.walk(at).unwrap_or_else(|| panic!("{at:#x} is not mapped"));
            bytes.extend_from_slice(&self.frame(mfn)[(at % PAGE) as usize..]);
        }
        bytes.truncate(len);
        bytes
    }

    fn start_info(&self) -> StartInfo {
        let bytes = self.read(self.registers.start_info, size_of::<StartInfo>());
        StartInfo::read_from_bytes(&bytes).unwrap()
    }
}

#[test]
fn the_kernel_finds_itself_and_its_start_information() {
    for separate in [false, true] {
        let initrd: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        let built = build(separate, 4096, &initrd).unwrap();
        let registers = built.registers;
        assert_eq!(registers.rip, VIRT_BASE + PHYS + 0x10);
        assert_eq!(built.read(VIRT_BASE + PHYS, kernel::code().len()), kernel::code());
        assert_eq!(built.read(VIRT_BASE + PHYS + DATA_OFFSET, kernel::data().len()), kernel::data());
        let start = built.start_info();
        assert!(start.magic.starts_with(b"xen-3.0"));
        assert_eq!(start.nr_pages, 4096);
        assert_eq!(start.shared_info, 0x777 * PAGE);
        assert!(start.cmd_line.starts_with(CMDLINE.as_bytes()) && start.cmd_line[CMDLINE.len()] == 0);
        assert_eq!((start.store_evtchn, start.console_evtchn), (1, 2));
        assert_eq!(start.mod_len, 10_000);
        assert_eq!(start.flags & SIF_MOD_START_PFN != 0, separate);
        if !separate {
            assert_eq!(built.read(start.mod_start, 10_000), initrd);
        } else {
            let mfn = built.memory.mfn(start.mod_start).unwrap();
            assert_eq!(built.frame(mfn)[..4096], initrd[..4096]);
            assert_eq!(start.mfn_list, P2M);
        }
        // The stack is mapped, writable, and below its pointer.
        assert!(built.walk(registers.rsp - 8).unwrap().1);
    }
}

#[test]
fn the_list_of_frames_is_the_memory_it_has() {
    // The last has a list that is written in more than one part.
    for (separate, pages) in [(false, 3000), (true, 3000), (true, 140_000)] {
        let built = build(separate, pages, &[]).unwrap();
        let list = built.read(built.start_info().mfn_list, pages as usize * 8);
        let list: Vec<u64> = list.chunks(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(list, built.memory.run(0, pages).unwrap());
        assert!(list.iter().all(|mfn| built.domain.frames.contains_key(mfn)));
        // Large pieces were there to be had.
        assert_eq!(list[0] % 512, 0);
        assert_eq!(list[511], list[0] + 511);
    }
}

#[test]
fn no_page_table_is_mapped_writable() {
    for separate in [false, true] {
        let built = build(separate, 4096, &[]).unwrap();
        let start = built.start_info();
        assert_eq!(built.domain.pinned, Some(built.registers.root_mfn));
        assert_eq!(built.walk(start.pt_base).unwrap().0, built.domain.pinned.unwrap());
        let mut tables = 0;
        let bootstrap = built.plan.bootstrap;
        for page in 0..bootstrap.pages {
            let (mfn, writable) = built.walk(bootstrap.va + page * PAGE).unwrap();
            assert_eq!(mfn, built.memory.mfn(page).unwrap());
            let is_table = built.plan.is_page_table(page);
            assert_eq!(writable, !is_table, "pfn {page:#x}");
            tables += u64::from(is_table);
        }
        assert_eq!(tables, start.nr_pt_frames);
    }
}

#[test]
fn dom0_is_granted_the_two_rings() {
    let built = build(true, 4096, &[]).unwrap();
    let start = built.start_info();
    assert_eq!(built.domain.grants, [(0, start.console), (1, start.store_mfn)].into());
    assert_ne!(start.console, start.store_mfn);
}

#[test]
fn what_is_no_kernel_is_refused_with_words() {
    for file in [Vec::new(), b"#!/bin/sh\n".to_vec(), kernel::elf(true)[..200].to_vec()] {
        let error = Kernel::unpack(file).and_then(|k| k.info().map(drop)).err().unwrap();
        assert_eq!(error.kind, Kind::Usage, "{error}");
    }
    let error = build(true, 100, &[]).err().unwrap();
    assert_eq!(error.kind, Kind::Resources);
    assert!(error.message.contains("MiB to start"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the size and the RAM disk: all frames are the domain's, each once, and the tables map the kernel.
    #[test]
    fn any_size_is_built(pages in 1500_u64..6000, initrd in 0_usize..1_000_000, separate in any::<bool>()) {
        let content = vec![0xa5; initrd];
        if let Ok(built) = build(separate, pages, &content) {
            let mut mfns = built.memory.run(0, built.memory.len()).unwrap();
            mfns.sort_unstable();
            mfns.dedup();
            prop_assert_eq!(mfns.len() as u64, pages);
            prop_assert_eq!(built.start_info().nr_pages, pages);
            prop_assert_eq!(built.read(VIRT_BASE + PHYS, 16), &kernel::code()[..16]);
        }
    }
}
