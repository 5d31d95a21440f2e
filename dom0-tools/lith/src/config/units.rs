//! Amounts of memory.

/// The factor of a unit: `M`, `MiB`, `MB` are all 2^20, as users of memory mean them.
pub(super) fn unit(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let letter = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    Some(match letter {
        "" if lower == "b" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    })
}

/// Bytes of an amount of memory. A number without a unit counts MiB, in decimal, or octal and hexadecimal as C has
/// them; with a unit it is decimal.
pub fn parse_memory(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some(mib) = parse_number(text) {
        return mib.checked_mul(1 << 20);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = unit(&text[digits.len()..])?;
    digits.trim_end().parse::<u64>().ok()?.checked_mul(factor)
}

/// A number as C's `strtoul` with base 0 reads it.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) || text.is_empty() {
        return None;
    }
    let octal = text.len() > 1 && text.starts_with('0');
    u64::from_str_radix(text, if octal { 8 } else { 10 }).ok()
}

/// An amount for people: `512 MiB`, `1.5 GiB`.
pub fn bytes_text(bytes: u64) -> String {
    let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let Some((name, size)) = units.into_iter().find(|(_, size)| bytes >= *size) else {
        return format!("{bytes} B");
    };
    if bytes.is_multiple_of(size) {
        return format!("{} {name}", bytes / size);
    }
    let tenths = (u128::from(bytes) * 10 + u128::from(size / 2)) / u128::from(size);
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}
