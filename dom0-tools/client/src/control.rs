//! Xenolith's control interface, one function an operation (`guest_abi::control`, `docs/control-abi.md`).

use crate::privcmd::Arg;
use crate::{Error, PAGE, Privcmd, Result};
use guest_abi::control::*;
use guest_abi::x86_64::VcpuGuestContext;
use guest_abi::{Errno, Hypercall};
use zerocopy::{FromBytes, IntoBytes};

/// What the hypervisor knows of a domain's affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// CPUs it may run on: bit `n` of word `w` is CPU `64 w + n`.
    pub hard: [u64; AFFINITY_WORDS],
    /// CPUs it prefers.
    pub soft: [u64; AFFINITY_WORDS],
}

impl Privcmd {
    /// Makes any request of the interface that holds no pointer. The functions below are easier to use.
    ///
    /// # Errors
    /// The hypervisor's; [`Privcmd::failures`] has its reason in words.
    fn control<O: Operation>(&self, request: &mut O) -> Result<()> {
        let buffer = self.buffer(size_of::<O>())?;
        buffer.put(0, request);
        self.call(Hypercall::Control, O::NAME, [Arg::Pointer(&buffer)])?;
        buffer.get_into(0, request);
        Ok(())
    }

    /// A request that points at `room` bytes which go in and come back.
    fn control_with<O: Operation>(
        &self,
        request: &mut O,
        room: &mut [u8],
        point: impl FnOnce(&mut O, u64),
    ) -> Result<()> {
        let head = size_of::<O>().next_multiple_of(64);
        let buffer = self.buffer(head + room.len())?;
        point(request, buffer.address() + head as u64);
        buffer.put(0, request);
        buffer.put(head, &*room);
        self.call(Hypercall::Control, O::NAME, [Arg::Pointer(&buffer)])?;
        buffer.get_into(0, request);
        buffer.get_into(head, room);
        Ok(())
    }

    /// What this hypervisor can do.
    ///
    /// # Errors
    /// `ENOSYS` when it is not Xenolith.
    pub fn version(&self) -> Result<Version> {
        let mut request = Version::new();
        self.control(&mut request)?;
        Ok(request)
    }

