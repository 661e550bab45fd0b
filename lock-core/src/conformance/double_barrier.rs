//! The double barrier, in calm and while things break.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Contender, Cut, World, contenders, eventually, fresh_name, in_time, patience, poll_and_drop};
use crate::{DoubleBarrier, Error, Loss, Name, Party, Result};

const SECOND: Duration = Duration::from_secs(1);

/// One double barrier in several clients.
fn everywhere(contenders: &[Contender], parties: u32) -> Vec<DoubleBarrier> {
    let name = fresh_name();
    contenders.iter().map(|contender| contender.client.double_barrier(&name, parties).unwrap()).collect()
}

/// Waits until the queue has `n` entries.
async fn queue_length(world: &dyn World, barrier: &DoubleBarrier, n: usize) {
    let name = Name::new(barrier.name()).unwrap();
    eventually(&format!("the queue has {n} entries"), patience(world), || async {
        world.entries(&name).await.len() == n
    })
    .await;
}

/// A party that waits for its round.
struct Entrant(JoinHandle<Result<Party>>);

impl Entrant {
    fn start_blindly(barrier: &DoubleBarrier) -> Self {
        let barrier = barrier.clone();
        Self(tokio::spawn(async move { barrier.enter().await }))
    }

    /// Starts and returns when the entrant sleeps, the queue having `n` entries.
    async fn waiting(world: &dyn World, contender: &Contender, barrier: &DoubleBarrier, n: usize) -> Self {
        let before = contender.client.metrics().waits;
        let entrant = Self::start_blindly(barrier);
        queue_length(world, barrier, n).await;
        eventually("it sleeps", patience(world), || async { contender.client.metrics().waits > before }).await;
        entrant
    }

    async fn outcome(self, world: &dyn World) -> Result<Party> {
        in_time(world, "the entrant has its answer", self.0).await.unwrap()
    }

    async fn inside(self, world: &dyn World) -> Party {
        self.outcome(world).await.expect("it is let in")
    }

    fn is_waiting(&self) -> bool {
        !self.0.is_finished()
    }
}

async fn enter(world: &dyn World, barrier: &DoubleBarrier) -> Party {
    in_time(world, "all have come", barrier.enter()).await.unwrap()
}

fn start_leaving(party: Party) -> JoinHandle<Result<()>> {
    tokio::spawn(async move { party.leave().await })
}

/// Starts leaving and returns when the leaver sleeps.
async fn leaving(world: &dyn World, contender: &Contender, party: Party) -> JoinHandle<Result<()>> {
    let before = contender.client.metrics().waits;
    let leaver = start_leaving(party);
    eventually("it sleeps", patience(world), || async { contender.client.metrics().waits > before }).await;
    leaver
}

async fn left(world: &dyn World, leaver: JoinHandle<Result<()>>) {
    in_time(world, "all have left", leaver).await.unwrap().unwrap();
}

pub async fn goes_in_together_and_out_together(world: &dyn World) {
    let three = contenders(world, 3).await;
    let barrier = everywhere(&three, 3);
    let first = Entrant::waiting(world, &three[0], &barrier[0], 1).await;
    let second = Entrant::waiting(world, &three[1], &barrier[1], 2).await;
    tokio::time::sleep(world.ttl() / 10).await;
    assert!(first.is_waiting() && second.is_waiting());
    let third = enter(world, &barrier[2]).await;
    let (first, second) = (first.inside(world).await, second.inside(world).await);
    assert!(first.token() < second.token() && second.token() < third.token());
    for party in [&first, &second, &third] {
        party.check().unwrap();
    }
    let first = leaving(world, &three[0], first).await;
    // The one that the first watched.
    let third = leaving(world, &three[2], third).await;
    tokio::time::sleep(world.ttl() / 10).await;
    assert!(!first.is_finished() && !third.is_finished());
    left(world, start_leaving(second)).await;
    left(world, first).await;
    left(world, third).await;
    queue_length(world, &barrier[0], 0).await;
}

/// Counts, by round, those who came and those who want to leave.
#[derive(Debug, Default)]
struct Tally([(AtomicUsize, AtomicUsize); 12]);

/// Takes part in `rounds` rounds, in each of which everybody comes before anybody is inside, and wants to leave before
/// anybody is out.
async fn take_part(barrier: DoubleBarrier, tally: Arc<Tally>, rounds: usize) {
    let parties = barrier.parties() as usize;
    for (came, leaves) in &tally.0[..rounds] {
        came.fetch_add(1, Ordering::SeqCst);
        let party = barrier.enter().await.unwrap();
        assert_eq!(came.load(Ordering::SeqCst), parties, "all have come");
        assert!(leaves.load(Ordering::SeqCst) < parties);
        party.check().unwrap();
        tokio::task::yield_now().await;
        leaves.fetch_add(1, Ordering::SeqCst);
        party.leave().await.unwrap();
        assert_eq!(leaves.load(Ordering::SeqCst), parties, "all want to leave");
    }
}

