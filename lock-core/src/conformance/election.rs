//! Leader election, while nothing breaks and while things do.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests; each name is the rule")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Contender, Cut, Witness, World, contenders, eventually, fresh_name, in_time, patience, poll_and_drop};
use crate::{Election, Ending, Error, Leader, Leadership, Loss, Name, Observer, Release, Result, State, Stopper};

const SECOND: Duration = Duration::from_secs(1);

/// One election in several clients.
fn everywhere(contenders: &[Contender]) -> Vec<Election> {
    let name = fresh_name();
    contenders.iter().map(|contender| contender.client.election(&name).unwrap()).collect()
}

fn queue(election: &Election) -> Name {
    Name::new(election.name()).unwrap()
}

async fn has_length(world: &dyn World, election: &Election, n: usize) {
    let queue = queue(election);
    eventually(&format!("{queue} has {n} candidates"), patience(world), || async {
        world.entries(&queue).await.len() == n
    })
    .await;
}

/// A task that stands for leadership.
struct Standing(JoinHandle<Result<Leadership>>);

impl Standing {
    /// Starts and returns when the candidate is in the queue, which has `n` entries then.
    async fn start(world: &dyn World, election: &Election, value: &str, n: usize) -> Self {
        let standing = Self::start_blindly(election, value);
        has_length(world, election, n).await;
        standing
    }

    fn start_blindly(election: &Election, value: &str) -> Self {
        Self(tokio::spawn(election.campaign(value)))
    }

    async fn outcome(self, world: &dyn World) -> Result<Leadership> {
        in_time(world, "the candidate has its answer", self.0).await.expect("the candidate's task does not panic")
    }

    async fn leadership(self, world: &dyn World) -> Leadership {
        self.outcome(world).await.expect("the candidate leads")
    }

    fn is_waiting(&self) -> bool {
        !self.0.is_finished()
    }
}

async fn leads(world: &dyn World, election: &Election, value: &str) -> Leadership {
    in_time(world, "nobody else leads", election.campaign(value)).await.unwrap()
}

fn value(leader: &Leader) -> &str {
    std::str::from_utf8(&leader.value).unwrap()
}

/// Follows an election until somebody shows `wanted`; returns the leaders seen on the way, that one the last.
async fn seen_until(world: &dyn World, observer: &mut Observer, wanted: &str) -> Vec<Leader> {
    let mut seen = Vec::new();
    let following = async {
        loop {
            if let Some(leader) = observer.next().await.unwrap() {
                seen.push(leader);
                if value(seen.last().unwrap()) == wanted {
                    break;
                }
            }
        }
    };
    in_time(world, &format!("the observer sees {wanted:?}"), following).await;
    seen
}

async fn nobody_leads(world: &dyn World, observer: &mut Observer) {
    assert_eq!(in_time(world, "the observer sees a change", observer.next()).await.unwrap(), None);
}

pub async fn leads_in_the_order_of_the_queue(world: &dyn World) {
    let three = contenders(world, 3).await;
    let election = everywhere(&three);
    let mut leader = leads(world, &election[0], "c0").await;
    assert_eq!(leader.term(), 1);
    let mut standing = Vec::new();
    for i in 1..6 {
        standing.push(Standing::start(world, &election[i % 3], &format!("c{i}"), i + 1).await);
    }
    let candidates = election[0].candidates().await.unwrap();
    assert_eq!(
        candidates.iter().map(|c| c.value.as_slice()).collect::<Vec<_>>(),
        [b"c0", b"c1", b"c2", b"c3", b"c4", b"c5"]
    );
    assert_eq!(candidates[1].session, three[1].client.session_id().await.unwrap());
    assert_eq!(candidates[1].owner.as_ref().unwrap().pid, std::process::id());
    for (i, candidate) in candidates.iter().enumerate().skip(1) {
        let (term, token) = (leader.term(), leader.token());
        assert!(standing.iter().all(Standing::is_waiting), "nobody behind leads");
        assert_eq!(leader.resign().await, Release::Released);
        leader = standing.remove(0).leadership(world).await;
        assert_eq!((leader.value(), leader.term()), (format!("c{i}").into_bytes(), term + 1));
        assert!(leader.token() > token);
        assert_eq!(candidate.token, Some(leader.token()));
    }
    leader.resign().await;
    has_length(world, &election[0], 0).await;
}

pub async fn has_one_leader_under_contention(world: &dyn World) {
    const TASKS: usize = 3;
    const ROUNDS: usize = 6;
    let three = contenders(world, 3).await;
    let elections = everywhere(&three);
    let witness = Arc::new(Witness::default());
    let mut tasks = Vec::new();
    for election in elections.iter().flat_map(|election| std::iter::repeat_n(election, TASKS)) {
        let (election, witness) = (election.clone(), witness.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..ROUNDS {
                let leadership = election.campaign("x").await.unwrap();
                witness.enter(&leadership);
                assert_eq!(leadership.term(), witness.grants(), "each leader has a term of its own");
                tokio::task::yield_now().await;
                leadership.check().unwrap();
                witness.leave();
                if round % 2 == 0 {
                    assert_eq!(leadership.resign().await, Release::Released);
                }
            }
        }));
    }
    for task in tasks {
        in_time(world, "every task has its rounds", task).await.unwrap();
    }
    assert_eq!(witness.grants(), (three.len() * TASKS * ROUNDS) as u64);
    has_length(world, &elections[0], 0).await;
}

pub async fn shows_the_leader_to_everybody(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    assert_eq!(election[1].leader().await.unwrap(), None);
    let leadership = leads(world, &election[0], "ä\0\u{ff}").await;
    let leader = election[1].leader().await.unwrap().expect("somebody leads");
    assert_eq!((value(&leader), leader.token, leader.term), ("ä\0\u{ff}", leadership.token(), Some(1)));
    assert_eq!(leader.session, two[0].client.session_id().await.unwrap());
    assert_eq!(leader.owner.unwrap().pid, std::process::id());
    assert_eq!(leader.entry, *leadership.entry());
    let standing = Standing::start(world, &election[1], "next", 2).await;
    assert_eq!(election[1].leader().await.unwrap().unwrap().token, leadership.token());
    leadership.resign().await;
    let next = standing.leadership(world).await;
    assert_eq!(election[0].leader().await.unwrap().unwrap().token, next.token());
    next.resign().await;
    assert_eq!(election[0].leader().await.unwrap(), None);
}

