//! Making a domain: in phases, each timed; an error names its phase and undoes all that was done.

use crate::build::{Kernel, Memory, Rings, fill};
use crate::config::{DomainConfig, bytes_text};
use crate::device::{Block, CONNECT_LIMIT, Network};
use crate::domain::{self, StoreEntry, uuid_bytes, uuid_text};
use crate::error::{Error, Kind, Result};
use crate::host::{Host, NewDomain};
use boot_image::{BuildPlan, PAGE_SIZE};
use guest_abi::control::{DOMAIN_DYING, HostInfo, OP_DOMAIN_INFO};
use std::path::Path;
use std::time::Duration;

/// Pages that a domain may have beyond its memory, for Linux's ballooning to be off by a little.
const SLACK: u64 = 256;

/// Where unpacked kernels are kept.
const UNPACKED: &str = "/var/cache/xenolith/kernels";
/// How many.
const MOST_UNPACKED: usize = 2;

/// Who watches a domain being made.
pub trait Progress {
    /// A phase begins.
    fn phase(&mut self, name: &'static str);
    /// So much of it is done.
    fn amount(&mut self, done: u64, total: u64);
}

/// Nobody.
pub struct Quiet;

impl Progress for Quiet {
    fn phase(&mut self, _: &'static str) {}
    fn amount(&mut self, _: u64, _: u64) {}
}

/// A domain that was made.
#[derive(Clone, Debug)]
pub struct Created {
    /// Its number.
    pub domid: u32,
    /// Its UUID.
    pub uuid: String,
    /// How long each phase took.
    pub phases: Vec<(&'static str, Duration)>,
}

/// Makes a domain; it is paused.
pub fn create(host: &dyn Host, config: &DomainConfig, progress: &mut dyn Progress) -> Result<Created> {
    let mut maker = Maker { host, config, progress, phases: Vec::new(), began: host.now(), domid: None };
    let first_failure = host.failures(0).ok().and_then(|all| all.last().map(|f| f.sequence)).unwrap_or(0);
    match maker.make() {
        Ok((domid, uuid)) => {
            maker.end_phase();
            Ok(Created { domid, uuid, phases: maker.phases })
        }
        Err(error) => Err(maker.undo(error, first_failure)),
    }
}

/// What is checked before anything is done: also what `check` tells.
pub fn preflight(host: &dyn Host, config: &DomainConfig) -> Result<()> {
    // Of one that dies the last pages may be held for long; its name and its place in the store are free.
    let alive: Vec<_> =
        domain::list(host)?.into_iter().filter(|d| d.info.state & DOMAIN_DYING == 0).collect();
    if alive.iter().any(|d| d.name == config.name) {
        return Err(Error::new(Kind::WrongState, format!("there is a domain {} already", config.name))
            .hint(format!("`lith destroy {}` ends it", config.name)));
    }
    let uuid = config.uuid.as_deref().and_then(uuid_bytes);
    if let Some(twin) = alive.iter().find(|d| Some(d.info.handle) == uuid) {
        return Err(Error::new(Kind::WrongState, format!("the domain {} has this UUID already", twin.name)));
    }
    memory_fits(&host.host_info()?, config)
}

fn memory_fits(info: &HostInfo, config: &DomainConfig) -> Result<()> {
    let free = info.free_pages.saturating_mul(PAGE_SIZE);
    if config.memory <= free {
        return Ok(());
    }
    Err(Error::new(
        Kind::Resources,
        format!(
            "the domain needs {}, and {} are free: dom0 has {}, other domains {}, the hypervisor {}{}",
            bytes_text(config.memory),
            bytes_text(free),
            bytes_text(info.dom0_pages * PAGE_SIZE),
            bytes_text(info.domain_pages.saturating_sub(info.dom0_pages) * PAGE_SIZE),
            bytes_text(info.hypervisor_pages * PAGE_SIZE),
            match info.outstanding_pages {
                0 => String::new(),
                pages => format!(
                    ", and {} are promised to domains that are being made",
                    bytes_text(pages * PAGE_SIZE)
                ),
            },
        ),
    )
    .hint("`lith mem-set 0 SIZE` takes memory from dom0"))
}

struct Maker<'a> {
    host: &'a dyn Host,
    config: &'a DomainConfig,
    progress: &'a mut dyn Progress,
    phases: Vec<(&'static str, Duration)>,
    began: Duration,
    domid: Option<u32>,
}

impl Maker<'_> {
    fn phase(&mut self, name: &'static str) {
        self.end_phase();
        self.phases.push((name, Duration::ZERO));
        self.progress.phase(name);
    }

