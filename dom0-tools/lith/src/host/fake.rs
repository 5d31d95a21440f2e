//! A machine in memory: a hypervisor that accounts for every page, a store, dom0's backends, and guests that behave as
//! told. Time passes only when somebody waits, and then the guests act.

use super::{
    BlockDevice, Change, Changes, HostError, Hypervisor, NewDomain, Parts, Result, StartRegisters, Store,
    System, errno_text,
};
use guest_abi::control::{self, DomainInfo, Failure, Holder, HostInfo, VcpuInfo, Version};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const ENOMEM: i32 = 12;
const EBUSY: i32 = 16;
const EINVAL: i32 = 22;
const PAGE: usize = 4096;
/// Pages that the fake hypervisor keeps for a domain.
const OVERHEAD: u64 = 19;

/// What a guest does when it has time.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Its frontends connect.
    pub connects: bool,
    /// It does as `control/shutdown` says.
    pub obeys: bool,
    /// It gives back memory that it is asked for.
    pub balloons: bool,
    /// It crashes on its first step.
    pub crashes: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { connects: true, obeys: true, balloons: true, crashes: false }
    }
}

/// A domain of the fake.
#[derive(Clone, Debug)]
pub struct FakeDomain {
    /// What the hypervisor tells about it.
    pub info: DomainInfo,
    /// What it does.
    pub behaviour: Behaviour,
    /// Its frames with their contents.
    pub frames: BTreeMap<u64, Vec<u8>>,
    /// The pinned root.
    pub pinned: Option<u64>,
    /// Grants to dom0: reference and frame.
    pub grants: BTreeMap<u32, u64>,
    /// vCPU 0's registers.
    pub registers: Option<StartRegisters>,
    spent: Option<[u64; 4]>,
    hard: BTreeMap<u32, Vec<u64>>,
    soft: BTreeMap<u32, Vec<u64>>,
    sched: (u32, u32),
}

#[derive(Default)]
struct State {
    domains: BTreeMap<u32, FakeDomain>,
    failures: Vec<Failure>,
    next_mfn: u64,
    nodes: BTreeMap<String, String>,
    permissions: BTreeMap<String, Vec<(u32, char)>>,
    introduced: BTreeSet<u32>,
    files: BTreeMap<String, Vec<u8>>,
    loops: BTreeMap<String, String>,
    interfaces: BTreeMap<String, Option<String>>,
    supervised: Vec<u32>,
    logs: BTreeMap<String, Vec<u8>>,
    refuse: BTreeMap<String, (i32, String)>,
}

