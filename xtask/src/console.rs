//! A serial line as seen from outside: the whole transcript, waits with deadlines, and the command protocol of
//! the initramfs.

use anyhow::{Context, Error, Result, anyhow};
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long QEMU may take to end once its output is closed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A running machine and everything its serial line said.
pub struct Console {
    child: Child,
    input: Option<ChildStdin>,
    chunks: Receiver<Vec<u8>>,
    /// What QEMU says of itself.
    complaints: Receiver<Vec<u8>>,
    transcript: Vec<u8>,
    /// What [`Console::wait_for`] has not looked at yet begins here.
    seen: usize,
    ended: bool,
    record: Option<Record>,
}

/// A file that gets the serial line as it comes, with the time since the machine's start before each line.
struct Record {
    file: File,
    begun: Instant,
    in_line: bool,
}

impl Record {
    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        let mut text = Vec::new();
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            if !self.in_line {
                write!(text, "{:7.2} ", self.begun.elapsed().as_secs_f64())?;
            }
            text.extend_from_slice(part);
            self.in_line = !part.ends_with(b"\n");
        }
        self.file.write_all(&text)
    }
}

impl Console {
    /// Starts the machine.
    pub fn start(mut command: Command) -> Result<Console> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start QEMU")?;
        let chunks = follow(child.stdout.take().context("QEMU's output is a pipe")?);
        let complaints = follow(child.stderr.take().context("QEMU's complaints come by a pipe")?);
        let input = child.stdin.take();
        let transcript = Vec::new();
        Ok(Console { child, input, chunks, complaints, transcript, seen: 0, ended: false, record: None })
    }

    /// Has the file get all that comes from now on, each line with the time since then in seconds: it is there whatever becomes of
    /// this process.
    pub fn record(&mut self, file: File) {
        self.record = Some(Record { file, begun: Instant::now(), in_line: false });
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
                return Err(self.failure(&format!("the machine ended before {text:?} appeared")));
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
        match self.status_by(deadline)? {
            Some(status) => Ok(status),
            None => Err(self.failure("QEMU closed its output and did not end")),
        }
    }

    /// How QEMU, whose output is closed, ended, if it does by then.
    fn status_by(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// That something went wrong, how QEMU ended, if it did, and what it had to say of itself.
    pub fn failure(&mut self, what: &str) -> Error {
        let mut text = what.to_owned();
        let deadline = Instant::now() + if self.ended { LAST_WORDS } else { Duration::ZERO };
        if let Ok(Some(status)) = self.status_by(deadline) {
            text += &format!("; QEMU ended: {status}");
        }
        let mut said = Vec::new();
        while let Ok(more) = self.complaints.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            said.extend(more);
        }
        match String::from_utf8_lossy(&said).trim_end() {
            "" => anyhow!(text),
            said => anyhow!("{text}; QEMU said:\n{said}"),
        }
    }

    /// Takes one more chunk; false at the end of the output, an error at the deadline.
    fn read_until(&mut self, deadline: Instant) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        match self.chunks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(chunk) => {
                if let Some(record) = &mut self.record {
                    record.write(&chunk).context("cannot record the serial line")?;
                }
                self.transcript.extend_from_slice(&chunk);
            }
            Err(RecvTimeoutError::Disconnected) => self.ended = true,
            Err(RecvTimeoutError::Timeout) => return Err(self.failure("the time limit passed")),
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
        self.wait_end(rest + Duration::from_secs(1))?;
        status.ok_or_else(|| self.failure("the machine went off without having run the command"))
    }
}

/// What comes through a pipe, as it comes.
fn follow(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, chunks) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = pipe.read(&mut buffer) {
            if sender.send(buffer[..len].to_vec()).is_err() {
                return;
            }
        }
    });
    chunks
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
    fn a_record_has_the_time_before_each_line_that_came() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut console = console("read go; printf 'one\\nt'; read go; printf 'wo\\nthree'; read go");
        console.record(file.reopen().unwrap());
        for text in ["t", "three"] {
            console.send("\n").unwrap();
            console.wait_for(text, LIMIT).unwrap();
        }
        let recorded = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<(f64, &str)> = recorded
            .lines()
            .map(|line| line.trim_start().split_once(' ').unwrap())
            .map(|(time, line)| (time.parse().unwrap(), line))
            .collect();
        assert_eq!(lines.iter().map(|(_, line)| *line).collect::<Vec<_>>(), ["one", "two", "three"]);
        assert!(lines.is_sorted_by_key(|(time, _)| *time) && lines[2].0 < 60.0, "{recorded}");
    }

    #[test]
    fn a_wait_ends_at_its_limit_and_with_the_machine() {
        let error = console("sleep 5").wait_for("never", Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("time limit"));
        let error = console("echo some").wait_for("never", LIMIT).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the machine ended before \"never\" appeared; QEMU ended: exit status: 0"
        );
    }

    /// An emulator that gives up says so nowhere else.
    #[test]
    fn what_qemu_says_of_itself_is_told() {
        let script = "echo hello; echo 'Assertion failed.' >&2; kill -ABRT $$";
        let how = "QEMU ended: signal: 6 (SIGABRT); QEMU said:\nAssertion failed.";
        let error = console(script).wait_for("never", LIMIT).unwrap_err().to_string();
        assert_eq!(error, format!("the machine ended before \"never\" appeared; {how}"));
        let error = console(script).run_command(LIMIT, |_| {}).unwrap_err().to_string();
        assert_eq!(error, format!("the machine went off without having run the command; {how}"));
        let mut late = console("echo warning >&2; echo x; sleep 5");
        late.wait_for("x", LIMIT).unwrap();
        let error = late.wait_for("never", Duration::from_secs(1)).unwrap_err().to_string();
        assert_eq!(error, "the time limit passed; QEMU said:\nwarning");
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