    fn end_phase(&mut self) {
        let now = self.host.now();
        if let Some((_, time)) = self.phases.last_mut() {
            *time = now.saturating_sub(self.began);
        }
        self.began = now;
    }

    fn make(&mut self) -> Result<(u32, String)> {
        let (host, config) = (self.host, self.config);
        self.phase("check");
        preflight(host, config)?;
        let uuid = match config.uuid.as_deref().and_then(uuid_bytes) {
            Some(uuid) => uuid,
            None => random_uuid(host)?,
        };
        self.phase("kernel");
        let kernel = self.kernel()?;
        let initrd = match &config.ramdisk {
            Some(path) => read(host, "ramdisk", path)?,
            None => Vec::new(),
        };
        let pages = config.memory / PAGE_SIZE;
        let plan = kernel.plan(pages, initrd.len() as u64).map_err(|e| e.context(config.kernel.display()))?;
        self.phase("domain");
        let domid = self.new_domain(uuid)?;
        self.phase("memory");
        self.claim(domid, pages)?;
        let progress = &mut *self.progress;
        let memory = Memory::populate(host, domid, pages, &mut |done| progress.amount(done, pages))?;
        self.phase("image");
        let rings = Rings {
            store_port: host.unbound_port(domid)?,
            console_port: host.unbound_port(domid)?,
            shared_info: self.shared_info(domid)?,
        };
        let registers = fill(host, domid, &kernel, &plan, &memory, (&initrd, &config.cmdline), rings)?;
        self.phase("store");
        self.store(domid, &uuid_text(&uuid), (&plan, &memory), rings)?;
        self.phase("devices");
        self.devices(domid, &uuid)?;
        // Last, so that nothing can start what is not complete.
        host.start_registers(domid, &registers)?;
        Ok((domid, uuid_text(&uuid)))
    }

    /// Promises it its memory before the long work begins: of two domains that are made at the same time, for which there is not enough,
    /// one is made, and the other is told now.
    fn claim(&self, domid: u32, pages: u64) -> Result<()> {
        match self.host.claim(domid, pages) {
            Ok(()) => Ok(()),
            Err(error) => {
                memory_fits(&self.host.host_info()?, self.config)?;
                Err(error.into())
            }
        }
    }

    /// The kernel: as it was unpacked before, if its file is the same, or from the file.
    fn kernel(&self) -> Result<Kernel> {
        let (host, path) = (self.host, &self.config.kernel);
        let wrong = |error: Error| error.context(path.display());
        let kept = host.file_version(path).map(|version| Path::new(UNPACKED).join(version));
        if let Some(elf) = kept.as_ref().and_then(|kept| host.read_file(kept).ok())
            && let Ok(kernel) = Kernel::unpack(elf)
            && kernel.info().is_ok()
        {
            return Ok(kernel);
        }
        let kernel = Kernel::unpack(read(host, "kernel", path)?).map_err(wrong)?;
        if let Some(kept) = kept {
            self.keep(&kept, kernel.elf());
        }
        Ok(kernel)
    }

    /// Keeps an unpacked kernel for the next domain, and none but the last few. A disk that is full is no reason to fail.
    fn keep(&self, file: &Path, elf: &[u8]) {
        let dir = Path::new(UNPACKED);
        let others = self.host.files(dir);
        for old in others.iter().take(others.len().saturating_sub(MOST_UNPACKED - 1)) {
            let _ = self.host.remove_file(&dir.join(old));
        }
        let _ = self.host.write_file(file, elf);
    }

