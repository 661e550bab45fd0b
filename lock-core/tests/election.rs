//! Elections on the memory backend: other kinds of clients in the queue, exact times, marks that are wrong.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use lock_core::backend::{Backend, Enqueue, Enqueued, Entry, Kind, Session};
use lock_core::clock::TokioClock;
use lock_core::memory::{Fault, Memory, Op};
use lock_core::{Client, Election, Error, Leader, Leadership, Name, Release};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const TTL: Duration = Duration::from_secs(6);

fn store() -> Memory {
    Memory::new().with_ttl(TTL).expect("a valid ttl")
}

async fn connect(store: &Memory) -> Client {
    let builder = Client::builder(store.clone().with_own_link()).clock(TokioClock::new());
    builder.runtime(tokio::runtime::Handle::current()).connect().await.expect("memory connects")
}

async fn election(store: &Memory) -> Election {
    connect(store).await.election("e").expect("a valid name")
}

fn name() -> Name {
    Name::new("e").expect("a valid name")
}

async fn length(store: &Memory, n: usize) {
    let reached = async {
        while store.entries(&name()).len() != n {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(TTL, reached).await.unwrap_or_else(|_| panic!("not {n}: {:?}", store.entries(&name())));
}

/// A candidate of ours, in the queue.
async fn stand(store: &Memory, value: &str) -> JoinHandle<lock_core::Result<Leadership>> {
    let n = store.entries(&name()).len();
    let standing = tokio::spawn(election(store).await.campaign(value));
    length(store, n + 1).await;
    standing
}

async fn leads(standing: JoinHandle<lock_core::Result<Leadership>>) -> Leadership {
    let led = tokio::time::timeout(TTL, standing).await.expect("in time");
    led.expect("no panic").expect("it leads")
}

/// A candidate of another kind of client, which shows no owner and knows nothing of our records.
struct Foreign {
    session: Arc<dyn Session>,
    entry: Entry,
    renewal: JoinHandle<()>,
}

impl Foreign {
    async fn stand(store: &Memory, kind: Kind) -> Self {
        let session = store.open(b"").await.unwrap();
        let id = format!("{:032x}", fastrand::u128(..));
        let request = Enqueue { queue: &name(), kind, id: &id, value: b"foreign", only_if_free: false };
        let Enqueued::Placed(placed) = session.enqueue(&request).await.unwrap() else { panic!("not placed") };
        let renewed = session.clone();
        let renewal = tokio::spawn(async move {
            while renewed.renew().await.is_ok() {
                tokio::time::sleep(TTL / 6).await;
            }
        });
        Self { session, entry: placed.entry, renewal }
    }

    async fn leave(self) {
        self.session.dequeue(&self.entry).await.unwrap();
        self.renewal.abort();
    }
}

async fn leader(election: &Election) -> Option<Leader> {
    election.leader().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn turns_that_fail_are_followed_by_growing_pauses_and_one_that_is_done_by_none() {
    let mut selector = election(&store()).await.selector("x").unwrap();
    let mut begun = Vec::new();
    for n in 0..15 {
        let turn = selector.next().await.unwrap().expect("not stopped");
        begun.push(Instant::now());
        match n {
            11 => assert_eq!(turn.done().await, Release::Released),
            12 => drop(turn),
            _ => assert_eq!(turn.failed().await, Release::Released),
        }
        if n == 13 {
            // Giving up on the wait does not shorten the pause.
            tokio::time::timeout(Duration::from_millis(1), selector.next()).await.map(drop).unwrap_err();
        }
    }
    let pauses: Vec<_> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let is_pause = |pause: Duration, tries: u32| {
        let ceiling = Duration::from_millis(10 << tries.min(7)).min(Duration::from_secs(1));
        assert!(pause >= ceiling / 2 && pause <= ceiling + Duration::from_millis(2), "{pause:?} after {tries} tries");
    };
    for (tries, pause) in (0..).zip(&pauses[..11]) {
        is_pause(*pause, tries);
    }
    assert!(pauses[11] < Duration::from_millis(2), "{:?}", pauses[11]);
    is_pause(pauses[12], 0);
    is_pause(pauses[13], 1);
}

#[tokio::test(start_paused = true)]
async fn a_latch_outlives_a_long_outage() {
    let memory = store();
    let own = memory.clone().with_own_link();
    let builder = Client::builder(own.clone()).clock(TokioClock::new()).runtime(tokio::runtime::Handle::current());
    let client = builder.connect().await.unwrap();
    let mut latch = client.election("e").unwrap().latch("x").unwrap();
    latch.leading().await.unwrap();
    own.link().hold();
    tokio::time::sleep(TTL * 100).await;
    assert!(!latch.is_leader());
    assert!(matches!(latch.trouble(), Some(Error::Unreachable { .. })), "{:?}", latch.trouble());
    own.link().resume();
    tokio::time::timeout(TTL, latch.leading()).await.expect("soon").unwrap();
    assert!(latch.trouble().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_latch_that_is_refused_does_not_hammer_the_store() {
    let memory = store();
    let client = connect(&memory).await;
    let lock = client.rw_lock("e").unwrap().write().await.unwrap();
    let before = client.metrics().enqueued;
    let latch = client.election("e").unwrap().latch("x").unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    let attempts = client.metrics().enqueued - before;
    assert!((100..250).contains(&attempts), "{attempts} attempts");
    lock.release().await;
    drop(latch);
}

#[tokio::test(start_paused = true)]
async fn an_answer_lost_while_taking_office_counts_one_term() {
    let memory = store();
    let own = memory.clone().with_own_link();
    let builder = Client::builder(own.clone()).clock(TokioClock::new()).runtime(tokio::runtime::Handle::current());
    let election = builder.connect().await.unwrap().election("e").unwrap();
    for term in 1..4 {
        own.link().plan(Op::Write, Fault::DropReply);
        let leadership = election.campaign("x").await.unwrap();
        assert_eq!(leadership.term(), term);
        leadership.resign().await;
    }
}

#[tokio::test(start_paused = true)]
async fn candidates_of_other_clients_lead_when_they_are_first() {
    for kind in [Kind::Unmarked, Kind::Candidate] {
        let memory = store();
        let onlooker = election(&memory).await;
        let mut observer = onlooker.observe();
        assert_eq!(observer.next().await.unwrap(), None);
        let foreign = Foreign::stand(&memory, kind).await;
        let seen = observer.next().await.unwrap().expect("a leader");
        assert_eq!(
            (seen.value.as_slice(), seen.term, &seen.owner, &seen.entry),
            (&b"foreign"[..], None, &None, &foreign.entry)
        );
        let ours = stand(&memory, "ours").await;
        let next = Foreign::stand(&memory, kind).await;
        assert_eq!(leader(&onlooker).await, Some(seen.clone()));
        assert_eq!(onlooker.candidates().await.unwrap().len(), 3);
        foreign.leave().await;
        let leadership = leads(ours).await;
        assert_eq!(leadership.term(), 1, "those who do not know of terms are not counted");
        while observer.next().await.unwrap().is_none_or(|leader| leader.value != b"ours") {}
        leadership.resign().await;
        while observer.next().await.unwrap().is_none_or(|leader| leader.entry != next.entry) {}
        assert_eq!(leader(&onlooker).await.expect("a leader").term, None);
        next.leave().await;
        assert_eq!(observer.next().await.unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn another_client_in_between_leads_first_and_the_mark_is_honoured_afterwards() {
    let memory = store();
    let onlooker = election(&memory).await;
    let first = leads(stand(&memory, "first").await).await;
    let foreign = Foreign::stand(&memory, Kind::Unmarked).await;
    let aside = stand(&memory, "aside").await;
    let chosen = stand(&memory, "chosen").await;
    let candidate = onlooker.candidates().await.unwrap().remove(3);
    assert!(first.transfer_to(&candidate).await.unwrap());
    assert_eq!(leader(&onlooker).await.expect("a leader").entry, foreign.entry);
    tokio::time::sleep(TTL * 2).await;
    assert!(!aside.is_finished() && !chosen.is_finished(), "only the first of the queue leads");
    foreign.leave().await;
    let chosen = leads(chosen).await;
    assert_eq!(chosen.term(), 2);
    assert!(!aside.is_finished());
    chosen.resign().await;
    assert_eq!(leads(aside).await.value(), b"aside");
}

#[tokio::test(start_paused = true)]
async fn a_candidate_of_another_client_can_be_chosen() {
    let memory = store();
    let onlooker = election(&memory).await;
    let first = leads(stand(&memory, "first").await).await;
    let aside = stand(&memory, "aside").await;
    let foreign = Foreign::stand(&memory, Kind::Unmarked).await;
    let next = stand(&memory, "next").await;
    let candidate = onlooker.candidates().await.unwrap().remove(2);
    assert!(first.transfer_to(&candidate).await.unwrap());
    length(&memory, 3).await;
    let seen = async {
        while leader(&onlooker).await.is_none_or(|leader| leader.entry != foreign.entry) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(TTL, seen).await.expect("it leads");
    foreign.leave().await;
    let next = leads(next).await;
    next.resign().await;
    leads(aside).await.resign().await;
}

/// Writes the election's record by hand.
async fn write_record(memory: &Memory, record: &str) {
    let session = memory.open(b"").await.unwrap();
    let place = session.record(&name());
    let version = session.read(&place).await.unwrap().expect("records are always there").version;
    session.write(&place, version, record.as_bytes()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_mark_that_is_wrong_keeps_the_first_candidate_from_leading() {
    let memory = store();
    let other = connect(&memory).await.mutex("another").unwrap().lock().await.unwrap();
    let alive_elsewhere = serde_json::to_string(other.entry()).unwrap();
    for (record, term) in [
        (format!(r#"{{"recipe":"election","term":7,"leader":0,"successor":{alive_elsewhere}}}"#), 8),
        (r#"{"recipe":"election","term":7,"leader":0,"successor":{"key":"","incarnation":0}}"#.to_owned(), 8),
        (format!(r#"{{"recipe":"election","term":3,"leader":{}}}"#, u64::MAX), 4),
        (format!(r#"{{"recipe":"election","term":{},"leader":1}}"#, u64::MAX), u64::MAX),
    ] {
        write_record(&memory, &record).await;
        let began = Instant::now();
        let leadership = leads(stand(&memory, "first").await).await;
        assert_eq!(leadership.term(), term, "{record}");
        assert!(began.elapsed() < Duration::from_millis(50), "{:?} with {record}", began.elapsed());
        assert_eq!(leader(&election(&memory).await).await.expect("a leader").token, leadership.token(), "{record}");
        leadership.resign().await;
    }
    write_record(&memory, "not ours").await;
    let error = election(&memory).await.campaign("x").await.unwrap_err();
    assert!(matches!(error, Error::OtherRecipe { .. }), "{error}");
    length(&memory, 0).await;
}

/// As after a restored backup: the record tells of a later leader, whom nobody knows.
#[tokio::test(start_paused = true)]
async fn a_leader_who_learns_of_a_later_one_leaves_nothing_behind() {
    let memory = store();
    let onlooker = election(&memory).await;
    let first = leads(stand(&memory, "first").await).await;
    let next = stand(&memory, "next").await;
    let candidate = onlooker.candidates().await.unwrap().remove(1);
    write_record(&memory, &format!(r#"{{"recipe":"election","term":3,"leader":{}}}"#, u64::MAX)).await;
    let error = first.transfer_to(&candidate).await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    length(&memory, 1).await;
    assert_eq!(leads(next).await.value(), b"next");
}

#[tokio::test(start_paused = true)]
async fn a_candidate_is_not_seen_as_the_leader_before_it_took_office() {
    let memory = store();
    let onlooker = election(&memory).await;
    let mut observer = onlooker.observe();
    let slow = memory.clone().with_own_link();
    let builder = Client::builder(slow.clone()).clock(TokioClock::new()).runtime(tokio::runtime::Handle::current());
    let client = builder.connect().await.unwrap();
    slow.link().plan(Op::Write, Fault::Delay(Duration::from_secs(1)));
    let standing = tokio::spawn(client.election("e").unwrap().campaign("slow"));
    length(&memory, 1).await;
    assert_eq!(observer.next().await.unwrap(), None);
    assert_eq!(leader(&onlooker).await, None);
    let began = Instant::now();
    assert_eq!(observer.next().await.unwrap().expect("a leader").value, b"slow");
    let waited = began.elapsed();
    assert!(waited > Duration::from_millis(900) && waited < Duration::from_millis(1100), "{waited:?}");
    let leadership = leads(standing).await;
    leadership.resign().await;
    assert_eq!(observer.next().await.unwrap(), None);

    // One who is gone before it took office is forgotten.
    slow.link().plan(Op::Write, Fault::Delay(Duration::from_secs(1)));
    let standing = tokio::spawn(client.election("e").unwrap().campaign("gone"));
    length(&memory, 1).await;
    let next = stand(&memory, "next").await;
    standing.abort();
    let next = leads(next).await;
    assert_eq!(observer.next().await.unwrap().expect("a leader").token, next.token());
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_was_removed_while_it_took_office_does_not_lead() {
    let memory = store();
    let deaf = memory.clone().with_own_link();
    let builder = Client::builder(deaf.clone()).clock(TokioClock::new()).runtime(tokio::runtime::Handle::current());
    let client = builder.connect().await.unwrap();
    // It reads the record late, and no event tells it what happens meanwhile.
    deaf.link().plan(Op::Read, Fault::Delay(Duration::from_secs(1)));
    for _ in 0..4 {
        deaf.link().plan(Op::Watch, Fault::LostEvent);
    }
    let removed = tokio::spawn(client.election("e").unwrap().campaign("removed"));
    length(&memory, 1).await;
    let next = stand(&memory, "next").await;
    assert!(memory.remove_entry(&memory.entries(&name())[0].entry.key));
    let next = leads(next).await;
    let error = tokio::time::timeout(TTL, removed).await.expect("in time").unwrap().unwrap_err();
    assert!(matches!(error, Error::EntryRemoved { .. }), "{error}");
    assert_eq!(leader(&election(&memory).await).await.expect("a leader").token, next.token());
    next.check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_removed_does_not_speak_for_the_next_one() {
    let memory = store();
    let deaf = memory.clone().with_own_link();
    let builder = Client::builder(deaf.clone()).clock(TokioClock::new()).runtime(tokio::runtime::Handle::current());
    let client = builder.connect().await.unwrap();
    for _ in 0..4 {
        deaf.link().plan(Op::Watch, Fault::LostEvent);
    }
    let removed = client.election("e").unwrap().campaign("removed").await.unwrap();
    let next = stand(&memory, "next").await;
    let third = stand(&memory, "third").await;
    let candidate = election(&memory).await.candidates().await.unwrap().remove(2);
    assert!(memory.remove_entry(&memory.entries(&name())[0].entry.key));
    let next = leads(next).await;
    removed.check().expect("it does not know");
    let error = removed.transfer_to(&candidate).await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    assert!(removed.check().is_err());
    assert_eq!(leader(&election(&memory).await).await.expect("a leader").token, next.token());
    next.resign().await;
    leads(third).await.resign().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_steps_aside_never_stops_being_a_candidate() {
    let memory = store();
    let first = leads(stand(&memory, "first").await).await;
    let slow = memory.clone().with_own_link();
    let builder = Client::builder(slow.clone()).clock(TokioClock::new()).runtime(tokio::runtime::Handle::current());
    let client = builder.connect().await.unwrap();
    let aside = tokio::spawn(client.election("e").unwrap().campaign("aside"));
    length(&memory, 2).await;
    let chosen = stand(&memory, "chosen").await;
    let candidate = election(&memory).await.candidates().await.unwrap().remove(2);
    // Entering again takes a while.
    slow.link().plan(Op::Enqueue, Fault::Delay(Duration::from_secs(1)));
    assert!(first.transfer_to(&candidate).await.unwrap());
    let values = || memory.entries(&name()).into_iter().map(|entry| entry.value).collect::<Vec<_>>();
    let began = Instant::now();
    while values() != [b"chosen", &b"aside"[..]] {
        assert!(values().contains(&b"aside".to_vec()), "{:?}", values());
        assert!(began.elapsed() < TTL, "{:?}", values());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
    leads(chosen).await.resign().await;
    leads(aside).await.resign().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_begins_with_a_beat_of_proven_life_however_long_taking_office_took() {
    const BEAT: Duration = Duration::from_secs(1);
    let memory = store();
    let weak = memory.clone().with_own_link();
    let builder = Client::builder(weak.clone()).clock(TokioClock::new()).runtime(tokio::runtime::Handle::current());
    let client = builder.connect().await.unwrap();
    for _ in 0..1000 {
        weak.link().plan(Op::Renew, Fault::DropRequest);
    }
    // Of the record, which is given up after two beats; of its own entry, by the guard; of the record again.
    weak.link().plan(Op::Read, Fault::Delay(BEAT * 3));
    weak.link().plan(Op::Read, Fault::Delay(BEAT * 19 / 10));
    weak.link().plan(Op::Read, Fault::Delay(BEAT * 19 / 10));
    weak.link().plan(Op::Write, Fault::Delay(BEAT * 9 / 10));
    let standing = tokio::spawn(client.election("e").unwrap().campaign("weak"));
    let onlooker = election(&memory).await;
    while leader(&onlooker).await.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(BEAT / 20).await;
    assert!(!standing.is_finished(), "it has taken office, and nothing proves that it will stay alive");
    weak.link().heal();
    let leadership = leads(standing).await;
    assert!(leadership.valid_for() >= BEAT, "{:?}", leadership.valid_for());
}
