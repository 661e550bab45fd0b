//! A process that takes a lock and tells what it believes: `contender URL RECIPE NAME`.
//!
//! Prints one JSON line per event, with times in nanoseconds on the boot clock, which all processes of a machine share:
//! `{"event":"granted","at":…,"token":…}` once, then `{"event":"check","at":…,"held":…}` every few milliseconds, where
//! `at` was read just before the check. Ends when it no longer holds the lock.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use lock_core::Guard;
use lock_core::clock::{BootClock, Clock};
use serde_json::json;

const EVERY: Duration = Duration::from_millis(5);

fn tell(event: &serde_json::Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{event}")?;
    out.flush()
}

async fn contend(url: &str, recipe: &str, name: &str) -> Result<(), Box<dyn std::error::Error>> {
    let client = integration::connect(url).await?;
    match recipe {
        "mutex" => hold(&client.mutex(name)?.lock().await?)?,
        "reader" => hold(&*client.rw_lock(name)?.read().await?)?,
        "writer" => hold(&*client.rw_lock(name)?.write().await?)?,
        "permit" => hold(&*client.semaphore(name, 1)?.acquire(1).await?)?,
        "leader" => hold(&*client.election(name)?.campaign("contender").await?)?,
        other => return Err(format!("no recipe {other:?}").into()),
    }
    Ok(())
}

/// Tells what a guard says until it says that it is lost.
fn hold(guard: &Guard) -> std::io::Result<()> {
    tell(&json!({"event": "granted", "at": BootClock.now().as_nanos(), "token": guard.token()}))?;
    loop {
        // The check is the first thing that happens after a stop: no I/O and no await stand before it.
        let at = BootClock.now().as_nanos();
        let held = guard.check().is_ok();
        tell(&json!({"event": "check", "at": at, "held": held}))?;
        if !held {
            return Ok(());
        }
        std::thread::sleep(EVERY);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, recipe, name] = args.as_slice() else {
        eprintln!("usage: contender URL RECIPE NAME");
        return ExitCode::from(2);
    };
    match contend(url, recipe, name).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("contender: {error}");
            ExitCode::FAILURE
        }
    }
}