/// The machine.
pub struct Fake {
    state: RefCell<State>,
    now: Cell<Duration>,
    total: u64,
    behaviour: RefCell<Behaviour>,
    held: Cell<u64>,
    promise: Cell<u64>,
}

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    /// A machine of 1 GiB and four CPUs, with a dom0 of 256 MiB, a bridge `xenbr0` and the files of a Debian.
    pub fn new() -> Fake {
        let fake = Fake {
            state: RefCell::default(),
            now: Cell::new(Duration::from_secs(100)),
            total: 256 << 10,
            behaviour: RefCell::default(),
            held: Cell::new(0),
            promise: Cell::new(0),
        };
        {
            let mut state = fake.state.borrow_mut();
            state.next_mfn = 0x1000;
            let mut dom0 =
                FakeDomain::new(0, &NewDomain { max_vcpus: 4, ..NewDomain::default() }, Duration::ZERO);
            dom0.info.state = control::DOMAIN_PRIVILEGED | control::DOMAIN_RUNNING;
            dom0.info.pages = 64 << 10;
            dom0.info.max_pages = 64 << 10;
            dom0.info.vcpus = 4;
            dom0.info.online_vcpus = 4;
            dom0.info.cpu_time = 8_200_000_000;
            state.domains.insert(0, dom0);
            for (path, value) in [("/local/domain/0/name", "Domain-0"), ("/local/domain/0/domid", "0")] {
                state.nodes.insert(path.to_owned(), value.to_owned());
            }
            state.interfaces.insert("xenbr0".to_owned(), None);
        }
        fake
    }

    /// What guests do that are made from now on.
    pub fn guests(&self, behaviour: Behaviour) {
        *self.behaviour.borrow_mut() = behaviour;
    }

    /// Pages that others keep of the domains that are destroyed from now on.
    pub fn hold_pages(&self, pages: u64) {
        self.held.set(pages);
    }

    /// Puts a file there.
    pub fn add_file(&self, path: &str, content: &[u8]) {
        self.state.borrow_mut().files.insert(path.to_owned(), content.to_vec());
    }

    /// Makes an operation fail from now on, with the hypervisor's words for it.
    pub fn refuse(&self, what: &str, errno: i32, reason: &str) {
        self.state.borrow_mut().refuse.insert(what.to_owned(), (errno, reason.to_owned()));
    }

    /// dom0 is promised so many pages when the next domain is created.
    pub fn promise_at_create(&self, pages: u64) {
        self.promise.set(pages);
    }

    /// A domain.
    pub fn fake_domain(&self, domid: u32) -> Option<FakeDomain> {
        self.state.borrow().domains.get(&domid).cloned()
    }

    /// Every node of the store with its value, a line each.
    pub fn store_text(&self) -> String {
        let state = self.state.borrow();
        let permissions = |path: &str| {
            let permissions = state.permissions.get(path);
            permissions
                .map(|p| p.iter().map(|(d, c)| format!("{c}{d}")).collect::<Vec<_>>().join(","))
                .unwrap_or_default()
        };
        state
            .nodes
            .iter()
            .map(|(path, value)| format!("{path} = \"{value}\" {}\n", permissions(path)))
            .collect()
    }

    /// Loop devices and the files behind them.
    pub fn loops(&self) -> BTreeMap<String, String> {
        self.state.borrow().loops.clone()
    }

    /// Interfaces and the bridges that they are on.
    pub fn interfaces(&self) -> BTreeMap<String, Option<String>> {
        self.state.borrow().interfaces.clone()
    }

    /// Domains that got a supervisor.
    pub fn supervised(&self) -> Vec<u32> {
        self.state.borrow().supervised.clone()
    }

    /// What a domain wrote on its console.
    pub fn console_output(&self, name: &str, text: &str) {
        self.state.borrow_mut().logs.entry(name.to_owned()).or_default().extend_from_slice(text.as_bytes());
    }

    /// Ends a domain as if by itself.
    pub fn ended(&self, domid: u32, reason: u32) {
        let mut state = self.state.borrow_mut();
        if let Some(domain) = state.domains.get_mut(&domid) {
            domain.info.state |= control::DOMAIN_SHUTDOWN;
            domain.info.shutdown_reason = reason;
        }
    }

    /// Each vCPU of a domain has spent so many ns more in each state (`RUNSTATE_*`), and does now as `DOMAIN_*` says.
    pub fn spend(&self, domid: u32, ns: [u64; 4], does: u32) {
        let mut state = self.state.borrow_mut();
        let Some(domain) = state.domains.get_mut(&domid) else { return };
        let mut spent = domain.times();
        spent.iter_mut().zip(ns).for_each(|(spent, ns)| *spent += ns);
        domain.spent = Some(spent);
        domain.info.cpu_time += ns[0] * u64::from(domain.info.vcpus);
        domain.info.state &= !(control::DOMAIN_RUNNING | control::DOMAIN_BLOCKED);
        domain.info.state |= does;
        // What runs is up.
        domain.info.online_vcpus = domain.info.vcpus;
    }

    /// Pages that nobody has, or was promised.
    pub fn free_pages(&self) -> u64 {
        let state = self.state.borrow();
        let taken = state.domains.values().map(|d| d.info.pages + d.info.outstanding_pages + OVERHEAD);
        self.total - 4096 - taken.sum::<u64>()
    }

    fn check(&self, what: &str, domid: u32) -> Result<()> {
        let refused = self.state.borrow().refuse.get(what).cloned();
        match refused {
            Some((errno, reason)) => Err(self.fail(what, domid, errno, &reason)),
            None => Ok(()),
        }
    }

    fn fail(&self, what: &str, domid: u32, errno: i32, reason: &str) -> HostError {
        let mut state = self.state.borrow_mut();
        let mut text = [0; control::REASON];
        let len = reason.len().min(control::REASON - 1);
        text[..len].copy_from_slice(&reason.as_bytes()[..len]);
        let op =
            control::OPERATIONS.iter().find(|(_, name, _)| *name == what).map_or(u32::MAX, |(op, ..)| *op);
        let sequence = state.failures.len() as u64 + 1;
        let time = u64::try_from(self.now.get().as_nanos()).unwrap_or(0);
        let errno_word = errno.unsigned_abs();
        state.failures.push(Failure {
            sequence,
            time,
            op,
            domid,
            errno: errno_word,
            caller: 0,
            reason: text,
        });
        HostError::errno(what, errno)
    }

    fn with<T>(&self, what: &str, domid: u32, f: impl FnOnce(&mut FakeDomain) -> T) -> Result<T> {
        self.check(what, domid)?;
        if let Some(domain) = self.state.borrow_mut().domains.get_mut(&domid) {
            return Ok(f(domain));
        }
        Err(self.fail(what, domid, ESRCH, "there is no such domain"))
    }

    /// Lets backends and guests act.
    fn step(&self) {
        let mut state = self.state.borrow_mut();
        state.backends();
        let ids: Vec<u32> = state.domains.keys().copied().filter(|id| *id != 0).collect();
        for domid in ids {
            state.guest(domid);
        }
    }
}

