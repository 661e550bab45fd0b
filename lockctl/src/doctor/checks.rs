//! What is checked over a session.

use std::time::{Duration, Instant};

use lock_core::Client;

use super::Finding;
use super::endpoints::remedy;
use crate::connect::Store;
use crate::exit::Failure;
use crate::output::time::measured;

/// Reads that are timed.
const READS: usize = 20;

/// Where locks are tried out.
const SCRATCH: &str = "lockctl-doctor";

/// How long the scratch lock may take, whose name nobody else has.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn all(
    store: &Store,
    url: &str,
    client: &Client,
    mut found: impl FnMut(Finding) -> Result<(), Failure>,
) -> Result<(), Failure> {
    found(Finding::ok("session", format!("{}, as {}", client.session_id().await?, who(store, url))))?;
    let granted = client.ttl().await?;
    found(ttl(granted, store.ttl()))?;
    let name = format!("{SCRATCH}/{:016x}", fastrand::u64(..));
    found(match round_trips(client, &name).await {
        Ok(times) => round_trip(times, granted),
        Err(failure) => failed("round trip", &failure),
    })?;
    found(match tokio::time::timeout(PATIENCE, scratch(client, &name)).await {
        Ok(Ok(took)) => Finding::ok("lock", format!("taken, seen in its queue and released in {}", measured(took))),
        Ok(Err(failure)) => failed("lock", &failure),
        Err(_) => failed("lock", &Failure::unreachable(format!("not taken and released within {PATIENCE:?}"))),
    })
}

fn failed(check: &str, failure: &Failure) -> Finding {
    Finding::bad(check, failure, remedy(failure.exit(), false))
}

fn who(store: &Store, url: &str) -> String {
    store.user(url).map_or_else(|| "a client without a login".to_owned(), |user| format!("user {user:?}"))
}

fn ttl(granted: Duration, asked: Option<Duration>) -> Finding {
    match asked {
        Some(asked) if asked != granted => Finding::doubtful(
            "ttl",
            format!("{} granted, {} asked for", humantime::format_duration(granted), humantime::format_duration(asked)),
            "the servers' limits decide; see their settings, or ask for what they grant",
        ),
        _ => {
            let granted = humantime::format_duration(granted);
            Finding::ok("ttl", format!("{granted} granted: others get the locks of a dead host after it"))
        }
    }
}

async fn round_trips(client: &Client, name: &str) -> Result<Vec<Duration>, Failure> {
    let queue = client.queue(name)?;
    let mut times = Vec::with_capacity(READS);
    for _ in 0..READS {
        let began = Instant::now();
        queue.list().await?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

/// Six renewals are made in a ttl, each of a few requests; whoever needs a tenth of it for one is near to losing locks.
fn round_trip(times: Vec<Duration>, ttl: Duration) -> Finding {
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    let told = format!("{} median of {}, {} at most", measured(median), times.len(), measured(slowest));
    if slowest > ttl / 10 {
        let remedy =
            "slow for this ttl: locks may be lost when it gets worse; look at the servers' disks, or raise --ttl";
        return Finding::doubtful("round trip", told, remedy);
    }
    Finding::ok("round trip", told)
}

async fn scratch(client: &Client, name: &str) -> Result<Duration, Failure> {
    let began = Instant::now();
    let guard = client.mutex(name)?.lock().await?;
    let places = client.queue(name)?.list().await?;
    guard.check()?;
    let seen = places.len() == 1 && places[0].token == Some(guard.token());
    let released = guard.release().await;
    let left = client.queue(name)?.list().await?.len();
    if !seen || left > 0 {
        let problem =
            format!("the queue of a lock that nobody else uses was wrong: {places:?}, {left} left after {released:?}");
        return Err(Failure::internal(problem));
    }
    Ok(began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_store_that_is_slow_for_its_ttl_is_doubtful() {
        let ms = Duration::from_millis;
        assert_eq!(round_trip(vec![ms(1), ms(2), ms(99)], ms(1000)).verdict, Verdict::Ok);
        let slow = round_trip(vec![ms(1), ms(2), ms(101)], ms(1000));
        assert_eq!(slow.verdict, Verdict::Doubtful);
        assert!(slow.told.contains("2.0ms median of 3") && slow.remedy.unwrap().contains("--ttl"));
    }

    #[test]
    fn another_ttl_than_asked_for_is_doubtful() {
        let second = Duration::from_secs(1);
        assert_eq!(ttl(second, None).verdict, Verdict::Ok);
        assert_eq!(ttl(second, Some(second)).verdict, Verdict::Ok);
        assert_eq!(ttl(second, Some(second * 2)).verdict, Verdict::Doubtful);
    }
}