pub async fn proclaims_what_everybody_sees(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let mut observer = election[1].observe();
    nobody_leads(world, &mut observer).await;
    let leadership = leads(world, &election[0], "v0").await;
    let first = seen_until(world, &mut observer, "v0").await.remove(0);
    assert_eq!((first.token, first.term), (leadership.token(), Some(1)));
    for i in 1..5 {
        let shown = format!("v{i}");
        leadership.proclaim(&shown).await.unwrap();
        assert_eq!(leadership.value(), shown.as_bytes());
        assert_eq!(election[1].leader().await.unwrap().unwrap().value, shown.as_bytes());
        let seen = seen_until(world, &mut observer, &shown).await;
        assert_eq!(
            seen,
            [Leader { value: shown.into_bytes(), ..first.clone() }],
            "the same leader, with the new value"
        );
    }
    // In the order of the calls, also when nobody waits for the earlier ones.
    for i in 0..8 {
        poll_and_drop(leadership.proclaim(format!("dropped {i}")), i % 4).await;
    }
    let (a, b) = tokio::join!(leadership.proclaim("second to last"), leadership.proclaim("last"));
    a.and(b).unwrap();
    assert_eq!(election[1].leader().await.unwrap().unwrap().value, b"last");
    assert_eq!(leadership.value(), b"last");
    leadership.check().unwrap();
    has_length(world, &election[0], 1).await;
}

pub async fn proclaiming_keeps_a_request_to_let_go(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let leadership = leads(world, &election[0], "before").await;
    assert!(two[1].client.queue(election[1].name()).unwrap().revoke(leadership.token()).await.unwrap());
    in_time(world, "the leader is asked", leadership.revoked()).await;
    assert_eq!(election[1].leader().await.unwrap().unwrap().value, b"before", "the request is not part of the value");
    leadership.proclaim("after").await.unwrap();
    assert!(leadership.is_revoked());
    assert_eq!(world.entries(&queue(&election[0])).await[0].value, b"__REVOKE__after");
    let leader = election[1].leader().await.unwrap().unwrap();
    assert_eq!((leader.value, leader.token), (b"after".to_vec(), leadership.token()));
    let place = two[1].client.queue(election[1].name()).unwrap().list().await.unwrap().remove(0);
    assert!(place.revoked && place.value == b"after");
}

/// Waits until the leader with this token has been asked to let go, which it hears within a second.
async fn is_asked(by: &Contender, leadership: &Leadership) {
    assert!(by.client.queue(leadership.name()).unwrap().revoke(leadership.token()).await.unwrap());
    let ending = tokio::time::timeout(SECOND, leadership.ending()).await.expect("heard within a second");
    assert_eq!(ending, Ending::Revoked);
    leadership.revoked().await;
    assert!(leadership.is_revoked());
}

/// Long enough for a request to let go to be heard.
async fn is_not_asked(leadership: &Leadership) {
    let asked = tokio::time::timeout(SECOND / 2, leadership.revoked()).await;
    assert!(asked.is_err() && !leadership.is_revoked(), "nobody asked this one");
}

pub async fn leader_that_is_asked_to_let_go_leads_until_it_does(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let leadership = leads(world, &election[0], "old").await;
    let next = leads_next(world, &election[1], "new").await;
    let mut observer = election[1].observe();
    let seen = seen_until(world, &mut observer, "old").await.remove(0);
    let waiting = election[1].candidates().await.unwrap()[1].token.unwrap();
    let queue = two[1].client.queue(election[1].name()).unwrap();
    assert!(!queue.revoke(waiting).await.unwrap(), "who waits has nothing to let go");
    is_asked(&two[1], &leadership).await;
    leadership.check().expect("whether it follows is its choice");
    assert!(next.is_waiting());
    assert_eq!(election[1].leader().await.unwrap(), Some(seen));
    assert_eq!(queue.list().await.unwrap().iter().map(|place| place.revoked).collect::<Vec<_>>(), [true, false]);
    let told = tokio::time::timeout(SECOND / 2, observer.next()).await;
    assert!(told.is_err(), "to those who look on nothing has changed: {told:?}");
    assert_eq!(leadership.resign().await, Release::Released);
    let next = next.leadership(world).await;
    is_not_asked(&next).await;
    let again = leads_next(world, &election[0], "old").await;
    next.resign().await;
    let again = again.leadership(world).await;
    is_not_asked(&again).await;
    // Nothing of an earlier request is left for the same one.
    is_asked(&two[1], &again).await;
    again.resign().await;
    has_length(world, &election[0], 0).await;
}

pub async fn latch_that_is_asked_to_let_go_leads_until_its_user_hands_over(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let mut old = election[0].latch("old").unwrap();
    let leadership = in_time(world, "it leads", old.leading()).await.unwrap();
    is_asked(&two[1], &leadership).await;
    assert!(!leadership.transfer().await.unwrap(), "nobody else stands");
    let mut new = election[1].latch("new").unwrap();
    has_length(world, &election[0], 2).await;
    assert!(old.is_leader() && !new.is_leader(), "a latch does not let go by itself");
    assert!(leadership.transfer().await.unwrap());
    assert!(!old.is_leader());
    let leadership = in_time(world, "the next leads", new.leading()).await.unwrap();
    // The one that let go stands again, at the end.
    has_length(world, &election[0], 2).await;
    assert_eq!(values(&election[1]).await, ["new", "old"]);
    is_not_asked(&leadership).await;
    new.close().await;
    is_not_asked(&in_time(world, "it leads again", old.leading()).await.unwrap()).await;
}

