//! A serial line as seen from outside: the whole transcript, waits with deadlines, and the command protocol of
//! the initramfs.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A running machine and everything its serial line said.
pub struct Console {
    child: Child,
    input: Option<ChildStdin>,
    chunks: Receiver<Vec<u8>>,
    transcript: Vec<u8>,
    /// What [`Console::wait_for`] has not looked at yet begins here.
    seen: usize,
    ended: bool,
}

impl Console {
    /// Starts the machine.
    pub fn start(mut command: Command) -> Result<Console> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start QEMU")?;
        let mut output = child.stdout.take().context("QEMU's output is a pipe")?;
        let input = child.stdin.take();
        let (sender, chunks) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Console { child, input, chunks, transcript: Vec::new(), seen: 0, ended: false })
    }

    /// Everything so far, as text.
    pub fn transcript(&self) -> String {
        String::from_utf8_lossy(&self.transcript).into_owned()
    }

    /// Reads on until the text appears, and returns what came before it since the last wait.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(at) = find(&self.transcript[self.seen..], text.as_bytes()) {
                let before =
                    String::from_utf8_lossy(&self.transcript[self.seen..self.seen + at]).into_owned();
                self.seen += at + text.len();
                return Ok(before);
            }
            if !self.read_until(deadline)? {
                bail!("the machine ended before {text:?} appeared");
            }
        }
    }

    /// Types something.
    pub fn send(&mut self, text: &str) -> Result<()> {
        let input = self.input.as_mut().context("the machine has no input any more")?;
        input.write_all(text.as_bytes())?;
        Ok(input.flush()?)
    }

    /// Reads on until the machine ends by itself.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        while self.read_until(deadline)? {}
        // The output is closed when QEMU is about to end.
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("QEMU closed its output and did not end")
    }

    /// Takes one more chunk; false at the end of the output, an error at the deadline.
    fn read_until(&mut self, deadline: Instant) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        match self.chunks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(chunk) => self.transcript.extend_from_slice(&chunk),
            Err(RecvTimeoutError::Disconnected) => self.ended = true,
            Err(RecvTimeoutError::Timeout) => bail!("the time limit passed"),
        }
        Ok(!self.ended)
    }

    /// Follows the command protocol: hands each line of output to `line` as it comes, and returns the exit status once
    /// the machine is off.
    pub fn run_command(&mut self, limit: Duration, mut line: impl FnMut(&str)) -> Result<i32> {
        let deadline = Instant::now() + limit;
        let mut status = None;
        let mut running = true;
        while running {
            running = self.read_until(deadline)?;
            while let Some(end) = find(&self.transcript[self.seen..], b"\n") {
                let text = String::from_utf8_lossy(&self.transcript[self.seen..self.seen + end]).into_owned();
                self.seen += end + 1;
                match parse(shown(text.trim_end_matches('\r'))) {
                    Some(Said::Output(text)) if status.is_none() => line(text),
                    Some(Said::Status(code)) => status = Some(code),
                    _ => {}
                }
            }
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        let qemu = self.wait_end(rest + Duration::from_secs(1))?;
        status.with_context(|| {
            format!("the machine went off without having run the command; QEMU ended: {qemu}")
        })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

enum Said<'a> {
    Output(&'a str),
    Status(i32),
}

/// What a terminal shows of a line: the hypervisor erases what dom0 has begun to write when it has something to say, and writes it
/// again below.
fn shown(line: &str) -> &str {
    line.rsplit("\r\x1b[K").next().unwrap_or(line)
}

/// A line of the command protocol; the hypervisor's and the kernel's own lines are none.
fn parse(line: &str) -> Option<Said<'_>> {
    if let Some(text) = line.strip_prefix("@|") {
        return Some(Said::Output(text));
    }
    line.strip_prefix("@=").and_then(|code| code.parse().ok()).map(Said::Status)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(script: &str) -> Console {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Console::start(command).unwrap()
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_wait_returns_what_came_before() {
        let mut console = console("echo one; echo two; read x; echo got $x");
        assert_eq!(console.wait_for("two\n", LIMIT).unwrap(), "one\n");
        console.send("this\n").unwrap();
        console.wait_for("got this", LIMIT).unwrap();
        assert!(console.wait_end(LIMIT).unwrap().success());
        assert_eq!(console.transcript(), "one\ntwo\ngot this\n");
    }

    #[test]
    fn a_wait_ends_at_its_limit_and_with_the_machine() {
        let error = console("sleep 5").wait_for("never", Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("time limit"));
        let error = console("echo some").wait_for("never", LIMIT).unwrap_err();
        assert!(error.to_string().contains("ended before"));
    }

    #[test]
    fn a_commands_output_is_told_from_the_kernels() {
        let script = "printf '(XEN) noise\\r\\n@+\\r\\n@|a\\r\\n[ 1.0] noise\\n@|  b\\n@=7\\n@|late\\n'";
        let torn = "printf '@|on\\r\\033[K(XL) message\\r\\n@|one\\r\\n@=0\\n'";
        let mut lines = Vec::new();
        console(torn).run_command(LIMIT, |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["one"]);
        let mut lines = Vec::new();
        let status = console(script).run_command(LIMIT, |line| lines.push(line.to_owned())).unwrap();
        assert_eq!((status, lines), (7, vec!["a".to_owned(), "  b".to_owned()]));
        assert!(console("echo '@|a'").run_command(LIMIT, |_| {}).is_err());
    }
}
