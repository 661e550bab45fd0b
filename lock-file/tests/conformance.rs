//! The conformance suite on a real directory, one for each test.

mod lossy;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::backend::{Entry, QueueEntry};
use lock_core::conformance::{Contender, Cut, Link, World};
use lock_core::{Client, Name};
use lock_file::{Config, Files};
use lossy::{Lossy, Way};
use tempfile::TempDir;

const TTL: Duration = Duration::from_secs(2);

struct FileWorld {
    directory: TempDir,
    observer: Client,
}

async fn world() -> FileWorld {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let observer = Client::connect(files(&directory)).await.expect("a directory can be used");
    FileWorld { directory, observer }
}

fn files(directory: &TempDir) -> Files {
    let mut config = Config::new(directory.path());
    config.ttl = TTL;
    Files::new(config).expect("a valid configuration")
}

#[async_trait]
impl World for FileWorld {
    fn ttl(&self) -> Duration {
        TTL
    }

    async fn contender(&self) -> Contender {
        // A backend of its own, which shares nothing with the others but the directory: like a process.
        let way = Way::default();
        let client = Client::connect(Lossy::new(files(&self.directory), way.clone())).await.expect("it connects");
        Contender { client, link: Arc::new(FileLink(way)) }
    }

    async fn entries(&self, queue: &Name) -> Vec<QueueEntry> {
        self.observer.entries(queue).await.expect("the queue can be listed")
    }

    async fn remove(&self, entry: &Entry) {
        std::fs::remove_file(self.directory.path().join(&*entry.key)).expect("the entry is there");
    }

    async fn expire(&self, session: &str) {
        let file = self.directory.path().join("%session").join(session);
        std::fs::remove_file(file).expect("the session is there");
    }
}

struct FileLink(Way);

#[async_trait]
impl Link for FileLink {
    async fn hold(&self) {
        self.0.hold();
    }

    async fn resume(&self) {
        self.0.resume();
    }

    async fn cut(&self, _how: Cut) {
        self.0.cut();
    }

    async fn lose_next_reply(&self, text: &str, _how: Cut) {
        self.0.lose_next_reply(text);
    }
}

lock_core::conformance!(tokio::test(flavor = "multi_thread", worker_threads = 2), world());
