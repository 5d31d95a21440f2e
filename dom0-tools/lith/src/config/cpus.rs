//! Sets of CPUs: `0-3,^1`, `all`.

use std::fmt;

/// Numbers above are refused.
const MAX_CPU: u32 = 4095;

/// A set of CPUs, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuSet {
    /// In ascending order; `None` means all CPUs that there are.
    pub cpus: Option<Vec<u32>>,
}

impl CpuSet {
    /// All CPUs.
    pub const ALL: CpuSet = CpuSet { cpus: None };

    /// Reads a set. Parts add up from left to right; `^` takes away.
    pub fn parse(text: &str) -> Result<CpuSet, String> {
        let mut all = false;
        let mut set = std::collections::BTreeSet::new();
        let mut removed = std::collections::BTreeSet::new();
        for part in text.split(',').map(str::trim) {
            let (negative, range) = part.strip_prefix('^').map_or((false, part), |rest| (true, rest));
            match range {
                "all" if negative => return Err("`^all` leaves no CPU".to_owned()),
                "all" => all = true,
                _ => {
                    let (low, high) = bounds(range)?;
                    for cpu in low..=high {
                        if negative {
                            set.remove(&cpu);
                            removed.insert(cpu);
                        } else {
                            set.insert(cpu);
                            removed.remove(&cpu);
                        }
                    }
                }
            }
        }
        if all && !removed.is_empty() {
            set = (0..=MAX_CPU).filter(|cpu| !removed.contains(cpu)).collect();
        } else if all {
            return Ok(CpuSet::ALL);
        }
        if set.is_empty() {
            return Err(format!("`{text}` leaves no CPU"));
        }
        Ok(CpuSet { cpus: Some(set.into_iter().collect()) })
    }

    /// Whether a CPU is in the set.
    pub fn contains(&self, cpu: u32) -> bool {
        self.cpus.as_ref().is_none_or(|cpus| cpus.binary_search(&cpu).is_ok())
    }

    /// As a bitmap of `bits` CPUs, the lowest first, in 64-bit words.
    pub fn bitmap(&self, bits: u32) -> Vec<u64> {
        let mut words = vec![0; (bits as usize).div_ceil(64)];
        for cpu in (0..bits).filter(|cpu| self.contains(*cpu)) {
            words[cpu as usize / 64] |= 1 << (cpu % 64);
        }
        words
    }

    /// From a bitmap; all `bits` set means all.
    pub fn from_bitmap(words: &[u64], bits: u32) -> CpuSet {
        let is_set = |cpu: &u32| words.get(*cpu as usize / 64).is_some_and(|w| w >> (cpu % 64) & 1 == 1);
        let cpus: Vec<u32> = (0..bits).filter(is_set).collect();
        if cpus.len() == bits as usize { CpuSet::ALL } else { CpuSet { cpus: Some(cpus) } }
    }
}

fn bounds(range: &str) -> Result<(u32, u32), String> {
    if range.starts_with("node") {
        return Err(format!("`{range}`: CPUs cannot be chosen by NUMA node yet; name the CPUs"));
    }
    let number = |text: &str| {
        text.trim()
            .parse::<u32>()
            .ok()
            .filter(|n| *n <= MAX_CPU)
            .ok_or(format!("`{range}` is not a CPU or a range of CPUs"))
    };
    let (low, high) = match range.split_once('-') {
        Some((low, high)) => (number(low)?, number(high)?),
        None => (number(range)?, number(range)?),
    };
    if low > high {
        return Err(format!("the range `{range}` ends before it begins"));
    }
    Ok((low, high))
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(cpus) = &self.cpus else { return f.write_str("all") };
        let mut rest = cpus.as_slice();
        let mut first = true;
        while let Some(&low) = rest.first() {
            let run = rest.iter().zip(low..).take_while(|(cpu, expected)| **cpu == *expected).count();
            if !first {
                f.write_str(",")?;
            }
            first = false;
            match run {
                1 => write!(f, "{low}")?,
                _ => write!(f, "{low}-{}", rest[run - 1])?,
            }
            rest = &rest[run..];
        }
        Ok(())
    }
}
