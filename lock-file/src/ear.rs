//! Who listens for what happens to some files, and when it is time to look without being told.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::{Sleep, sleep};

use crate::error::Failed;
use crate::notices::{Bell, Heard, Kind, Notices};
use crate::sys;

/// Who listens for what happens to some files. Woken too often rather than too rarely.
pub(crate) struct Ear {
    notices: Option<Arc<Notices>>,
    bell: Arc<Bell>,
    watches: Vec<i32>,
    pace: Pace,
    timer: Option<Pin<Box<Sleep>>>,
}

/// When to look without being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Never.
    Told,
    /// A process that was dying when the watch began may have closed its file before, and unlock it after that.
    Twice(u32),
    /// A process closes its files before it unlocks them, and one that is killed does so when it gets to run.
    Closed(Duration),
    /// There is no watch.
    Always,
}

impl Pace {
    fn next(&mut self) -> Option<Duration> {
        match *self {
            Self::Told | Self::Twice(2) => None,
            Self::Twice(times) => {
                *self = Self::Twice(times + 1);
                Some(Duration::from_millis(50 * 10_u64.pow(times)))
            }
            Self::Closed(pause) => {
                *self = Self::Closed((pause * 2).min(Duration::from_secs(1)));
                Some(pause)
            }
            Self::Always => Some(Duration::from_millis(20)),
        }
    }
}

impl Ear {
    /// Without notices, it looks again and again.
    pub(crate) fn new(notices: Option<Arc<Notices>>) -> Self {
        let pace = if notices.is_some() { Pace::Told } else { Pace::Always };
        Self { notices, bell: Arc::default(), watches: Vec::new(), pace, timer: None }
    }

    /// Listens for what happens to a file from now on; `false` when there is none.
    pub(crate) fn listen(&mut self, path: &Path, kind: Kind) -> Result<bool, Failed> {
        let Some(notices) = self.notices.as_ref().filter(|_| self.pace != Pace::Always) else {
            return Ok(sys::identity_at(path)?.is_some());
        };
        match notices.watch(path, kind, &self.bell) {
            Ok(Some(watch)) => {
                self.watches.push(watch);
                if kind == Kind::Session {
                    self.pace = Pace::Twice(0);
                }
                return Ok(true);
            }
            Ok(None) => {}
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(Failed::new("watch", path, error)),
        }
        self.pace = Pace::Always;
        Ok(sys::identity_at(path)?.is_some())
    }

    /// Whether nothing is told, so that only looking shows what happens.
    pub(crate) fn is_guessing(&self) -> bool {
        self.pace == Pace::Always
    }

    /// What was heard since the last time. The task is woken when there is more to hear, or it is time to look.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Heard {
        let heard = self.bell.hear(cx);
        if heard.is_closed() && self.pace != Pace::Always {
            self.pace = Pace::Closed(Duration::from_millis(1));
            self.timer = None;
        }
        loop {
            if self.timer.is_none() {
                self.timer = self.pace.next().map(|pause| Box::pin(sleep(pause)));
            }
            match self.timer.as_mut().map(|timer| timer.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => self.timer = None,
                Some(Poll::Pending) | None => return heard,
            }
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        if let Some(notices) = &self.notices {
            notices.forget(&self.watches, &self.bell);
        }
    }
}
