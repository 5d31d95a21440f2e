use core::cell::{Cell, RefCell};

use super::*;
use crate::port::Fault;

/// A guest with 4 KiB at address 0x1000.
struct Guest(RefCell<Vec<u8>>);

const BASE: u64 = 0x1000;

impl GuestSpace for Guest {
    fn read(&self, from: GuestVa, into: &mut [u8]) -> Result<(), Fault> {
        let at = from.0.checked_sub(BASE).ok_or(Fault)? as usize;
        into.copy_from_slice(self.0.borrow().get(at..at + into.len()).ok_or(Fault)?);
        Ok(())
    }
    fn write(&self, to: GuestVa, from: &[u8]) -> Result<(), Fault> {
        let at = to.0.checked_sub(BASE).ok_or(Fault)? as usize;
        self.0.borrow_mut().get_mut(at..at + from.len()).ok_or(Fault)?.copy_from_slice(from);
        Ok(())
    }
}

impl Guest {
    fn with<T: IntoBytes + Immutable>(command: u32, argument: &T) -> Guest {
        let guest = Guest(RefCell::new(vec![0; 4096]));
        let mut op =
            XenPlatformOp { cmd: command, interface_version: XENPF_INTERFACE_VERSION, ..Default::default() };
        put(&mut op.u, argument).unwrap();
        guest.0.borrow_mut()[..136].copy_from_slice(op.as_bytes());
        guest
    }
    fn answer<T: FromBytes + KnownLayout + Immutable>(&self) -> T {
        T::read_from_bytes(&self.0.borrow()[8..8 + size_of::<T>()]).unwrap()
    }
    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let at = (at - BASE) as usize;
        self.0.borrow()[at..at + len].to_vec()
    }
}

/// Two processors, the second one off; one MTRR.
#[derive(Default)]
struct Pc {
    efi: Option<Efi>,
    log: RefCell<Vec<String>>,
    /// What the next change of a processor answers.
    going: Cell<Option<Result<bool, Errno>>>,
}

impl Machine for Pc {
    fn set_wall_clock(&self, s: u64, ns: u32, at: u64) {
        self.log.borrow_mut().push(format!("clock {s} {ns} {at}"));
    }
    fn system_time(&self) -> u64 {
        777
    }
    fn memory_type(&self, register: u32) -> Option<memtype::Range> {
        (register == 0).then_some(memtype::Range { mfn: 1, frames: 2, kind: 6 })
    }
    fn efi(&self) -> Option<&Efi> {
        self.efi.as_ref()
    }
    fn efi_memory(&self, address: u64) -> Option<EfiMemory> {
        (address == 0x5000).then_some(EfiMemory { address: 0x4000, size: 0x2000, attributes: 15, kind: 6 })
    }
    fn keyboard_flags(&self) -> Option<u8> {
        Some(0x20)
    }
    fn sleep(&self, sleep: Sleep) -> Result<(), Errno> {
        self.log.borrow_mut().push(format!("S{} {:#x}", sleep.state, sleep.a));
        Ok(())
    }
    fn last_processor(&self) -> u32 {
        1
    }
    fn processor(&self, number: u32) -> Option<Processor> {
        let vendor = *b"AuthenticAMD";
        let online = number == 0;
        let cpu = Processor {
            apic_id: number.wrapping_mul(2),
            acpi_id: number,
            online,
            vendor,
            signature: [6, 1, 2],
        };
        (number < 2).then_some(cpu)
    }
    fn idle_time(&self, number: u32) -> Option<u64> {
        (number == 0).then_some(42)
    }
    fn set_online(&self, number: u32, online: bool) -> Result<bool, Errno> {
        self.log.borrow_mut().push(format!("CPU {number} {}", if online { "on" } else { "off" }));
        self.going.take().unwrap_or(Ok(true))
    }
}