impl State {
    fn get(&self, path: &str) -> Option<String> {
        self.nodes.get(path).cloned()
    }

    fn set(&mut self, path: &str, value: &str) {
        let mut at = 1;
        while let Some(slash) = path.get(at..).and_then(|rest| rest.find('/')) {
            self.nodes.entry(path[..at + slash].to_owned()).or_default();
            at += slash + 1;
        }
        self.nodes.insert(path.to_owned(), value.to_owned());
    }

    /// As Linux's backends: new ones wait for the frontend, connect with it, close when asked to.
    fn backends(&mut self) {
        let states: Vec<String> = self
            .nodes
            .keys()
            .filter(|path| path.starts_with("/local/domain/0/backend/") && path.ends_with("/state"))
            .cloned()
            .collect();
        for path in states {
            let dir = path.trim_end_matches("/state");
            let frontend = self.get(&format!("{dir}/frontend")).unwrap_or_default();
            let front = self.get(&format!("{frontend}/state"));
            match (self.get(&path).as_deref(), front.as_deref()) {
                (Some("1"), _) => {
                    self.new_interface(dir);
                    self.set(&path, "2");
                }
                (Some("2"), Some("3")) => self.set(&path, "4"),
                (Some("5"), _) => self.set(&path, "6"),
                _ => {}
            }
        }
    }

    fn new_interface(&mut self, dir: &str) {
        let words: Vec<&str> = dir.split('/').collect();
        if let [.., "vif", domid, handle] = words.as_slice() {
            self.interfaces.entry(format!("vif{domid}.{handle}")).or_default();
        }
    }

    fn guest(&mut self, domid: u32) {
        let Some(domain) = self.domains.get_mut(&domid) else { return };
        let stopped = control::DOMAIN_PAUSED | control::DOMAIN_SHUTDOWN | control::DOMAIN_DYING;
        if domain.info.state & stopped != 0 {
            return;
        }
        domain.info.cpu_time += 1_000_000;
        if domain.behaviour.crashes {
            domain.info.state |= control::DOMAIN_SHUTDOWN;
            domain.info.shutdown_reason = 3;
            return;
        }
        let behaviour = domain.behaviour.clone();
        if behaviour.connects {
            self.frontends(domid);
        }
        let control = format!("/local/domain/{domid}/control/shutdown");
        let wanted = self.get(&control).filter(|word| !word.is_empty() && behaviour.obeys);
        if let Some(word) = wanted {
            self.set(&control, "");
            let info = &mut self.domains.get_mut(&domid).expect("it is there").info;
            info.state |= control::DOMAIN_SHUTDOWN;
            info.shutdown_reason = u32::from(word == "reboot");
        }
        let target =
            self.get(&format!("/local/domain/{domid}/memory/target")).and_then(|t| t.parse::<u64>().ok());
        if let (true, Some(kib)) = (behaviour.balloons, target) {
            let info = &mut self.domains.get_mut(&domid).expect("it is there").info;
            info.pages = (kib / 4).min(info.max_pages);
        }
    }

