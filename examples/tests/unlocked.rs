//! The examples' resources notice a lock that does not lock: two processes use one of them, each with a store of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Stdio;
use std::time::{Duration, Instant};

use examples::bank::Bank;
use examples::cache::Cache;
use examples::database::Database;
use examples::jobs::Jobs;
use examples::orders::Orders;
use examples::service::{Resource, Service};
use examples::settings::Settings;
use tokio::process::Command;

/// Runs two processes until what they do is found to be wrong.
async fn is_found_out<R: Resource>(program: &str, args: &str, resource: R, wrong: impl Fn(&Service<R>) -> bool) {
    let service = Service::start(resource, false).await.unwrap();
    let children = [0, 1].map(|process| {
        Command::new(program)
            .args(["--resource", &service.address().to_string(), "--process", &process.to_string()])
            .args(args.split_whitespace())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    });
    let started = Instant::now();
    while !wrong(&service) {
        assert!(started.elapsed() < Duration::from_secs(30), "{program}: nothing was found to be wrong");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for mut child in children {
        // The end of its standard input is what asks a child to stop.
        drop(child.stdin.take());
        child.wait().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_not_bounded() {
    let program = env!("CARGO_BIN_EXE_connection_pool");
    let wrong = |service: &Service<Database>| service.resource().seen().most > 5;
    is_found_out(program, "--rounds 1000000", Database::new(5, 1), wrong).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_two_have_made() {
    let program = env!("CARGO_BIN_EXE_cache_refresh");
    let cache = Cache::new(Duration::from_millis(20), 1_000_000);
    is_found_out(program, "--refreshes 1000000", cache, |service| service.resource().seen().most > 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_leaders() {
    let program = env!("CARGO_BIN_EXE_job_scheduler");
    let jobs = Jobs::new(1_000_000, Duration::from_millis(1));
    is_found_out(program, "--ticks 1000000", jobs, |service| service.tally().contested() > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_two_write() {
    let program = env!("CARGO_BIN_EXE_transfer");
    let bank = Bank::new((0..6).map(|number| format!("account-{number}")), 100, 1);
    is_found_out(program, "--transfers 1000000", bank, |service| service.tally().contested() > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_two_handle() {
    let program = env!("CARGO_BIN_EXE_queue_consumer");
    let orders = Orders::up_to(1_000_000);
    is_found_out(program, "", orders, |service| service.tally().contested() > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_read_while_they_are_written() {
    let program = env!("CARGO_BIN_EXE_config_store");
    let settings = Settings::new(1_000_000);
    is_found_out(program, "--changes 1000000", settings, |service| service.resource().seen().disturbed > 0).await;
}
