//! The barrier that somebody raises and lowers.

use std::time::Duration;

use crate::client::Client;
use crate::error::Result;
use crate::name::Name;
use crate::recipes::recorded::{Recorded, Step};
use crate::record::{Record, Update};

/// A barrier: while it is raised, whoever comes waits; lowering it lets all of them go on.
///
/// It belongs to nobody: it stays raised when the process that raised it ends, until somebody, anybody, lowers it. Those
/// who wait have no place to lose, so that they wait on through lost connections and sessions. Lowering it wakes each of
/// them once.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let maintenance = client.barrier("maintenance")?;
/// maintenance.wait().await?; // not raised: goes on
/// maintenance.raise().await?;
/// let job = tokio::spawn({
///     let maintenance = maintenance.clone(); // in any process
///     async move { maintenance.wait().await }
/// });
/// maintenance.lower().await?;
/// job.await.expect("no panic")?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Barrier {
    state: Recorded,
}

const BARRIER: &str = "barrier";

impl Barrier {
    pub(crate) fn new(client: Client, name: Name) -> Self {
        Self { state: Recorded::new(client, name, BARRIER) }
    }

    /// The barrier's name.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.barrier("maintenance")?.name(), "maintenance");
    /// # Ok(()) }
    /// ```
    pub fn name(&self) -> &str {
        self.state.name().as_str()
    }

    /// Raises it, if it is not raised already.
    ///
    /// # Errors
    /// Those of [`Client::entries`], and [`Error::OtherRecipe`](crate::Error::OtherRecipe) when the name is in use by another
    /// recipe. After a retryable one it may or may not be raised.
    ///
    /// # Cancel safety
    /// It is raised all the same, unless the store cannot be reached.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// client.barrier("maintenance")?.raise().await?;
    /// client.close().await; // whoever raised it may go
    /// assert!(client.barrier("maintenance")?.is_raised().await?);
    /// # Ok(()) }
    /// ```
    pub async fn raise(&self) -> Result<()> {
        let raise = |record: Option<Record>| {
            let update =
                if is_raised(record.as_ref()) { Update::Keep } else { Update::Write(Record::Barrier { raised: true }) };
            Ok((update, ()))
        };
        self.state.update(raise).await
    }

    /// Lowers it, if it is raised. Everybody who waits goes on, even if it is raised again at once.
    ///
    /// # Errors
    /// As [`raise`](Self::raise).
    ///
    /// # Cancel safety
    /// It is lowered all the same, unless the store cannot be reached.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let maintenance = client.barrier("maintenance")?;
    /// maintenance.raise().await?;
    /// maintenance.lower().await?;
    /// maintenance.lower().await?; // no harm done
    /// assert!(!maintenance.is_raised().await?);
    /// # Ok(()) }
    /// ```
    pub async fn lower(&self) -> Result<()> {
        let lower = |record: Option<Record>| {
            let update = if record.is_some() { Update::Clear } else { Update::Keep };
            Ok((update, ()))
        };
        self.state.update(lower).await
    }

    /// Whether it is raised.
    ///
    /// # Errors
    /// As [`raise`](Self::raise).
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let maintenance = client.barrier("maintenance")?;
    /// assert!(!maintenance.is_raised().await?, "not yet, whether or not anybody has used it");
    /// maintenance.raise().await?;
    /// assert!(maintenance.is_raised().await?);
    /// # Ok(()) }
    /// ```
    pub async fn is_raised(&self) -> Result<bool> {
        Ok(is_raised(self.state.read().await?.as_ref()))
    }

    /// Waits until it is lowered; not at all if it is not raised.
    ///
    /// # Errors
    /// Those that asking again does not help against: [`Error::OtherRecipe`](crate::Error::OtherRecipe),
    /// [`Error::AccessDenied`](crate::Error::AccessDenied). While the store cannot be reached, this waits.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let migration = client.barrier("schema-migration")?;
    /// migration.raise().await?;
    /// let worker = tokio::spawn({
    ///     let migration = client.barrier("schema-migration")?; // in any process
    ///     async move { migration.wait().await }
    /// });
    /// // … migrate …
    /// migration.lower().await?;
    /// worker.await.expect("no panic")?;
    /// # Ok(()) }
    /// ```
    pub async fn wait(&self) -> Result<()> {
        self.state.wait(None, lowered()).await.map(|_| ())
    }

    /// Waits until it is lowered, for at most `timeout`; `false` when it was not lowered in time. The deadline bounds
    /// everything, opening a session included.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), and [`Error::Timeout`](crate::Error::Timeout) when the deadline passed before the store had
    /// told whether it is raised.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// # use std::time::Duration;
    /// let maintenance = client.barrier("maintenance")?;
    /// maintenance.raise().await?;
    /// if !maintenance.wait_for(Duration::from_secs(60)).await? {
    ///     println!("still under maintenance, giving up");
    /// }
    /// # assert!(!maintenance.wait_for(Duration::from_secs(60)).await?);
    /// maintenance.lower().await?;
    /// assert!(maintenance.wait_for(Duration::from_secs(60)).await?);
    /// # Ok(()) }
    /// ```
    pub async fn wait_for(&self, timeout: Duration) -> Result<bool> {
        self.state.wait(Some(timeout), lowered()).await
    }
}

fn is_raised(record: Option<&Record>) -> bool {
    matches!(record, Some(Record::Barrier { raised: true }))
}

/// Whether it has been lowered since it was first looked at. A raised barrier is not written to, so that another version of
/// it was raised anew.
fn lowered() -> impl FnMut(Option<Record>, u64) -> Result<Step> + Send + 'static {
    let mut first = None;
    move |record, version| {
        let still = is_raised(record.as_ref()) && *first.get_or_insert(version) == version;
        Ok(if still { Step::Wait } else { Step::Done })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_goes_on_when_it_was_lowered_even_if_nobody_saw_it() {
        let raised = || Some(Record::Barrier { raised: true });
        let mut step = lowered();
        assert!(matches!(step(raised(), 3), Ok(Step::Wait)));
        assert!(matches!(step(raised(), 3), Ok(Step::Wait)), "looked at again");
        assert!(matches!(step(raised(), 5), Ok(Step::Done)), "lowered and raised again");
        assert!(matches!(lowered()(None, 0), Ok(Step::Done)));
        assert!(matches!(lowered()(Some(Record::Barrier { raised: false }), 1), Ok(Step::Done)));
    }
}
