//! dom0: the hypervisor through privcmd, the store through its daemon, devices through Linux's own tools.

use super::{
    BlockDevice, Change, Changes, HostError, Hypervisor, NewDomain, Parts, Result, StartRegisters, Store,
    System,
};
use guest_abi::control::{AFFINITY_WORDS, Create, DomainInfo, Failure, Holder, HostInfo, VcpuInfo, Version};
use guest_abi::memory::{E820_RAM, E820Entry};
use guest_abi::x86_64::{FLAT_KERNEL_CS, FLAT_KERNEL_SS, VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext};
use lith_client::store::RESTART;
use lith_client::{Extents, Permission, Privcmd, StoreError};
use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

const PAGE: usize = 4096;
/// Frames mapped at once: 4 MiB.
const WINDOW: usize = 1024;
/// Bytes of the log read at once.
const LOG: usize = 256 << 10;
const RFLAGS_IF: u64 = 1 << 9;
const ESRCH: i32 = 3;
const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;

/// The machine that this runs on.
pub struct Dom0 {
    privcmd: Privcmd,
    /// Opened when first needed: what only the hypervisor knows is to be had without the daemon.
    store: RefCell<Option<lith_client::Store>>,
    began: Instant,
}

impl Dom0 {
    /// Opens it.
    pub fn open() -> Result<Dom0> {
        let privcmd = Privcmd::open().map_err(|error| {
            HostError::NotXenolith(format!(
                "this is not dom0 of Xenolith, or its modules are not loaded: {error}"
            ))
        })?;
        let dom0 = Dom0 { privcmd, store: RefCell::new(None), began: Instant::now() };
        dom0.version().map_err(|error| {
            HostError::NotXenolith(format!("the hypervisor has no control interface of Xenolith: {error}"))
        })?;
        Ok(dom0)
    }

    fn store<T>(
        &self,
        what: &str,
        ask: impl Fn(&mut lith_client::Store) -> std::result::Result<T, StoreError>,
    ) -> Result<T> {
        let answer = match self.ask_once(&ask)? {
            // A daemon that was started again knows what the last one did, and takes new connections. What it is asked twice
            // is the same as once.
            Err(StoreError::Closed) => self.ask_once(&ask)?,
            answer => answer,
        };
        answer.map_err(|error| match error {
            StoreError::Refused { path, errno } => HostError::errno(format!("the store: {path}"), errno.0),
            error => HostError::System(format!("the store: {what}: {error}")),
        })
    }

    fn ask_once<T>(
        &self,
        ask: impl Fn(&mut lith_client::Store) -> std::result::Result<T, StoreError>,
    ) -> Result<std::result::Result<T, StoreError>> {
        let mut store = self.store.borrow_mut();
        let open = match store.take() {
            Some(open) => store.insert(open),
            None => {
                let opened = lith_client::Store::open(RESTART);
                store
                    .insert(opened.map_err(|e| HostError::System(format!("the store does not answer: {e}")))?)
            }
        };
        let answer = ask(open);
        if matches!(answer, Err(StoreError::Closed | StoreError::Io { .. } | StoreError::Protocol(_))) {
            *store = None;
        }
        Ok(answer)
    }
}

fn id(domid: u32) -> Result<u16> {
    u16::try_from(domid).map_err(|_| HostError::errno(format!("domain {domid}"), ESRCH))
}

fn refused(error: lith_client::Error) -> HostError {
    match error.errno() {
        Some(errno) => {
            let text = error.to_string();
            let what = text.rsplit_once(": ").map_or(text.as_str(), |(what, _)| what);
            HostError::errno(what, errno.0)
        }
        None => HostError::System(error.to_string()),
    }
}

impl Hypervisor for Dom0 {
    fn version(&self) -> Result<Version> {
        self.privcmd.version().map_err(refused)
    }

    fn host_info(&self) -> Result<HostInfo> {
        self.privcmd.host_info().map_err(refused)
    }

