//! Golden bytes: what every request looked like when it was first published, it looks like for ever. Fields are filled with
//! their place in the structure, so that one which moves, shrinks or grows shows. Whoever appends a field appends to the bytes.

use super::*;

/// Fills each field with bytes that name it: the first after the header is all 01, the next all 02.
macro_rules! numbered {
    ($type:ident { $($field:ident),* $(,)? }) => {{
        let mut value = $type::new();
        let mut n = 0u8;
        $(
            n += 1;
            value.$field.as_mut_bytes().fill(n);
        )*
        let _ = n;
        value
    }};
}

/// `header` and then runs: `(how many bytes, of which value)`.
fn golden(size: u32, op: u32, runs: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = [size.to_le_bytes(), op.to_le_bytes()].concat();
    for (len, byte) in runs {
        bytes.extend(std::iter::repeat_n(*byte, *len));
    }
    bytes
}

/// One after the other, each of the width given.
fn fields(widths: &[usize]) -> Vec<(usize, u8)> {
    widths.iter().zip(1..).map(|(width, n)| (*width, n)).collect()
}

macro_rules! golden_tests {
    ($($test:ident: $type:ident { $($field:ident),* $(,)? } = $op:literal, $size:literal, [$($width:literal),* $(,)?];)*) => {
        $(
            #[test]
            fn $test() {
                let value = numbered!($type { $($field),* });
                assert_eq!(value.as_bytes(), golden($size, $op, &fields(&[$($width),*])));
                assert!(OPERATIONS.contains(&($op, stringify!($test), $size)), "{OPERATIONS:?}");
            }
        )*

        #[test]
        fn every_operation_has_its_golden_bytes() {
            assert_eq!(OPERATIONS.iter().map(|row| row.1).collect::<Vec<_>>(), [$(stringify!($test)),*]);
        }
    };
}

golden_tests! {
    version: Version { abi, operations, capabilities, hypervisor, max_domains, max_vcpus }
        = 0, 40, [4, 4, 8, 8, 4, 4];
    create: Create {
        flags, domid, handle, max_vcpus, max_evtchns, max_pages, max_grant_frames, max_maptrack,
    } = 1, 56, [4, 4, 16, 4, 4, 8, 4, 4];
    destroy: Destroy { domid, reserved, held_pages } = 2, 24, [4, 4, 8];
    pause: Pause { domid, reserved } = 3, 16, [4, 4];
    unpause: Unpause { domid, reserved } = 4, 16, [4, 4];
    set_max_mem: SetMaxMem { domid, reserved, max_pages } = 5, 24, [4, 4, 8];
    max_vcpus: MaxVcpus { domid, vcpus } = 6, 16, [4, 4];
    set_vcpu_context: SetVcpuContext { domid, vcpu, context } = 7, 24, [4, 4, 8];
    get_vcpu_context: GetVcpuContext { domid, vcpu, context } = 8, 24, [4, 4, 8];
    page_info: PageInfo { domid, count, frames, types } = 9, 32, [4, 4, 8, 8];
    set_affinity: SetAffinity { domid, vcpu, flags, reserved, hard, soft } = 10, 280, [4, 4, 4, 4, 128, 128];
    get_affinity: GetAffinity { domid, vcpu, flags, reserved, hard, soft } = 11, 280, [4, 4, 4, 4, 128, 128];
    set_sched: SetSched { domid, weight, cap, set_cap } = 12, 24, [4, 4, 4, 4];
    get_sched: GetSched { domid, weight, cap, reserved } = 13, 24, [4, 4, 4, 4];
    domain_info: DomainInfo {
        domid, flags, handle, state, shutdown_reason, pages, max_pages, outstanding_pages, shared_info_frame, cpu_time,
        created, online_vcpus, vcpus, max_vcpus, grant_frames, max_grant_frames, maptrack, max_maptrack, evtchns,
        max_evtchns, reserved,
    } = 14, 128, [4, 4, 16, 4, 4, 8, 8, 8, 8, 8, 8, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4];
    vcpu_info: VcpuInfo { domid, vcpu, flags, cpu, cpu_time, runstate, reserved, state_entry_time, time }
        = 15, 80, [4, 4, 4, 4, 8, 4, 4, 8, 32];
    host_info: HostInfo {
        online_cpus, max_cpus, threads_per_core, cores_per_socket, nodes, cpu_khz, uptime, total_pages, free_pages,
        hypervisor_pages, domain_pages, outstanding_pages, dom0_pages, max_frame, domains, vcpus, version,
    } = 16, 168, [4, 4, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8, 4, 4, 64];
    read_console: ReadConsole { flags, count, index, buffer } = 17, 32, [4, 4, 8, 8];
    failures: Failures { sequence, buffer, count, record_size } = 18, 32, [8, 8, 4, 4];
    set_limits: SetLimits { domid, max_grant_frames, max_maptrack, max_evtchns } = 19, 24, [4, 4, 4, 4];
    shutdown: Shutdown { domid, reason } = 20, 16, [4, 4];
    holders: Holders { domid, count, buffer, total_pages } = 21, 32, [4, 4, 8, 8];
    cpu_topology: CpuTopologyInfo { first, count, buffer } = 22, 24, [4, 4, 8];
    claim: Claim { domid, reserved, pages } = 23, 24, [4, 4, 8];
}