pub async fn rounds_follow_each_other_without_a_reset(world: &dyn World) {
    let three = contenders(world, 3).await;
    let barrier = everywhere(&three, 6);
    let tally = Arc::new(Tally::default());
    let parties: Vec<_> =
        (0..6).map(|i| tokio::spawn(take_part(barrier[i % 3].clone(), tally.clone(), tally.0.len()))).collect();
    for party in parties {
        tokio::time::timeout(patience(world) * 4, party).await.expect("nobody waits for ever").unwrap();
    }
    queue_length(world, &barrier[0], 0).await;
}

pub async fn later_rounds_neither_wait_for_earlier_ones_nor_keep_them(world: &dyn World) {
    let four = contenders(world, 4).await;
    let barrier = everywhere(&four, 2);
    let first = Entrant::waiting(world, &four[0], &barrier[0], 1).await;
    let second = enter(world, &barrier[1]).await;
    let first = first.inside(world).await;
    let third = Entrant::waiting(world, &four[2], &barrier[2], 3).await;
    tokio::time::sleep(world.ttl() / 10).await;
    assert!(third.is_waiting(), "the round before was complete without it");
    let fourth = enter(world, &barrier[3]).await;
    let third = third.inside(world).await;
    // The later round is out while nobody of the earlier one has left …
    let third = start_leaving(third);
    left(world, start_leaving(fourth)).await;
    left(world, third).await;
    // … and the other way round.
    let fifth = Entrant::waiting(world, &four[2], &barrier[2], 3).await;
    let sixth = enter(world, &barrier[3]).await;
    let fifth = fifth.inside(world).await;
    let first = leaving(world, &four[0], first).await;
    assert!(!first.is_finished());
    left(world, start_leaving(second)).await;
    left(world, first).await;
    fifth.check().unwrap();
    let sixth = start_leaving(sixth);
    left(world, start_leaving(fifth)).await;
    left(world, sixth).await;
}

pub async fn wakes_each_party_once_to_go_in_and_once_to_go_out(world: &dyn World) {
    const PARTIES: u32 = 9;
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two, PARTIES);
    let count = |of: fn(crate::Metrics) -> u64| two.iter().map(|c| of(c.client.metrics())).sum::<u64>();
    let mut waiting = Vec::new();
    for i in 0..PARTIES as usize - 1 {
        waiting.push(Entrant::waiting(world, &two[i % 2], &barrier[i % 2], i + 1).await);
    }
    assert_eq!(count(|m| m.nudges), 0, "who comes wakes nobody");
    let last = enter(world, &barrier[0]).await;
    let mut inside = Vec::new();
    for party in waiting {
        inside.push(party.inside(world).await);
    }
    assert_eq!(count(|m| m.nudges), u64::from(PARTIES) - 1, "nobody is woken twice");
    let mut leavers = Vec::new();
    for (i, party) in inside.into_iter().enumerate() {
        leavers.push(leaving(world, &two[i % 2], party).await);
    }
    assert_eq!(count(|m| m.wakeups), 0, "who leaves wakes nobody");
    left(world, start_leaving(last)).await;
    for leaver in leavers {
        left(world, leaver).await;
    }
    assert_eq!(count(|m| m.wakeups), u64::from(PARTIES) - 1);
}

pub async fn one_party_goes_in_at_once(world: &dyn World) {
    let one = world.contender().await;
    let barrier = one.client.double_barrier(fresh_name(), 1).unwrap();
    let first = enter(world, &barrier).await;
    let second = enter(world, &barrier).await;
    left(world, start_leaving(first)).await;
    left(world, start_leaving(second)).await;
    queue_length(world, &barrier, 0).await;
}

pub async fn deadline_passes_and_nobody_counts_on_the_one_who_withdrew(world: &dyn World) {
    let three = contenders(world, 3).await;
    let barrier = everywhere(&three, 2);
    let timeout = Duration::from_millis(300);
    let began = Instant::now();
    assert!(barrier[0].enter_for(timeout).await.unwrap().is_none());
    let took = began.elapsed();
    assert!(took >= timeout && took < timeout + Duration::from_millis(500), "took {took:?}");
    let name = Name::new(barrier[0].name()).unwrap();
    assert_eq!(world.entries(&name).await, [], "when it answers, nothing is left");
    let second = Entrant::waiting(world, &three[1], &barrier[1], 1).await;
    tokio::time::sleep(world.ttl() / 10).await;
    assert!(second.is_waiting());
    let third = barrier[2].enter_for(patience(world)).await.unwrap().expect("both have come");
    let second = second.inside(world).await;
    assert!(!in_time(world, "the deadline", second.leave_for(timeout)).await.unwrap(), "the other is inside");
    assert!(in_time(world, "all have left", third.leave_for(patience(world))).await.unwrap());
}