    fn new_domain(&mut self, uuid: [u8; 16]) -> Result<u32> {
        let (host, config) = (self.host, self.config);
        let domid = host.create(&NewDomain {
            uuid,
            max_vcpus: config.maxvcpus,
            max_pages: config.maxmem / PAGE_SIZE + SLACK,
            max_grant_frames: config.max_grant_frames.unwrap_or(0),
            max_maptrack: config.max_maptrack_frames.unwrap_or(0).saturating_mul(512),
            max_evtchns: config.max_event_channels.unwrap_or(0),
        })?;
        self.domid = Some(domid);
        host.set_vcpus(domid, config.maxvcpus)?;
        host.set_memory_map(domid, config.maxmem / PAGE_SIZE + SLACK)?;
        if config.cpus.is_some() || config.cpus_soft.is_some() {
            let cpus = host.host_info()?.max_cpus;
            for vcpu in 0..config.maxvcpus {
                let hard = config.cpus.as_ref().map(|a| a.of(vcpu).bitmap(cpus));
                let soft = config.cpus_soft.as_ref().map(|a| a.of(vcpu).bitmap(cpus));
                host.set_affinity(domid, vcpu, hard.as_deref(), soft.as_deref())?;
            }
        }
        if config.cpu_weight.is_some() || config.cap.is_some() {
            host.set_sched(domid, config.cpu_weight, config.cap)?;
        }
        Ok(domid)
    }

    fn shared_info(&self, domid: u32) -> Result<u64> {
        let info = self.host.domain(domid)?;
        info.map(|info| info.shared_info_frame)
            .ok_or_else(|| Error::new(Kind::Other, "the new domain is gone"))
    }

    fn store(
        &self,
        domid: u32,
        uuid: &str,
        (plan, memory): (&BuildPlan, &Memory),
        rings: Rings,
    ) -> Result<()> {
        let config = self.config;
        let frame = |region: Option<boot_image::Region>| region.map_or(Ok(0), |r| memory.mfn(r.pfn));
        StoreEntry {
            domid,
            name: &config.name,
            uuid,
            target_kib: config.memory / 1024,
            max_kib: config.maxmem / 1024,
            max_vcpus: config.maxvcpus,
            vcpus: config.vcpus,
            store: (frame(plan.xenstore)?, rings.store_port),
            console: (frame(plan.console)?, rings.console_port),
        }
        .write(self.host)
    }

    fn devices(&self, domid: u32, uuid: &[u8; 16]) -> Result<()> {
        for disk in &self.config.disk {
            Block::attach(self.host, domid, disk).map_err(|e| e.context(format!("disk {}", disk.vdev)))?;
        }
        for (number, vif) in (0..).zip(&self.config.vif) {
            let vif = Network::with_address(vif, uuid, number);
            Network::attach(self.host, domid, number, &vif)
                .map_err(|e| e.context(format!("interface {number}")))?;
        }
        Ok(())
    }

    /// Removes what there is of the domain, and says in which phase it failed and what the hypervisor's reason was.
    fn undo(&self, mut error: Error, first_failure: u64) -> Error {
        let reasons = self.host.failures(first_failure + 1).unwrap_or_default();
        if let Some(failure) =
            reasons.iter().rev().find(|f| f.op != OP_DOMAIN_INFO && self.domid.is_none_or(|id| f.domid == id))
        {
            error.message += &format!(" (the hypervisor: {})", reason_text(&failure.reason));
        }
        if let Some((phase, _)) = self.phases.last() {
            error = error.context(format!("phase `{phase}`"));
        }
        if let Some(domid) = self.domid {
            match domain::teardown(self.host, domid) {
                Ok(0) => {}
                Ok(held) => error.message += &format!("; {held} pages of domain {domid} are still held"),
                Err(left) => error.message += &format!("; domain {domid} could not be removed: {left}"),
            }
        }
        error
    }
}

/// The hypervisor's words in a failure.
pub fn reason_text(reason: &[u8]) -> String {
    let end = reason.iter().position(|b| *b == 0).unwrap_or(reason.len());
    String::from_utf8_lossy(&reason[..end]).into_owned()
}

fn read(host: &dyn Host, key: &str, path: &Path) -> Result<Vec<u8>> {
    host.read_file(path).map_err(|error| {
        Error { kind: Kind::Usage, ..Error::from(error) }
            .context(format!("`{key}`"))
            .hint("the file is looked for in dom0")
    })
}

fn random_uuid(host: &dyn Host) -> Result<[u8; 16]> {
    let mut uuid = host.random()?;
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(uuid)
}

/// Waits until the devices of a domain that runs are connected.
pub fn wait_devices(host: &dyn Host, domid: u32) -> Result<()> {
    for device in crate::device::all(host, domid)? {
        device.wait_connected(host, CONNECT_LIMIT)?;
    }
    Ok(())
}
