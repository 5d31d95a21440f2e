//! Network interfaces (`xl-network-configuration(5)`).

use super::source::Value;
use serde::Serialize;

/// A limit on what a guest sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// Bytes it may send in each interval.
    pub bytes: u64,
    /// The interval in microseconds.
    pub interval_us: u64,
}

/// A network interface of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Vif {
    /// Its address; chosen when the domain is made if absent.
    pub mac: Option<String>,
    /// The bridge it is put on.
    pub bridge: Option<String>,
    /// Addresses that the guest may use.
    pub ip: Option<String>,
    /// A hotplug script of the administrator's.
    pub script: Option<String>,
    /// The name of dom0's end, instead of `vifDOMID.NUMBER`.
    pub vifname: Option<String>,
    /// A limit on what the guest sends.
    pub rate: Option<Rate>,
    /// The largest packet, in bytes.
    pub mtu: Option<u32>,
    /// The domain whose network backend serves it.
    pub backend: String,
}

impl Vif {
    /// Reads an interface as it stands in a list: a string, or a table of the same keys.
    pub(super) fn from_value(value: &Value) -> Result<Vif, String> {
        match value {
            Value::Atom(atom) => Vif::parse(&atom.text),
            Value::Table(entries, _) => {
                let mut vif = Vif::empty();
                for (key, value) in entries {
                    let Value::Atom(atom) = value else {
                        return Err(format!("`{}` is not a string", key.text));
                    };
                    vif.set(&key.text, &atom.text)?;
                }
                Ok(vif)
            }
            Value::List(..) => Err("an interface is a string".to_owned()),
        }
    }

    fn empty() -> Vif {
        Vif { backend: "0".to_owned(), ..Vif::default() }
    }

    /// Reads `key=value,key=value`; the empty text is an interface with nothing special.
    pub fn parse(spec: &str) -> Result<Vif, String> {
        let mut vif = Vif::empty();
        for part in spec.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((key, value)) => vif.set(key.trim(), value.trim())?,
                None => return Err(format!("`{part}` is not `key=value`")),
            }
        }
        Ok(vif)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let text = || Some(value.to_owned());
        match key {
            "mac" => {
                self.mac = Some(parse_mac(value).ok_or(format!("`{value}` is not a MAC address of a host"))?)
            }
            "bridge" => self.bridge = text(),
            "ip" => self.ip = text(),
            "script" => self.script = text(),
            "vifname" => self.vifname = Some(interface_name(value)?),
            "rate" => self.rate = Some(parse_rate(value)?),
            "mtu" => {
                let mtu = value.parse().ok().filter(|mtu| (68..=65535).contains(mtu));
                self.mtu = Some(mtu.ok_or(format!("`{value}` is not an MTU"))?);
            }
            "backend" => self.backend = value.to_owned(),
            "type" if value == "vif" => {}
            "type" => return Err("type=ioemu is for HVM guests; a PV guest has type=vif".to_owned()),
            // Of emulated cards and other backends: read by xl, without effect on a PV guest.
            "model" | "gatewaydev" | "netmask" | "gateway" | "accel" | "trusted" | "devid" => {}
            _ => return Err(format!("`{key}` is not known for a network interface")),
        }
        Ok(())
    }
}

fn interface_name(name: &str) -> Result<String, String> {
    let fits = (1..16).contains(&name.len()) && !name.contains(['/', ':', ' ']);
    if fits {
        Ok(name.to_owned())
    } else {
        Err(format!("`{name}` cannot be an interface's name: at most 15 characters"))
    }
}

/// A MAC address in its usual form, if it is one that an interface can have: not a group's, not zero.
pub fn parse_mac(text: &str) -> Option<String> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().filter(|part| (1..=2).contains(&part.len()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    if parts.next().is_some() || bytes[0] & 1 == 1 || bytes == [0; 6] {
        return None;
    }
    Some(bytes.map(|b| format!("{b:02x}")).join(":"))
}

/// `10Mb/s`, `1MB/s@20ms`.
fn parse_rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("`{text}` is not a rate such as 10Mb/s or 1MB/s@20ms");
    let (rate, interval) = text.split_once('@').map_or((text, "50ms"), |(rate, interval)| (rate, interval));
    let rate = rate.strip_suffix("/s").ok_or_else(wrong)?;
    let (number, unit) = split_number(rate).ok_or_else(wrong)?;
    let (kilo, letter) = match unit.chars().next() {
        Some('G') => (1_000_000_000, &unit[1..]),
        Some('M') => (1_000_000, &unit[1..]),
        Some('K' | 'k') => (1_000, &unit[1..]),
        _ => (1, unit),
    };
    let bits = match letter {
        "b" => 1,
        "B" => 8,
        _ => return Err(wrong()),
    };
    let (interval, unit) = split_number(interval).ok_or_else(wrong)?;
    let factor = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        _ => return Err(wrong()),
    };
    let interval_us = u64::from(interval) * factor;
    let bytes = u128::from(number) * kilo * bits / 8 * u128::from(interval_us) / 1_000_000;
    let bytes = u64::try_from(bytes).ok().filter(|bytes| *bytes > 0).ok_or_else(wrong)?;
    Ok(Rate { bytes, interval_us })
}

fn split_number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok().filter(|n| *n > 0)?, unit))
}
