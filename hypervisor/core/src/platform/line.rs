//! The serial line's settings, as `com1=` gives them (documentation: `xen-command-line`).
//!
//! `com1=BAUD[/CLOCK][,DPS[,PORT[,IRQ]]]`: `BAUD` may be `auto`, which keeps what the firmware set; `DPS` is data bits,
//! parity and stop bits, `8n1`; an empty part keeps its default.

/// Parity bit of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// There is none.
    None,
    /// The number of ones is odd.
    Odd,
    /// The number of ones is even.
    Even,
    /// Always one.
    Mark,
    /// Always zero.
    Space,
}

/// How to drive a 16550.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bits a second; `None`: as the firmware left it.
    pub baud: Option<u32>,
    /// Input clock in Hz.
    pub clock: u32,
    /// Data bits, 5 to 8.
    pub data_bits: u8,
    /// Parity.
    pub parity: Parity,
    /// Stop bits, 1 or 2.
    pub stop_bits: u8,
    /// First I/O port.
    pub port: u16,
    /// ISA interrupt; `None`: received characters are polled for.
    pub irq: Option<u8>,
}

/// Clock of a PC's UART in Hz.
const CLOCK: u32 = 1_843_200;

impl Settings {
    /// COM1 of a PC at the speed the firmware chose.
    pub const COM1: Settings = Settings {
        baud: None,
        clock: CLOCK,
        data_bits: 8,
        parity: Parity::None,
        stop_bits: 1,
        port: 0x3f8,
        irq: Some(4),
    };

    /// COM2 of a PC at the speed the firmware chose.
    pub const COM2: Settings = Settings { port: 0x2f8, irq: Some(3), ..Settings::COM1 };

    /// Applies an option's value on top of `self`. The error is the part that makes no sense.
    pub fn with(self, value: &str) -> Result<Settings, &str> {
        let mut out = self;
        let mut parts = value.split(',');
        let mut next = |f: &mut dyn FnMut(&str) -> Option<()>| match parts.next() {
            None | Some("") => Ok(()),
            Some(part) => f(part).ok_or(part),
        };
        next(&mut |part| out.set_speed(part))?;
        next(&mut |part| out.set_format(part))?;
        next(&mut |part| number(part).map(|port| out.port = port))?;
        next(&mut |part| {
            let irq = number(part).filter(|irq| *irq < 16)?;
            out.irq = (irq != 0).then_some(irq as u8);
            Some(())
        })?;
        parts.next().map_or(Ok(out), Err)
    }

    fn set_speed(&mut self, part: &str) -> Option<()> {
        let (baud, base) = part.split_once('/').map_or((part, None), |(baud, base)| (baud, Some(base)));
        if let Some(base) = base {
            self.clock = base.parse::<u32>().ok()?.checked_mul(16)?;
        }
        self.baud = match baud {
            "auto" | "AUTO" => None,
            _ => Some(baud.parse().ok().filter(|baud| (1..=self.clock / 16).contains(baud))?),
        };
        Some(())
    }

    fn set_format(&mut self, part: &str) -> Option<()> {
        let &[data, parity, stop] = part.as_bytes() else { return None };
        self.data_bits = data.checked_sub(b'0').filter(|bits| (5..=8).contains(bits))?;
        self.parity = match parity.to_ascii_lowercase() {
            b'n' => Parity::None,
            b'o' => Parity::Odd,
            b'e' => Parity::Even,
            b'm' => Parity::Mark,
            b's' => Parity::Space,
            _ => return None,
        };
        self.stop_bits = stop.checked_sub(b'0').filter(|bits| (1..=2).contains(bits))?;
        Some(())
    }
}

fn number(text: &str) -> Option<u16> {
    match text.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Which consoles `console=` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consoles {
    /// `com1`: the serial line.
    pub serial: bool,
    /// `vga`: the screen.
    pub screen: bool,
}

impl Consoles {
    /// Both, as without an option.
    pub const DEFAULT: Consoles = Consoles { serial: true, screen: true };

    /// Reads the option's value. The error is the part that names no console.
    pub fn parse(value: &str) -> Result<Consoles, &str> {
        let mut out = Consoles { serial: false, screen: false };
        for part in value.split(',') {
            match part {
                // A suffix `H` or `L` chose one half of a shared line.
                "com1" | "com1H" | "com1L" => out.serial = true,
                "vga" => out.screen = true,
                "none" | "" => {}
                _ => return Err(part),
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_administrators_values_are_understood() {
        let s = Settings::COM1.with("115200,8n1").unwrap();
        assert_eq!(s, Settings { baud: Some(115200), ..Settings::COM1 });
        let s = Settings::COM1.with("9600/38400,7e2,0x2f8,3").unwrap();
        assert_eq!((s.baud, s.clock, s.data_bits, s.stop_bits), (Some(9600), 614_400, 7, 2));
        assert_eq!((s.parity, s.port, s.irq), (Parity::Even, 0x2f8, Some(3)));
        assert_eq!(Settings::COM1.with("auto,,,0"), Ok(Settings { irq: None, ..Settings::COM1 }));
        assert_eq!(Settings::COM1.with(""), Ok(Settings::COM1));
    }

    #[test]
    fn the_part_without_sense_is_named() {
        for (value, part) in [
            ("fast", "fast"),
            ("0", "0"),
            ("115201", "115201"),
            ("9600,9n1", "9n1"),
            ("9600,8x1", "8x1"),
            ("9600,8n1,pci", "pci"),
            ("9600,8n1,0x3f8,77", "77"),
            ("9600,8n1,0x3f8,4,x", "x"),
        ] {
            assert_eq!(Settings::COM1.with(value), Err(part));
        }
    }

    #[test]
    fn consoles_are_named() {
        assert_eq!(Consoles::parse("com1,vga"), Ok(Consoles::DEFAULT));
        assert_eq!(Consoles::parse("vga"), Ok(Consoles { serial: false, screen: true }));
        assert_eq!(Consoles::parse("none"), Ok(Consoles { serial: false, screen: false }));
        assert_eq!(Consoles::parse("com1,lpt"), Err("lpt"));
    }
}
