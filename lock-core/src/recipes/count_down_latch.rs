//! The latch that opens after a number of count-downs.

use std::time::Duration;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::recipes::recorded::{Recorded, Step};
use crate::record::{Record, Update};

/// A latch: closed until it was counted down to zero, then open until somebody resets it. Whoever waits for it goes on when
/// it opens.
///
/// It belongs to nobody, and a count-down stays made when the process that made it ends. Those who wait have no place to
/// lose, so that they wait on through lost connections and sessions.
///
/// The count is kept in the store. The first user sets it; a client that believes in another number is refused.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let loaded = client.count_down_latch("shards-loaded", 2)?;
/// let server = tokio::spawn({
///     let loaded = loaded.clone(); // in any process
///     async move { loaded.wait().await }
/// });
/// for _shard in 0..2 {
///     loaded.count_down().await?; // by whoever has loaded it
/// }
/// server.await.expect("no panic")?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct CountDownLatch {
    state: Recorded,
    count: u32,
}

const LATCH: &str = "count-down latch";

impl CountDownLatch {
    /// The greatest count: each count-down is written down until the latch opens, in a record of limited size.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// # use lock_core::CountDownLatch;
    /// assert!(client.count_down_latch("shards-loaded", CountDownLatch::MAX_COUNT).is_ok());
    /// assert!(client.count_down_latch("shards-loaded", CountDownLatch::MAX_COUNT + 1).is_err());
    /// # Ok(()) }
    /// ```
    pub const MAX_COUNT: u32 = 3_000;

    pub(crate) fn new(client: Client, name: Name, count: u32) -> Result<Self> {
        if !(1..=Self::MAX_COUNT).contains(&count) {
            return Err(Error::InvalidConfig {
                setting: "count of the latch".into(),
                value: count.to_string(),
                expected: format!("1 to {}", Self::MAX_COUNT),
            });
        }
        Ok(Self { state: Recorded::new(client, name, LATCH), count })
    }

    /// The latch's name.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.count_down_latch("shards-loaded", 2)?.name(), "shards-loaded");
    /// # Ok(()) }
    /// ```
    pub fn name(&self) -> &str {
        self.state.name().as_str()
    }

    /// Counts down by one and returns how many are left. Counting down an open latch leaves it open.
    ///
    /// Counts exactly once, whatever is lost on the way. One that overlaps with a [`reset`](Self::reset) may be undone by it.
    ///
    /// # Errors
    /// Those of [`Client::entries`]; [`Error::NumberMismatch`] when the store has another count; [`Error::OtherRecipe`] when
    /// the name is in use by another recipe. After a retryable one it may or may not have counted.
    ///
    /// # Cancel safety
    /// It counts all the same, unless the store cannot be reached.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let loaded = client.count_down_latch("shards-loaded", 2)?;
    /// assert_eq!(loaded.count_down().await?, 1); // by the process that loads the first shard
    /// assert_eq!(loaded.count_down().await?, 0);
    /// loaded.wait().await?;                      // by those who need all of them
    /// # Ok(()) }
    /// ```
    pub async fn count_down(&self) -> Result<u32> {
        let id = format!("{:016x}", fastrand::u64(..));
        let (name, count) = (self.state.name().clone(), self.count);
        let mut first = None;
        self.state
            .update(move |record| {
                let latch = Latch::of(record, count, &name)?;
                let (changed, left) = latch.counted_down(&id, *first.get_or_insert(latch.opened));
                Ok((changed.map_or(Update::Keep, |latch| Update::Write(latch.into_record())), left))
            })
            .await
    }

    /// How many count-downs are left until it opens; 0 when it is open.
    ///
    /// # Errors
    /// As [`count_down`](Self::count_down).
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let loaded = client.count_down_latch("shards-loaded", 3)?;
    /// loaded.count_down().await?;
    /// println!("{} of 3 are missing", loaded.count().await?);
    /// # assert_eq!(loaded.count().await?, 2);
    /// # Ok(()) }
    /// ```
    pub async fn count(&self) -> Result<u32> {
        let record = self.state.read().await?;
        Ok(Latch::of(record, self.count, self.state.name())?.left)
    }

