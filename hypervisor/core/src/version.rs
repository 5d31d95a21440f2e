//! `xen_version`: what the hypervisor says about itself (`version.h`, `features.h`).
//!
//! The version is that of the Xen release whose tools are to be used (`compat=`): Debian's wrapper picks the tool
//! stack by it.

use guest_abi::Errno;
use guest_abi::features::*;
use guest_abi::version::*;
use guest_abi::x86_64::HYPERVISOR_VIRT_START;
use guest_abi::xen::VMASST_TYPE_PAE_EXTENDED_CR3;
use hv_types::{GuestVa, PAGE_SIZE};
use zerocopy::{FromZeros, IntoBytes};

use crate::call::CallError;
use crate::port::GuestSpace;

/// What there is to say, from boot to halt.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Version of Xen that is reported.
    pub version: (u16, u16),
    /// Xenolith's own version, shown as the extra version.
    pub extra: &'a str,
    /// The compiler's version.
    pub compiler: &'a str,
    /// The commit that was built, if the build knew it.
    pub changeset: &'a str,
    /// When it was built; empty in reproducible builds.
    pub date: &'a str,
    /// The hypervisor's command line.
    pub command_line: &'a str,
    /// The image's build id.
    pub build_id: &'a [u8],
}

/// What is to be known of the caller.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// It is the initial domain.
    pub initial: bool,
    /// Its UUID.
    pub handle: [u8; 16],
    /// Bits of the `VMASST_TYPE_*` it switched on.
    pub assists: u64,
}

/// Kinds of guest that can be run (`xen-<abi>-x86_64`), each followed by a space.
const CAPABILITIES: &str = "xen-3.0-x86_64 ";
/// What a domain without privilege is told instead of the command line or the changeset.
const DENIED: &str = "<denied>";

/// Bytes of a text, padded with NULs; the last byte is always one.
fn text<const N: usize>(from: &str) -> [u8; N] {
    let mut out = [0; N];
    for (to, byte) in out.iter_mut().take(N.saturating_sub(1)).zip(from.bytes()) {
        *to = byte;
    }
    out
}

/// Feature bits of submap 0 for a PV domain.
fn features(caller: &Caller) -> u32 {
    let mut map = 1 << XENFEAT_MEMORY_OP_VNODE_SUPPORTED
        | 1 << XENFEAT_MMU_PT_UPDATE_PRESERVE_AD
        | 1 << XENFEAT_HIGHMEM_ASSIST
        | 1 << XENFEAT_GNTTAB_MAP_AVAIL_BITS
        | 1 << XENFEAT_DIRECT_MAPPED;
    if caller.initial {
        map |= 1 << XENFEAT_DOM0;
    }
    if caller.assists >> VMASST_TYPE_PAE_EXTENDED_CR3 & 1 != 0 {
        map |= 1 << XENFEAT_PAE_PGDIR_ABOVE_4GB;
    }
    map
}

