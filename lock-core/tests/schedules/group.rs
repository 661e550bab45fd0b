//! Groups: whoever has joined is there and shows its last value, comes back by itself, and leaves nothing.

use std::sync::Arc;
use std::time::Duration;

use lock_core::memory::Op;
use lock_core::{Client, Error, Group, Loss, Membership, Result};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::{sleep, timeout};

use crate::plan::{millis, pause};
use crate::play::{Recipe, TTL, play_many, repeats};
use crate::turn::{End, hold, polled};
use crate::world::World;

struct Groups {
    world: Arc<World>,
    groups: Vec<Group>,
}

#[derive(Clone, Debug)]
enum Action {
    /// Shows a value after each of these pauses; the future of the update is dropped after so many polls, if it takes as many.
    Join {
        values: Vec<(Duration, u8)>,
        hold: Duration,
        end: End,
    },
    /// The future is dropped after this many polls.
    GiveUp(u8),
    Watch(Duration),
}

impl Groups {
    async fn join(&self, client: usize, value: &str) -> Option<Membership> {
        match self.groups[client].join(value).await {
            Ok(membership) => Some(membership),
            Err(error) => {
                self.world.excuse(client, &error);
                None
            }
        }
    }

    /// Whether what is in the store is what was shown last, if it is there at all.
    fn shows(&self, client: usize, membership: &Membership, wanted: &str) {
        let shown = membership.id().and_then(|id| self.world.value_of(&id));
        let right = shown.as_deref().is_none_or(|shown| shown == wanted.as_bytes());
        self.world.check(right, || format!("client {client} wants {wanted:?} to be shown, and it is {shown:?}"));
    }

    async fn update(&self, client: usize, membership: &Membership, value: &str, polls: u8) {
        match polled(membership.update(value), polls).await {
            Some(Ok(())) => {
                self.world.done(client, 1);
                self.shows(client, membership, value);
            }
            Some(Err(Error::Lost { loss: Loss::Closed, .. })) | None => {}
            Some(Err(error)) => self.world.excuse(client, &error),
        }
    }

    /// It comes back by itself, unless its client was closed.
    async fn comes_back(&self, client: usize, membership: &mut Membership) {
        let back = async {
            while membership.id().is_none() {
                if membership.changed().await.is_err() {
                    break;
                }
            }
        };
        let in_time = timeout(TTL * 2, back).await.is_ok();
        self.world.check(in_time || !self.world.is_clean(client), || format!("client {client} does not come back"));
    }
}

impl Recipe for Groups {
    const QUEUES: &'static [&'static str] = &["g"];
    const PROMPT: &'static [&'static str] = &[];
    const OPS: &'static [Op] = &[
        Op::Open,
        Op::Renew,
        Op::Enqueue,
        Op::Adopt,
        Op::Ahead,
        Op::Watch,
        Op::WatchQueue,
        Op::Entries,
        Op::Read,
        Op::Write,
        Op::Owner,
        Op::Dequeue,
        Op::Close,
    ];
    type Action = Action;

    fn actions() -> BoxedStrategy<Action> {
        let joined = (vec((pause(), 0..20u8), 0..4), hold(), End::strategy());
        prop_oneof![
            6 => joined.prop_map(|(values, hold, end)| Action::Join { values, hold, end }),
            2 => (0..12u8).prop_map(Action::GiveUp),
            2 => millis(0..2_000).prop_map(Action::Watch),
        ]
        .boxed()
    }

    fn new(world: Arc<World>, clients: Vec<Client>) -> Self {
        let groups = clients.iter().map(|client| client.group("g").expect("a valid name")).collect();
        Self { world, groups }
    }

    async fn act(&self, client: usize, action: Action) {
        match action {
            Action::Join { values, hold, end } => {
                let Some(mut membership) = self.join(client, "first").await else { return };
                self.world.done(client, 0);
                self.shows(client, &membership, "first");
                for (nth, (after, polls)) in values.into_iter().enumerate() {
                    sleep(after).await;
                    self.update(client, &membership, &nth.to_string(), polls).await;
                }
                sleep(hold).await;
                self.comes_back(client, &mut membership).await;
                self.update(client, &membership, "last", u8::MAX).await;
                match end {
                    End::Release => drop(timeout(TTL, membership.leave()).await),
                    End::Drop => drop(membership),
                    End::Polled(polls) => drop(polled(membership.leave(), polls).await),
                }
            }
            Action::GiveUp(polls) => drop(polled(self.groups[client].join("given up"), polls).await),
            Action::Watch(patience) => {
                let mut watch = self.groups[client].watch();
                let watching = async {
                    loop {
                        if let Err(error) = watch.next().await {
                            return self.world.excuse(client, &error);
                        }
                    }
                };
                let _ = timeout(patience, watching).await;
            }
        }
    }

    async fn in_the_end(&self, client: usize) -> Result<()> {
        let group = &self.groups[client];
        let mut watch = group.watch();
        let membership = group.join("in the end").await?;
        membership.update("at last").await?;
        loop {
            let members = watch.next().await?;
            let mine = members.iter().find(|member| Some(&member.id) == membership.id().as_ref());
            if mine.is_some_and(|mine| mine.value == b"at last") {
                break;
            }
        }
        membership.leave().await;
        Ok(())
    }
}

#[test]
fn no_schedule_breaks_a_promise() {
    play_many::<Groups>(1_000);
}

#[test]
fn a_schedule_repeats_itself() {
    repeats::<Groups>();
}
