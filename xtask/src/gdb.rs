//! Just enough of the remote protocol of gdb to ask QEMU when a program begins: stop at an address, execute one
//! instruction there that reads the time-stamp counter, put everything back, go on.
//!
//! Facts: gdb's manual, appendix "gdb Remote Serial Protocol"; the order of registers is that of its target `i386:x86-64`.

use crate::console::Console;
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Starts QEMU and says what the time-stamp counter is at the hypervisor's first instruction. `socket` is a file that nothing else uses.
pub fn start(mut qemu: Command, socket: &Path, entry: u64, limit: Duration) -> Result<(Console, u64)> {
    let device = format!("socket,id=gdb,path={},server=on,wait=off", socket.display());
    qemu.args(["-S", "-chardev", &device, "-gdb", "chardev:gdb"]);
    let console = Console::start(qemu)?;
    let entered = counter_at(socket, entry, limit);
    let _ = std::fs::remove_file(socket);
    Ok((console, entered.context("the hypervisor was not entered where it should be")?))
}

/// RDTSC.
const READ_COUNTER: &str = "0f31";
/// Hexadecimal digits of a register, and the numbers of those that reading the counter changes.
const DIGITS: usize = 16;
const RAX: usize = 0;
const RDX: usize = 3;
const RIP: usize = 16;

/// Lets the machine run until it comes to `address`, says what the time-stamp counter is then, and leaves it running.
fn counter_at(socket: &Path, address: u64, limit: Duration) -> Result<u64> {
    let mut stub = Stub::connect(socket, limit)?;
    // QEMU takes single registers only from who has asked what there are.
    stub.ask("qXfer:features:read:target.xml:0,ffb")?;
    stub.expect_ok(&format!("Z1,{address:x},1"))?;
    stub.ask("c")?;
    stub.expect_ok(&format!("z1,{address:x},1"))?;
    let (code, registers) = (stub.ask(&format!("m{address:x},2"))?, stub.ask("g")?);
    stub.expect_ok(&format!("M{address:x},2:{READ_COUNTER}"))?;
    stub.ask("s")?;
    let after = stub.ask("g")?;
    stub.expect_ok(&format!("M{address:x},2:{code}"))?;
    // One by one: of all registers at once QEMU 7.2 does not put CR0 back as it was.
    for n in [RAX, RDX, RIP] {
        let value = registers.get(n * DIGITS..(n + 1) * DIGITS).context("too few registers")?;
        stub.expect_ok(&format!("P{n:x}={value}"))?;
    }
    stub.expect_ok("D")?;
    counter(&after).with_context(|| format!("no registers in {after:?}"))
}

fn counter(registers: &str) -> Option<u64> {
    let register = |n: usize| {
        let text = registers.get(n * DIGITS..(n + 1) * DIGITS)?;
        u64::from_str_radix(text, 16).ok().map(u64::swap_bytes)
    };
    Some(register(RDX)? << 32 | register(RAX)? & 0xffff_ffff)
}

struct Stub(UnixStream);

impl Stub {
    fn connect(socket: &Path, limit: Duration) -> Result<Stub> {
        let deadline = Instant::now() + limit;
        loop {
            match UnixStream::connect(socket) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(limit))?;
                    return Ok(Stub(stream));
                }
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(error).context("QEMU does not listen for a debugger"),
            }
        }
    }

    fn expect_ok(&mut self, packet: &str) -> Result<()> {
        let answer = self.ask(packet)?;
        ensure!(answer == "OK", "QEMU answers {answer:?} to {packet:?}");
        Ok(())
    }

    fn ask(&mut self, packet: &str) -> Result<String> {
        self.0.write_all(&framed(packet))?;
        loop {
            match self.byte()? {
                b'+' => {}
                b'$' => break,
                other => bail!("QEMU's debugger says {other:#x} to {packet:?}"),
            }
        }
        let mut answer = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => answer.push(byte),
            }
        }
        // The check sum: a local socket loses nothing.
        self.byte()?;
        self.byte()?;
        self.0.write_all(b"+")?;
        Ok(String::from_utf8(answer)?)
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte).context("the machine did not come to the address")?;
        Ok(byte[0])
    }
}

fn framed(packet: &str) -> Vec<u8> {
    let sum = packet.bytes().fold(0u8, u8::wrapping_add);
    format!("${packet}#{sum:02x}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_a_check_sum() {
        assert_eq!(framed("OK"), b"$OK#9a");
        assert_eq!(framed("g"), b"$g#67");
    }

    #[test]
    fn the_counter_is_in_two_registers() {
        let registers =
            ["7856341200000000", "0000000000000000", "0000000000000000", "0100000000000000"].concat();
        assert_eq!(counter(&registers), Some(0x1_1234_5678));
        assert_eq!(counter("E01"), None);
    }
}
