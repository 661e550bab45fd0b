//! Schedules as values, and how they are drawn.

use std::fmt::{self, Debug, Formatter};
use std::time::Duration;

use lock_core::memory::{Fault, Op};
use proptest::collection::vec;
use proptest::prelude::*;

/// Clients at most.
const CLIENTS: usize = 3;
const TASKS: usize = 6;
const STEPS: usize = 4;
const BREAKS: usize = 25;

/// What each task does, and what breaks.
#[derive(Clone, Debug)]
pub(crate) struct Plan<A> {
    /// The seed of what the library draws by itself.
    pub(crate) jitter: u64,
    /// The time each way between a client and the store; as many as there are clients.
    pub(crate) latencies: Vec<Duration>,
    /// The tasks use the clients in turn.
    pub(crate) tasks: Vec<Vec<Step<A>>>,
    pub(crate) breaks: Vec<Break>,
}

/// Something that one task does, this long after what it did before.
#[derive(Clone)]
pub(crate) struct Step<A> {
    pub(crate) after: Duration,
    pub(crate) action: A,
}

/// Something that breaks, this long after what broke before.
#[derive(Clone)]
pub(crate) struct Break {
    pub(crate) after: Duration,
    pub(crate) client: usize,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Something happens to the client's next request of this kind.
    Fault(Op, Fault),
    Hold,
    Resume,
    /// Every watch of the client ends without telling.
    Cut,
    /// An operator ends its session.
    Expire,
    /// It closes its session itself.
    Close,
    /// An operator removes one of the entries that there are.
    Remove(usize),
    /// Somebody writes one of the entries that there are as it is.
    Touch(usize),
}

impl What {
    /// Whether it is done to the link, so that the client cannot be expected to do anything in time.
    pub(crate) fn is_of_the_link(&self) -> bool {
        matches!(self, Self::Fault(..) | Self::Hold | Self::Resume)
    }
}

impl<A> Plan<A> {
    /// A schedule in which nothing breaks, for a named test; latencies in milliseconds.
    pub(crate) fn unbroken(latencies: impl IntoIterator<Item = u64>, tasks: Vec<Vec<Step<A>>>) -> Self {
        let latencies = latencies.into_iter().map(Duration::from_millis).collect();
        Self { jitter: 0, latencies, tasks, breaks: Vec::new() }
    }

    /// The same, while this breaks: after how many milliseconds, of which client.
    pub(crate) fn with<const N: usize>(mut self, breaks: [(u64, usize, What); N]) -> Self {
        let broken = |(after, client, what)| Break { after: Duration::from_millis(after), client, what };
        self.breaks = breaks.map(broken).into();
        self
    }

    /// Whether the link of a client works all the time.
    pub(crate) fn is_clean(&self, client: usize) -> bool {
        !self.breaks.iter().any(|broken| broken.client == client && broken.what.is_of_the_link())
    }

    /// How many watches never tell, so that only the next recheck does.
    pub(crate) fn lost_events(&self) -> u32 {
        self.breaks.iter().filter(|broken| matches!(broken.what, What::Fault(_, Fault::LostEvent))).count() as u32
    }
}

impl<A> Step<A> {
    pub(crate) fn at_once(action: A) -> Self {
        Self::after(0, action)
    }

    /// After milliseconds.
    pub(crate) fn after(after: u64, action: A) -> Self {
        Self { after: Duration::from_millis(after), action }
    }
}

impl<A: Debug> Debug for Step<A> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "after {:?}: {:?}", self.after, self.action)
    }
}

impl Debug for Break {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "after {:?}, client {}: {:?}", self.after, self.client, self.what)
    }
}

/// Schedules of these actions, whose faults hit these requests.
pub(crate) fn plans<A: Clone + Debug>(
    actions: impl Strategy<Value = A> + Clone,
    ops: &'static [Op],
) -> impl Strategy<Value = Plan<A>> {
    let step = (pause(), actions).prop_map(|(after, action)| Step { after, action });
    let tasks = vec(vec(step, 1..=STEPS), 1..=TASKS);
    let latencies = vec(millis(0..4), 1..=CLIENTS);
    // The links of the first clients break, those of the others never do.
    let breaks = (0..=CLIENTS, breaks(ops));
    (any::<u64>().no_shrink(), latencies, tasks, breaks).prop_map(|(jitter, latencies, tasks, (faulty, mut breaks))| {
        let faulty = faulty.min(latencies.len());
        breaks.retain(|broken| faulty > 0 || !broken.what.is_of_the_link());
        for broken in &mut breaks {
            broken.client %= if broken.what.is_of_the_link() { faulty } else { latencies.len() };
        }
        Plan { jitter, latencies, tasks, breaks }
    })
}

fn breaks(ops: &'static [Op]) -> impl Strategy<Value = Vec<Break>> {
    let broken =
        (pause(), 0..CLIENTS, what(ops)).prop_map(|(after, client, what)| Break { after, client, what }).boxed();
    prop_oneof![
        1 => Just(Vec::new()),
        3 => vec(broken.clone(), 0..=4),
        6 => vec(broken, 0..=BREAKS),
    ]
}

fn what(ops: &'static [Op]) -> impl Strategy<Value = What> {
    prop_oneof![
        12 => (prop::sample::select(ops), fault()).prop_map(|(op, fault)| What::Fault(op, fault)),
        2 => Just(What::Hold),
        4 => Just(What::Resume),
        2 => Just(What::Cut),
        1 => Just(What::Expire),
        1 => Just(What::Close),
        2 => (0..TASKS).prop_map(What::Remove),
        2 => (0..TASKS).prop_map(What::Touch),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => Just(Fault::DropRequest),
        3 => Just(Fault::DropReply),
        2 => millis(0..5_000).prop_map(Fault::Late),
        2 => millis(0..1_500).prop_map(Fault::Delay),
        2 => Just(Fault::StaleRead),
        1 => Just(Fault::LostEvent),
        1 => Just(Fault::Refuse),
    ]
}

/// Between two things that happen: together, one right after the other, or at leisure.
pub(crate) fn pause() -> impl Strategy<Value = Duration> + Clone {
    prop_oneof![
        2 => Just(Duration::ZERO),
        3 => millis(0..10),
        4 => millis(0..400),
    ]
}

pub(crate) fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> + Clone {
    range.prop_map(Duration::from_millis)
}
