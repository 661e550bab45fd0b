//! A directory of the test's own, and waiting for conditions.
#![allow(dead_code, reason = "not every test program needs all of it")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lock_core::Name;
use lock_core::backend::{Backend, Enqueue, Enqueued, Entry, Kind, Placed, Session, Watch, Watched};
use lock_file::{Config, Files};
use tempfile::TempDir;

/// More than anything takes that is not broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Directory(TempDir);

impl Directory {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// A session that shares nothing with others but the directory, as if it were another process's.
    pub(crate) async fn session(&self) -> Arc<dyn Session> {
        let mut config = Config::new(self.root());
        config.ttl = Duration::from_secs(3);
        Files::new(config).expect("valid settings").open(b"owner").await.expect("it opens")
    }

    /// Everything below it.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut look = vec![self.root().to_owned()];
        while let Some(next) = look.pop() {
            // What is gone by now is not there.
            for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
                let path = entry.path();
                found.insert(path.strip_prefix(self.root()).expect("below it").display().to_string());
                look.push(path);
            }
        }
        found
    }
}

/// Waits until `condition` holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(what, holds).await;
}

pub(crate) async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

pub(crate) fn name(name: &str) -> Name {
    Name::new(name).expect("a valid name")
}

pub(crate) fn fresh_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

pub(crate) async fn enqueue(session: &Arc<dyn Session>, queue: &str, kind: Kind) -> Placed {
    let (queue, id) = (name(queue), fresh_id());
    let request = Enqueue { queue: &queue, kind, id: &id, value: b"value", only_if_free: false };
    match session.enqueue(&request).await.expect("the entry is placed") {
        Enqueued::Placed(placed) => placed,
        Enqueued::Busy => panic!("nobody asked for a free queue"),
    }
}

pub(crate) async fn watch(session: &Arc<dyn Session>, entry: &Entry) -> Watch {
    match session.watch(entry).await.expect("it can be watched") {
        Watched::Present(watch) => watch,
        Watched::Gone => panic!("{entry:?} is gone"),
    }
}

pub(crate) async fn keys(session: &Arc<dyn Session>, queue: &str) -> Vec<Arc<str>> {
    let entries = session.entries(&name(queue), usize::MAX).await.expect("it can be listed");
    entries.into_iter().map(|entry| entry.entry.key).collect()
}