pub async fn deadline_in_the_moment_of_the_last_arrival_leaves_nobody_alone(world: &dyn World) {
    let two = contenders(world, 2).await;
    let timeout = Duration::from_millis(60);
    for step in 0..40 {
        let barrier = everywhere(&two, 2);
        let hasty = tokio::spawn({
            let barrier = barrier[0].clone();
            async move { barrier.enter_for(timeout).await }
        });
        tokio::time::sleep(timeout - Duration::from_millis(4) + Duration::from_micros(step * 200)).await;
        let patient = Entrant::start_blindly(&barrier[1]);
        match in_time(world, "an answer", hasty).await.unwrap() {
            Ok(Some(party)) => {
                let other = patient.inside(world).await;
                let leaver = start_leaving(party);
                left(world, start_leaving(other)).await;
                left(world, leaver).await;
            }
            Ok(None) => {
                queue_length(world, &barrier[0], 1).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                assert!(patient.is_waiting(), "nobody was let in with the one who withdrew");
                patient.0.abort();
            }
            // The store was so slow that it may not even have come.
            Err(Error::Timeout { doing: "entering the queue", .. }) => patient.0.abort(),
            // It was let in when it withdrew, and has left.
            Err(error) => {
                assert!(matches!(error, Error::Timeout { .. }), "{error}");
                left(world, start_leaving(patient.inside(world).await)).await;
            }
        }
        queue_length(world, &barrier[0], 0).await;
    }
}

pub async fn dropped_entrant_leaves_nothing_and_does_not_count(world: &dyn World) {
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two, 2);
    for polls in 0..8 {
        poll_and_drop(barrier[1].enter(), polls).await;
        poll_and_drop(barrier[1].enter_for(SECOND), polls).await;
    }
    for step in 0..40 {
        let _ = tokio::time::timeout(Duration::from_micros(150 * step), barrier[1].enter()).await;
        queue_length(world, &barrier[0], 0).await;
    }
    let first = Entrant::waiting(world, &two[0], &barrier[0], 1).await;
    for step in 0..40 {
        // It completes the round, and is gone: at once, or as one who was inside.
        let _ = tokio::time::timeout(Duration::from_micros(150 * step), barrier[1].enter()).await;
        queue_length(world, &barrier[0], 1).await;
        if !first.is_waiting() {
            break;
        }
    }
    if first.is_waiting() {
        drop(enter(world, &barrier[1]).await);
    }
    left(world, start_leaving(first.inside(world).await)).await;
    queue_length(world, &barrier[0], 0).await;
}

pub async fn dropped_party_has_left(world: &dyn World) {
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two, 2);
    let first = Entrant::waiting(world, &two[0], &barrier[0], 1).await;
    let second = enter(world, &barrier[1]).await;
    let first = leaving(world, &two[0], first.inside(world).await).await;
    std::thread::spawn(move || drop(second)).join().unwrap();
    left(world, first).await;
    // Dropped while leaving, too.
    let first = Entrant::waiting(world, &two[0], &barrier[0], 1).await;
    let second = enter(world, &barrier[1]).await;
    let first = first.inside(world).await;
    poll_and_drop(second.leave(), 1).await;
    left(world, start_leaving(first)).await;
    queue_length(world, &barrier[0], 0).await;
}