pub async fn selector_that_is_asked_to_let_go_takes_its_next_turn_unasked(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let mut selector = election[0].selector("selector").unwrap();
    let turn = in_time(world, "nobody else leads", selector.next()).await.unwrap().unwrap();
    let token = turn.token();
    is_asked(&two[1], &turn).await;
    turn.check().expect("work is never cut off");
    assert_eq!(turn.done().await, Release::Released);
    let turn = in_time(world, "nobody else stands", selector.next()).await.unwrap().unwrap();
    assert!(turn.token() > token);
    is_not_asked(&turn).await;
    let next = leads_next(world, &election[1], "next").await;
    is_asked(&two[1], &turn).await;
    // Dropped, it lets go as well.
    drop(turn);
    next.leadership(world).await.resign().await;
    has_length(world, &election[0], 0).await;
}

pub async fn observer_sees_every_leader_and_that_nobody_leads(world: &dyn World) {
    let three = contenders(world, 3).await;
    let election = everywhere(&three);
    let mut observer = election[2].observe();
    nobody_leads(world, &mut observer).await;
    let mut greatest = 0;
    for i in 0..4 {
        let leadership = leads(world, &election[i % 2], &format!("c{i}")).await;
        let leader = in_time(world, "the observer sees a change", observer.next()).await.unwrap().expect("a leader");
        assert_eq!((leader.token, value(&leader)), (leadership.token(), format!("c{i}").as_str()));
        assert!(leader.token > greatest);
        greatest = leader.token;
        // Dropping the future misses nothing.
        poll_and_drop(observer.next(), 3).await;
        leadership.resign().await;
        nobody_leads(world, &mut observer).await;
    }
    let leadership = leads(world, &election[0], "a").await;
    let next = Standing::start(world, &election[1], "b", 2).await;
    assert_eq!(value(&seen_until(world, &mut observer, "a").await[0]), "a", "a waiting candidate is no news");
    leadership.resign().await;
    let next = next.leadership(world).await;
    let seen = seen_until(world, &mut observer, "b").await;
    assert_eq!(seen.iter().map(|leader| leader.token).collect::<Vec<_>>(), [next.token()]);
    let mut late = election[0].observe();
    let leader = in_time(world, "the first answer comes at once", late.next()).await.unwrap();
    assert_eq!(leader, seen.last().cloned());
}

pub async fn withdrawing_at_any_moment_leaves_nothing(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    for led in [true, false] {
        let leader = if led { Some(leads(world, &election[0], "leader").await) } else { None };
        for polls in 0..4 {
            poll_and_drop(election[1].campaign("withdrawn"), polls).await;
        }
        for step in 0..40 {
            let moment = Duration::from_micros(150 * step);
            let _ = tokio::time::timeout(moment, election[1].campaign("withdrawn")).await;
        }
        has_length(world, &election[0], usize::from(led)).await;
        if let Some(leader) = leader {
            leader.check().unwrap();
            leader.resign().await;
        }
        leads(world, &election[1], "nobody is in the way").await.resign().await;
    }
}

pub async fn refuses_bad_input_and_leaves_nothing(world: &dyn World) {
    let one = world.contender().await;
    assert!(matches!(one.client.election(""), Err(Error::InvalidName { .. })));
    let election = one.client.election(fresh_name()).unwrap();
    let large = vec![b'x'; 4097];
    let error = election.campaign(&large).await.unwrap_err();
    assert!(matches!(error, Error::ValueTooLarge { size: 4097, limit: 4096, .. }), "{error}");
    assert!(error.to_string().contains(election.name()), "{error}");
    let error = election.campaign("__REVOKE__me").await.unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    assert_eq!(world.entries(&queue(&election)).await.len(), 0);
    let leadership = leads(world, &election, "small").await;
    let error = leadership.proclaim(&large).await.unwrap_err();
    assert!(matches!(error, Error::ValueTooLarge { .. }), "{error}");
    leadership.proclaim(&large[1..]).await.unwrap();
    assert_eq!(election.leader().await.unwrap().unwrap().value.len(), 4096);
    leadership.proclaim("").await.unwrap();
    assert_eq!(election.leader().await.unwrap().unwrap().value, b"");
    leadership.resign().await;
}

pub async fn refuses_the_name_of_another_recipe(world: &dyn World) {
    let one = world.contender().await;
    let name = fresh_name();
    let (election, lock) = (one.client.election(&name).unwrap(), one.client.rw_lock(&name).unwrap());
    let is_told = |error: &Error| matches!(error, Error::OtherRecipe { .. }) && error.to_string().contains(&name);
    let held = lock.write().await.unwrap();
    for error in [
        in_time(world, "an answer", election.campaign("x")).await.map(drop).unwrap_err(),
        election.leader().await.map(drop).unwrap_err(),
        election.candidates().await.map(drop).unwrap_err(),
        in_time(world, "an answer", election.observe().next()).await.map(drop).unwrap_err(),
    ] {
        assert!(is_told(&error), "{error}");
    }
    assert_eq!(world.entries(&queue(&election)).await.len(), 1, "nothing of it is left when that is told");
    held.release().await;
    let leadership = leads(world, &election, "x").await;
    let error = in_time(world, "an answer", lock.write()).await.unwrap_err();
    assert!(is_told(&error), "{error}");
    leadership.check().unwrap();
    leadership.resign().await;

    // Here only what is kept beside the queue tells.
    let semaphore = one.client.semaphore(fresh_name(), 2).unwrap();
    semaphore.acquire(1).await.unwrap().release().await;
    let election = one.client.election(semaphore.name()).unwrap();
    let error = in_time(world, "an answer", election.campaign("x")).await.unwrap_err();
    assert!(matches!(error, Error::OtherRecipe { .. }), "{error}");
    assert_eq!(world.entries(&queue(&election)).await.len(), 0);
}