    fn frontends(&mut self, domid: u32) {
        let prefix = format!("/local/domain/{domid}/device/");
        let fronts: Vec<String> =
            self.nodes.keys().filter(|p| p.starts_with(&prefix) && p.ends_with("/state")).cloned().collect();
        for path in fronts {
            let backend = self.get(&path.replace("/state", "/backend")).unwrap_or_default();
            let ready = self.get(&format!("{backend}/hotplug-status")).as_deref() == Some("connected");
            match (self.get(&path).as_deref(), self.get(&format!("{backend}/state")).as_deref()) {
                (Some("1"), Some("2")) if ready => self.set(&path, "3"),
                (Some("3"), Some("4")) => self.set(&path, "4"),
                (Some("4"), Some("5" | "6")) => self.set(&path, "6"),
                _ => {}
            }
        }
    }
}

impl FakeDomain {
    fn new(domid: u32, new: &NewDomain, now: Duration) -> FakeDomain {
        let mut info = DomainInfo { domid, handle: new.uuid, ..DomainInfo::default() };
        info.state = control::DOMAIN_PAUSED;
        info.shutdown_reason = control::SHUTDOWN_NONE;
        info.max_pages = new.max_pages;
        info.max_vcpus = new.max_vcpus;
        info.max_grant_frames = if new.max_grant_frames == 0 { 64 } else { new.max_grant_frames };
        info.grant_frames = 1;
        info.max_maptrack = if new.max_maptrack == 0 { 4096 } else { new.max_maptrack };
        info.max_evtchns = if new.max_evtchns == 0 { 1 << 17 } else { new.max_evtchns };
        info.shared_info_frame = 0x500 + u64::from(domid);
        info.created = u64::try_from(now.as_nanos()).unwrap_or(0);
        FakeDomain {
            info,
            behaviour: Behaviour::default(),
            frames: BTreeMap::new(),
            pinned: None,
            grants: BTreeMap::new(),
            registers: None,
            spent: None,
            hard: BTreeMap::new(),
            soft: BTreeMap::new(),
            sched: (256, 0),
        }
    }

    /// How long each of its vCPUs has run.
    fn ran(&self) -> u64 {
        self.info.cpu_time / u64::from(self.info.vcpus.max(1))
    }

    /// What each of its vCPUs has spent in each state.
    fn times(&self) -> [u64; 4] {
        self.spent.unwrap_or([self.ran(), self.ran() / 4, 3_000_000_000, 0])
    }
}

impl Hypervisor for Fake {
    fn version(&self) -> Result<Version> {
        self.check("version", 0)?;
        let mut version = Version { abi: control::CONTROL_ABI, hypervisor: 1 << 16, ..Version::default() };
        version.operations = control::OPERATIONS.len() as u32;
        version.max_domains = 32752;
        version.max_vcpus = 128;
        Ok(version)
    }

    fn host_info(&self) -> Result<HostInfo> {
        self.check("host_info", 0)?;
        let free = self.free_pages();
        let state = self.state.borrow();
        let mut info = HostInfo { online_cpus: 4, max_cpus: 4, threads_per_core: 2, ..HostInfo::default() };
        info.cores_per_socket = 2;
        info.nodes = 1;
        info.cpu_khz = 2_400_000;
        info.uptime = u64::try_from(self.now.get().as_nanos()).unwrap_or(0);
        info.total_pages = self.total;
        info.free_pages = free;
        info.domain_pages = state.domains.values().map(|d| d.info.pages).sum();
        info.outstanding_pages = state.domains.values().map(|d| d.info.outstanding_pages).sum();
        info.dom0_pages = state.domains.get(&0).map_or(0, |d| d.info.pages);
        info.hypervisor_pages = self.total - free - info.domain_pages - info.outstanding_pages;
        info.max_frame = self.total;
        info.domains = state.domains.len() as u32;
        info.vcpus = state.domains.values().map(|d| d.info.vcpus).sum();
        info.version[..14].copy_from_slice(b"Xenolith 0.1.0");
        Ok(info)
    }

