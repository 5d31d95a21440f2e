//! Disks (`xl-disk-configuration(5)`), in its spelling and the older ones (`phy:/dev/x,xvda,w`).

use super::source::Value;
use serde::Serialize;

/// What is in the file or on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The disk's bytes. The only one that Linux's block backend serves.
    Raw,
}

/// A disk of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// A block device or a file; empty for a drive without a medium.
    pub target: String,
    /// Its format.
    pub format: DiskFormat,
    /// The guest's name for it, `xvda`.
    pub vdev: String,
    /// Whether the guest cannot write.
    pub read_only: bool,
    /// Whether it calls itself a CD-ROM.
    pub cdrom: bool,
    /// The domain whose block backend serves it.
    pub backend: String,
    /// A hotplug script of the administrator's.
    pub script: Option<String>,
    /// Whether the guest may punch holes.
    pub discard: bool,
}

impl Disk {
    /// Reads a disk as it stands in a list: a string, or a table of the same keys.
    pub(super) fn from_value(value: &Value) -> Result<Disk, String> {
        match value {
            Value::Atom(atom) => Disk::parse(&atom.text),
            Value::Table(entries, _) => {
                let mut parts = Parts::default();
                for (key, value) in entries {
                    let Value::Atom(atom) = value else {
                        return Err(format!("`{}` is not a string", key.text));
                    };
                    let flag = matches!(key.text.as_str(), "cdrom" | "discard" | "readonly");
                    match (flag, atom.text.as_str()) {
                        (true, "0") if key.text == "discard" => parts.flag("no-discard")?,
                        (true, "0") => {}
                        (true, _) => parts.flag(&key.text)?,
                        (false, text) => parts.named(&key.text, text)?,
                    }
                }
                parts.finish()
            }
            Value::List(..) => Err("a disk is a string".to_owned()),
        }
    }

    /// Reads a disk specification.
    pub fn parse(spec: &str) -> Result<Disk, String> {
        let mut parts = Parts::default();
        let mut rest = spec;
        loop {
            rest = rest.trim_start();
            // `target=` takes all that follows, commas too.
            if let Some(target) = rest.strip_prefix("target=") {
                parts.named("target", target)?;
                break;
            }
            let (part, more) = rest.split_once(',').map_or((rest, None), |(part, more)| (part, Some(more)));
            parts.part(part.trim_end())?;
            match more {
                Some(more) => rest = more,
                None => break,
            }
        }
        parts.finish()
    }

    /// The guest's number for the disk.
    pub fn number(&self) -> u32 {
        device_number(&self.vdev).unwrap_or(0)
    }
}

/// Positional parameters, in their order.
const POSITIONS: [&str; 4] = ["target", "format", "vdev", "access"];

/// Parameters as they come in.
#[derive(Default)]
struct Parts {
    values: [Option<String>; 4],
    position: usize,
    old_style: bool,
    cdrom: bool,
    backend: Option<String>,
    script: Option<String>,
    discard: Option<bool>,
}

impl Parts {
    fn part(&mut self, part: &str) -> Result<(), String> {
        if let Some((key, value)) = part.split_once('=')
            && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
        {
            return self.named(key, value);
        }
        if matches!(
            part,
            "cdrom" | "discard" | "no-discard" | "direct-io-safe" | "trusted" | "untrusted" | "readonly"
        ) {
            return self.flag(part);
        }
        self.positional(part)
    }

    fn flag(&mut self, flag: &str) -> Result<(), String> {
        match flag {
            "cdrom" => self.cdrom = true,
            "discard" => self.discard = Some(true),
            "no-discard" => self.discard = Some(false),
            "readonly" => self.values[3] = Some("ro".to_owned()),
            _ => {}
        }
        Ok(())
    }

    fn named(&mut self, key: &str, value: &str) -> Result<(), String> {
        if let Some(index) = POSITIONS.iter().position(|name| *name == key) {
            if self.values[index].as_ref().is_some_and(|old| !old.is_empty()) {
                return Err(format!("`{key}` is given twice"));
            }
            self.values[index] = Some(value.to_owned());
            return Ok(());
        }
        match key {
            "devtype" if value == "cdrom" => self.cdrom = true,
            "devtype" if value == "disk" => {}
            "backend" => self.backend = Some(value.to_owned()),
            "script" => self.script = Some(value.to_owned()),
            "backendtype" if value == "phy" => {}
            "backendtype" => {
                return Err(format!(
                    "backendtype={value}: only phy (Linux's own block backend) serves disks here"
                ));
            }
            "specification" if value == "xen" => {}
            _ => return Err(format!("`{key}={value}` is not known for a disk")),
        }
        Ok(())
    }