    /// Waits until it is open.
    ///
    /// # Errors
    /// Those that asking again does not help against: [`Error::NumberMismatch`], [`Error::OtherRecipe`],
    /// [`Error::AccessDenied`]. While the store cannot be reached, this waits.
    ///
    /// # Cancel safety
    /// Dropping the future does not change the latch.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let loaded = client.count_down_latch("shards-loaded", 1)?;
    /// loaded.count_down().await?;
    /// loaded.wait().await?; // open, for all who come later, too
    /// assert_eq!(loaded.count().await?, 0);
    /// # Ok(()) }
    /// ```
    pub async fn wait(&self) -> Result<()> {
        self.state.wait(None, self.open()).await.map(|_| ())
    }

    /// Waits until it is open, for at most `timeout`; `false` when it did not open in time. The deadline bounds everything,
    /// opening a session included.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), and [`Error::Timeout`] when the deadline passed before the store had told whether it is open.
    ///
    /// # Cancel safety
    /// Dropping the future does not change the latch.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(lock_core::memory::Memory::new()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// # use std::time::Duration;
    /// let loaded = client.count_down_latch("shards-loaded", 1)?;
    /// assert!(!loaded.wait_for(Duration::from_secs(60)).await?, "not all are loaded after a minute");
    /// loaded.count_down().await?;
    /// assert!(loaded.wait_for(Duration::from_secs(60)).await?);
    /// # Ok(()) }
    /// ```
    pub async fn wait_for(&self, timeout: Duration) -> Result<bool> {
        self.state.wait(Some(timeout), self.open()).await
    }

    /// Closes it again, with the whole count left to make. Who waited when it opened goes on all the same; who waits for a
    /// latch that did not open yet waits on.
    ///
    /// This also is the way to change the count of a latch: it sets the one that this client believes in.
    ///
    /// # Errors
    /// Those of [`Client::entries`], and [`Error::OtherRecipe`]. After a retryable one it may or may not be reset.
    ///
    /// # Cancel safety
    /// It is reset all the same, unless the store cannot be reached.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// client.count_down_latch("shards-loaded", 1)?.count_down().await?;
    /// let larger = client.count_down_latch("shards-loaded", 5)?;
    /// assert!(larger.count().await.is_err(), "it is a latch of 1");
    /// larger.reset().await?;
    /// assert_eq!(larger.count().await?, 5);
    /// # Ok(()) }
    /// ```
    pub async fn reset(&self) -> Result<()> {
        let count = self.count;
        self.state
            .update(move |record| {
                let opened = Latch::opened_of(record.as_ref());
                let closed = Latch { opened, ..Latch::new(count) }.into_record();
                let update = if record.as_ref() == Some(&closed) { Update::Keep } else { Update::Write(closed) };
                Ok((update, ()))
            })
            .await
    }

    /// Whether it has been open since it was first looked at. The first user sets the count.
    fn open(&self) -> impl FnMut(Option<Record>, u64) -> Result<Step> + Send + 'static {
        let (name, count) = (self.state.name().clone(), self.count);
        let mut first = None;
        move |record, _| {
            if record.is_none() {
                return Ok(Step::Write(Latch::new(count).into_record()));
            }
            let latch = Latch::of(record, count, &name)?;
            let has_opened = latch.left == 0 || latch.opened != *first.get_or_insert(latch.opened);
            Ok(if has_opened { Step::Done } else { Step::Wait })
        }
    }
}

/// The state of a latch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Latch {
    count: u32,
    left: u32,
    done: Vec<String>,
    opened: u64,
}

impl Latch {
    fn new(count: u32) -> Self {
        Self { count, left: count, done: Vec::new(), opened: 0 }
    }