    fn domain(&self, domid: u32) -> Result<Option<DomainInfo>> {
        match self.privcmd.domain_info(id(domid)?) {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.errno().is_some_and(|e| e.0 == ESRCH) => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }

    fn domains(&self) -> Result<Vec<DomainInfo>> {
        self.privcmd.domains().map_err(refused)
    }

    fn vcpu(&self, domid: u32, vcpu: u32) -> Result<VcpuInfo> {
        self.privcmd.vcpu_info(id(domid)?, vcpu).map_err(refused)
    }

    fn create(&self, new: &NewDomain) -> Result<u32> {
        let request = Create {
            domid: guest_abi::control::ANY_DOMID,
            handle: new.uuid,
            max_vcpus: new.max_vcpus,
            max_evtchns: new.max_evtchns,
            max_pages: new.max_pages,
            max_grant_frames: new.max_grant_frames,
            max_maptrack: new.max_maptrack,
            ..Create::default()
        };
        self.privcmd.create(request).map(u32::from).map_err(refused)
    }

    fn destroy(&self, domid: u32) -> Result<u64> {
        self.privcmd.destroy(id(domid)?).map_err(refused)
    }

    fn pause(&self, domid: u32) -> Result<()> {
        self.privcmd.pause(id(domid)?).map_err(refused)
    }

    fn unpause(&self, domid: u32) -> Result<()> {
        self.privcmd.unpause(id(domid)?).map_err(refused)
    }

    fn shutdown(&self, domid: u32, reason: u32) -> Result<()> {
        self.privcmd.shutdown(id(domid)?, reason).map_err(refused)
    }

    fn set_max_pages(&self, domid: u32, pages: u64) -> Result<()> {
        self.privcmd.set_max_mem(id(domid)?, pages).map_err(refused)
    }

    fn claim(&self, domid: u32, pages: u64) -> Result<()> {
        self.privcmd.claim(id(domid)?, pages).map_err(refused)
    }

    fn set_vcpus(&self, domid: u32, vcpus: u32) -> Result<()> {
        self.privcmd.max_vcpus(id(domid)?, vcpus).map_err(refused)
    }

    fn start_registers(&self, domid: u32, registers: &StartRegisters) -> Result<()> {
        let mut context = VcpuGuestContext { flags: VGCF_IN_KERNEL | VGCF_ONLINE, ..Default::default() };
        for (vector, trap) in (0..=255_u8).zip(&mut context.trap_ctxt) {
            trap.vector = vector;
            trap.cs = FLAT_KERNEL_CS;
        }
        let regs = &mut context.user_regs;
        regs.rip = registers.rip;
        regs.rsp = registers.rsp;
        regs.rsi = registers.start_info;
        regs.rflags = RFLAGS_IF;
        regs.cs = FLAT_KERNEL_CS;
        regs.ss = FLAT_KERNEL_SS;
        context.kernel_ss = u64::from(FLAT_KERNEL_SS);
        context.kernel_sp = registers.rsp;
        context.ctrlreg[3] = registers.root_mfn << 12;
        context.debugreg[6] = 0xffff_0ff0;
        context.debugreg[7] = 0x400;
        self.privcmd.set_vcpu_context(id(domid)?, 0, &context).map_err(refused)
    }

    fn set_affinity(&self, domid: u32, vcpu: u32, hard: Option<&[u64]>, soft: Option<&[u64]>) -> Result<()> {
        let (hard, soft) = (hard.map(words), soft.map(words));
        self.privcmd.set_affinity(id(domid)?, vcpu, hard, soft).map(drop).map_err(refused)
    }

    fn affinity(&self, domid: u32, vcpu: u32) -> Result<(Vec<u64>, Vec<u64>)> {
        let affinity = self.privcmd.get_affinity(id(domid)?, vcpu).map_err(refused)?;
        Ok((affinity.hard.to_vec(), affinity.soft.to_vec()))
    }

    fn set_sched(&self, domid: u32, weight: Option<u32>, cap: Option<u32>) -> Result<()> {
        self.privcmd.set_sched(id(domid)?, weight.unwrap_or(0), cap).map_err(refused)
    }

    fn sched(&self, domid: u32) -> Result<(u32, u32)> {
        self.privcmd.get_sched(id(domid)?).map(|sched| (sched.weight, sched.cap)).map_err(refused)
    }

    fn holders(&self, domid: u32) -> Result<(Vec<Holder>, u64)> {
        self.privcmd.holders(id(domid)?).map_err(refused)
    }

    fn failures(&self, from: u64) -> Result<Vec<Failure>> {
        let (mut all, mut sequence) = (Vec::new(), from);
        loop {
            let (records, next) = self.privcmd.failures(sequence).map_err(refused)?;
            if records.is_empty() || next <= sequence {
                all.extend(records);
                return Ok(all);
            }
            all.extend(records);
            sequence = next;
        }
    }

    fn read_log(&self, from: Option<u64>, clear: bool) -> Result<(Vec<u8>, u64)> {
        self.privcmd.read_console(from, LOG, clear).map_err(refused)
    }

    fn populate(&self, domid: u32, pfn: u64, order: u32, extents: u64) -> Result<Vec<u64>> {
        let mut frames: Vec<u64> = (0..extents).map(|n| pfn + (n << order)).collect();
        let which = Extents { order, ..Extents::pages(id(domid)?) };
        let done = self.privcmd.populate_physmap(which, &mut frames).map_err(refused)?;
        frames.truncate(done);
        Ok(frames)
    }

    fn write_frames(&self, domid: u32, mfns: &[u64], offset: usize, bytes: &[u8]) -> Result<()> {
        let domid = id(domid)?;
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let first = at / PAGE;
            let window = mfns.get(first..mfns.len().min(first + WINDOW)).unwrap_or_default();
            let room = (window.len() * PAGE).saturating_sub(at % PAGE);
            if room == 0 {
                return Err(HostError::System("bytes do not fit into a domain's frames".to_owned()));
            }
            let (piece, more) = rest.split_at(room.min(rest.len()));
            let used = (at % PAGE + piece.len()).div_ceil(PAGE);
            let mapping = self.privcmd.map_foreign(domid, &window[..used], true).map_err(refused)?;
            mapping.write(at % PAGE, piece);
            at += piece.len();
            rest = more;
        }
        Ok(())
    }

