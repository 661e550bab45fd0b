//! Whatever goes wrong, no two commands run at once, on the files of one host.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::time::Duration;

use common::contest::{
    Contender, Contest, Term, after_pause, break_lock, is_ended, is_removed, is_removed_while_deaf, kill_lockctl,
    kill_warden,
};
use common::signal;
use rustix::process::Signal;
use tempfile::TempDir;

const TTL: Duration = Duration::from_secs(3);

/// The end of a lock is noticed at once.
const SOON: Duration = Duration::from_secs(5);

fn locks() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().join("locks").display());
    (dir, url)
}

#[tokio::test]
async fn lockctl_is_killed() {
    let (_dir, url) = locks();
    Contest::new("killed", TTL).is_handed_on([&url, &url], kill_lockctl, after_pause(TTL), None).await;
}

#[tokio::test]
async fn the_warden_is_killed() {
    let (_dir, url) = locks();
    Contest::new("warden", TTL).is_handed_on([&url, &url], kill_warden, SOON, Some(80)).await;
}

/// A lock of files is its holder's while that lives, even when it is stopped; but its time is over by then.
#[tokio::test]
async fn lockctl_is_stopped_for_long() {
    let (_dir, url) = locks();
    let contest = Contest::new("stopped", TTL);
    let fault = async |holder: &Contender, term: &Term| {
        holder.signal(Signal::STOP);
        is_ended(&contest, term).await;
        assert_eq!(contest.terms().len(), 1, "{}", contest.story());
        holder.signal(Signal::CONT);
    };
    contest.is_handed_on([&url, &url], fault, after_pause(TTL), Some(80)).await;
}

#[tokio::test]
async fn an_entry_is_removed() {
    let (dir, url) = locks();
    is_removed(TTL, &url, async |_, term| fs::remove_file(dir.path().join("locks").join(&term.key)).unwrap()).await;
}

#[tokio::test]
async fn a_session_is_removed_and_the_warden_is_stopped() {
    let (dir, url) = locks();
    let remove = async |holder: &Contender, term: &Term| {
        signal(holder.warden(), Signal::STOP);
        let session = term.key.split('-').nth(1).unwrap();
        fs::remove_file(dir.path().join("locks/%session").join(session)).unwrap();
    };
    is_removed(TTL, &url, remove).await;
}

#[tokio::test]
async fn an_operator_breaks_the_lock() {
    let (_dir, url) = locks();
    is_removed(TTL, &url, async |_, term| break_lock(&url, "removed", term)).await;
}

#[tokio::test]
async fn an_operator_breaks_the_lock_of_one_that_is_stopped() {
    let (_dir, url) = locks();
    let contest = Contest::new("deaf", TTL);
    let remove = async |holder: &Contender, term: &Term| {
        holder.signal(Signal::STOP);
        break_lock(&url, "deaf", term);
    };
    let hear = async |holder: &Contender| holder.signal(Signal::CONT);
    is_removed_while_deaf(&contest, [&url, &url], remove, hear).await;
}

#[tokio::test]
async fn the_command_ends_while_others_wait() {
    let (_dir, url) = locks();
    let usr1 = async |holder: &Contender, _: &Term| holder.signal(Signal::USR1);
    Contest::new("ends", TTL).is_handed_on([&url, &url], usr1, SOON, Some(0)).await;
}