pub async fn refuses_bad_input_and_leaves_nothing(world: &dyn World) {
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two, 2);
    let error = two[0].client.double_barrier("b", 0).unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    let first = Entrant::waiting(world, &two[0], &barrier[0], 1).await;
    let other = two[1].client.double_barrier(barrier[0].name(), 3).unwrap();
    for error in [
        in_time(world, "told", other.enter()).await.unwrap_err(),
        in_time(world, "told", other.enter_for(SECOND)).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::NumberMismatch { asked: 3, stored: 2, .. }), "{error}");
        assert!(error.to_string().contains(barrier[0].name()), "{error}");
        let name = Name::new(barrier[0].name()).unwrap();
        assert_eq!(world.entries(&name).await.len(), 1, "it did not even enter");
    }
    let error = in_time(world, "told", two[1].client.mutex(barrier[0].name()).unwrap().lock()).await.unwrap_err();
    assert!(matches!(error, Error::OtherRecipe { found: "double barrier", .. }), "{error}");
    queue_length(world, &barrier[0], 1).await;
    assert!(first.is_waiting());
    first.0.abort();
    let name = fresh_name();
    let guard = two[0].client.mutex(&name).unwrap().lock().await.unwrap();
    let taken = two[1].client.double_barrier(&name, 2).unwrap();
    let error = in_time(world, "told", taken.enter()).await.unwrap_err();
    assert!(matches!(error, Error::OtherRecipe { wanted: "double barrier", found: "mutex", .. }), "{error}");
    queue_length(world, &taken, 1).await;
    guard.check().expect("untouched");
}

pub async fn party_that_dies_while_it_waits_does_not_count(world: &dyn World) {
    let three = contenders(world, 3).await;
    let barrier = everywhere(&three, 2);
    let first = Entrant::waiting(world, &three[0], &barrier[0], 1).await;
    world.expire(&three[0].client.session_id().await.unwrap()).await;
    queue_length(world, &barrier[1], 0).await;
    let error = first.outcome(world).await.unwrap_err();
    assert!(matches!(error, Error::SessionLost { .. } | Error::EntryRemoved { .. }), "{error}");
    assert!(error.is_retryable());
    let second = Entrant::waiting(world, &three[1], &barrier[1], 1).await;
    tokio::time::sleep(world.ttl() / 10).await;
    assert!(second.is_waiting(), "the dead one does not count");
    three[1].client.close().await;
    let error = second.outcome(world).await.unwrap_err();
    assert!(matches!(error, Error::SessionLost { loss: Loss::Closed, .. }), "{error}");
    let second = Entrant::waiting(world, &three[1], &barrier[1], 1).await;
    let third = start_leaving(enter(world, &barrier[2]).await);
    left(world, start_leaving(second.inside(world).await)).await;
    left(world, third).await;
}

pub async fn party_that_dies_inside_has_left(world: &dyn World) {
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two, 2);
    let first = Entrant::waiting(world, &two[0], &barrier[0], 1).await;
    let second = enter(world, &barrier[1]).await;
    let first = leaving(world, &two[0], first.inside(world).await).await;
    let session = two[1].client.session_id().await.unwrap();
    world.expire(&session).await;
    left(world, first).await;
    let loss = in_time(world, "it knows", second.lost()).await;
    assert!(matches!(loss, Loss::SessionEnded | Loss::EntryRemoved | Loss::Expired), "{loss}");
    let error = in_time(world, "told", second.leave()).await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
}

pub async fn removed_entrant_is_told_and_does_not_count(world: &dyn World) {
    let three = contenders(world, 3).await;
    let barrier = everywhere(&three, 2);
    let name = Name::new(barrier[0].name()).unwrap();
    for at_once in [false, true] {
        let first = Entrant::waiting(world, &three[0], &barrier[0], 1).await;
        if !at_once {
            tokio::time::sleep(SECOND / 2).await;
        }
        world.remove(&world.entries(&name).await.remove(0).entry).await;
        if !at_once {
            let error = tokio::time::timeout(SECOND, first.0).await.expect("told within a second").unwrap();
            assert!(matches!(error, Err(Error::EntryRemoved { .. })), "{error:?}");
            continue;
        }
        // The next round is let in before the first one may know: its token is a smaller one, but it was not counted.
        let second = Entrant::waiting(world, &three[1], &barrier[1], 1).await;
        let third = start_leaving(enter(world, &barrier[2]).await);
        let error = first.outcome(world).await.unwrap_err();
        assert!(matches!(error, Error::EntryRemoved { .. }), "{error}");
        left(world, start_leaving(second.inside(world).await)).await;
        left(world, third).await;
    }
    queue_length(world, &barrier[0], 0).await;
}

pub async fn removed_party_is_lost_within_a_second(world: &dyn World) {
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two, 2);
    let name = Name::new(barrier[0].name()).unwrap();
    let first = Entrant::waiting(world, &two[0], &barrier[0], 1).await;
    let second = enter(world, &barrier[1]).await;
    let first = first.inside(world).await;
    world.remove(&world.entries(&name).await.remove(0).entry).await;
    let loss = tokio::time::timeout(SECOND, first.lost()).await.expect("noticed within a second");
    assert_eq!(loss, Loss::EntryRemoved);
    assert!(matches!(first.leave().await, Err(Error::Lost { loss: Loss::EntryRemoved, .. })));
    left(world, start_leaving(second)).await;
}

