//! Machine checks: what the processor says of errors of the hardware (SDM 3B, 16.3).

use crate::cpu;
use crate::features::features;

const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MCG_CTL: u32 = 0x17b;
const BANK_0: u32 = 0x400;
const CAP_CTL: u64 = 1 << 8;

/// A bank's registers, from its first on.
const CTL: u32 = 0;
const STATUS: u32 = 1;
const ADDR: u32 = 2;
const MISC: u32 = 3;

const VALID: u64 = 1 << 63;
const HAS_MISC: u64 = 1 << 59;
const HAS_ADDR: u64 = 1 << 58;

/// An error in a bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// The bank's number.
    pub bank: u32,
    /// MCi_STATUS.
    pub status: u64,
    /// MCi_ADDR, if it holds anything.
    pub address: Option<u64>,
    /// MCi_MISC, if it holds anything.
    pub misc: Option<u64>,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "bank {}: status {:016x}", self.bank, self.status)?;
        if let Some(address) = self.address {
            write!(f, " address {address:016x}")?;
        }
        self.misc.map_or(Ok(()), |misc| write!(f, " misc {misc:016x}"))
    }
}

fn banks() -> u32 {
    let has = features().mce && cpu::cpuid(1, 0).edx & 1 << 14 != 0;
    if has { cpu::rdmsr_safe(MCG_CAP).unwrap_or(0) as u32 & 0xff } else { 0 }
}

fn register(bank: u32, which: u32) -> u32 {
    BANK_0 + bank * 4 + which
}

/// Switches the reports of all errors on, on this CPU, and tells those from before. The banks are empty afterwards.
pub fn init_cpu() {
    let banks = banks();
    errors().for_each(|error| log::warn!("the hardware had an error before: {error}"));
    // SAFETY: registers that MCG_CAP announces. Those that the processor does not let be written stay as they are.
    unsafe {
        if banks > 0 && cpu::rdmsr_safe(MCG_CAP).unwrap_or(0) & CAP_CTL != 0 {
            cpu::wrmsr_safe(MCG_CTL, u64::MAX);
        }
        for bank in 0..banks {
            // Old processors keep the first bank's for the firmware.
            if bank > 0 || !is_old() {
                cpu::wrmsr_safe(register(bank, CTL), u64::MAX);
            }
            cpu::wrmsr_safe(register(bank, STATUS), 0);
        }
    }
}

/// Intel's sixth family up to model 0x19.
fn is_old() -> bool {
    let signature = cpu::cpuid(1, 0).eax;
    let (family, model) = (signature >> 8 & 0xf, signature >> 12 & 0xf0 | signature >> 4 & 0xf);
    family == 6 && model < 0x1a
}

/// What the banks of this CPU hold.
pub fn errors() -> impl Iterator<Item = Error> {
    (0..banks()).filter_map(|bank| {
        let read = |which| cpu::rdmsr_safe(register(bank, which));
        let status = read(STATUS).filter(|status| status & VALID != 0)?;
        Some(Error {
            bank,
            status,
            address: read(ADDR).filter(|_| status & HAS_ADDR != 0),
            misc: read(MISC).filter(|_| status & HAS_MISC != 0),
        })
    })
}

/// MCG_STATUS.
pub fn global_status() -> u64 {
    if banks() > 0 { cpu::rdmsr_safe(MCG_STATUS).unwrap_or(0) } else { 0 }
}