    fn domain(&self, domid: u32) -> Result<Option<DomainInfo>> {
        self.check("domain_info", domid)?;
        Ok(self.state.borrow().domains.get(&domid).map(|d| d.info))
    }

    fn domains(&self) -> Result<Vec<DomainInfo>> {
        self.check("domain_info", 0)?;
        Ok(self.state.borrow().domains.values().map(|d| d.info).collect())
    }

    fn vcpu(&self, domid: u32, vcpu: u32) -> Result<VcpuInfo> {
        self.with("vcpu_info", domid, |domain| {
            let mut info = VcpuInfo { domid, vcpu, ..VcpuInfo::default() };
            let online = vcpu < domain.info.online_vcpus;
            info.flags = if online { control::VCPU_ONLINE | control::VCPU_INITIALISED } else { 0 };
            info.cpu = vcpu % 4;
            info.cpu_time = domain.ran();
            info.time = domain.times();
            info
        })
    }

    fn create(&self, new: &NewDomain) -> Result<u32> {
        self.check("create", control::ANY_DOMID)?;
        let mut state = self.state.borrow_mut();
        let domid = state.domains.keys().last().copied().unwrap_or(0) + 1;
        let mut domain = FakeDomain::new(domid, new, self.now.get());
        domain.behaviour = self.behaviour.borrow().clone();
        state.domains.insert(domid, domain);
        if let Some(dom0) = state.domains.get_mut(&0) {
            dom0.info.outstanding_pages += self.promise.take();
        }
        Ok(domid)
    }

    fn destroy(&self, domid: u32) -> Result<u64> {
        let held = self.held.get();
        self.with("destroy", domid, |d| {
            d.info.state |= control::DOMAIN_DYING;
            d.info.pages = held;
        })?;
        if held == 0 {
            self.state.borrow_mut().domains.remove(&domid);
        }
        Ok(held)
    }

    fn pause(&self, domid: u32) -> Result<()> {
        self.with("pause", domid, |d| d.info.state |= control::DOMAIN_PAUSED)
    }

    fn unpause(&self, domid: u32) -> Result<()> {
        self.with("unpause", domid, |d| d.info.state &= !control::DOMAIN_PAUSED)
    }

    fn shutdown(&self, domid: u32, reason: u32) -> Result<()> {
        self.with("shutdown", domid, |_| ())?;
        self.ended(domid, reason);
        Ok(())
    }

    fn set_max_pages(&self, domid: u32, pages: u64) -> Result<()> {
        self.with("set_max_mem", domid, |d| d.info.max_pages = pages)
    }

    fn claim(&self, domid: u32, pages: u64) -> Result<()> {
        self.check("claim", domid)?;
        let free = self.free_pages();
        let done = self.with("claim", domid, |domain| {
            let wanted = pages.saturating_sub(domain.info.pages);
            let fits = wanted <= free + domain.info.outstanding_pages;
            if fits {
                domain.info.outstanding_pages = wanted;
            }
            fits
        })?;
        if done { Ok(()) } else { Err(self.fail("claim", domid, ENOMEM, "there is not so much memory")) }
    }

    fn set_vcpus(&self, domid: u32, vcpus: u32) -> Result<()> {
        let fits = self.with("max_vcpus", domid, |d| {
            let fits = vcpus <= d.info.max_vcpus && vcpus >= d.info.vcpus;
            if fits {
                d.info.vcpus = vcpus;
            }
            fits
        })?;
        if fits { Ok(()) } else { Err(self.fail("max_vcpus", domid, EINVAL, "more vCPUs than it may have")) }
    }

    fn start_registers(&self, domid: u32, registers: &StartRegisters) -> Result<()> {
        self.with("set_vcpu_context", domid, |d| {
            d.registers = Some(*registers);
            d.info.online_vcpus = 1;
        })
    }