    /// Makes a domain and returns its number: paused, without vCPUs and memory.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn create(&self, mut request: Create) -> Result<u16> {
        self.control(&mut request)?;
        u16::try_from(request.domid)
            .map_err(|_| Error::Argument("the hypervisor gave a number that is no domain's"))
    }

    /// Ends a domain; returns how many of its pages others still hold.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn destroy(&self, domid: u16) -> Result<u64> {
        let mut request = Destroy { domid: domid.into(), ..Destroy::new() };
        // Long work comes back for a rest.
        loop {
            match self.control(&mut request) {
                Err(error) if error.errno() == Some(Errno::EAGAIN) => std::thread::yield_now(),
                other => return other.map(|()| request.held_pages),
            }
        }
    }

    /// None of the domain's vCPUs runs from now on.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn pause(&self, domid: u16) -> Result<()> {
        self.control(&mut Pause { domid: domid.into(), ..Pause::new() })
    }

    /// Takes [`Privcmd::pause`] back.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn unpause(&self, domid: u16) -> Result<()> {
        self.control(&mut Unpause { domid: domid.into(), ..Unpause::new() })
    }

    /// How many pages a domain may have.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn set_max_mem(&self, domid: u16, max_pages: u64) -> Result<()> {
        self.control(&mut SetMaxMem { domid: domid.into(), max_pages, ..SetMaxMem::new() })
    }

    /// Promises a domain so many pages in all; 0 takes the promise back.
    ///
    /// # Errors
    /// `ENOMEM`: there are not so many. `EINVAL`: it has so many, may not have so many, or has a claim.
    pub fn claim(&self, domid: u16, pages: u64) -> Result<()> {
        self.control(&mut Claim { domid: domid.into(), pages, ..Claim::new() })
    }

    /// Gives a domain its vCPUs, all down.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn max_vcpus(&self, domid: u16, vcpus: u32) -> Result<()> {
        self.control(&mut MaxVcpus { domid: domid.into(), vcpus, ..MaxVcpus::new() })
    }

    /// Gives a vCPU its registers, tables and callbacks.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn set_vcpu_context(&self, domid: u16, vcpu: u32, context: &VcpuGuestContext) -> Result<()> {
        let mut bytes = context.as_bytes().to_vec();
        let mut request = SetVcpuContext { domid: domid.into(), vcpu, ..SetVcpuContext::new() };
        self.control_with(&mut request, &mut bytes, |request, address| request.context = address)
    }

    /// Reads a vCPU's registers, tables and callbacks.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn get_vcpu_context(&self, domid: u16, vcpu: u32) -> Result<VcpuGuestContext> {
        let mut context = VcpuGuestContext::default();
        let mut request = GetVcpuContext { domid: domid.into(), vcpu, ..GetVcpuContext::new() };
        self.control_with(&mut request, context.as_mut_bytes(), |request, address| {
            request.context = address
        })?;
        Ok(context)
    }

    /// What frames of a domain are used as (`PAGE_*`).
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn page_info(&self, domid: u16, frames: &[u64]) -> Result<Vec<u32>> {
        let mut types = Vec::with_capacity(frames.len());
        for chunk in frames.chunks(MAX_PAGE_INFO as usize) {
            let mut bytes = chunk.as_bytes().to_vec();
            bytes.resize(chunk.len() * 12, 0);
            let mut request = PageInfo { domid: domid.into(), count: chunk.len() as u32, ..PageInfo::new() };
            self.control_with(&mut request, &mut bytes, |request, address| {
                request.frames = address;
                request.types = address + size_of_val(chunk) as u64;
            })?;
            types.extend(words(&bytes[size_of_val(chunk)..]));
        }
        Ok(types)
    }

    /// Chooses on which CPUs a vCPU may run, or likes to; returns what counts now.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn set_affinity(
        &self,
        domid: u16,
        vcpu: u32,
        hard: Option<[u64; AFFINITY_WORDS]>,
        soft: Option<[u64; AFFINITY_WORDS]>,
    ) -> Result<Affinity> {
        let flags = hard.map_or(0, |_| AFFINITY_HARD) | soft.map_or(0, |_| AFFINITY_SOFT);
        let mut request = SetAffinity { domid: domid.into(), vcpu, flags, ..SetAffinity::new() };
        request.hard = hard.unwrap_or_default();
        request.soft = soft.unwrap_or_default();
        self.control(&mut request)?;
        Ok(Affinity { hard: request.hard, soft: request.soft })
    }

    /// On which CPUs a vCPU may run, and likes to.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn get_affinity(&self, domid: u16, vcpu: u32) -> Result<Affinity> {
        let mut request = GetAffinity { domid: domid.into(), vcpu, ..GetAffinity::new() };
        self.control(&mut request)?;
        Ok(Affinity { hard: request.hard, soft: request.soft })
    }

    /// Sets a domain's share of the CPUs: weight (0: leave it), and cap in per cent (0: none).
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn set_sched(&self, domid: u16, weight: u32, cap: Option<u32>) -> Result<()> {
        let set_cap = u32::from(cap.is_some());
        let cap = cap.unwrap_or(0);
        self.control(&mut SetSched { domid: domid.into(), weight, cap, set_cap, ..SetSched::new() })
    }

    /// A domain's share of the CPUs.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn get_sched(&self, domid: u16) -> Result<GetSched> {
        let mut request = GetSched { domid: domid.into(), ..GetSched::new() };
        self.control(&mut request)?;
        Ok(request)
    }

    /// A domain.
    ///
    /// # Errors
    /// `ESRCH` when there is none of that number.
    pub fn domain_info(&self, domid: u16) -> Result<DomainInfo> {
        let mut request = DomainInfo { domid: domid.into(), ..DomainInfo::new() };
        self.control(&mut request)?;
        Ok(request)
    }

    /// All domains, dying ones too, by number.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn domains(&self) -> Result<Vec<DomainInfo>> {
        let mut all = Vec::new();
        let mut next = 0;
        loop {
            let mut request = DomainInfo { domid: next, flags: INFO_NEXT, ..DomainInfo::new() };
            match self.control(&mut request) {
                Ok(()) if request.domid >= next => {}
                Ok(()) => return Err(Error::Argument("the hypervisor's list of domains goes backwards")),
                Err(error) if error.errno() == Some(Errno::ESRCH) => return Ok(all),
                Err(error) => return Err(error),
            }
            next = request.domid.saturating_add(1);
            all.push(request);
        }
    }

    /// A vCPU.
    ///
    /// # Errors
    /// `ESRCH` when there is no such domain, `EINVAL` when it has no such vCPU.
    pub fn vcpu_info(&self, domid: u16, vcpu: u32) -> Result<VcpuInfo> {
        let mut request = VcpuInfo { domid: domid.into(), vcpu, ..VcpuInfo::new() };
        self.control(&mut request)?;
        Ok(request)
    }

    /// The machine.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn host_info(&self) -> Result<HostInfo> {
        let mut request = HostInfo::new();
        self.control(&mut request)?;
        Ok(request)
    }

    /// Reads up to `room` bytes of the hypervisor's log, from `index` on or from its beginning; returns them and where
    /// to go on. With `clear`, forgets them.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn read_console(&self, index: Option<u64>, room: usize, clear: bool) -> Result<(Vec<u8>, u64)> {
        let mut bytes = vec![0; room.min(1 << 20)];
        let flags = index.map_or(0, |_| CONSOLE_INCREMENTAL) | if clear { CONSOLE_CLEAR } else { 0 };
        let mut request =
            ReadConsole { flags, count: bytes.len() as u32, index: index.unwrap_or(0), ..ReadConsole::new() };
        self.control_with(&mut request, &mut bytes, |request, address| request.buffer = address)?;
        bytes.truncate(request.count as usize);
        Ok((bytes, request.index))
    }

    /// Records of control operations that failed, oldest first, from `sequence` on (0: all there are); and where to go on.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn failures(&self, sequence: u64) -> Result<(Vec<Failure>, u64)> {
        let size = size_of::<Failure>();
        let mut bytes = vec![0; 64 * size];
        let mut request = Failures { sequence, count: 64, record_size: size as u32, ..Failures::new() };
        self.control_with(&mut request, &mut bytes, |request, address| request.buffer = address)?;
        Ok((records(&bytes, request.count), request.sequence))
    }

    /// The newest record of a control operation that failed.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn last_failure(&self) -> Result<Option<Failure>> {
        let (mut last, mut sequence) = (None, 0);
        loop {
            let (records, next) = self.failures(sequence)?;
            let Some(record) = records.last() else { return Ok(last) };
            last = Some(*record);
            if next <= sequence {
                return Ok(last);
            }
            sequence = next;
        }
    }

    /// Changes limits of a domain; 0 leaves one as it is.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn set_limits(&self, mut limits: SetLimits) -> Result<()> {
        self.control(&mut limits)
    }

    /// Shuts a domain down as if it had done so itself: `SHUTDOWN_*`.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn shutdown(&self, domid: u16, reason: u32) -> Result<()> {
        self.control(&mut Shutdown { domid: domid.into(), reason, ..Shutdown::new() })
    }

    /// Who holds pages of a domain, and how many pages are held together.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn holders(&self, domid: u16) -> Result<(Vec<Holder>, u64)> {
        let mut bytes = vec![0; PAGE];
        let count = (bytes.len() / size_of::<Holder>()) as u32;
        let mut request = Holders { domid: domid.into(), count, ..Holders::new() };
        self.control_with(&mut request, &mut bytes, |request, address| request.buffer = address)?;
        Ok((records(&bytes, request.count), request.total_pages))
    }

    /// Where the CPUs are.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn cpu_topology(&self) -> Result<Vec<CpuTopology>> {
        let mut all = Vec::new();
        loop {
            let mut bytes = vec![0; PAGE];
            let mut request = CpuTopologyInfo {
                first: all.len() as u32,
                count: (bytes.len() / size_of::<CpuTopology>()) as u32,
                ..CpuTopologyInfo::new()
            };
            self.control_with(&mut request, &mut bytes, |request, address| request.buffer = address)?;
            if request.count == 0 {
                return Ok(all);
            }
            all.extend(records::<CpuTopology>(&bytes, request.count));
        }
    }
}

