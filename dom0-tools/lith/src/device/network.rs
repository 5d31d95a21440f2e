//! Network interfaces: `netif.h`, served by Linux's network backend, whose end is put on a bridge.

use super::{DeviceKind, Location};
use crate::config::Vif;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use std::time::Duration;

/// The bridge of interfaces that name none.
const DEFAULT_BRIDGE: &str = "xenbr0";
/// How long the backend may take to make its interface.
const INTERFACE_LIMIT: Duration = Duration::from_secs(10);

/// Network interfaces of domains.
pub struct Network;

impl Network {
    /// The bridge of interfaces that name none.
    pub const fn default_bridge() -> &'static str {
        DEFAULT_BRIDGE
    }

    /// The first free number of a domain's interfaces.
    pub fn next_number(host: &dyn Host, domid: u32) -> Result<u32> {
        let used: Vec<u32> =
            super::of_kind(host, domid, DeviceKind::Network)?.iter().map(|l| l.number).collect();
        Ok((0..).find(|number| !used.contains(number)).unwrap_or(0))
    }

    /// An interface with an address: its own, or one of Xen's range that follows from the domain's UUID.
    pub fn with_address(vif: &Vif, uuid: &[u8; 16], number: u32) -> Vif {
        if vif.mac.is_some() {
            return vif.clone();
        }
        // FNV-1a: stable over restarts of the domain, and different for its interfaces.
        let bytes = uuid.iter().copied().chain(number.to_le_bytes());
        let hash = bytes.fold(0x811c_9dc5_u32, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193));
        let [a, b, c, _] = hash.to_be_bytes();
        Vif { mac: Some(format!("00:16:3e:{a:02x}:{b:02x}:{c:02x}")), ..vif.clone() }
    }

    /// Tells both drivers of an interface and puts dom0's end on its bridge. What was begun is undone on an error.
    pub fn attach(host: &dyn Host, domid: u32, number: u32, vif: &Vif) -> Result<Location> {
        let location = Location { kind: DeviceKind::Network, domid, number };
        let bridge = vif.bridge.as_deref().unwrap_or(DEFAULT_BRIDGE);
        if !host.has_interface(bridge) {
            return Err(Error::new(Kind::NotFound, format!("there is no bridge {bridge} in dom0"))
                .hint(format!("make it: ip link add {bridge} type bridge && ip link set {bridge} up")));
        }
        let done = Self::publish(host, &location, vif, bridge)
            .and_then(|()| Self::plug(host, &location, vif, bridge));
        if done.is_err() {
            // The first error is the one to report.
            let _ = host.remove(&location.backend()).and(host.remove(&location.frontend()));
        }
        done.map(|()| location)
    }

    fn publish(host: &dyn Host, location: &Location, vif: &Vif, bridge: &str) -> Result<()> {
        let mac = vif.mac.clone().unwrap_or_default();
        let number = location.number.to_string();
        let mut front =
            vec![("handle", number.clone()), ("mac", mac.clone()), ("xdp-headroom", "0".to_owned())];
        let mut back =
            vec![("handle", number), ("mac", mac), ("bridge", bridge.to_owned()), ("type", "vif".to_owned())];
        if let Some(mtu) = vif.mtu {
            front.push(("mtu", mtu.to_string()));
            back.push(("mtu", mtu.to_string()));
        }
        if let Some(rate) = vif.rate {
            back.push(("rate", format!("{},{}", rate.bytes, rate.interval_us)));
        }
        // Linux's backend does not begin without a script's name, whether anybody runs it or not.
        back.push(("script", vif.script.clone().unwrap_or_else(|| "lith".to_owned())));
        for (node, value) in [("ip", &vif.ip), ("vifname", &vif.vifname)] {
            back.extend(value.clone().map(|value| (node, value)));
        }
        location.publish(host, &front, &back)
    }

    /// The backend makes its interface when it sees the device; the frontend waits for `hotplug-status`.
    fn plug(host: &dyn Host, location: &Location, vif: &Vif, bridge: &str) -> Result<()> {
        let interface = format!("vif{}.{}", location.domid, location.number);
        let end = host.now() + INTERFACE_LIMIT;
        while !host.has_interface(&interface) {
            if host.now() >= end {
                let error = Error::new(
                    Kind::TimedOut,
                    format!("dom0's network backend made no interface {interface}"),
                );
                return Err(match location.backend_error(host) {
                    Some(text) => error.hint(format!("it says: {text}")),
                    None => error.hint("modprobe xen-netback; `lith doctor` looks closer"),
                });
            }
            host.sleep(Duration::from_millis(10));
        }
        let backend = location.backend();
        let plugged = match &vif.script {
            None => host.join_bridge(&interface, bridge, vif.vifname.as_deref()),
            Some(script) => host.run_script(
                script,
                "online",
                &[
                    ("XENBUS_PATH".to_owned(), backend.trim_start_matches("/local/domain/0/").to_owned()),
                    ("vif".to_owned(), interface),
                    ("type_if".to_owned(), "vif".to_owned()),
                ],
            ),
        };
        match plugged {
            Ok(()) => Ok(host.write(&format!("{backend}/hotplug-status"), "connected")?),
            Err(error) => Err(Error::from(error).context(format!("cannot put an interface on {bridge}"))),
        }
    }
}