    fn set_affinity(&self, domid: u32, vcpu: u32, hard: Option<&[u64]>, soft: Option<&[u64]>) -> Result<()> {
        if hard.is_some_and(|map| map.first().is_none_or(|w| w & 0xf == 0)) {
            return Err(self.fail("set_affinity", domid, EINVAL, "none of these CPUs runs"));
        }
        self.with("set_affinity", domid, |d| {
            d.hard.extend(hard.map(|map| (vcpu, map.to_vec())));
            d.soft.extend(soft.map(|map| (vcpu, map.to_vec())));
        })
    }

    fn affinity(&self, domid: u32, vcpu: u32) -> Result<(Vec<u64>, Vec<u64>)> {
        let map = |maps: &BTreeMap<u32, Vec<u64>>| maps.get(&vcpu).cloned().unwrap_or_else(|| vec![0xf]);
        self.with("get_affinity", domid, |d| (map(&d.hard), map(&d.soft)))
    }

    fn set_sched(&self, domid: u32, weight: Option<u32>, cap: Option<u32>) -> Result<()> {
        self.with("set_sched", domid, |d| d.sched = (weight.unwrap_or(d.sched.0), cap.unwrap_or(d.sched.1)))
    }

    fn sched(&self, domid: u32) -> Result<(u32, u32)> {
        self.with("get_sched", domid, |d| d.sched)
    }

    fn holders(&self, domid: u32) -> Result<(Vec<Holder>, u64)> {
        self.with("holders", domid, |d| {
            let pages = if d.info.state & control::DOMAIN_DYING == 0 { 0 } else { d.info.pages };
            let foreign = Holder { domid: 0, kind: control::HOLDER_FOREIGN, pages };
            (if pages == 0 { Vec::new() } else { vec![foreign] }, pages)
        })
    }

    fn failures(&self, from: u64) -> Result<Vec<Failure>> {
        Ok(self.state.borrow().failures.iter().filter(|f| f.sequence >= from).copied().collect())
    }

    fn read_log(&self, from: Option<u64>, _clear: bool) -> Result<(Vec<u8>, u64)> {
        let text = b"(xenolith) 1.000 starting\n(xenolith) 1.500 dom0 runs\n";
        let from = from.unwrap_or(0).min(text.len() as u64);
        Ok((text[from as usize..].to_vec(), text.len() as u64))
    }

    fn populate(&self, domid: u32, _pfn: u64, order: u32, extents: u64) -> Result<Vec<u64>> {
        self.check("populate", domid)?;
        let size = 1_u64 << order;
        let free = self.free_pages();
        let mut state = self.state.borrow_mut();
        let first = state.next_mfn.next_multiple_of(size);
        let domain = state.domains.get_mut(&domid).ok_or(HostError::errno("populate", ESRCH))?;
        let promised = domain.info.outstanding_pages;
        let room = domain.info.max_pages.saturating_sub(domain.info.pages).min(free + promised);
        let given = extents.min(room / size);
        if given == 0 && order == 0 && extents > 0 && room == 0 && domain.info.pages == 0 {
            return Err(HostError::errno("populate", ENOMEM));
        }
        domain.info.pages += given * size;
        domain.info.outstanding_pages = promised.saturating_sub(given * size);
        for mfn in first..first + given * size {
            domain.frames.insert(mfn, Vec::new());
        }
        state.next_mfn = first + given * size;
        Ok((0..given).map(|n| first + n * size).collect())
    }

    fn write_frames(&self, domid: u32, mfns: &[u64], offset: usize, bytes: &[u8]) -> Result<()> {
        let fits = offset < PAGE && offset + bytes.len() <= mfns.len() * PAGE;
        let written = self.with("write_frames", domid, |domain| {
            let mut at = offset;
            let mut rest = bytes;
            while !rest.is_empty() {
                let Some(frame) = mfns.get(at / PAGE).and_then(|mfn| domain.frames.get_mut(mfn)) else {
                    return false;
                };
                frame.resize(PAGE, 0);
                let len = (PAGE - at % PAGE).min(rest.len());
                frame[at % PAGE..at % PAGE + len].copy_from_slice(&rest[..len]);
                rest = &rest[len..];
                at += len;
            }
            true
        })?;
        if fits && written { Ok(()) } else { Err(self.fail("write_frames", domid, EINVAL, "not its frames")) }
    }

