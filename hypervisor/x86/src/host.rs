//! The machine as dom0 asks about it through `platform_op`.

use core::sync::atomic::Ordering;

use guest_abi::errno::Errno;
use hv_core::platform::memtype::{self, Range};
use hv_core::platform::op::{self as platform, Efi, EfiMemory, Processor, Sleep};
use hv_core::time::write_wall_clock;
use hv_types::DomId;

use crate::dev::{efi, firmware, sleep, time};
use crate::machine::Machine;
use crate::percpu::cpu_record;
use crate::{cpu, domain, parking};

/// The whole machine.
pub struct Host;

/// Writes the wall clock into a domain's shared page.
pub fn write_wall_clock_of(domain: &domain::Domain) {
    let since = time::wall_clock_base();
    write_wall_clock(&Machine, domain.shared_info, since / 1_000_000_000, (since % 1_000_000_000) as u32);
}

const MTRR_CAP: u32 = 0xfe;
const MTRR_BASE: u32 = 0x200;

impl platform::Machine for Host {
    fn set_wall_clock(&self, seconds: u64, nanoseconds: u32, system_time: u64) {
        time::set_wall_clock(seconds, nanoseconds, system_time);
        if let Some(dom0) = domain::find(DomId::DOM0) {
            write_wall_clock_of(dom0);
        }
    }

    fn system_time(&self) -> u64 {
        time::now()
    }

    fn memory_type(&self, register: u32) -> Option<Range> {
        let count = cpu::rdmsr_safe(MTRR_CAP)? as u32 & 0xff;
        if register >= count {
            return None;
        }
        let base = cpu::rdmsr_safe(MTRR_BASE + register * 2)?;
        let mask = cpu::rdmsr_safe(MTRR_BASE + register * 2 + 1)?;
        Some(memtype::decode(base, mask, physical_bits()))
    }

    fn efi(&self) -> Option<&Efi> {
        firmware::efi()
    }

    fn efi_memory(&self, address: u64) -> Option<EfiMemory> {
        efi::memory(&crate::start::boot_info()?.memory, address)
    }

    fn keyboard_flags(&self) -> Option<u8> {
        if firmware::efi().is_some() {
            return None;
        }
        // SAFETY: the BIOS's data area, part of the first MiB that the direct map shows.
        Some(unsafe { crate::mem::phys_to_virt(0x417).read_volatile() })
    }

    fn sleep(&self, request: Sleep) -> Result<(), Errno> {
        let platform = firmware::platform().ok_or(Errno::EPERM)?;
        Err(sleep::enter(platform, request))
    }

    fn last_processor(&self) -> u32 {
        parking::present().map(|cpu| cpu.id).max().unwrap_or(0)
    }

    fn processor(&self, number: u32) -> Option<Processor> {
        let record = parking::find(number)?;
        let (id, version) = (cpu::cpuid(0, 0), cpu::cpuid(1, 0).eax);
        let mut vendor = [0; 12];
        for (to, from) in vendor.chunks_exact_mut(4).zip([id.ebx, id.edx, id.ecx]) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        let (family, model) = (version >> 8 & 0xf, version >> 4 & 0xf);
        let family_full = if family == 0xf { family + (version >> 20 & 0xff) } else { family };
        let model_full = if family == 6 || family == 0xf { model | version >> 12 & 0xf0 } else { model };
        Some(Processor {
            apic_id: record.apic_id,
            acpi_id: number,
            online: record.online.load(Ordering::SeqCst),
            vendor,
            signature: [family_full, model_full, version & 0xf],
        })
    }

    fn idle_time(&self, number: u32) -> Option<u64> {
        let record = cpu_record(number as usize).filter(|cpu| cpu.online.load(Ordering::SeqCst))?;
        Some(record.idle_ns.load(Ordering::Relaxed))
    }

    fn set_online(&self, number: u32, online: bool) -> Result<bool, Errno> {
        parking::request(number, online)
    }
}

/// Bits of a machine address.
pub fn physical_bits() -> u32 {
    if cpu::cpuid(0x8000_0000, 0).eax >= 0x8000_0008 { cpu::cpuid(0x8000_0008, 0).eax & 0xff } else { 36 }
}