    /// What is stored, or a new one for the first user.
    fn of(record: Option<Record>, believed: u32, name: &Name) -> Result<Self> {
        let Some(Record::CountDownLatch { count, left, done, opened }) = record else { return Ok(Self::new(believed)) };
        if count != believed {
            let (name, recipe) = (name.to_string(), LATCH);
            return Err(Error::NumberMismatch { name, recipe, of: "counts", asked: believed, stored: count });
        }
        Ok(Self { count, left, done, opened })
    }

    fn opened_of(record: Option<&Record>) -> u64 {
        if let Some(Record::CountDownLatch { opened, .. }) = record { *opened } else { 0 }
    }

    /// The latch after this count-down, if that changes it, and how many are left. `first` is how often it had opened when
    /// this count-down first saw it.
    fn counted_down(&self, id: &str, first: u64) -> (Option<Self>, u32) {
        // It opened with this count-down, or while this one was under way.
        if self.opened != first {
            return (None, 0);
        }
        if self.left == 0 || self.done.iter().any(|done| done == id) {
            return (None, self.left);
        }
        let mut after = Self { left: self.left - 1, ..self.clone() };
        if after.left == 0 {
            after.opened = after.opened.wrapping_add(1);
            after.done.clear();
        } else {
            after.done.push(id.to_owned());
        }
        let left = after.left;
        (Some(after), left)
    }

    fn into_record(self) -> Record {
        let Self { count, left, done, opened } = self;
        Record::CountDownLatch { count, left, done, opened }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that every store takes for a record.
    const RECORD: usize = 64 << 10;

    #[test]
    fn the_greatest_count_fits_into_a_record() {
        let mut latch = Latch { opened: u64::MAX - 1, ..Latch::new(CountDownLatch::MAX_COUNT) };
        let mut largest = 0;
        while latch.left > 0 {
            let (after, left) = latch.counted_down(&format!("{:016x}", u64::MAX - u64::from(latch.left)), u64::MAX - 1);
            latch = after.expect("each counts");
            assert_eq!(latch.left, left);
            largest = largest.max(serde_json::to_vec(&latch.clone().into_record()).unwrap().len());
        }
        assert!(largest > RECORD * 3 / 4 && largest < RECORD, "{largest}");
        assert_eq!(latch, Latch { left: 0, opened: u64::MAX, ..Latch::new(CountDownLatch::MAX_COUNT) });
    }

    #[test]
    fn each_counts_once_and_an_open_latch_stays_open() {
        let closed = Latch::new(2);
        let (one, left) = closed.counted_down("a", 0);
        let one = one.expect("counts");
        assert_eq!(left, 1);
        assert_eq!(one.counted_down("a", 0), (None, 1), "its answer was lost");
        let (open, left) = one.counted_down("b", 0);
        let open = open.expect("counts");
        assert_eq!((left, open.left, open.opened), (0, 0, 1));
        assert_eq!(open.counted_down("b", 0), (None, 0), "its answer was lost");
        assert_eq!(open.counted_down("c", 1), (None, 0), "came later");
        let reset = Latch { opened: open.opened, ..Latch::new(2) };
        assert_eq!(reset.counted_down("b", 0), (None, 0), "it opened the latch before the reset");
        assert_eq!(reset.counted_down("c", 1).1, 1, "came after the reset");
    }

    #[test]
    fn who_waits_goes_on_when_it_opened_even_if_nobody_saw_it() {
        let waits = |latch: &Latch, step: &mut dyn FnMut(Option<Record>, u64) -> Result<Step>| {
            matches!(step(Some(latch.clone().into_record()), 1), Ok(Step::Wait))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(Client::connect(crate::memory::Memory::new())).unwrap();
        let mut step = client.count_down_latch("l", 2).unwrap().open();
        assert!(matches!(step(None, 0), Ok(Step::Write(Record::CountDownLatch { count: 2, left: 2, .. }))));
        assert!(waits(&Latch::new(2), &mut step));
        assert!(waits(&Latch { left: 1, ..Latch::new(2) }, &mut step));
        assert!(waits(&Latch::new(2), &mut step), "reset before it opened");
        assert!(!waits(&Latch { opened: 1, ..Latch::new(2) }, &mut step), "opened and reset");
    }
}
