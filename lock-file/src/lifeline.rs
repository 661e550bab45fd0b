//! Sharing a session with another process, so that the session outlives this one.

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;

use lock_core::Guard;

use crate::session::FileSession;

/// A file that keeps the session of a guard, and so the lock, for as long as it is open in any process. Given to a process
/// that has to end or undo something when this one dies, it keeps the others out until that process has done so. `None` for
/// a guard of another backend, and when the session is over.
///
/// It keeps the lock only from passing on by the death of a process: a release, or the removal of the entry by somebody
/// else, ends it as before. Closed on exec.
///
/// # Errors
/// That the process has too many files open.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let url = format!("file://{}", directory.path().join("locks").display());
/// use lock_core::{Client, memory::Memory};
///
/// let client = Client::connect(lock_file::Files::from_url(&url)?).await?;
/// let guard = client.mutex("backup")?.lock().await?;
/// let lifeline = lock_file::lifeline(&guard)?.expect("it lives in a directory"); // for a child process
///
/// let elsewhere = Client::connect(Memory::new()).await?.mutex("backup")?.lock().await?;
/// assert!(lock_file::lifeline(&elsewhere)?.is_none());
/// # drop(lifeline); Ok(()) }
/// ```
pub fn lifeline(guard: &Guard) -> io::Result<Option<OwnedFd>> {
    match (&**guard.session() as &dyn Any).downcast_ref::<FileSession>() {
        Some(session) => session.own.lifeline(),
        None => Ok(None),
    }
}