/// A failure's reason as text.
pub fn reason(failure: &Failure) -> String {
    let end = failure.reason.iter().position(|byte| *byte == 0).unwrap_or(REASON);
    String::from_utf8_lossy(&failure.reason[..end]).into_owned()
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

/// Structures one after the other.
fn records<T: FromBytes>(bytes: &[u8], count: u32) -> Vec<T> {
    bytes
        .chunks_exact(size_of::<T>())
        .take(count as usize)
        .filter_map(|b| T::read_from_bytes(b).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_apart() {
        let holders = [Holder { domid: 1, kind: 2, pages: 3 }, Holder { domid: 4, kind: 5, pages: 6 }];
        assert_eq!(records::<Holder>(holders.as_bytes(), 2), holders);
        assert_eq!(records::<Holder>(holders.as_bytes(), 1), holders[..1]);
        assert_eq!(records::<Holder>(holders.as_bytes(), 9), holders, "no more than there is room for");
    }

    #[test]
    fn a_reason_ends_at_its_nul() {
        let mut failure: Failure = zerocopy::FromZeros::new_zeroed();
        failure.reason[..9].copy_from_slice(b"no memory");
        assert_eq!(reason(&failure), "no memory");
        failure.reason = [b'x'; REASON];
        assert_eq!(reason(&failure).len(), REASON);
    }
}