    fn read_frame(&self, domid: u32, mfn: u64) -> Result<Vec<u8>> {
        let frame = self.with("read_frame", domid, |d| d.frames.get(&mfn).cloned())?;
        let mut frame = frame.ok_or(HostError::errno("read_frame", EINVAL))?;
        frame.resize(PAGE, 0);
        Ok(frame)
    }

    fn read_frames(&self, domid: u32, mfns: &[u64]) -> Result<Vec<u8>> {
        let read = |mfn: &u64| self.read_frame(domid, *mfn).unwrap_or_else(|_| vec![0; PAGE]);
        Ok(mfns.iter().flat_map(read).collect())
    }

    fn set_memory_map(&self, domid: u32, _pages: u64) -> Result<()> {
        self.with("set_memory_map", domid, |_| ())
    }

    fn pin_root(&self, domid: u32, mfn: u64) -> Result<()> {
        self.with("pin_root", domid, |d| d.pinned = Some(mfn))
    }

    fn grant_to_dom0(&self, domid: u32, reference: u32, mfn: u64) -> Result<()> {
        self.with("grant", domid, |d| d.grants.insert(reference, mfn)).map(drop)
    }

    fn unbound_port(&self, domid: u32) -> Result<u32> {
        self.with("alloc_unbound", domid, |d| {
            d.info.evtchns += 1;
            d.info.evtchns
        })
    }
}

impl Store for Fake {
    fn read(&self, path: &str) -> Result<Option<String>> {
        self.check("store", 0)?;
        Ok(self.state.borrow().get(path))
    }

    fn write(&self, path: &str, value: &str) -> Result<()> {
        self.check("store", 0)?;
        self.state.borrow_mut().set(path, value);
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<()> {
        let mut state = self.state.borrow_mut();
        let below = format!("{path}/");
        // Linux takes a backend's interface away with its node.
        let gone = |dir: &str| {
            let words: Vec<&str> = dir.split('/').collect();
            match words.as_slice() {
                [.., "backend", "vif", domid, handle] => Some(format!("vif{domid}.{handle}")),
                _ => None,
            }
        };
        if let Some(interface) = gone(path) {
            state.interfaces.remove(&interface);
        }
        state.nodes.retain(|node, _| node != path && !node.starts_with(&below));
        state.permissions.retain(|node, _| node != path && !node.starts_with(&below));
        Ok(())
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let below = format!("{}/", path.trim_end_matches('/'));
        let state = self.state.borrow();
        let children = state.nodes.range(below.clone()..).map_while(|(node, _)| node.strip_prefix(&below));
        let mut names: Vec<String> = children.filter(|name| !name.contains('/')).map(str::to_owned).collect();
        names.dedup();
        Ok(names)
    }

    fn change(&self, changes: Changes) -> Result<()> {
        changes.0.into_iter().try_for_each(|change| match change {
            Change::Write(path, value) => self.write(&path, &value),
            Change::Permissions(path, list) => {
                let mut state = self.state.borrow_mut();
                if !state.nodes.contains_key(&path) {
                    return Err(HostError::errno(format!("permissions of {path}"), ENOENT));
                }
                state.permissions.insert(path, list);
                Ok(())
            }
        })
    }

    fn introduce(&self, domid: u32, mfn: u64, port: u32) -> Result<()> {
        self.check("introduce", domid)?;
        let granted = self.with("introduce", domid, |d| d.grants.get(&1) == Some(&mfn) && port != 0)?;
        if !granted {
            return Err(HostError::errno("introduce", EINVAL));
        }
        self.state.borrow_mut().introduced.insert(domid);
        Ok(())
    }

    fn release(&self, domid: u32) -> Result<()> {
        match self.state.borrow_mut().introduced.remove(&domid) {
            true => Ok(()),
            false => Err(HostError::errno("release", ENOENT)),
        }
    }

    fn wait(&self, _paths: &[String], timeout: Duration) -> Result<()> {
        self.sleep(timeout.min(Duration::from_millis(50)));
        Ok(())
    }
}

impl System for Fake {
    fn now(&self) -> Duration {
        self.now.get()
    }

