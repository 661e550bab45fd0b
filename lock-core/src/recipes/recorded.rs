//! A recipe that is a record and nothing else. It belongs to no session, so it goes on when one ends.

use std::time::Duration;

use crate::backend::Kind;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::record::{self, Record, Update};
use crate::session::{Backoff, Live};

/// A name whose record is the state of a recipe.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    client: Client,
    name: Name,
    recipe: &'static str,
}

/// What one who waits makes of a record.
#[derive(Debug)]
pub(crate) enum Step {
    /// It is what was waited for.
    Done,
    /// Wait for its next change.
    Wait,
    /// Write this, then look again.
    Write(Record),
}

impl Recorded {
    pub(crate) fn new(client: Client, name: Name, recipe: &'static str) -> Self {
        Self { client, name, recipe }
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    pub(crate) async fn read(&self) -> Result<Option<Record>> {
        self.update(|record| Ok((Update::Keep, record))).await
    }

    /// Replaces the record as [`record::update`] does; when a session ends meanwhile, over the next one. Comes to its end
    /// whatever becomes of the caller.
    pub(crate) async fn update<T: Send + 'static>(
        &self,
        change: impl FnMut(Option<Record>) -> Result<(Update, T)> + Send + 'static,
    ) -> Result<T> {
        self.update_or_claim(None, change).await
    }

    /// The same for the first record of a recipe whose entries are of this kind: refused when the queue of the name is in
    /// use by another recipe.
    pub(crate) async fn claim<T: Send + 'static>(
        &self,
        kind: Kind,
        change: impl FnMut(Option<Record>) -> Result<(Update, T)> + Send + 'static,
    ) -> Result<T> {
        self.update_or_claim(Some(kind), change).await
    }

    async fn update_or_claim<T: Send + 'static>(
        &self,
        claims_with: Option<Kind>,
        mut change: impl FnMut(Option<Record>) -> Result<(Update, T)> + Send + 'static,
    ) -> Result<T> {
        let Self { client, name, recipe } = self.clone();
        let updating = async move {
            let mut backoff = Backoff::default();
            loop {
                let live = client.live().await?;
                let updated = async {
                    if let Some(kind) = claims_with {
                        record::unclaimed(&live, &name, kind).await?;
                    }
                    record::update(&live, &name, recipe, &mut change).await
                };
                match updated.await {
                    Err(Error::SessionOver { .. }) => tokio::time::sleep(backoff.next()).await,
                    updated => return updated.map_err(|error| error.of_lock(&name)),
                }
            }
        };
        self.client.on_runtime(updating).await?
    }

    /// Looks at the record until `step` is done, for at most `timeout`; `false` when it was not done by then. Goes on through
    /// lost connections and sessions. Dropping the future leaves nothing.
    ///
    /// # Errors
    /// Those that asking again does not help against, and [`Error::Timeout`] when the record was not seen in time.
    pub(crate) async fn wait(
        &self,
        timeout: Option<Duration>,
        mut step: impl FnMut(Option<Record>, u64) -> Result<Step> + Send + 'static,
    ) -> Result<bool> {
        let this = self.clone();
        let deadline = timeout.map(|after| self.client.clock().now() + after);
        let waiting = async move {
            let mut seen = false;
            let (Some(deadline), Some(after)) = (deadline, timeout) else {
                return this.follow(&mut step, &mut seen).await.map(|()| true);
            };
            let left = deadline.saturating_duration_since(this.client.clock().now());
            match tokio::time::timeout(left, this.follow(&mut step, &mut seen)).await {
                Ok(done) => done.map(|()| true),
                Err(_) if seen => Ok(false),
                Err(_) => {
                    let lock = this.name.to_string();
                    Err(Error::Timeout { lock, after, doing: "asking the store for its state" })
                }
            }
        };
        self.client.while_wanted(waiting).await
    }

    async fn follow(
        &self,
        step: &mut (impl FnMut(Option<Record>, u64) -> Result<Step> + Send),
        seen: &mut bool,
    ) -> Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let followed = async { self.follow_over(&*self.client.live().await?, step, seen).await };
            match followed.await {
                Err(error) if error.is_retryable() => {
                    tracing::debug!(name = %self.name, %error, "cannot follow the record, trying again");
                    tokio::time::sleep(backoff.next()).await;
                }
                done => return done.map_err(|error| error.of_lock(&self.name)),
            }
        }
    }

    async fn follow_over(
        &self,
        live: &Live,
        step: &mut (impl FnMut(Option<Record>, u64) -> Result<Step> + Send),
        seen: &mut bool,
    ) -> Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let look = record::look(live, &self.name, self.recipe).await?;
            *seen = true;
            match step(look.record.clone(), look.version)? {
                Step::Done => return Ok(()),
                Step::Wait => look.changed(live).await,
                Step::Write(record) => {
                    if !record::replace(live, &self.name, look.version, &record).await? {
                        backoff.wait(&live.health).await;
                    }
                }
            }
        }
    }
}