pub async fn closing_the_client_ends_the_leadership_at_once(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let leadership = leads(world, &election[0], "a").await;
    let next = Standing::start(world, &election[1], "b", 2).await;
    let began = Instant::now();
    two[0].client.close().await;
    assert!(matches!(leadership.check(), Err(Error::Lost { loss: Loss::Closed, .. })));
    assert!(matches!(leadership.proclaim("c").await, Err(Error::Lost { loss: Loss::Closed, .. })));
    let next = next.leadership(world).await;
    assert!(began.elapsed() < world.ttl() / 2, "{:?}", began.elapsed());
    assert_eq!(leadership.resign().await, Release::NotHeld);
    next.check().unwrap();
}

pub async fn removed_leader_is_lost_within_a_second(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let mut observer = election[1].observe();
    let leadership = leads(world, &election[0], "a").await;
    seen_until(world, &mut observer, "a").await;
    let next = Standing::start(world, &election[1], "b", 2).await;
    world.remove(leadership.entry()).await;
    let loss = tokio::time::timeout(SECOND, leadership.lost()).await.expect("noticed within a second");
    assert_eq!(loss, Loss::EntryRemoved);
    let next = next.leadership(world).await;
    assert!(next.token() > leadership.token() && next.term() > leadership.term());
    seen_until(world, &mut observer, "b").await;
    let error = leadership.proclaim("c").await.unwrap_err();
    assert!(matches!(error, Error::Lost { loss: Loss::EntryRemoved, .. }), "{error}");
    assert_eq!(leadership.resign().await, Release::NotHeld);
    next.check().unwrap();
    assert_eq!(election[0].leader().await.unwrap().unwrap().value, b"b");
}

pub async fn proclaiming_finds_out_that_the_entry_was_removed(world: &dyn World) {
    let one = world.contender().await;
    let election = one.client.election(fresh_name()).unwrap();
    let leadership = leads(world, &election, "a").await;
    world.remove(leadership.entry()).await;
    let error = leadership.proclaim("b").await.unwrap_err();
    assert!(matches!(error, Error::Lost { loss: Loss::EntryRemoved, .. }), "{error}");
    assert_eq!(leadership.state(), State::Lost(Loss::EntryRemoved));
    has_length(world, &election, 0).await;
}

pub async fn ended_session_of_the_leader_lets_the_next_lead(world: &dyn World) {
    let three = contenders(world, 3).await;
    let election = everywhere(&three);
    let mut observer = election[2].observe();
    let leadership = leads(world, &election[0], "a").await;
    seen_until(world, &mut observer, "a").await;
    let next = Standing::start(world, &election[1], "b", 2).await;
    world.expire(&three[0].client.session_id().await.unwrap()).await;
    let next = next.leadership(world).await;
    assert!(next.token() > leadership.token());
    assert_eq!(next.term(), leadership.term() + 1);
    // It may not know yet what the operator did.
    let error = leadership.proclaim("c").await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    assert!(leadership.check().is_err());
    assert_eq!(seen_until(world, &mut observer, "b").await.len(), 1);
    let again = Standing::start(world, &election[0], "d", 2).await;
    next.resign().await;
    again.leadership(world).await.resign().await;
    has_length(world, &election[0], 0).await;
}

pub async fn ended_session_of_a_candidate_keeps_the_order(world: &dyn World) {
    let four = contenders(world, 4).await;
    let election = everywhere(&four);
    let mut leadership = leads(world, &election[0], "c0").await;
    let mut standing = Vec::new();
    for (i, election) in election.iter().enumerate().skip(1) {
        standing.push(Standing::start(world, election, &format!("c{i}"), i + 1).await);
    }
    world.expire(&four[2].client.session_id().await.unwrap()).await;
    let error = standing.remove(1).outcome(world).await.unwrap_err();
    assert!(matches!(error, Error::SessionLost { .. } | Error::EntryRemoved { .. }) && error.is_retryable(), "{error}");
    for wanted in ["c1", "c3"] {
        assert!(standing.iter().all(Standing::is_waiting));
        leadership.check().unwrap();
        leadership.resign().await;
        leadership = standing.remove(0).leadership(world).await;
        assert_eq!(leadership.value(), wanted.as_bytes());
    }
}

pub async fn cut_keeps_the_leader_the_candidates_and_the_observers(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let three = contenders(world, 3).await;
        let election = everywhere(&three);
        let mut observer = election[2].observe();
        nobody_leads(world, &mut observer).await;
        let leadership = leads(world, &election[0], "a").await;
        seen_until(world, &mut observer, "a").await;
        let next = Standing::start(world, &election[1], "b", 2).await;
        for contender in &three {
            contender.link.cut(how).await;
        }
        leadership.proclaim("a again").await.unwrap();
        seen_until(world, &mut observer, "a again").await;
        for contender in &three {
            contender.link.cut(how).await;
        }
        leadership.check().unwrap();
        assert_eq!(in_time(world, "an answer", leadership.resign()).await, Release::Released);
        let next = next.leadership(world).await;
        assert_eq!((next.value(), next.term()), (b"b".to_vec(), 2), "{how:?}");
        let seen = seen_until(world, &mut observer, "b").await;
        assert!(seen.iter().all(|leader| leader.token == next.token()), "{seen:?}");
    }
}

pub async fn lost_replies_change_nothing(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let two = contenders(world, 2).await;
        let election = everywhere(&two);
        for (round, lost) in [election[0].name(), "\"recipe\":\"election\""].into_iter().enumerate() {
            // Of entering the queue, of taking office.
            two[0].link.lose_next_reply(lost, how).await;
            let leadership = leads(world, &election[0], "a").await;
            assert_eq!(leadership.term(), round as u64 * 2 + 1, "{how:?}: one term");
            has_length(world, &election[0], 1).await;
            two[0].link.lose_next_reply("proclaimed", how).await;
            in_time(world, "the proclamation is settled", leadership.proclaim("proclaimed")).await.unwrap();
            assert_eq!(election[1].leader().await.unwrap().unwrap().value, b"proclaimed");
            let next = Standing::start(world, &election[1], "b", 2).await;
            two[0].link.lose_next_reply(election[0].name(), how).await;
            assert_eq!(in_time(world, "the release is settled", leadership.resign()).await, Release::Released);
            let next = next.leadership(world).await;
            assert_eq!(next.term(), round as u64 * 2 + 2, "{how:?}");
            next.resign().await;
            has_length(world, &election[0], 0).await;
        }
    }
}

