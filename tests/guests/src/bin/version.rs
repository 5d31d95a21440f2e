//! What the hypervisor says about itself.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::version::*;
use claim::hypercall::command;
use claim::{ask, call, say};

claim::claim!(run);

fn run() {
    let version = call(Hypercall::XenVersion, &[u64::from(XENVER_VERSION), 0]);
    say!("version: {}.{}", version >> 16, version & 0xffff);
    ask!("page size", call(Hypercall::XenVersion, &[u64::from(XENVER_PAGESIZE), 0]));
    texts();
    features();
    build_id();
    let mut parameters = XenPlatformParameters::default();
    ask!("platform parameters", ask_for(XENVER_PLATFORM_PARAMETERS, &mut parameters));
    say!("begins at {:#x}", parameters.virt_start);
    let mut handle = [0xff_u8; 16];
    ask!("handle", ask_for(XENVER_GUEST_HANDLE, &mut handle));
    say!("handle is zero: {}", handle == [0; 16]);
    ask!("unknown command", ask_for(99, &mut handle));
    ask!("bad address", call(Hypercall::XenVersion, &[u64::from(XENVER_EXTRAVERSION), 0x1000]));
    ask!(
        "hypervisor's address",
        call(Hypercall::XenVersion, &[u64::from(XENVER_CAPABILITIES), 0xffff_8300_0000_0000])
    );
}

fn ask_for<T>(what: u32, into: &mut T) -> i64 {
    command(Hypercall::XenVersion, what, into)
}

fn texts() {
    let mut text = [0xff_u8; 1024];
    for (name, what, length) in [
        ("extra version", XENVER_EXTRAVERSION, 16),
        ("capabilities", XENVER_CAPABILITIES, 1024),
        ("changeset", XENVER_CHANGESET, 64),
        ("command line", XENVER_COMMANDLINE, XEN_COMMANDLINE_LEN),
    ] {
        let answer = ask_for(what, &mut text);
        let ends = text[..length].contains(&0);
        say!("{name}: {}, ends within {length}: {ends}", claim::Answer(answer));
        if what == XENVER_CAPABILITIES {
            say!("names PV guests: {}", text.starts_with(b"xen-3.0-x86_64 "));
        }
    }
    let mut compile = XenCompileInfo::default();
    ask!("compile info", ask_for(XENVER_COMPILE_INFO, &mut compile));
}

fn features() {
    for submap_idx in [0, 1, u32::MAX] {
        let mut info = XenFeatureInfo { submap_idx, submap: 0xdead };
        let answer = ask_for(XENVER_GET_FEATURES, &mut info);
        say!("features {submap_idx:#x}: {} {:#x}", claim::Answer(answer), info.submap);
    }
}

fn build_id() {
    let length = call(Hypercall::XenVersion, &[u64::from(XENVER_BUILD_ID), 0]);
    say!("build id has a length: {}", length > 0);
    let mut room = [0_u32; 20];
    ask!("build id into no room", ask_for(XENVER_BUILD_ID, &mut room));
    room[0] = 1;
    ask!("build id into one byte", ask_for(XENVER_BUILD_ID, &mut room));
    room[0] = 64;
    let answer = ask_for(XENVER_BUILD_ID, &mut room);
    say!(
        "build id into 64 bytes: answers its length {}, writes its length {}",
        answer == length,
        i64::from(room[0]) == length
    );
    say!("build id has bytes: {}", room[1] != 0);
}
