//! The x86 branch filter of xz: calls and jumps are stored with absolute targets, which compress better; this turns
//! them back into relative ones, in place.

/// Bytes of `call` and `jmp` with a 32-bit operand.
const LEN: usize = 5;

/// Decodes a whole block. `start` is the address that the filter gave to its first byte.
///
/// An operand is only converted if its highest byte is 0 or 0xff, as that of a near target is, and if no opcode in the
/// three bytes before makes it likely that it is itself in the middle of an operand. `recent` remembers these: bit 0
/// is the byte just before; an opcode whose operand looked near sets bit 4 as well.
pub(crate) fn decode(block: &mut [u8], start: u32) {
    let mut recent = 0u32;
    let mut last = None::<usize>;
    let mut at = 0usize;
    while let Some(found) = next_opcode(block, at) {
        let Some(operand) = block.get(found.wrapping_add(1)..found.wrapping_add(LEN)) else { return };
        let operand: [u8; 4] = operand.try_into().unwrap_or_default();
        recent = match last.map(|last| found.wrapping_sub(last)) {
            Some(distance @ 1..=LEN) => (0..distance).fold(recent, |recent, _| (recent & 0x77) << 1),
            _ => 0,
        };
        last = Some(found);
        let near = is_near(operand[3]);
        if near && convertible(recent) {
            let next = start.wrapping_add(found as u32).wrapping_add(LEN as u32);
            let target = relative(u32::from_le_bytes(operand), next, recent);
            if let Some(operand) = block.get_mut(found.wrapping_add(1)..found.wrapping_add(LEN)) {
                operand.copy_from_slice(&target.to_le_bytes());
            }
            recent = 0;
            at = found.wrapping_add(LEN);
        } else {
            recent |= if near { 0x11 } else { 0x01 };
            at = found.wrapping_add(1);
        }
    }
}

/// The next byte that is `call` (0xe8) or `jmp` (0xe9).
#[inline]
fn next_opcode(block: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (words, tail) = block.get(from..)?.as_chunks::<8>();
    let mut at = from;
    for word in words {
        // Bytes of zero are opcodes. The usual test for one; it may also mark bytes above the first, which does not matter.
        let zero = (u64::from_le_bytes(*word) & (ONES * 0xfe)) ^ (ONES * 0xe8);
        let marks = zero.wrapping_sub(ONES) & !zero & (ONES * 0x80);
        if marks != 0 {
            return Some(at.wrapping_add(marks.trailing_zeros() as usize / 8));
        }
        at = at.wrapping_add(8);
    }
    Some(at.wrapping_add(tail.iter().position(|byte| byte & 0xfe == 0xe8)?))
}

fn is_near(high: u8) -> bool {
    high == 0 || high == 0xff
}

/// Whether the opcodes shortly before leave this one an opcode.
fn convertible(recent: u32) -> bool {
    matches!(recent >> 1 & 7, 0 | 1 | 2 | 4) && recent >> 1 < 0x10
}

/// The relative operand. Where the result could be mistaken for that of an opcode shortly before, because what is its
/// operand's highest byte looks near, the filter inverted the bytes up to there; as stored that byte does not look
/// near, or `recent` would say so, and inverting once is all.
fn relative(operand: u32, next: u32, recent: u32) -> u32 {
    let target = operand.wrapping_sub(next);
    let shift = match recent >> 1 & 7 {
        0 => return extend(target),
        1 => 16,
        2 | 3 => 8,
        _ => 0,
    };
    if is_near((target >> shift) as u8) {
        let inverted = target ^ (0x100u32 << shift).wrapping_sub(1);
        return extend(inverted.wrapping_sub(next));
    }
    extend(target)
}

/// The highest byte is a copy of bit 24.
fn extend(target: u32) -> u32 {
    if target >> 24 & 1 != 0 { target | 0xff00_0000 } else { target & 0x00ff_ffff }
}