#[test]
fn records_keep_their_layout() {
    assert_eq!(size_of::<Failure>(), 128);
    let failure = Failure {
        sequence: 0x0101_0101_0101_0101,
        time: 0x0202_0202_0202_0202,
        op: 0x0303_0303,
        domid: 0x0404_0404,
        errno: 0x0505_0505,
        caller: 0x0606_0606,
        reason: [7; REASON],
    };
    let wanted: Vec<u8> = golden(0, 0, &fields(&[8, 8, 4, 4, 4, 4, 96])).split_off(8);
    assert_eq!(failure.as_bytes(), wanted);
    let holder = Holder { domid: 0x0101_0101, kind: 0x0202_0202, pages: 0x0303_0303_0303_0303 };
    assert_eq!(holder.as_bytes(), golden(0, 0, &fields(&[4, 4, 8])).split_off(8));
    let cpu = CpuTopology {
        cpu: 0x0101_0101,
        flags: 0x0202_0202,
        apic_id: 0x0303_0303,
        core: 0x0404_0404,
        socket: 0x0505_0505,
        node: 0x0606_0606,
    };
    assert_eq!(cpu.as_bytes(), golden(0, 0, &fields(&[4; 6])).split_off(8));
}

#[test]
fn the_tables_of_operations_agree() {
    let rows = crate::Hypercall::Control.suboperations();
    let names: Vec<_> = rows.iter().map(|op| (op.number, op.name)).collect();
    let ours: Vec<_> = OPERATIONS.iter().map(|row| (row.0, row.1)).collect();
    assert_eq!(names, ours);
    assert!(OPERATIONS.iter().all(|row| row.2 <= MAX_REQUEST as usize && row.2 % 8 == 0));
}

#[test]
fn numbers_of_flags_are_those_published() {
    assert_eq!((CONTROL_ABI, crate::call::number::CONTROL, ANY_DOMID), (1, 88, u32::MAX));
    assert_eq!(
        [DOMAIN_PRIVILEGED, DOMAIN_PAUSED, DOMAIN_SHUTDOWN, DOMAIN_DYING, DOMAIN_BLOCKED, DOMAIN_RUNNING],
        [1, 2, 4, 8, 16, 32]
    );
    assert_eq!([VCPU_ONLINE, VCPU_BLOCKED, VCPU_RUNNING, VCPU_INITIALISED], [1, 2, 4, 8]);
    assert_eq!(
        [PAGE_NOTAB, PAGE_L1TAB, PAGE_L2TAB, PAGE_L3TAB, PAGE_L4TAB, PAGE_PINNED, PAGE_XTAB],
        [0, 1, 2, 3, 4, 8, 15]
    );
    assert_eq!(
        [INFO_NEXT, AFFINITY_HARD, AFFINITY_SOFT, CONSOLE_CLEAR, CONSOLE_INCREMENTAL, CPU_ONLINE],
        [1, 1, 2, 1, 2, 1]
    );
    assert_eq!([HOLDER_GRANT, HOLDER_FOREIGN, SHUTDOWN_NONE], [1, 2, u32::MAX]);
    assert_eq!(CAPABILITY_PV64, 1);
}
