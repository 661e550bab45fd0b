//! How often a lock changes hands between processes: `hand_over [PROCESSES] [SECONDS] [ROUNDS]`, 4, 2 and 5 by default.
//!
//! Each process takes and leaves one lock again and again, and notes in a log when it had it. In each round once with
//! lock-file, twice with `flock(1)`, the way shell scripts use it, and once with the system call that both are built on,
//! which is unfair: who leaves the lock may take it again before the others. Prints medians, and how lock-file compares.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lock_core::Client;
use lock_file::{Config, Files};
use rustix::fs::{FlockOperation, flock};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// A lock on an open file, as in `( flock 9; …; ) 9>lock`.
const OPEN_FILE: &str = "exec 9>>lock; while [ ! -e stop ]; do flock 9; echo $$ >>log; flock -u 9; done";

/// A command under a lock, as in `flock lock command`.
const COMMAND: &str = "export SHELL_ID=$$; while [ ! -e stop ]; do flock lock sh -c 'echo $SHELL_ID >>log'; done";

#[derive(Clone, Copy, PartialEq)]
enum Way {
    LockFile,
    Script(&'static str),
    SystemCall,
}

const WAYS: [(&str, Way); 4] = [
    ("lock-file", Way::LockFile),
    ("flock(1), flock 9", Way::Script(OPEN_FILE)),
    ("flock(1), flock lock command", Way::Script(COMMAND)),
    ("flock(2), unfair", Way::SystemCall),
];

/// How often a lock was taken in a second, and by another process than before.
#[derive(Clone, Copy)]
struct Rates {
    taken: usize,
    handed_over: usize,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| args.get(at).map_or(Ok(default), |arg| arg.parse());
    match args.first().map(String::as_str) {
        Some("take") => take(),
        Some("flock") => take_by_system_call(),
        _ => measure(number(0, 4)?, number(1, 2)?, number(2, 5)?),
    }
}

/// Takes the lock of lock-file in the working directory until it is time to stop.
#[tokio::main(flavor = "current_thread")]
async fn take() -> Result<()> {
    let client = Client::connect(Files::new(Config::new("locks"))?).await?;
    let mutex = client.mutex("hand-over")?;
    let mut note = note()?;
    while !Path::new("stop").exists() {
        let guard = mutex.lock().await?;
        note()?;
        guard.release().await;
    }
    client.close().await;
    Ok(())
}

fn take_by_system_call() -> Result<()> {
    let lock = File::create("lock")?;
    let mut note = note()?;
    while !Path::new("stop").exists() {
        flock(&lock, FlockOperation::LockExclusive)?;
        note()?;
        flock(&lock, FlockOperation::Unlock)?;
    }
    Ok(())
}

/// Writes the process's id to the log each time it is called.
fn note() -> std::io::Result<impl FnMut() -> std::io::Result<()>> {
    let mut log = OpenOptions::new().append(true).create(true).open("log")?;
    let line = format!("{}\n", std::process::id());
    Ok(move || log.write_all(line.as_bytes()))
}

fn measure(processes: usize, seconds: usize, rounds: usize) -> Result<()> {
    let mut found = WAYS.map(|_| Vec::with_capacity(rounds));
    for _ in 0..rounds {
        for ((_, way), found) in WAYS.iter().zip(&mut found) {
            found.push(contend(*way, processes, seconds)?);
        }
    }
    let medians = found.map(|rates| Rates {
        taken: median(rates.iter().map(|rates| rates.taken)),
        handed_over: median(rates.iter().map(|rates| rates.handed_over)),
    });
    println!("{processes} processes, medians of {rounds} rounds of {seconds} s");
    for ((name, _), rates) in WAYS.iter().zip(medians) {
        let ratio = medians[0].handed_over as f64 / rates.handed_over as f64;
        let Rates { taken, handed_over } = rates;
        println!("{name:<29} {taken:>7} times/s {handed_over:>7} hand-overs/s, lock-file has {ratio:.2} times as many");
    }
    Ok(())
}

fn median(values: impl Iterator<Item = usize>) -> usize {
    let mut values: Vec<usize> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

fn contend(way: Way, processes: usize, seconds: usize) -> Result<Rates> {
    let directory = tempfile::tempdir()?;
    let program = std::env::current_exe()?;
    let start = || {
        let mut command = match way {
            Way::Script(script) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", script]);
                shell
            }
            Way::LockFile | Way::SystemCall => {
                let mut own = Command::new(&program);
                own.arg(if way == Way::LockFile { "take" } else { "flock" });
                own
            }
        };
        command.current_dir(directory.path()).stdin(Stdio::null()).spawn()
    };
    let children = (0..processes).map(|_| start()).collect::<Result<Vec<Child>, _>>()?;
    std::thread::sleep(Duration::from_secs(seconds as u64));
    File::create(directory.path().join("stop"))?;
    for mut child in children {
        if !child.wait()?.success() {
            return Err("a process failed".into());
        }
    }
    let log = std::fs::read_to_string(directory.path().join("log"))?;
    let takers: Vec<&str> = log.lines().collect();
    let changes = takers.windows(2).filter(|pair| pair[0] != pair[1]).count();
    Ok(Rates { taken: takers.len() / seconds, handed_over: changes / seconds })
}