pub async fn cuts_keep_the_places_and_the_rounds_whole(world: &dyn World) {
    const ROUNDS: usize = 6;
    let three = contenders(world, 3).await;
    let barrier = everywhere(&three, 3);
    let tally = Arc::new(Tally::default());
    let parties: Vec<_> =
        barrier.iter().map(|barrier| tokio::spawn(take_part(barrier.clone(), tally.clone(), ROUNDS))).collect();
    let mut step = 0;
    while parties.iter().any(|party| !party.is_finished()) {
        // Fewer than would cost a session.
        tokio::time::sleep(Duration::from_millis(40)).await;
        if step < 12 {
            three[step % 3].link.cut(if step % 2 == 0 { Cut::Fin } else { Cut::Rst }).await;
        }
        step += 1;
        assert!(step < 4_000, "nobody waits for ever");
    }
    for party in parties {
        party.await.unwrap();
    }
    queue_length(world, &barrier[0], 0).await;
}

pub async fn lost_replies_keep_the_rounds_whole(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let two = contenders(world, 2).await;
        let barrier = everywhere(&two, 2);
        for _ in 0..4 {
            for contender in &two {
                contender.link.lose_next_reply(barrier[0].name(), how).await;
            }
            let first = Entrant::start_blindly(&barrier[0]);
            let second = Entrant::start_blindly(&barrier[1]);
            let (first, second) = (first.inside(world).await, second.inside(world).await);
            queue_length(world, &barrier[0], 2).await;
            for contender in &two {
                contender.link.lose_next_reply(barrier[0].name(), how).await;
            }
            let first = start_leaving(first);
            left(world, start_leaving(second)).await;
            left(world, first).await;
            queue_length(world, &barrier[0], 0).await;
        }
    }
}

pub async fn silence_longer_than_the_ttl_ends_an_entrant(world: &dyn World) {
    let three = contenders(world, 3).await;
    let barrier = everywhere(&three, 2);
    let first = Entrant::waiting(world, &three[0], &barrier[0], 1).await;
    three[0].link.hold().await;
    queue_length(world, &barrier[1], 0).await;
    let second = Entrant::waiting(world, &three[1], &barrier[1], 1).await;
    let third = start_leaving(enter(world, &barrier[2]).await);
    three[0].link.resume().await;
    let error = first.outcome(world).await.unwrap_err();
    assert!(matches!(error, Error::SessionLost { .. }) && error.is_session_lost(), "{error}");
    left(world, start_leaving(second.inside(world).await)).await;
    left(world, third).await;
}

pub async fn leaver_goes_on_over_the_next_session(world: &dyn World) {
    let two = contenders(world, 2).await;
    let barrier = everywhere(&two, 2);
    let first = Entrant::waiting(world, &two[0], &barrier[0], 1).await;
    let second = enter(world, &barrier[1]).await;
    let first = leaving(world, &two[0], first.inside(world).await).await;
    queue_length(world, &barrier[1], 1).await;
    world.expire(&two[0].client.session_id().await.unwrap()).await;
    eventually("a new session", patience(world), || async { two[0].client.metrics().sessions_opened >= 2 }).await;
    assert!(!first.is_finished(), "the other is inside");
    second.check().unwrap();
    left(world, start_leaving(second)).await;
    left(world, first).await;
}

pub async fn deadline_to_enter_holds_in_silence(world: &dyn World) {
    let one = world.contender().await;
    let barrier = one.client.double_barrier(fresh_name(), 2).unwrap();
    let timeout = Duration::from_millis(200);
    one.link.hold().await;
    let began = Instant::now();
    let error = barrier.enter_for(timeout).await.unwrap_err();
    let took = began.elapsed();
    assert!(matches!(error, Error::Timeout { .. }) && error.to_string().contains(barrier.name()), "{error}");
    assert!(took >= timeout && took < timeout + Duration::from_millis(500), "took {took:?}");
    one.link.resume().await;
    queue_length(world, &barrier, 0).await;
    // With a place in the queue, it tries to find out whether it was counted.
    let timeout = SECOND;
    let began = Instant::now();
    let entering = tokio::spawn({
        let barrier = barrier.clone();
        async move { barrier.enter_for(timeout).await }
    });
    queue_length(world, &barrier, 1).await;
    one.link.hold().await;
    let error = in_time(world, "an answer", entering).await.unwrap().unwrap_err();
    let took = began.elapsed();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(took < timeout + world.ttl() / 3 + Duration::from_millis(500), "took {took:?}");
    one.link.resume().await;
    queue_length(world, &barrier, 0).await;
}