    fn positional(&mut self, part: &str) -> Result<(), String> {
        while self.values.get(self.position).is_some_and(Option::is_some) {
            self.position += 1;
        }
        let mut part = part;
        if self.position == 0 {
            part = self.prefixes(part)?;
        } else if self.position == 1 && self.old_style {
            self.position = 2;
        }
        if self.position == 2
            && let Some((vdev, kind)) = part.split_once(':')
        {
            match kind {
                "cdrom" => self.cdrom = true,
                "disk" => {}
                _ => return Err(format!("`{kind}` is not a kind of disk; cdrom is")),
            }
            part = vdev;
        }
        let slot = self.values.get_mut(self.position).ok_or(format!("`{part}` is one part too many"))?;
        *slot = Some(part.to_owned());
        self.position += 1;
        Ok(())
    }

    /// What older files have before the target: `phy:`, `file:`, `tap:aio:`.
    fn prefixes<'a>(&mut self, target: &'a str) -> Result<&'a str, String> {
        let mut rest = target;
        while let Some((prefix, more)) = rest.split_once(':') {
            match prefix {
                "phy" | "file" | "raw" | "tap" | "tap2" | "aio" | "tapdisk" | "ioemu" => {}
                "qcow" | "qcow2" | "vhd" | "qed" | "vmdk" => return Err(only_raw(prefix)),
                _ => break,
            }
            self.old_style = true;
            rest = more;
        }
        Ok(rest)
    }

    fn finish(self) -> Result<Disk, String> {
        let [target, format, vdev, access] = self.values.map(|value| value.filter(|v| !v.is_empty()));
        if let Some(format) = format.filter(|format| format != "raw") {
            return Err(only_raw(&format));
        }
        let vdev = vdev.ok_or("a disk needs a name in the guest, such as xvda")?;
        if device_number(&vdev).is_none() {
            return Err(format!(
                "`{vdev}` is not a disk's name in a guest; xvda to xvdzz, with a partition's number or without, are"
            ));
        }
        let read_only = match access.as_deref() {
            None => self.cdrom,
            Some("w" | "rw" | "w!") => false,
            Some("r" | "ro") => true,
            Some(access) => return Err(format!("access is r or w, not `{access}`")),
        };
        let target = target.unwrap_or_default();
        if target.is_empty() && !self.cdrom {
            return Err("a disk needs a target: a block device or a file".to_owned());
        }
        let relative = !target.is_empty() && !target.starts_with('/') && self.script.is_none();
        Ok(Disk {
            target: if relative { format!("/dev/{target}") } else { target },
            format: DiskFormat::Raw,
            vdev,
            read_only,
            cdrom: self.cdrom,
            backend: self.backend.unwrap_or_else(|| "0".to_owned()),
            script: self.script,
            discard: self.discard.unwrap_or(true),
        })
    }
}

fn only_raw(format: &str) -> String {
    format!("format {format} is not supported: convert the image with `qemu-img convert -O raw`")
}

/// The number of a virtual disk (`xen-vbd-interface(7)`): `xvda` is 51712.
pub fn device_number(vdev: &str) -> Option<u32> {
    if let Some(number) = super::units::parse_number(vdev) {
        return u32::try_from(number).ok();
    }
    if let Some((disk, part)) = vdev.strip_prefix('d').and_then(|rest| rest.split_once('p')) {
        return xvd(disk.parse().ok()?, part.parse().ok()?);
    }
    let (kind, rest) = ["xvd", "hd", "sd"].iter().find_map(|k| Some((*k, vdev.strip_prefix(k)?)))?;
    let letters = rest.trim_end_matches(|c: char| c.is_ascii_digit());
    let part = match &rest[letters.len()..] {
        "" => 0,
        digits if digits.starts_with('0') => return None,
        digits => digits.parse().ok()?,
    };
    let disk = letters_number(letters)?;
    match kind {
        "xvd" => xvd(disk, part),
        "hd" => {
            let major = [3, 22].get(disk as usize / 2)?;
            (part < 64).then(|| major << 8 | (disk % 2) << 6 | part)
        }
        _ => (disk < 16 && part < 16).then_some(8 << 8 | disk << 4 | part),
    }
}

fn xvd(disk: u32, part: u32) -> Option<u32> {
    if disk < 16 && part < 16 {
        return Some(202 << 8 | disk << 4 | part);
    }
    (disk < 1 << 20 && part < 256).then_some(1 << 28 | disk << 8 | part)
}

/// `a` is 0, `z` 25, `aa` 26.
fn letters_number(letters: &str) -> Option<u32> {
    if letters.is_empty() || letters.len() > 3 || !letters.bytes().all(|b| b.is_ascii_lowercase()) {
        return None;
    }
    Some(letters.bytes().fold(0, |n, b| n * 26 + u32::from(b - b'a') + 1) - 1)
}