/// Performs `xen_version`.
///
/// # Errors
/// `-EFAULT` if `argument` cannot be accessed, `-EINVAL` for a submap that does not exist, `-EPERM` for the command line
/// and the build id where the caller is not the initial domain, `-ENODATA` if there is no build id, `-ENOBUFS` if
/// it does not fit, `-ENOSYS` for an unknown command.
pub fn xen_version<G: GuestSpace>(
    guest: &G,
    identity: &Identity,
    caller: &Caller,
    command: u32,
    argument: GuestVa,
) -> Result<u64, CallError> {
    let put = |bytes: &[u8]| guest.write(argument, bytes).map(|()| 0).map_err(CallError::from);
    match command {
        XENVER_VERSION => Ok(u64::from(identity.version.0) << 16 | u64::from(identity.version.1)),
        XENVER_EXTRAVERSION => put(&text::<{ XEN_EXTRAVERSION_LEN as usize }>(identity.extra)),
        XENVER_COMPILE_INFO => put(XenCompileInfo {
            compiler: text(identity.compiler),
            compile_by: text("xenolith"),
            compile_domain: text(""),
            compile_date: text(identity.date),
        }
        .as_bytes()),
        XENVER_CAPABILITIES => put(&text::<{ XEN_CAPABILITIES_INFO_LEN as usize }>(CAPABILITIES)),
        XENVER_CHANGESET => put(&text::<{ XEN_CHANGESET_INFO_LEN as usize }>(identity.changeset)),
        XENVER_PLATFORM_PARAMETERS => {
            put(XenPlatformParameters { virt_start: HYPERVISOR_VIRT_START }.as_bytes())
        }
        XENVER_GET_FEATURES => {
            let mut info = XenFeatureInfo::new_zeroed();
            guest.read(argument, info.as_mut_bytes())?;
            if info.submap_idx >= XENFEAT_NR_SUBMAPS {
                return Err(Errno::EINVAL.into());
            }
            info.submap = features(caller);
            put(info.as_bytes())
        }
        XENVER_PAGESIZE => Ok(PAGE_SIZE),
        XENVER_GUEST_HANDLE => put(&caller.handle),
        XENVER_COMMANDLINE => {
            let line = if caller.initial { identity.command_line } else { DENIED };
            put(&text::<XEN_COMMANDLINE_LEN>(line))
        }
        XENVER_BUILD_ID => build_id(guest, identity, caller, argument),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// Answers the id's length; a null argument only asks for it.
fn build_id<G: GuestSpace>(
    guest: &G,
    identity: &Identity,
    caller: &Caller,
    argument: GuestVa,
) -> Result<u64, CallError> {
    if !caller.initial {
        return Err(Errno::EPERM.into());
    }
    let id = identity.build_id;
    if id.is_empty() {
        return Err(Errno::ENODATA.into());
    }
    if argument.0 != 0 {
        let mut head = XenBuildId::new_zeroed();
        guest.read(argument, head.as_mut_bytes())?;
        if head.len == 0 {
            return Err(Errno::EINVAL.into());
        }
        if (head.len as usize) < id.len() {
            return Err(Errno::ENOBUFS.into());
        }
        // The length is the answer; the structure's own stays what the guest wrote.
        guest.write(GuestVa(argument.0.wrapping_add(size_of::<XenBuildId>() as u64)), id)?;
    }
    Ok(id.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Fault;
    use core::cell::RefCell;

    const ID: Identity = Identity {
        version: (4, 17),
        extra: "-xl0.1",
        compiler: "rustc",
        changeset: "",
        date: "",
        command_line: "loglvl=all",
        build_id: &[1, 2, 3, 4],
    };
    const DOM0: Caller = Caller { initial: true, handle: [7; 16], assists: 0 };
    const DOMU: Caller = Caller { initial: false, ..DOM0 };

    struct Space(RefCell<Vec<u8>>);

    impl GuestSpace for Space {
        fn read(&self, from: GuestVa, into: &mut [u8]) -> Result<(), Fault> {
            let at = from.0 as usize;
            into.copy_from_slice(self.0.borrow().get(at..at + into.len()).ok_or(Fault)?);
            Ok(())
        }

        fn write(&self, to: GuestVa, from: &[u8]) -> Result<(), Fault> {
            let at = to.0 as usize;
            self.0.borrow_mut().get_mut(at..at + from.len()).ok_or(Fault)?.copy_from_slice(from);
            Ok(())
        }
    }

    fn space() -> Space {
        Space(RefCell::new(vec![0; 2048]))
    }

    #[test]
    fn the_version_is_the_one_whose_tools_are_wanted() {
        assert_eq!(xen_version(&space(), &ID, &DOM0, XENVER_VERSION, GuestVa(0)), Ok(4 << 16 | 17));
    }

    #[test]
    fn dom0_sees_the_features_of_the_reference_and_a_domu_no_dom0() {
        let s = space();
        assert_eq!(xen_version(&s, &ID, &DOM0, XENVER_GET_FEATURES, GuestVa(8)), Ok(0));
        assert_eq!(s.0.borrow()[12..16], 0x228e0u32.to_le_bytes());
        xen_version(&s, &ID, &DOMU, XENVER_GET_FEATURES, GuestVa(8)).unwrap();
        assert_eq!(s.0.borrow()[12..16], 0x220e0u32.to_le_bytes());
        s.0.borrow_mut()[8] = 1;
        assert_eq!(
            xen_version(&s, &ID, &DOM0, XENVER_GET_FEATURES, GuestVa(8)),
            Err(CallError::Errno(Errno::EINVAL))
        );
    }

    #[test]
    fn the_command_line_is_dom0s() {
        let s = space();
        xen_version(&s, &ID, &DOM0, XENVER_COMMANDLINE, GuestVa(8)).unwrap();
        assert_eq!(&s.0.borrow()[8..18], b"loglvl=all");
        xen_version(&s, &ID, &DOMU, XENVER_COMMANDLINE, GuestVa(8)).unwrap();
        assert_eq!(&s.0.borrow()[8..17], b"<denied>\0");
    }

    #[test]
    fn a_build_id_needs_room() {
        let s = space();
        assert_eq!(xen_version(&s, &ID, &DOM0, XENVER_BUILD_ID, GuestVa(0)), Ok(4));
        s.0.borrow_mut()[8] = 3;
        assert_eq!(
            xen_version(&s, &ID, &DOM0, XENVER_BUILD_ID, GuestVa(8)),
            Err(CallError::Errno(Errno::ENOBUFS))
        );
        s.0.borrow_mut()[8] = 20;
        assert_eq!(xen_version(&s, &ID, &DOM0, XENVER_BUILD_ID, GuestVa(8)), Ok(4));
        assert_eq!(s.0.borrow()[8..16], [20, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(
            xen_version(&s, &ID, &DOMU, XENVER_BUILD_ID, GuestVa(8)),
            Err(CallError::Errno(Errno::EPERM))
        );
    }

    #[test]
    fn an_unknown_command_and_a_bad_address_are_refused() {
        assert_eq!(xen_version(&space(), &ID, &DOM0, 99, GuestVa(0)), Err(CallError::Errno(Errno::ENOSYS)));
        assert_eq!(
            xen_version(&space(), &ID, &DOM0, XENVER_CAPABILITIES, GuestVa(4096)),
            Err(CallError::Errno(Errno::EFAULT))
        );
    }
}