    fn read_frame(&self, domid: u32, mfn: u64) -> Result<Vec<u8>> {
        let mapping = self.privcmd.map_foreign(id(domid)?, &[mfn], false).map_err(refused)?;
        let mut frame = vec![0; PAGE];
        mapping.read(0, &mut frame);
        Ok(frame)
    }

    fn read_frames(&self, domid: u32, mfns: &[u64]) -> Result<Vec<u8>> {
        let found = self.privcmd.map_foreign_some(id(domid)?, mfns, false).map_err(refused)?;
        let mut missing = found.missing.iter().map(|(index, _)| *index).peekable();
        let mut bytes = vec![0; mfns.len() * PAGE];
        for (index, frame) in bytes.chunks_mut(PAGE).enumerate() {
            if missing.next_if_eq(&index).is_none() {
                found.mapping.read(index * PAGE, frame);
            }
        }
        Ok(bytes)
    }

    fn set_memory_map(&self, domid: u32, pages: u64) -> Result<()> {
        let map = [E820Entry { addr: 0, size: pages << 12, kind: E820_RAM }];
        match self.privcmd.set_memory_map(id(domid)?, &map) {
            // Linux then takes what it may have at most.
            Err(error) if error.errno().is_some_and(|e| e.0 == ENOSYS) => Ok(()),
            answer => answer.map_err(refused),
        }
    }

    fn pin_root(&self, domid: u32, mfn: u64) -> Result<()> {
        self.privcmd.pin_table(id(domid)?, 4, mfn).map_err(refused)
    }

    fn grant_to_dom0(&self, domid: u32, reference: u32, mfn: u64) -> Result<()> {
        self.privcmd.seed_grants(id(domid)?, &[(reference, 0, mfn)]).map_err(refused)
    }