pub async fn long_silence_ends_the_leadership_before_the_next_one(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let leadership = Arc::new(leads(world, &election[0], "a").await);
    let mut observer = election[0].observe();
    seen_until(world, &mut observer, "a").await;
    let next = Standing::start(world, &election[1], "b", 2).await;
    two[0].link.hold().await;
    let lost_before_the_next = {
        let leadership = leadership.clone();
        tokio::spawn(async move {
            leadership.lost().await;
            Instant::now()
        })
    };
    let stale = tokio::spawn({
        let leadership = leadership.clone();
        async move { leadership.proclaim("from the silence").await }
    });
    let next = next.leadership(world).await;
    let led = Instant::now();
    assert!(leadership.check().is_err(), "no two leaders");
    assert!(lost_before_the_next.await.unwrap() <= led);
    let error = in_time(world, "the proclamation ends", stale).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    two[0].link.resume().await;
    // The observer's link and session were lost, too.
    let seen = seen_until(world, &mut observer, "b").await;
    assert_eq!(seen.last().unwrap().token, next.token());
    tokio::time::sleep(world.ttl()).await;
    assert!(leadership.check().is_err());
    next.check().unwrap();
    assert_eq!(election[1].leader().await.unwrap().unwrap().value, b"b");
    has_length(world, &election[1], 1).await;
}

pub async fn withdrawing_in_silence_leaves_nothing(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    for step in 0..8 {
        let standing = Standing::start_blindly(&election[1], "silent");
        tokio::time::sleep(Duration::from_micros(400 * step)).await;
        two[1].link.hold().await;
        standing.0.abort();
        tokio::time::sleep(Duration::from_millis(5)).await;
        two[1].link.resume().await;
    }
    has_length(world, &election[0], 0).await;
    leads(world, &election[0], "nobody is in the way").await.resign().await;
}

/// `n` candidates who wait behind the leader, `c1` and so on, spread over the clients.
async fn crowd(world: &dyn World, election: &[Election], n: usize) -> Vec<Standing> {
    let mut crowd = Vec::new();
    for i in 1..=n {
        crowd.push(Standing::start(world, &election[i % election.len()], &format!("c{i}"), i + 1).await);
    }
    crowd
}

async fn values(election: &Election) -> Vec<String> {
    let candidates = election.candidates().await.unwrap();
    candidates.into_iter().map(|candidate| String::from_utf8(candidate.value).unwrap()).collect()
}

pub async fn transfer_reaches_the_chosen_one_past_the_others(world: &dyn World) {
    let three = contenders(world, 3).await;
    let election = everywhere(&three);
    let mut observer = election[1].observe();
    let first = leads(world, &election[0], "c0").await;
    seen_until(world, &mut observer, "c0").await;
    let mut standing = crowd(world, &election, 4).await;
    let chosen = election[0].candidates().await.unwrap().remove(3);
    assert!(in_time(world, "an answer", first.transfer_to(&chosen)).await.unwrap());
    assert!(matches!(first.check(), Err(Error::Lost { loss: Loss::Released, .. })));
    let third = standing.remove(2).leadership(world).await;
    assert_eq!((third.value(), third.term(), Some(third.token())), (b"c3".to_vec(), 2, chosen.token));
    // Those who stepped aside have been candidates all the time, keep their order, and were never seen as leaders.
    assert!(standing.iter().all(Standing::is_waiting));
    assert_eq!(values(&election[0]).await, ["c3", "c4", "c1", "c2"]);
    let seen = seen_until(world, &mut observer, "c3").await;
    assert_eq!(seen.iter().map(|leader| leader.token).collect::<Vec<_>>(), [third.token()]);
    let error = first.transfer_to(&chosen).await.unwrap_err();
    assert!(matches!(error, Error::Lost { loss: Loss::Released, .. }), "{error}");
    assert!(first.proclaim("x").await.is_err());
    third.check().unwrap();

    // The mark is used up: from now on the first leads again.
    third.resign().await;
    for (term, wanted) in [(3, 2), (4, 0), (5, 0)] {
        let next = standing.remove(wanted).leadership(world).await;
        assert_eq!(next.term(), term);
        assert!(standing.iter().all(Standing::is_waiting));
        next.resign().await;
    }
    has_length(world, &election[0], 0).await;
}

pub async fn transfer_to_nobody_is_refused(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let leadership = leads(world, &election[0], "leader").await;
    let own = election[1].candidates().await.unwrap().remove(0);
    let error = leadership.transfer_to(&own).await.unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { .. }) && error.to_string().contains(election[0].name()), "{error}");
    assert!(!leadership.transfer().await.unwrap(), "there is nobody else");
    let gone = Standing::start(world, &election[1], "gone", 2).await;
    let candidate = election[0].candidates().await.unwrap().remove(1);
    gone.0.abort();
    has_length(world, &election[0], 1).await;
    assert!(!leadership.transfer_to(&candidate).await.unwrap());
    let other = two[1].client.election(fresh_name()).unwrap();
    let elsewhere = leads(world, &other, "elsewhere").await;
    let candidate = other.candidates().await.unwrap().remove(0);
    assert!(!leadership.transfer_to(&candidate).await.unwrap());
    leadership.check().unwrap();
    leadership.proclaim("still here").await.unwrap();
    assert_eq!(election[1].leader().await.unwrap().unwrap().value, b"still here");
    leadership.resign().await;
    leads(world, &election[1], "nothing is left of it").await.resign().await;
    elsewhere.resign().await;
}

