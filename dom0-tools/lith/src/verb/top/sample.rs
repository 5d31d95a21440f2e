//! What is to be seen at one moment, and what happened between two.

use super::permille;
use crate::domain::{self, Domain};
use crate::error::Result;
use crate::host::{self, Host};
use guest_abi::control::{HostInfo, VcpuInfo};
use std::collections::BTreeMap;

/// A domain as long as it lives, by number and time of creation: the number may be another one's later.
pub type Id = (u32, u64);

/// A vCPU.
#[derive(Clone, Debug)]
pub struct Vcpu {
    /// What the hypervisor says.
    pub info: VcpuInfo,
    /// Where it may run, a bit a CPU.
    pub hard: Vec<u64>,
    /// Where it likes to.
    pub soft: Vec<u64>,
}

impl Vcpu {
    fn look(host: &dyn Host, domid: u32, vcpu: u32) -> host::Result<Vcpu> {
        let (hard, soft) = host.affinity(domid, vcpu)?;
        Ok(Vcpu { info: host.vcpu(domid, vcpu)?, hard, soft })
    }
}

/// A domain and its vCPUs.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The domain.
    pub domain: Domain,
    /// Its vCPUs; fewer than it has if it went meanwhile.
    pub vcpus: Vec<Vcpu>,
}

/// The machine at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The machine. Its `uptime` is when this was.
    pub host: HostInfo,
    /// Domains.
    pub domains: BTreeMap<Id, Seen>,
}

/// Shares of a CPU in tenths of a per cent; more than 1000 for several vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// On a CPU.
    pub ran: u64,
    /// Wanted one and had none.
    pub waited: u64,
}

impl Sample {
    /// Looks.
    pub fn take(host: &dyn Host) -> Result<Sample> {
        // Names come from the store, which takes longer than the hypervisor, so the time is read just before.
        let machine = host.host_info()?;
        let mut domains = BTreeMap::new();
        for domain in domain::list(host)? {
            let vcpus = (0..domain.info.vcpus).map_while(|vcpu| Vcpu::look(host, domain.id(), vcpu).ok());
            let seen = Seen { vcpus: vcpus.collect(), domain };
            domains.insert((seen.domain.id(), seen.domain.info.created), seen);
        }
        Ok(Sample { host: machine, domains })
    }

    /// A domain's shares since an earlier look; since its creation if it was not seen then.
    pub fn rate(&self, id: Id, before: Option<&Sample>) -> Rate {
        let Some(now) = self.domains.get(&id) else { return Rate::default() };
        let then = before.and_then(|sample| Some((sample.host.uptime, sample.domains.get(&id)?)));
        let (since, ran) = then.map_or((id.1, 0), |(uptime, seen)| (uptime, seen.domain.info.cpu_time));
        let span = self.host.uptime.saturating_sub(since);
        let ran = permille(now.domain.info.cpu_time.saturating_sub(ran), span);
        let waited = (0..now.vcpus.len()).map(|vcpu| self.vcpu_rate(id, vcpu, before).waited);
        Rate { ran, waited: waited.sum() }
    }

    /// A vCPU's shares, of its own age: all of its times are of one moment, which may be a little after this look's.
    pub fn vcpu_rate(&self, id: Id, vcpu: usize, before: Option<&Sample>) -> Rate {
        let find =
            |sample: &Sample| sample.domains.get(&id).and_then(|d| d.vcpus.get(vcpu)).map(|v| v.info.time);
        let Some(now) = find(self) else { return Rate::default() };
        let then = before.and_then(find).unwrap_or_default();
        let mut spent = [0; 4];
        for (spent, (now, then)) in spent.iter_mut().zip(now.iter().zip(then)) {
            *spent = now.saturating_sub(then);
        }
        let age = spent.iter().fold(0, |sum: u64, ns| sum.saturating_add(*ns));
        Rate { ran: permille(spent[0], age), waited: permille(spent[1], age) }
    }

    /// Shares of all domains together.
    pub fn total(&self, before: Option<&Sample>) -> Rate {
        let rates = self.domains.keys().map(|id| self.rate(*id, before));
        rates.fold(Rate::default(), |sum, rate| Rate {
            ran: sum.ran.saturating_add(rate.ran),
            waited: sum.waited.saturating_add(rate.waited),
        })
    }
}
