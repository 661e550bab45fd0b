//! What the README says can be typed in.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashMap;
use std::error::Error;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use lock_core::{Client, Guard, Mutex};

const README: &str = include_str!("../../README.md");

/// This file, in which what the README shows is compiled.
const COMPILED: &str = include_str!("readme.rs");

#[allow(dead_code, unused_must_use, clippy::let_underscore_future, reason = "only to be compiled")]
async fn lines(client: Client, mutex: Mutex, guard: Guard, token: u64, delay: Duration) -> Result<(), Box<dyn Error>> {
    client.mutex("backup")?.lock().await?;
    client.reentrant_mutex("backup")?.lock("request-17").await?;
    client.rw_lock("config")?.read().await?;
    client.semaphore("connections", 20)?.acquire(1).await?;
    client.multi_lock(["account-a", "account-b"])?.lock().await?;
    client.election("scheduler")?.campaign("10.0.0.1:7000").await?;
    client.election("scheduler")?.latch("10.0.0.1:7000")?.is_leader();
    client.election("scheduler")?.selector("10.0.0.1:7000")?.next().await?;
    client.election("scheduler")?.observe().next().await?;
    client.group("workers")?.join("10.0.0.1:7000").await?;
    client.barrier("maintenance")?.wait().await?;
    client.double_barrier("step", 3)?.enter().await?;
    client.count_down_latch("loaded", 3)?.count_down().await?;
    client.condvar("changed")?.wait(guard, &mutex).await?;
    client.queue("backup")?.list().await?;
    client.queue("backup")?.revoke(token).await?;
    client.queue("backup")?.break_lock(token).await?;
    client.mutex("backup")?.with_lock_delay(delay).lock().await?;
    Ok(())
}

#[cfg(feature = "etcd")]
#[allow(dead_code, reason = "only to be compiled")]
async fn guarded(guard: Guard, state: Vec<u8>) -> Result<(), Box<dyn Error>> {
    lock_etcd::Guarded::new(&guard)?.put("app/state", state).commit().await?;
    Ok(())
}

#[allow(dead_code, reason = "only to be compiled")]
fn gate(token: u64, mut file: std::fs::File, line: &[u8]) -> Result<(), Box<dyn Error>> {
    let gate = lock_core::FencingGate::new();
    gate.admit("report", token)?;
    gate.admit_and("report", token, || file.write_all(line))??;
    Ok(())
}

/// The part of the README with this heading.
fn section(heading: &str) -> &'static str {
    let start = README.find(&format!("\n## {heading}\n")).unwrap() + 1;
    let rest = &README[start..];
    rest[3..].find("\n## ").map_or(rest, |end| &rest[..end + 3])
}

#[test]
fn the_lines_of_code_are_compiled() {
    let recipes: Vec<_> = section("Recipes").lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert_eq!(recipes.len(), 19);
    for recipe in recipes {
        let line = recipe.split(" | ").nth(1).unwrap().trim_matches('`');
        assert!(COMPILED.contains(&format!("    {line};\n")), "{line}");
    }
    let block = section("Fencing").split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(block.lines().count(), 3);
    for line in block.lines() {
        let line = line.split("//").next().unwrap().trim();
        assert!(COMPILED.contains(&format!("    {line}\n")), "{line}");
    }
}

/// Every command that runs an example: the example, and its arguments.
fn commands() -> Vec<(&'static str, Vec<&'static str>)> {
    let after = README.split("cargo run --release -p examples ").skip(1);
    after
        .map(|command| {
            let mut words = command.split(['`', '\n']).next().unwrap().split_whitespace();
            let program = words.by_ref().skip_while(|word| *word != "--bin").nth(1).unwrap();
            (program, words.skip_while(|word| *word == "--").collect())
        })
        .collect()
}

#[test]
fn the_commands_work() {
    let programs = HashMap::from([
        ("workers", env!("CARGO_BIN_EXE_workers")),
        ("connection_pool", env!("CARGO_BIN_EXE_connection_pool")),
        ("cache_refresh", env!("CARGO_BIN_EXE_cache_refresh")),
        ("job_scheduler", env!("CARGO_BIN_EXE_job_scheduler")),
        ("transfer", env!("CARGO_BIN_EXE_transfer")),
        ("queue_consumer", env!("CARGO_BIN_EXE_queue_consumer")),
        ("config_store", env!("CARGO_BIN_EXE_config_store")),
    ]);
    let commands = commands();
    for program in programs.keys() {
        assert!(commands.iter().any(|(shown, _)| shown == program), "{program} is not in the README");
    }
    for (program, args) in commands {
        let mut command = Command::new(programs[program]);
        command.args(&args).stdin(Stdio::null());
        if args.contains(&"--backend") {
            // Other people's servers; the arguments are looked at all the same.
            command.arg("--help");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
    }
}