pub async fn transfer_hands_over_to_the_next_one(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let leadership = leads(world, &election[0], "c0").await;
    let mut standing = crowd(world, &election, 2).await;
    assert!(in_time(world, "an answer", leadership.transfer()).await.unwrap());
    assert!(matches!(leadership.check(), Err(Error::Lost { loss: Loss::Released, .. })));
    let next = standing.remove(0).leadership(world).await;
    assert_eq!((next.value(), next.term()), (b"c1".to_vec(), 2));
    assert!(leadership.transfer().await.is_err());
    next.check().unwrap();
}

pub async fn transfer_to_one_who_leaves_lets_the_next_one_lead(world: &dyn World) {
    let three = contenders(world, 3).await;
    let election = everywhere(&three);
    let leadership = leads(world, &election[0], "c0").await;
    let mut standing = crowd(world, &election, 3).await;
    let chosen = election[0].candidates().await.unwrap().remove(2);
    // It does not notice that it is its turn, and its session ends.
    three[2].link.hold().await;
    assert!(in_time(world, "an answer", leadership.transfer_to(&chosen)).await.unwrap());
    let third = standing.remove(2);
    let next = third.leadership(world).await;
    assert_eq!(next.value(), b"c3", "the first one behind the one who was chosen");
    assert_eq!(values(&election[0]).await, ["c3", "c1"]);
    three[2].link.resume().await;
    assert!(standing.remove(1).outcome(world).await.unwrap_err().is_session_lost());
    next.resign().await;
    standing.remove(0).leadership(world).await.resign().await;
    has_length(world, &election[0], 0).await;
}

pub async fn transfer_survives_lost_replies_and_ends_whoever_waits(world: &dyn World) {
    for how in [Cut::Fin, Cut::Rst] {
        let three = contenders(world, 3).await;
        let election = everywhere(&three);
        let leadership = leads(world, &election[0], "c0").await;
        let mut standing = crowd(world, &election, 2).await;
        let chosen = election[0].candidates().await.unwrap().remove(2);
        // Of the mark, and of the first one entering again.
        three[0].link.lose_next_reply("\"recipe\":\"election\"", how).await;
        three[1].link.lose_next_reply(election[1].name(), how).await;
        assert!(in_time(world, "an answer", leadership.transfer_to(&chosen)).await.unwrap(), "{how:?}");
        let second = standing.remove(1).leadership(world).await;
        assert_eq!((second.value(), second.term()), (b"c2".to_vec(), 2), "{how:?}");
        has_length(world, &election[0], 2).await;
        second.resign().await;
        standing.remove(0).leadership(world).await.resign().await;
        has_length(world, &election[0], 0).await;
    }
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    for polls in 0..6 {
        let leadership = leads(world, &election[0], "c0").await;
        let standing = crowd(world, &election[..1], 2).await;
        let chosen = election[0].candidates().await.unwrap().remove(2);
        poll_and_drop(leadership.transfer_to(&chosen), polls).await;
        drop(leadership);
        let mut observer = election[1].observe();
        let wanted = if polls == 0 { "c1" } else { "c2" };
        let seen = seen_until(world, &mut observer, wanted).await;
        assert!(seen.iter().all(|leader| [b"c0", wanted.as_bytes()].contains(&&*leader.value)), "{polls}: {seen:?}");
        for standing in standing {
            standing.0.abort();
        }
        has_length(world, &election[0], 0).await;
    }
}

pub async fn transfer_by_a_latch_makes_it_a_candidate_again(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let mut old = election[0].latch("old").unwrap();
    let leadership = in_time(world, "it leads", old.leading()).await.unwrap();
    let mut new = election[1].latch("new").unwrap();
    has_length(world, &election[0], 2).await;
    let chosen = election[1].candidates().await.unwrap().remove(1);
    assert!(leadership.transfer_to(&chosen).await.unwrap());
    assert!(!old.is_leader());
    in_time(world, "it leads", new.leading()).await.unwrap();
    has_length(world, &election[0], 2).await;
    assert_eq!(values(&election[0]).await, ["new", "old"]);
    new.close().await;
    in_time(world, "it leads again", old.leading()).await.unwrap();
}

pub async fn latch_leads_again_after_every_loss(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let mut latch = election[0].latch("latch").unwrap();
    let mut token = 0;
    for round in 0..3 {
        let leadership = in_time(world, "it leads", latch.leading()).await.unwrap();
        assert!(latch.is_leader());
        assert!(leadership.token() > token);
        token = leadership.token();
        assert_eq!(election[1].leader().await.unwrap().unwrap().value, b"latch");
        if round == 1 {
            world.expire(&two[0].client.session_id().await.unwrap()).await;
        } else {
            world.remove(leadership.entry()).await;
        }
        in_time(world, "the loss is noticed", leadership.lost()).await;
        assert!(latch.leadership().is_none_or(|now| now.token() > token));
    }
    let began = Instant::now();
    // Changes that come close together are one, so the last answer decides.
    while in_time(world, "a change", latch.changed()).await.unwrap().is_none_or(|now| now.token() <= token) {}
    assert!(began.elapsed() < world.ttl() + SECOND);
    assert_eq!(in_time(world, "it closes", latch.close()).await, Release::Released);
    has_length(world, &election[0], 0).await;
}

pub async fn latch_takes_its_turn_and_ends_when_closed_or_dropped(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let mut first = election[0].latch("first").unwrap();
    let leadership = in_time(world, "it leads", first.leading()).await.unwrap();
    let mut second = election[1].latch("second").unwrap();
    has_length(world, &election[0], 2).await;
    let third = election[1].latch("third").unwrap();
    has_length(world, &election[0], 3).await;
    assert!(!second.is_leader() && second.leadership().is_none() && second.trouble().is_none());
    assert_eq!(in_time(world, "it closes", third.close()).await, Release::NotHeld);
    has_length(world, &election[0], 2).await;
    assert_eq!(in_time(world, "it closes", first.close()).await, Release::Released);
    assert!(leadership.check().is_err(), "whoever kept it does not keep leading");
    in_time(world, "the next leads", second.leading()).await.unwrap();
    let last = leads_next(world, &election[0], "last").await;
    std::thread::spawn(move || drop(second)).join().unwrap();
    last.leadership(world).await.resign().await;
    has_length(world, &election[0], 0).await;
}

