//! What goes between domains, timed from a process of one of them: reads of a disk, bytes over TCP, reads of the store.
//!
//! `cargo xtask bench-data` runs it in dom0 and in guests, on Debian's Xen and on Xenolith. A line `BENCH NAME FIGURE` is
//! printed for each row; figures are nanoseconds.

use lith_client::Store;
use lith_client::store::RESTART;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const HELP: &str = "\
usage: xenolith-data disk NAME FILE BYTES COUNT   reads so many times, around the file's cache; ns a read
       xenolith-data serve PORT MIB               receives MIB from one who talks, then sends as much; ns a MiB, each way
       xenolith-data talk HOST PORT MIB           the other side
       xenolith-data store NAME COUNT             reads domains' names in the store; ns a read
";
/// Of reads around the cache: a multiple of any disk's sectors.
const ALIGNMENT: usize = 4096;
/// Bytes that a program gives to a connection, or takes from it, at once.
const CHUNK: usize = 64 << 10;
const MIB: usize = 1 << 20;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xenolith-data {}: {error}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    match *words {
        ["disk", name, file, bytes, count] => disk(name, file, bytes.parse()?, count.parse()?),
        ["serve", port, mib] => serve(port.parse()?, mib.parse()?),
        ["talk", host, port, mib] => talk(host, port.parse()?, mib.parse()?),
        ["store", name, count] => store(name, count.parse()?),
        _ => Err(HELP.into()),
    }
}

/// Prints what one of `count` took.
fn print(name: &str, taken: Duration, count: usize) {
    println!("BENCH {name} {:.0}", taken.as_nanos() as f64 / count as f64);
}

/// Calls `operation` with a number that goes on; a tenth of the calls is not counted.
fn time(name: &str, count: usize, mut operation: impl FnMut(usize) -> Result<()>) -> Result<()> {
    let warm_up = count.div_ceil(10);
    (0..warm_up).try_for_each(&mut operation)?;
    let start = Instant::now();
    (warm_up..warm_up + count).try_for_each(operation)?;
    print(name, start.elapsed(), count);
    Ok(())
}

fn disk(name: &str, file: &str, bytes: usize, count: usize) -> Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(file)?;
    let mut pages = vec![0; bytes + ALIGNMENT];
    let skip = pages.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut pages[skip..skip + bytes];
    let places = size(&file)? / bytes;
    if places == 0 {
        return Err("the file is smaller than one read".into());
    }
    time(name, count, |n| Ok(file.read_exact_at(buffer, (n % places * bytes) as u64)?))
}

/// Bytes of a file or of a block device.
fn size(mut file: &File) -> Result<usize> {
    Ok(usize::try_from(file.seek(SeekFrom::End(0))?)?)
}

fn send(mut to: &TcpStream, mib: usize) -> Result<()> {
    let chunk = vec![0x5a; CHUNK];
    (0..mib * MIB / CHUNK).try_for_each(|_| to.write_all(&chunk))?;
    // All of it has arrived when the other side says so.
    to.shutdown(Shutdown::Write)?;
    match to.read(&mut [0])? {
        1 => Ok(()),
        _ => Err("the other side did not get all".into()),
    }
}

fn receive(mut from: &TcpStream, mib: usize) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut got = 0;
    loop {
        match from.read(&mut chunk)? {
            0 => break,
            len => got += len,
        }
    }
    if got != mib * MIB {
        return Err(format!("{got} bytes came instead of {mib} MiB").into());
    }
    Ok(from.write_all(&[1])?)
}

/// Each way on a connection of its own, measured here: from its first moment to the word that all has arrived.
fn serve(port: u16, mib: usize) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for (name, way) in
        [("tcp-from-guest", receive as fn(&TcpStream, usize) -> Result<()>), ("tcp-to-guest", send)]
    {
        let (stream, _) = listener.accept()?;
        let start = Instant::now();
        way(&stream, mib)?;
        print(name, start.elapsed(), mib);
    }
    Ok(())
}

fn talk(host: &str, port: u16, mib: usize) -> Result<()> {
    send(&TcpStream::connect((host, port))?, mib)?;
    receive(&TcpStream::connect((host, port))?, mib)
}

fn store(name: &str, count: usize) -> Result<()> {
    let mut store = Store::open(RESTART)?;
    let names: Vec<String> =
        store.directory("/local/domain")?.iter().map(|domid| format!("/local/domain/{domid}/name")).collect();
    time(name, count, |n| {
        let value = store.read(&names[n % names.len()])?;
        if value.is_empty() { Err("a domain without a name".into()) } else { Ok(()) }
    })
}