    fn wall_clock(&self) -> u64 {
        1_700_000_000 + self.now.get().as_secs()
    }

    fn sleep(&self, time: Duration) {
        self.now.set(self.now.get() + time);
        self.step();
    }

    fn random(&self) -> Result<[u8; 16]> {
        // Differs from call to call as far as tests need it to.
        Ok([self.state.borrow().domains.len() as u8; 16])
    }

    fn read_file(&self, path: &Path) -> Result<Vec<u8>> {
        let name = path.to_string_lossy().into_owned();
        let file = self.state.borrow().files.get(&name).cloned();
        file.ok_or_else(|| HostError::errno(format!("cannot read {name}"), ENOENT))
    }

    fn write_parts(&self, path: &Path, parts: Parts<'_, '_>) -> Result<()> {
        let parts: Vec<_> = parts.collect::<Result<_>>()?;
        self.add_file(&path.to_string_lossy(), &parts.concat());
        Ok(())
    }

    fn file_version(&self, path: &Path) -> Option<String> {
        let state = self.state.borrow();
        state.files.get(path.to_string_lossy().as_ref()).map(|content| format!("v{}", content.len()))
    }

    fn files(&self, dir: &Path) -> Vec<String> {
        let below = format!("{}/", dir.display());
        let state = self.state.borrow();
        state.files.keys().filter_map(|path| path.strip_prefix(&below)).map(str::to_owned).collect()
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.state.borrow_mut().files.remove(path.to_string_lossy().as_ref());
        Ok(())
    }

    fn block_device(&self, path: &Path) -> Result<Option<BlockDevice>> {
        let name = path.to_string_lossy();
        if let Some(minor) = name.strip_prefix("/dev/loop").and_then(|n| n.parse().ok()) {
            return Ok(Some(BlockDevice { major: 7, minor }));
        }
        if name.starts_with("/dev/vg/") {
            return Ok(Some(BlockDevice { major: 253, minor: 2 }));
        }
        self.read_file(path).map(|_| None)
    }

    fn attach_loop(&self, file: &Path, _read_only: bool) -> Result<String> {
        self.read_file(file)?;
        let mut state = self.state.borrow_mut();
        let device = (0..).map(|n| format!("/dev/loop{n}")).find(|d| !state.loops.contains_key(d));
        let device = device.unwrap_or_default();
        state.loops.insert(device.clone(), file.to_string_lossy().into_owned());
        Ok(device)
    }

    fn detach_loop(&self, device: &str) -> Result<()> {
        let removed = self.state.borrow_mut().loops.remove(device);
        removed.map(drop).ok_or_else(|| HostError::errno(device, ENOENT))
    }

    fn has_interface(&self, name: &str) -> bool {
        self.state.borrow().interfaces.contains_key(name)
    }

    fn join_bridge(&self, interface: &str, bridge: &str, rename: Option<&str>) -> Result<()> {
        let mut state = self.state.borrow_mut();
        if !state.interfaces.contains_key(bridge) {
            return Err(HostError::System(format!("there is no bridge {bridge}")));
        }
        state.interfaces.remove(interface);
        state.interfaces.insert(rename.unwrap_or(interface).to_owned(), Some(bridge.to_owned()));
        Ok(())
    }

    fn run_script(&self, script: &str, _action: &str, _environment: &[(String, String)]) -> Result<()> {
        Err(HostError::System(format!("{script}: {}", errno_text(EBUSY))))
    }

    fn start_supervisor(&self, domid: u32) -> Result<()> {
        self.state.borrow_mut().supervised.push(domid);
        Ok(())
    }

    fn console(&self, _domid: u32, _name: &str) -> Result<()> {
        Ok(())
    }

    fn console_log(&self, _domid: Option<u32>, name: &str) -> Result<Vec<u8>> {
        let log = self.state.borrow().logs.get(name).cloned();
        log.ok_or_else(|| HostError::errno(format!("the console of {name}"), ENOENT))
    }
}