async fn leads_next(world: &dyn World, election: &Election, value: &str) -> Standing {
    Standing::start(world, election, value, 2).await
}

pub async fn latch_is_no_leader_before_the_next_one_is(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let mut latch = election[0].latch("silent").unwrap();
    let token = in_time(world, "it leads", latch.leading()).await.unwrap().token();
    let next = leads_next(world, &election[1], "next").await;
    two[0].link.hold().await;
    let next = next.leadership(world).await;
    assert!(!latch.is_leader(), "no two leaders");
    assert!(latch.leadership().is_none());
    two[0].link.resume().await;
    next.check().unwrap();
    // It stands again by itself.
    has_length(world, &election[1], 2).await;
    next.resign().await;
    assert!(in_time(world, "it leads again", latch.leading()).await.unwrap().token() > token);
}

pub async fn latch_ends_with_its_client(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let mut latch = election[0].latch("closed").unwrap();
    let leadership = in_time(world, "it leads", latch.leading()).await.unwrap();
    let mut waiting = election[0].latch("waiting").unwrap();
    has_length(world, &election[0], 2).await;
    two[0].client.close().await;
    assert!(leadership.check().is_err() && !latch.is_leader());
    for latch in [&mut latch, &mut waiting] {
        let ended = async { while latch.changed().await.is_ok() {} };
        in_time(world, "it has ended", ended).await;
        assert!(matches!(latch.leading().await, Err(Error::Lost { loss: Loss::Closed, .. })));
    }
    has_length(world, &election[0], 0).await;
    let opened = two[0].client.metrics().sessions_opened;
    leads(world, &election[1], "nobody is in the way").await.resign().await;
    assert_eq!(two[0].client.metrics().sessions_opened, opened, "no session that nobody would end");
    assert_eq!(in_time(world, "it closes", latch.close()).await, Release::NotHeld);
}

pub async fn latch_waits_for_better_times(world: &dyn World) {
    let one = world.contender().await;
    let name = fresh_name();
    let lock = one.client.rw_lock(&name).unwrap().write().await.unwrap();
    let mut latch = one.client.election(&name).unwrap().latch("patient").unwrap();
    eventually("it is told why it does not lead", patience(world), || async {
        matches!(latch.trouble(), Some(Error::OtherRecipe { .. }))
    })
    .await;
    lock.release().await;
    in_time(world, "it leads", latch.leading()).await.unwrap();
    assert!(latch.trouble().is_none());
}

pub async fn work_is_done_by_one_leader_at_a_time_and_in_turns(world: &dyn World) {
    let three = contenders(world, 3).await;
    let elections = everywhere(&three);
    let witness = Arc::new(Witness::default());
    let (mut tasks, mut stoppers) = (Vec::new(), Vec::new());
    for election in &elections {
        let (witness, mut selector) = (witness.clone(), election.selector("worker").unwrap());
        stoppers.push(selector.stopper());
        tasks.push(tokio::spawn(async move {
            let mut rounds = 0;
            while let Some(turn) = selector.next().await.unwrap() {
                witness.enter(&turn);
                tokio::task::yield_now().await;
                turn.check().unwrap();
                witness.leave();
                rounds += 1;
                assert_eq!(turn.done().await, Release::Released);
            }
            rounds
        }));
    }
    eventually("there are rounds", patience(world) * 2, || async { witness.grants() >= 30 }).await;
    for stopper in stoppers {
        stopper.stop();
    }
    for task in tasks {
        let rounds = in_time(world, "everybody stops", task).await.unwrap();
        assert!(rounds >= 5, "{rounds} of {}: each takes its turn", witness.grants());
    }
    has_length(world, &elections[0], 0).await;
}

/// Work that is told to end and goes on until it is let go.
struct Drain {
    /// The token of the last turn that has begun.
    begun: watch::Receiver<u64>,
    told: watch::Receiver<Option<Ending>>,
    finish: Arc<Notify>,
    stopper: Stopper,
    task: JoinHandle<()>,
}

impl Drain {
    fn start(election: &Election) -> Self {
        let (tell, told) = watch::channel(None);
        let (begin, begun) = watch::channel(0);
        let finish = Arc::<Notify>::default();
        let mut selector = election.selector("drained").unwrap();
        let stopper = selector.stopper();
        let task = tokio::spawn({
            let finish = finish.clone();
            async move {
                while let Some(turn) = selector.next().await.unwrap() {
                    begin.send_replace(turn.token());
                    let ending = turn.ending().await;
                    tell.send_replace(Some(ending));
                    finish.notified().await;
                    tell.send_replace(None);
                    assert_eq!(turn.check().is_err(), matches!(ending, Ending::Lost(_)));
                    turn.done().await;
                }
            }
        });
        Self { begun, told, finish, stopper, task }
    }

    /// Others may see who leads before the work has begun.
    async fn works(&mut self, world: &dyn World, leader: &Leader) {
        let begun = self.begun.wait_for(|token| *token == leader.token);
        in_time(world, "the work begins", begun).await.unwrap();
    }

    async fn told(&mut self, world: &dyn World) -> Ending {
        let told = in_time(world, "the work is told", self.told.wait_for(Option::is_some)).await.unwrap();
        told.expect("just waited for")
    }
}

async fn somebody_leads(world: &dyn World, election: &Election) -> Leader {
    let mut observer = election.observe();
    let leading = async {
        loop {
            if let Some(leader) = observer.next().await.unwrap() {
                return leader;
            }
        }
    };
    in_time(world, "somebody leads", leading).await
}

