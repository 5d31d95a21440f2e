//! Hypercalls about event channels of other domains, about shutdown and about the hypervisor itself.

use crate::privcmd::Arg;
use crate::{Privcmd, Result};
use guest_abi::Hypercall;
use guest_abi::event_channel::*;
use guest_abi::sched::{SCHEDOP_REMOTE_SHUTDOWN, SchedRemoteShutdown};
use guest_abi::version::*;

impl Privcmd {
    /// Makes a port in `domid` that `remote` may connect to.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn evtchn_alloc_unbound(&self, domid: u16, remote: u16) -> Result<u32> {
        let mut op = EvtchnAllocUnbound { dom: domid, remote_dom: remote, port: 0 };
        self.command(
            Hypercall::EventChannelOp,
            "event_channel_op alloc_unbound",
            EVTCHNOP_ALLOC_UNBOUND,
            &mut op,
        )?;
        Ok(op.port)
    }

    /// What a port of `domid` is.
    ///
    /// # Errors
    /// `EINVAL` when the domain has no such port.
    pub fn evtchn_status(&self, domid: u16, port: u32) -> Result<EvtchnStatus> {
        let mut op = EvtchnStatus { dom: domid, port, ..Default::default() };
        self.command(Hypercall::EventChannelOp, "event_channel_op status", EVTCHNOP_STATUS, &mut op)?;
        Ok(op)
    }

    /// Closes all ports of another domain.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn evtchn_reset(&self, domid: u16) -> Result<()> {
        let mut op = EvtchnReset { dom: domid };
        self.command(Hypercall::EventChannelOp, "event_channel_op reset", EVTCHNOP_RESET, &mut op).map(drop)
    }

    /// Shuts a domain down from outside: `SHUTDOWN_*`.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn remote_shutdown(&self, domid: u16, reason: u32) -> Result<()> {
        let mut op = SchedRemoteShutdown { domain_id: domid, _pad: 0, reason };
        self.command(Hypercall::SchedOp, "sched_op remote_shutdown", SCHEDOP_REMOTE_SHUTDOWN, &mut op)
            .map(drop)
    }

    /// The Xen version that the hypervisor says it is compatible with: major, minor.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn xen_version(&self) -> Result<(u16, u16)> {
        let args = [Arg::Value(u64::from(XENVER_VERSION)), Arg::Value(0)];
        let version = self.call(Hypercall::XenVersion, "xen_version version", args)?;
        Ok(((version >> 16) as u16, version as u16))
    }

    /// What follows the version's numbers.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn extra_version(&self) -> Result<String> {
        self.version_text(XENVER_EXTRAVERSION, "xen_version extraversion", XEN_EXTRAVERSION_LEN as usize)
    }

    /// Kinds of guests that it runs, separated by blanks.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn capabilities(&self) -> Result<String> {
        self.version_text(XENVER_CAPABILITIES, "xen_version capabilities", XEN_CAPABILITIES_INFO_LEN as usize)
    }

    /// Its command line.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn command_line(&self) -> Result<String> {
        self.version_text(XENVER_COMMANDLINE, "xen_version commandline", XEN_COMMANDLINE_LEN)
    }

    fn version_text(&self, command: u32, name: &'static str, len: usize) -> Result<String> {
        let buffer = self.buffer(len)?;
        self.call(Hypercall::XenVersion, name, [Arg::Value(u64::from(command)), Arg::Pointer(&buffer)])?;
        let mut bytes = vec![0; len];
        buffer.get_into(0, &mut bytes[..]);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(len);
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}
