//! What the kernel tells of the files that are watched, through inotify.

use std::collections::HashMap;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use rustix::fs::inotify::{ReadFlags, Reader, WatchFlags, remove_watch};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use crate::sys;

/// One event has 16 bytes and a name of up to 256.
const BUFFER: usize = 4096;

/// What may be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An entry's file or a record's, for its removal and its replacement.
    File,
    /// A session's file, for its removal and for being closed by its process, which may be dead.
    Session,
    /// A queue's directory, for who joins and who leaves.
    Directory,
}

impl Kind {
    fn events(self) -> WatchFlags {
        // Told as soon as the last name is gone, when others may still have the file open.
        let gone = WatchFlags::ATTRIB | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        match self {
            Self::File => gone,
            Self::Session => gone | WatchFlags::CLOSE_WRITE,
            Self::Directory => {
                // A value is moved there, which is nothing to those who watch who is there. An entry is moved away to
                // another name when a writer goes on as a reader.
                let members = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_FROM;
                members | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR
            }
        }
    }
}

/// What was heard since the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard(u8);

const DIRECTORY: u8 = 1;
const CLOSED: u8 = 2;
const REPLACED: u8 = 4;
const DEAF: u8 = 8;

impl Heard {
    /// Something happened in a directory.
    pub(crate) fn in_directory(self) -> bool {
        self.0 & DIRECTORY != 0
    }

    /// A session's file was closed by its process, or another one that had it open.
    pub(crate) fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    /// A file that was watched is gone for good. There may be another of its name.
    pub(crate) fn is_replaced(self) -> bool {
        self.0 & REPLACED != 0
    }

    /// Events were lost.
    pub(crate) fn is_deaf(self) -> bool {
        self.0 & DEAF != 0
    }
}

/// The inotify instance of one session.
pub(crate) struct Notices {
    shared: Arc<Shared>,
    reader: AbortHandle,
}

struct Shared {
    inotify: AsyncFd<OwnedFd>,
    /// By the number of the watch. A file has one, whoever listens.
    bells: Mutex<Bells>,
    /// It cannot be read any more.
    broken: AtomicBool,
    /// There were no more watches to be had, and that was logged.
    is_short: AtomicBool,
}

type Bells = HashMap<i32, Vec<(Kind, Arc<Bell>)>>;

/// Wakes one task.
#[derive(Default)]
pub(crate) struct Bell {
    heard: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl Bell {
    /// What was heard since the last time. Wakes the task when there is more.
    pub(crate) fn hear(&self, cx: &Context<'_>) -> Heard {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        Heard(self.heard.swap(0, Ordering::SeqCst))
    }

    fn ring(&self, heard: u8) {
        self.heard.fetch_or(heard, Ordering::SeqCst);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").field("watches", &self.shared.bells().len()).finish_non_exhaustive()
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Notices {
    /// To be called on a runtime that handles I/O.
    pub(crate) fn open() -> std::io::Result<Self> {
        #[allow(
            deprecated,
            reason = "its successor is unsafe, for types whose descriptor changes; this one's does not"
        )]
        let inotify = AsyncFd::with_interest(sys::notices()?, Interest::READABLE)?;
        let shared = Arc::new(Shared {
            inotify,
            bells: Mutex::default(),
            broken: AtomicBool::default(),
            is_short: AtomicBool::default(),
        });
        let reader = tokio::spawn(shared.clone().read()).abort_handle();
        Ok(Self { shared, reader })
    }

    /// Rings a bell from now on when something happens to a file. Returns the watch's number; `None` when nothing will be
    /// told.
    pub(crate) fn watch(&self, path: &Path, kind: Kind, bell: &Arc<Bell>) -> Result<Option<i32>, Errno> {
        // Held over the call, for the last who listens to a file may be ending its watch, and all may be told at this moment
        // that nothing is told any more.
        let mut bells = self.shared.bells();
        if self.shared.broken.load(Ordering::SeqCst) {
            return Ok(None);
        }
        match sys::watch(self.shared.inotify.get_ref(), path, kind.events()) {
            Ok(watch) => {
                bells.entry(watch).or_default().push((kind, bell.clone()));
                Ok(Some(watch))
            }
            Err(error @ (Errno::NOSPC | Errno::NOMEM)) => {
                if !self.shared.is_short.swap(true, Ordering::SeqCst) {
                    tracing::warn!(%error, "no more inotify watches, looking at the files instead; see fs.inotify.max_user_watches");
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    #[cfg(test)]
    pub(crate) fn fail(&self) {
        self.reader.abort();
        self.shared.fail();
    }

    /// Rings a bell for these watches no more.
    pub(crate) fn forget(&self, watches: &[i32], bell: &Arc<Bell>) {
        let mut bells = self.shared.bells();
        for watch in watches {
            let Some(listening) = bells.get_mut(watch) else { continue };
            listening.retain(|(_, other)| !Arc::ptr_eq(other, bell));
            if listening.is_empty() {
                bells.remove(watch);
                // The kernel ends the watch of a file that is gone by itself.
                let _ = remove_watch(self.shared.inotify.get_ref(), *watch);
            }
        }
    }
}

impl Shared {
    fn bells(&self) -> MutexGuard<'_, Bells> {
        // Each change is one step.
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(self: Arc<Self>) {
        loop {
            let ready = self.inotify.readable().await;
            let read = ready.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)).and_then(
                |mut ready| match self.read_all() {
                    Err(Errno::AGAIN) => {
                        ready.clear_ready();
                        Ok(())
                    }
                    read => read,
                },
            );
            match read {
                Ok(()) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "inotify cannot be read any more, looking at the files instead");
                    return self.fail();
                }
            }
        }
    }

    fn read_all(&self) -> Result<(), Errno> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(self.inotify.get_ref(), &mut buffer);
        loop {
            let event = reader.next()?;
            self.tell(event.wd(), event.events());
        }
    }

    fn tell(&self, watch: i32, events: ReadFlags) {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            tracing::warn!("inotify lost events, looking at the files");
            return self.deafen();
        }
        // Not rung while they are held: who is woken may be dropped, and with it who listens.
        let listening = self.bells().get(&watch).cloned().unwrap_or_default();
        for (kind, bell) in listening {
            bell.ring(match kind {
                Kind::File if events.contains(ReadFlags::DELETE_SELF) => REPLACED,
                Kind::File => 0,
                Kind::Session if events.contains(ReadFlags::CLOSE_WRITE) => CLOSED,
                Kind::Session => 0,
                Kind::Directory => DIRECTORY,
            });
        }
    }

    /// Tells nothing any more, and all who listen that it does not.
    fn fail(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.deafen();
    }

    fn deafen(&self) {
        let all: Vec<_> = self.bells().values().flatten().cloned().collect();
        for (_, bell) in all {
            bell.ring(DEAF);
        }
    }
}