pub async fn work_comes_to_its_end_before_the_next_one_leads(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let mut drain = Drain::start(&election[0]);
    let leader = somebody_leads(world, &election[1]).await;
    let next = leads_next(world, &election[1], "next").await;
    assert!(two[1].client.queue(election[1].name()).unwrap().revoke(leader.token).await.unwrap());
    assert_eq!(drain.told(world).await, Ending::Revoked);
    // Longer than the ttl: it is renewed while the work comes to its end.
    tokio::time::sleep(world.ttl() + SECOND).await;
    assert!(next.is_waiting());
    assert_eq!(election[1].leader().await.unwrap().unwrap().token, leader.token);
    drain.finish.notify_one();
    let next = next.leadership(world).await;
    // It stands again, at the end.
    has_length(world, &election[1], 2).await;
    next.resign().await;
    let again = somebody_leads(world, &election[1]).await;
    assert!(again.token > leader.token);
    drain.works(world, &again).await;
    let next = leads_next(world, &election[1], "next").await;
    drain.stopper.stop();
    assert_eq!(drain.told(world).await, Ending::Stopped);
    assert!(next.is_waiting() && !drain.task.is_finished());
    assert_eq!(election[1].leader().await.unwrap().unwrap().token, again.token);
    drain.finish.notify_one();
    in_time(world, "it ends", drain.task).await.unwrap();
    next.leadership(world).await.resign().await;
    has_length(world, &election[1], 0).await;
}

pub async fn work_whose_leadership_is_lost_is_told_and_not_cut_off(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let mut drain = Drain::start(&election[0]);
    let leader = somebody_leads(world, &election[1]).await;
    world.remove(&leader.entry).await;
    assert_eq!(drain.told(world).await, Ending::Lost(Loss::EntryRemoved));
    assert_eq!(world.entries(&queue(&election[0])).await.len(), 0, "it does not stand again before the work has ended");
    drain.finish.notify_one();
    let again = somebody_leads(world, &election[1]).await;
    assert!(again.token > leader.token);
    world.expire(&two[0].client.session_id().await.unwrap()).await;
    assert!(matches!(drain.told(world).await, Ending::Lost(_)));
    drain.finish.notify_one();
    somebody_leads(world, &election[1]).await;
    drain.task.abort();
    has_length(world, &election[0], 0).await;
}

pub async fn selector_runs_work_that_fails_again_and_never_cuts_it_off(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let mut selector = election[0].selector("selected").unwrap();
    let stopper = selector.stopper();
    let (kept, rounds) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let next = Arc::new(Mutex::new(None));
    let work = |leadership: Arc<Leadership>| {
        let (kept, rounds, next, stopper) = (kept.clone(), rounds.clone(), next.clone(), stopper.clone());
        let other = election[1].clone();
        async move {
            leadership.check().unwrap();
            kept.lock().unwrap().push(leadership.clone());
            if rounds.fetch_add(1, Ordering::SeqCst) == 0 {
                return Err("the first round fails");
            }
            let waiting = tokio::spawn(async move { other.campaign("next").await });
            stopper.stop();
            assert_eq!(leadership.ending().await, Ending::Stopped);
            tokio::time::sleep(world.ttl() + Duration::from_secs(1)).await;
            leadership.check().expect("renewed while the work comes to its end");
            assert!(!waiting.is_finished(), "nobody leads before the work has ended");
            *next.lock().unwrap() = Some(waiting);
            Ok(())
        }
    };
    in_time(world, "it is stopped", selector.run(work)).await.unwrap();
    assert_eq!(rounds.load(Ordering::SeqCst), 2);
    assert!(kept.lock().unwrap().iter().all(|kept| kept.check().is_err()), "whoever keeps it does not keep leading");
    let next = next.lock().unwrap().take().expect("somebody waits");
    in_time(world, "the next one leads", next).await.unwrap().unwrap().resign().await;
}

pub async fn dropped_run_of_a_selector_resigns(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let kept = Arc::new(Mutex::new(None));
    let mut selector = election[0].selector("dropped").unwrap();
    let run = selector.run(|leadership| {
        *kept.lock().unwrap() = Some(leadership);
        std::future::pending::<Result<(), Error>>()
    });
    let led = eventually("it leads", patience(world), || async { kept.lock().unwrap().is_some() });
    tokio::select! {
        _ = run => panic!("it is not stopped"),
        () = led => {}
    }
    assert!(kept.lock().unwrap().take().expect("it led").check().is_err(), "at once");
    in_time(world, "the next one leads", election[1].campaign("next")).await.unwrap().resign().await;
}

pub async fn turns_stop_while_they_wait_and_with_their_client(world: &dyn World) {
    let two = contenders(world, 2).await;
    let election = everywhere(&two);
    let leadership = leads(world, &election[0], "leader").await;
    let mut selector = election[1].selector("waiting").unwrap();
    let stopper = selector.stopper();
    let waiting = tokio::spawn(async move {
        assert!(selector.next().await.unwrap().is_none());
        assert!(selector.next().await.unwrap().is_none());
    });
    has_length(world, &election[0], 2).await;
    stopper.stop();
    in_time(world, "they stop", waiting).await.unwrap();
    has_length(world, &election[0], 1).await;
    let mut selector = election[1].selector("withdrawn").unwrap();
    for polls in 0..4 {
        poll_and_drop(selector.next(), polls).await;
    }
    has_length(world, &election[0], 1).await;
    leadership.resign().await;

    let lock = two[0].client.rw_lock(election[0].name()).unwrap().write().await.unwrap();
    let error = in_time(world, "an answer", selector.next()).await.map(drop).unwrap_err();
    assert!(matches!(error, Error::OtherRecipe { .. }), "{error}");
    lock.release().await;
    let turn = in_time(world, "it is its turn", selector.next()).await.unwrap().unwrap();
    two[1].client.close().await;
    assert_eq!(in_time(world, "it is told", turn.ending()).await, Ending::Lost(Loss::Closed));
    assert_eq!(turn.done().await, Release::NotHeld);
    assert!(in_time(world, "they end", selector.next()).await.unwrap().is_none());
    has_length(world, &election[0], 0).await;
}
