//! What a peer says to whoever runs it, and what it writes down.

use std::io::{self, BufRead, BufWriter, Write};
use std::time::{Instant, SystemTime};

use crate::{Args, Result};

/// Prints a line at once.
pub fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Says that a part of the run begins or ends. Waits for a line when somebody takes notes.
pub fn mark(name: &str) -> Result<()> {
    say(&format!("MARK {name}"))?;
    if std::env::var_os("BENCH_MARKS").is_some() {
        io::stdin().lock().read_line(&mut String::new())?;
    }
    Ok(())
}

pub fn until_stdin_ends() -> Result<()> {
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(())
}

/// One acquisition. Times are nanoseconds since the beginning of the pass.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub worker: u64,
    /// The order in which they were asked for.
    pub ticket: u64,
    pub requested: u64,
    pub granted: u64,
    pub releasing: u64,
    pub released: u64,
}

fn write_records(args: &Args, records: &[Record]) -> Result<()> {
    let Some(path) = &args.raw else { return Ok(()) };
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    for Record { worker, ticket, requested, granted, releasing, released } in records {
        writeln!(file, "{worker},{ticket},{requested},{granted},{releasing},{released}")?;
    }
    Ok(file.flush()?)
}

/// The time of one pass.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    /// By which the passes of several processes are put together.
    unix_ns: u128,
}

impl Clock {
    pub fn start() -> Result<Self> {
        let unix_ns = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
        Ok(Self { start: Instant::now(), unix_ns })
    }

    /// Nanoseconds since the start.
    pub fn now(self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

/// Runs a pass of `args.warm` acquisitions, then one of `args.n` between the marks, and reports that one.
pub fn measure(args: &Args, mut pass: impl FnMut(u64, Clock) -> Result<Vec<Record>>) -> Result<()> {
    pass(args.warm, Clock::start()?)?;
    mark("begin")?;
    let clock = Clock::start()?;
    let records = pass(args.n, clock)?;
    let wall = clock.now();
    mark("end")?;
    report(args, &records, wall, clock)
}

/// Reports a pass that took `wall` nanoseconds.
pub fn report(args: &Args, records: &[Record], wall: u64, clock: Clock) -> Result<()> {
    write_records(args, records)?;
    let wall_s = wall as f64 / 1e9;
    say(&format!(r#"{{"wall_s":{wall_s:.6},"done":{},"t0_unix_ns":{}}}"#, records.len(), clock.unix_ns))
}

/// Reports how waiters that had queued up got the lock one after the other, from the release that began it.
pub fn report_drain(args: &Args, records: &[Record], queued: u64, released: u64) -> Result<()> {
    let last = records.iter().map(|record| record.granted).max().unwrap_or_default();
    let [drain_s, queued_s] = [last.saturating_sub(released), queued].map(|ns| ns as f64 / 1e9);
    write_records(args, records)?;
    say(&format!(r#"{{"drain_s":{drain_s:.6},"queued_s":{queued_s:.6},"done":{}}}"#, records.len()))
}
