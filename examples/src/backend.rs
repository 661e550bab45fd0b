//! From a `--backend` argument to a client.

use std::time::Duration;

use lock_any::{Settings, Store};
use lock_core::backend::Backend;
use lock_core::memory::Memory;
use lock_core::{Client, Result};

pub use lock_any::shown;

/// Connects to the store that `backend` names: `memory`, or a URL.
///
/// `ttl` is the time after which a dead process's locks go to others; `None` leaves it to the backend.
///
/// # Errors
/// Those of [`Store::new`] and [`Client::connect`].
pub async fn connect(backend: &str, ttl: Option<Duration>, label: &str) -> Result<Client> {
    open(Store::new(backend, &Settings { ttl, ..Settings::default() })?, label).await
}

/// The store in the memory of this process.
///
/// # Errors
/// [`Error::InvalidConfig`](lock_core::Error::InvalidConfig) for a ttl that is too short.
pub fn memory(ttl: Option<Duration>) -> Result<Memory> {
    let memory = Memory::new();
    ttl.map_or_else(|| Ok(memory.clone()), |ttl| memory.clone().with_ttl(ttl))
}

/// Connects to a store.
///
/// # Errors
/// Those of [`Client::connect`].
pub async fn open(backend: impl Backend, label: &str) -> Result<Client> {
    Client::builder(backend).label(label).connect().await
}
