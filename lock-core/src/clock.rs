//! The clock that validity is measured on.
//!
//! # Examples
//! ```
//! # #[tokio::main] async fn main() -> lock_core::Result<()> {
//! # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
//! use lock_core::clock::{BootClock, Clock};
//!
//! let guard = client.mutex("ledger")?.lock().await?;
//! let until = guard.valid_until().expect("held"); // a moment on the client's clock
//! assert!(until.saturating_duration_since(BootClock.now()) <= client.ttl().await?);
//! # Ok(()) }
//! ```

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// A moment on a [`Clock`], in nanoseconds since an origin that the clock chooses.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use lock_core::clock::Instant;
///
/// let deadline = Instant::from_nanos(0) + Duration::from_secs(10);
/// assert!(Instant::from_nanos(9_999_999_999) < deadline);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The moment `nanos` nanoseconds after the clock's origin.
    ///
    /// # Examples
    /// ```
    /// # use lock_core::clock::Instant;
    /// assert_eq!(Instant::from_nanos(5).as_nanos(), 5);
    /// ```
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's origin.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// use lock_core::clock::Instant;
    ///
    /// let guard = client.mutex("ledger")?.lock().await?;
    /// let until = guard.valid_until().map_or(0, Instant::as_nanos); // for an atomic that others read
    /// assert!(until > 0);
    /// # Ok(()) }
    /// ```
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this moment; zero when `earlier` is not earlier.
    ///
    /// # Examples
    /// ```
    /// # use std::time::Duration;
    /// # use lock_core::clock::Instant;
    /// let (earlier, later) = (Instant::from_nanos(3), Instant::from_nanos(5));
    /// assert_eq!(later.saturating_duration_since(earlier), Duration::from_nanos(2));
    /// assert_eq!(earlier.saturating_duration_since(later), Duration::ZERO);
    /// ```
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at the end of the clock, 584 years after its origin.
    fn add(self, rhs: Duration) -> Self {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_nanos(self.0))
    }
}

/// A source of the present moment.
///
/// # Contract
/// It never goes backwards, never jumps with the wall clock, and **counts the time the machine sleeps**: a holder whose
/// laptop was shut for an hour must find its lock expired. `std::time::Instant` does not (it stops during suspend on
/// Linux), which is why this trait exists.
///
/// # Examples
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use lock_core::clock::{Clock, Instant};
///
/// /// For a test that moves the time by hand.
/// #[derive(Debug)]
/// struct ByHand(AtomicU64);
///
/// impl Clock for ByHand {
///     fn now(&self) -> Instant {
///         Instant::from_nanos(self.0.load(Relaxed))
///     }
/// }
/// let clock = ByHand(1.into());
/// let before = clock.now();
/// clock.0.fetch_add(1, Relaxed);
/// assert!(clock.now() > before);
/// ```
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Instant;
}

/// The machine's clock since boot, suspend included (`CLOCK_BOOTTIME`; `CLOCK_MONOTONIC` where that counts suspend or
/// nothing better exists).
///
/// # Examples
/// ```
/// use lock_core::clock::{BootClock, Clock};
///
/// let before = BootClock.now();
/// assert!(BootClock.now() >= before, "whatever anybody does to the wall clock");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

#[cfg(any(target_os = "linux", target_os = "android"))]
const BOOT: rustix::time::ClockId = rustix::time::ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const BOOT: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

impl Clock for BootClock {
    fn now(&self) -> Instant {
        let t = rustix::time::clock_gettime(BOOT);
        // Both fields are non-negative on a clock that counts from boot.
        Instant((t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64))
    }
}

/// Follows tokio's clock, so that a test with paused time moves locks and timers together.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use lock_core::clock::{Clock, TokioClock};
///
/// let clock = TokioClock::new(); // in a test with paused time
/// let before = clock.now();
/// tokio::time::sleep(Duration::from_secs(3_600)).await;
/// assert!(clock.now() >= before + Duration::from_secs(3_600), "an hour, in no time");
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    origin: tokio::time::Instant,
}

impl TokioClock {
    /// A clock whose origin is now. Call it inside the runtime whose time it follows.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// # use lock_core::clock::{Clock, TokioClock};
    /// let clock = TokioClock::new();
    /// assert_eq!(clock.now(), clock.now(), "time is paused, and nobody sleeps");
    /// # }
    /// ```
    pub fn new() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        // One second of head start: moment zero is the "never" of a deadline cell.
        Instant(1_000_000_000) + self.origin.elapsed()
    }
}

/// tokio's timers do not count suspend, so a sleep looks at the real clock after this many nanoseconds at the latest.
const LONGEST_NAP: u64 = 1_000_000_000;

/// Sleeps until `clock` says `at`; at most a second late after a suspend.
pub(crate) async fn sleep_until(clock: &dyn Clock, at: Instant) {
    loop {
        let now = clock.now();
        let left = at.saturating_duration_since(now);
        if left.is_zero() {
            return;
        }
        // All naps end at whole seconds, so that those who sleep wake the process once for all of them.
        let nap = Duration::from_nanos(LONGEST_NAP - now.as_nanos() % LONGEST_NAP);
        tokio::time::sleep(left.min(nap)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_clock_moves_forward_and_is_not_the_wall_clock() {
        let a = BootClock.now();
        let b = BootClock.now();
        assert!(b >= a && a.as_nanos() > 0);
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!(Duration::from_nanos(b.as_nanos()) < wall);
    }

    #[test]
    fn arithmetic_saturates() {
        let t = Instant::from_nanos(5);
        assert_eq!(t.saturating_duration_since(Instant::from_nanos(9)), Duration::ZERO);
        assert_eq!(t + Duration::MAX, Instant::from_nanos(u64::MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn sleeping_follows_the_clock_not_the_timer() {
        #[derive(Debug)]
        struct Suspended(std::sync::atomic::AtomicU64);
        impl Clock for Suspended {
            fn now(&self) -> Instant {
                Instant(self.0.load(std::sync::atomic::Ordering::Relaxed))
            }
        }
        let clock = std::sync::Arc::new(Suspended(0.into()));
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { sleep_until(&*clock, Instant::from_nanos(3_600_000_000_000)).await }
        });
        tokio::task::yield_now().await;
        // An hour passes in suspend: tokio's clock saw none of it.
        clock.0.store(3_600_000_000_000, std::sync::atomic::Ordering::Relaxed);
        tokio::time::timeout(Duration::from_secs(2), sleeper).await.unwrap().unwrap();
    }
}
