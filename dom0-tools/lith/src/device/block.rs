//! Disks: `blkif.h`, served by Linux's block backend from a block device, or from a file through a loop device.

use super::{DeviceKind, Location};
use crate::config::Disk;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use std::path::Path;

/// Disks of domains.
pub struct Block;

impl Block {
    /// Where a disk stands.
    pub fn location(domid: u32, disk: &Disk) -> Location {
        Location { kind: DeviceKind::Block, domid, number: disk.number() }
    }

    /// Makes a disk ready in dom0 and tells both drivers. What was begun is undone on an error.
    pub fn attach(host: &dyn Host, domid: u32, disk: &Disk) -> Result<Location> {
        let location = Self::location(domid, disk);
        if location.back(host, "state")?.is_some() {
            return Err(Error::new(Kind::WrongState, format!("there is a disk {} already", disk.vdev)));
        }
        let target = Path::new(&disk.target);
        let (device, loop_device) = match host.block_device(target)? {
            Some(_) => (disk.target.clone(), None),
            None => {
                let device = host.attach_loop(target, disk.read_only)?;
                (device.clone(), Some(device))
            }
        };
        let published = Self::publish(host, &location, disk, &device, loop_device.as_deref());
        if published.is_err() {
            // The first error is the one to report.
            let _ = host.remove(&location.backend()).and(host.remove(&location.frontend()));
            if let Some(device) = loop_device {
                let _ = host.detach_loop(&device);
            }
        }
        published.map(|()| location)
    }

    fn publish(
        host: &dyn Host,
        location: &Location,
        disk: &Disk,
        device: &str,
        loop_device: Option<&str>,
    ) -> Result<()> {
        let numbers = host
            .block_device(Path::new(device))?
            .ok_or_else(|| Error::new(Kind::Other, format!("{device} is not a block device")))?;
        let kind = if disk.cdrom { "cdrom" } else { "disk" };
        let front = [("virtual-device", location.number.to_string()), ("device-type", kind.to_owned())];
        let mut back = vec![
            ("removable", u8::from(disk.cdrom).to_string()),
            ("bootable", "1".to_owned()),
            ("dev", disk.vdev.clone()),
            ("type", "phy".to_owned()),
            ("mode", if disk.read_only { "r" } else { "w" }.to_owned()),
            ("device-type", kind.to_owned()),
            ("discard-enable", u8::from(disk.discard && !disk.read_only).to_string()),
            ("params", disk.target.clone()),
        ];
        back.extend(loop_device.map(|device| ("xenolith-loop", device.to_owned())));
        location.publish(host, &front, &back)?;
        // The backend opens the device when this is written.
        let backend = location.backend();
        host.write(
            &format!("{backend}/physical-device"),
            &format!("{:x}:{:x}", numbers.major, numbers.minor),
        )?;
        host.write(&format!("{backend}/hotplug-status"), "connected")?;
        Ok(())
    }
}