fn call(guest: &Guest, pc: &Pc) -> Result<(), Errno> {
    match platform_op(GuestVa(BASE), true, guest, pc) {
        Ok(()) => Ok(()),
        Err(CallError::Errno(errno)) => Err(errno),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn the_version_and_the_caller_are_checked() {
    let guest = Guest::with(XENPF_SETTIME64, &XenpfSettime64::default());
    assert_eq!(platform_op(GuestVa(BASE), false, &guest, &Pc::default()), Err(Errno::EPERM.into()));
    guest.0.borrow_mut()[4] = 2;
    assert_eq!(call(&guest, &Pc::default()), Err(Errno::EACCES));
    assert_eq!(platform_op(GuestVa(0), true, &guest, &Pc::default()), Err(Errno::EFAULT.into()));
}

#[test]
fn the_wall_clock_is_set_in_both_forms() {
    let pc = Pc::default();
    let long = XenpfSettime64 { secs: 1 << 33, nsecs: 5, mbz: 0, system_time: 9 };
    call(&Guest::with(XENPF_SETTIME64, &long), &pc).unwrap();
    let short = XenpfSettime32 { secs: 7, nsecs: 8, system_time: 9 };
    call(&Guest::with(XENPF_SETTIME32, &short), &pc).unwrap();
    let wrong = Guest::with(XENPF_SETTIME64, &XenpfSettime64 { mbz: 1, ..long });
    assert_eq!(call(&wrong, &pc), Err(Errno::EINVAL));
    assert_eq!(pc.log.take(), ["clock 8589934592 5 9", "clock 7 8 9"]);
}

#[test]
fn a_bios_machine_says_so() {
    let pc = Pc::default();
    for (kind, index, expected) in [
        (XEN_FW_EFI_INFO, XEN_FW_EFI_CONFIG_TABLE, Err(Errno::EOPNOTSUPP)),
        (XEN_FW_DISK_INFO, 0, Err(Errno::ESRCH)),
        (XEN_FW_DISK_MBR_SIGNATURE, 0, Err(Errno::ESRCH)),
        (XEN_FW_KBD_SHIFT_FLAGS, 0, Ok(())),
        (XEN_FW_KBD_SHIFT_FLAGS, 1, Err(Errno::ESRCH)),
        (9, 0, Err(Errno::EINVAL)),
    ] {
        let guest = Guest::with(XENPF_FIRMWARE_INFO, &XenpfFirmwareInfo { kind, index, u: [0; 4] });
        assert_eq!(call(&guest, &pc), expected, "{kind} {index}");
        if expected.is_ok() {
            assert_eq!(guest.answer::<XenpfFirmwareInfo>().u[0], 0x20);
        }
    }
}

#[test]
fn an_efi_machine_shows_its_tables() {
    let vendor = "EDK II".encode_utf16().collect();
    let efi = Efi { version: 0x20046, tables: 0x1234_5000, table_count: 9, revision: 3, vendor };
    let pc = Pc { efi: Some(efi), ..Default::default() };
    let ask = |index, u| {
        let info = XenpfFirmwareInfo { kind: XEN_FW_EFI_INFO, index, u };
        let guest = Guest::with(XENPF_FIRMWARE_INFO, &info);
        call(&guest, &pc).map(|()| (guest.answer::<XenpfFirmwareInfo>().u, guest))
    };
    let (u, _) = ask(XEN_FW_EFI_CONFIG_TABLE, [0; 4]).unwrap();
    assert_eq!((u[0], u[1] as u32), (0x1234_5000, 9));
    assert_eq!(ask(XEN_FW_EFI_VERSION, [0; 4]).unwrap().0[0], 0x20046);
    let (u, guest) = ask(XEN_FW_EFI_VENDOR, [8 << 32, BASE + 0x800, 0, 0]).unwrap();
    assert_eq!((u[0] as u32, guest.bytes(BASE + 0x800, 8)), (3, b"E\0D\0K\0\0\0".to_vec()));
    let (u, _) = ask(XEN_FW_EFI_MEM_INFO, [0x5000, 0, 0, 0]).unwrap();
    assert_eq!(u, [0x4000, 0x2000, 15, 6]);
    assert_eq!(ask(XEN_FW_EFI_MEM_INFO, [0; 4]).err(), Some(Errno::ESRCH));
    assert_eq!(ask(XEN_FW_EFI_RT_VERSION, [0; 4]).err(), Some(Errno::EOPNOTSUPP));
    assert_eq!(ask(XEN_FW_EFI_VENDOR, [8 << 32, 0, 0, 0]).err(), Some(Errno::EFAULT));
}

#[test]
fn sleeping_is_checked_before_it_is_done() {
    let pc = Pc::default();
    let off = XenpfEnterAcpiSleep { val_a: 0x2000, val_b: 0, sleep_state: 5, flags: 0 };
    assert_eq!(call(&Guest::with(XENPF_ENTER_ACPI_SLEEP, &off), &pc), Ok(()));
    for wrong in [
        XenpfEnterAcpiSleep { sleep_state: 4, ..off },
        XenpfEnterAcpiSleep { flags: 2, ..off },
        XenpfEnterAcpiSleep { val_b: 1, ..off },
        XenpfEnterAcpiSleep { flags: XENPF_ACPI_SLEEP_EXTENDED, val_a: 8, ..off },
    ] {
        assert_eq!(call(&Guest::with(XENPF_ENTER_ACPI_SLEEP, &wrong), &pc), Err(Errno::EINVAL));
    }
    assert_eq!(pc.log.take(), ["S5 0x2000"]);
}

#[test]
fn processors_are_listed() {
    let pc = Pc::default();
    for (number, flags, apic) in [(0, XEN_PCPU_FLAGS_ONLINE, 0), (1, 0, 2), (2, XEN_PCPU_FLAGS_INVALID, 0)] {
        let info = XenpfPcpuinfo { xen_cpuid: number, ..Default::default() };
        let guest = Guest::with(XENPF_GET_CPUINFO, &info);
        call(&guest, &pc).unwrap();
        let info: XenpfPcpuinfo = guest.answer();
        assert_eq!((info.max_present, info.flags, info.apic_id), (1, flags, apic));
    }
    let guest = Guest::with(XENPF_GET_CPU_VERSION, &XenpfPcpuVersion::default());
    call(&guest, &pc).unwrap();
    let version: XenpfPcpuVersion = guest.answer();
    assert_eq!((&version.vendor_id, version.family), (b"AuthenticAMD", 6));
}

#[test]
fn processors_go_offline_and_come_back() {
    let pc = Pc::default();
    let call_ol = |command, cpuid| call(&Guest::with(command, &XenpfCpuOl { cpuid }), &pc);
    assert_eq!(call_ol(XENPF_CPU_ONLINE, 0), Ok(()));
    assert_eq!(call_ol(XENPF_CPU_OFFLINE, 0), Err(Errno::EOPNOTSUPP));
    for command in [XENPF_CPU_ONLINE, XENPF_CPU_OFFLINE] {
        assert_eq!(call_ol(command, 2), Err(Errno::EINVAL));
        assert_eq!(call_ol(command, u32::MAX), Err(Errno::EINVAL));
    }
    assert!(pc.log.take().is_empty(), "what is refused is not begun");
    assert_eq!((call_ol(XENPF_CPU_OFFLINE, 1), call_ol(XENPF_CPU_ONLINE, 1)), (Ok(()), Ok(())));
    pc.going.set(Some(Err(Errno::EBUSY)));
    assert_eq!(call_ol(XENPF_CPU_OFFLINE, 1), Err(Errno::EBUSY));
    assert_eq!(pc.log.take(), ["CPU 1 off", "CPU 1 on", "CPU 1 off"]);
    pc.going.set(Some(Ok(false)));
    let guest = Guest::with(XENPF_CPU_OFFLINE, &XenpfCpuOl { cpuid: 1 });
    let again = Continuation { args: [BASE, 0, 0, 0] };
    assert_eq!(platform_op(GuestVa(BASE), true, &guest, &pc), Err(CallError::Retry(again)));
    assert_eq!(platform_op(GuestVa(BASE), true, &guest, &pc), Ok(()), "the same argument goes on");
}

#[test]
fn idle_times_come_for_the_processors_asked_for() {
    let op = XenpfGetidletime {
        cpumap_bitmap: BASE + 0x800,
        cpumap_nr_cpus: 64,
        idletime: BASE + 0x900,
        ..Default::default()
    };
    let guest = Guest::with(XENPF_GETIDLETIME, &op);
    guest.0.borrow_mut()[0x800..0x808].fill(0xff);
    call(&guest, &Pc::default()).unwrap();
    assert_eq!(guest.bytes(BASE + 0x800, 1), [1]);
    assert_eq!(guest.bytes(BASE + 0x900, 16), [42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(guest.answer::<XenpfGetidletime>().now, 777);
    let bad = Guest::with(XENPF_GETIDLETIME, &XenpfGetidletime { idletime: 0, ..op });
    bad.0.borrow_mut()[0x800] = 1;
    assert_eq!(call(&bad, &Pc::default()), Err(Errno::EFAULT));
}

#[test]
fn memory_types_end_with_an_error() {
    let ask = |reg| Guest::with(XENPF_READ_MEMTYPE, &XenpfReadMemtype { reg, ..Default::default() });
    let guest = ask(0);
    call(&guest, &Pc::default()).unwrap();
    let range: XenpfReadMemtype = guest.answer();
    assert_eq!((range.mfn, range.nr_mfns, range.kind), (1, 2, 6));
    assert_eq!(call(&ask(1), &Pc::default()), Err(Errno::EINVAL));
}

#[test]
fn what_is_not_done_says_so() {
    for command in [0, XENPF_ADD_MEMTYPE, XENPF_MICROCODE_UPDATE, XENPF_GET_SYMBOL, XENPF_CORE_PARKING, 99] {
        assert_eq!(call(&Guest::with(command, &[0u64; 16]), &Pc::default()), Err(Errno::ENOSYS));
    }
    let efi = Guest::with(XENPF_EFI_RUNTIME_CALL, &[0u64; 16]);
    assert_eq!(call(&efi, &Pc::default()), Err(Errno::EOPNOTSUPP));
}
