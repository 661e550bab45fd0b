//! The line protocol with whoever runs the program.

use std::io::{self, BufRead, Write};
use std::time::SystemTime;

/// Prints a line at once.
pub(crate) fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Says that a part of the run begins or ends. Waits for a line when somebody takes notes.
pub(crate) fn mark(name: &str) -> io::Result<()> {
    say(&format!("MARK {name}"))?;
    if std::env::var_os("BENCH_MARKS").is_some() {
        io::stdin().lock().read_line(&mut String::new())?;
    }
    Ok(())
}

/// On a thread of its own: those of the runtime may have sessions to renew.
pub(crate) async fn until_stdin_ends() -> io::Result<()> {
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin().lock(), &mut io::sink()).map(|_| ())).await?
}

/// A moment in nanoseconds since 1970, by which the passes of several processes are put together.
pub(crate) fn unix_nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