    fn unbound_port(&self, domid: u32) -> Result<u32> {
        self.privcmd.evtchn_alloc_unbound(id(domid)?, 0).map_err(refused)
    }
}

fn words(map: &[u64]) -> [u64; AFFINITY_WORDS] {
    std::array::from_fn(|index| map.get(index).copied().unwrap_or(0))
}

impl Change {
    fn for_the_store(self) -> Result<lith_client::store::Change> {
        use lith_client::store::Change as Theirs;
        let parse = |(domid, letter): (u32, char)| {
            let permission = Permission::parse(&format!("{letter}{domid}"));
            permission.ok_or_else(|| HostError::System(format!("no permission is called {letter}")))
        };
        Ok(match self {
            Change::Write(path, value) => Theirs::Write(path, value.into()),
            Change::Permissions(path, list) => {
                Theirs::Permissions(path, list.into_iter().map(parse).collect::<Result<_>>()?)
            }
        })
    }
}

impl Store for Dom0 {
    fn read(&self, path: &str) -> Result<Option<String>> {
        self.store(path, |store| store.read_opt(path))
    }

    fn write(&self, path: &str, value: &str) -> Result<()> {
        self.store(path, |store| store.write(path, value))
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.store(path, |store| store.remove(path))
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        self.store(path, |store| match store.directory(path) {
            Err(error) if error.is_missing() => Ok(Vec::new()),
            other => other,
        })
    }

    fn change(&self, changes: Changes) -> Result<()> {
        let changes = changes.0.into_iter().map(Change::for_the_store).collect::<Result<Vec<_>>>()?;
        self.store("changing it", |store| store.change(&changes))
    }

    fn introduce(&self, domid: u32, mfn: u64, port: u32) -> Result<()> {
        let domid = id(domid)?;
        self.store("introducing a domain", |store| store.introduce(domid, mfn, port))
    }

    fn release(&self, domid: u32) -> Result<()> {
        let domid = id(domid)?;
        self.store("releasing a domain", |store| store.release(domid))
    }

    fn wait(&self, paths: &[String], timeout: Duration) -> Result<()> {
        self.store("waiting", |store| {
            for path in paths {
                store.watch(path, "lith")?;
            }
            // A watch fires once when it is set; only what comes later is news.
            for _ in paths {
                store.next_event(Some(Duration::from_millis(20)))?;
            }
            // Changes between the caller's look and the watch are not told, so no wait is long.
            store.next_event(Some(timeout.min(Duration::from_millis(200))))?;
            for path in paths {
                store.unwatch(path, "lith")?;
            }
            Ok(())
        })
    }
}

impl System for Dom0 {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn wall_clock(&self) -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn random(&self) -> Result<[u8; 16]> {
        let mut bytes = [0; 16];
        let mut file = File::open("/dev/urandom").map_err(|e| system("/dev/urandom", &e))?;
        file.read_exact(&mut bytes).map_err(|e| system("/dev/urandom", &e))?;
        Ok(bytes)
    }

    fn read_file(&self, path: &Path) -> Result<Vec<u8>> {
        fs::read(path).map_err(|e| system(&path.display().to_string(), &e))
    }

    fn write_parts(&self, path: &Path, parts: Parts<'_, '_>) -> Result<()> {
        let failed = |e| system(&path.display().to_string(), &e);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        let partial = path.with_extension("partial");
        let write = || {
            let mut file = fs::File::create(&partial).map_err(failed)?;
            for part in parts {
                file.write_all(&part?).map_err(failed)?;
            }
            fs::rename(&partial, path).map_err(failed)
        };
        write().inspect_err(|_| drop(fs::remove_file(&partial)))
    }

    fn file_version(&self, path: &Path) -> Option<String> {
        let meta = fs::metadata(path).ok()?;
        let (time, nanoseconds) = (meta.mtime(), meta.mtime_nsec());
        Some(format!("{:x}-{:x}-{:x}-{time:x}.{nanoseconds:x}", meta.dev(), meta.ino(), meta.len()))
    }

    fn files(&self, dir: &Path) -> Vec<String> {
        let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(system(&path.display().to_string(), &error))
            }
            _ => Ok(()),
        }
    }

    fn block_device(&self, path: &Path) -> Result<Option<BlockDevice>> {
        let meta = fs::metadata(path).map_err(|e| system(&path.display().to_string(), &e))?;
        if !meta.file_type().is_block_device() {
            return Ok(None);
        }
        let device = meta.rdev();
        // As glibc's `makedev` packs them.
        let major = (device >> 8 & 0xfff) | (device >> 32 & !0xfff);
        let minor = (device & 0xff) | (device >> 12 & !0xff);
        Ok(Some(BlockDevice { major: major as u32, minor: minor as u32 }))
    }

    fn attach_loop(&self, file: &Path, read_only: bool) -> Result<String> {
        let file = fs::canonicalize(file).map_err(|e| system(&file.display().to_string(), &e))?;
        let before = loops_of(&file);
        let mut command = Command::new("losetup");
        if read_only {
            command.arg("-r");
        }
        run(command.arg("-f").arg(&file))?;
        let new = loops_of(&file).into_iter().find(|device| !before.contains(device));
        new.ok_or_else(|| HostError::System(format!("losetup made no loop device for {}", file.display())))
    }

    fn detach_loop(&self, device: &str) -> Result<()> {
        run(Command::new("losetup").arg("-d").arg(device))
    }

    fn has_interface(&self, name: &str) -> bool {
        Path::new("/sys/class/net").join(name).exists()
    }

    fn join_bridge(&self, interface: &str, bridge: &str, rename: Option<&str>) -> Result<()> {
        let mut name = interface;
        if let Some(new) = rename {
            run(Command::new("ip").args(["link", "set", interface, "name", new]))?;
            name = new;
        }
        run(Command::new("ip").args(["link", "set", name, "master", bridge]))?;
        run(Command::new("ip").args(["link", "set", name, "up"]))
    }

    fn run_script(&self, script: &str, action: &str, environment: &[(String, String)]) -> Result<()> {
        let path =
            if script.contains('/') { script.to_owned() } else { format!("/etc/xen/scripts/{script}") };
        run(Command::new(path).arg(action).envs(environment.iter().cloned()))
    }

    fn start_supervisor(&self, domid: u32) -> Result<()> {
        let dir = Path::new("/var/log/xenolith");
        let start = || -> std::io::Result<()> {
            fs::create_dir_all(dir)?;
            let log = File::options().create(true).append(true).open(dir.join("supervise.log"))?;
            let program = std::env::current_exe()?;
            Command::new(program)
                .args(["supervise", &domid.to_string()])
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                // Not the terminal's group, so that an interrupt there does not reach it.
                .process_group(0)
                .current_dir("/")
                .spawn()
                .map(drop)
        };
        start().map_err(|e| system("cannot start the supervisor", &e))
    }

    fn console(&self, domid: u32, name: &str) -> Result<()> {
        super::terminal::attach(domid, name)
    }

    fn console_log(&self, _domid: Option<u32>, name: &str) -> Result<Vec<u8>> {
        super::terminal::log(name)
    }
}

pub(super) fn system(what: &str, error: &std::io::Error) -> HostError {
    match error.kind() {
        std::io::ErrorKind::NotFound => HostError::errno(what, ENOENT),
        _ => HostError::System(format!("{what}: {error}")),
    }
}

/// Loop devices with a file behind them.
fn loops_of(file: &Path) -> Vec<String> {
    let Ok(blocks) = fs::read_dir("/sys/block") else { return Vec::new() };
    let is_it = |entry: &fs::DirEntry| {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        Path::new(backing.trim_end_matches('\n')) == file
    };
    let devices = blocks.filter_map(std::result::Result::ok).filter(is_it);
    devices.map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy())).collect()
}

/// Runs a program; its words are the error when it fails.
fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|e| system(&program, &e))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(HostError::System(format!("{program}: {}", words.trim().lines().last().unwrap_or("it failed"))))
}
