//! Asking a program to stop.

use std::io::{self, Read};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Waits for the user, or for the process that started this one, to say stop.
#[derive(Debug)]
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    parent_gone: Option<oneshot::Receiver<()>>,
    was_requested: bool,
}

impl Stop {
    /// Listens for Ctrl-C, SIGTERM and SIGHUP, which from now on do not end the process by themselves.
    ///
    /// # Errors
    /// That the operating system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            parent_gone: None,
            was_requested: false,
        })
    }

    /// Takes the end of the standard input for a request to stop, too: so a parent's death reaches its children.
    #[must_use]
    pub fn with_stdin(mut self) -> Self {
        let (gone, parent_gone) = oneshot::channel();
        // A thread, because a read that cannot be cancelled would keep a task, and the end of the runtime, waiting.
        std::thread::spawn(move || {
            let mut stdin = io::stdin().lock();
            while matches!(stdin.read(&mut [0; 64]), Ok(1..)) {}
            let _ = gone.send(());
        });
        self.parent_gone = Some(parent_gone);
        self
    }

    /// Resolves when a request to stop has arrived; each call waits for another one.
    pub async fn requested(&mut self) {
        let parent_gone = async {
            match &mut self.parent_gone {
                Some(gone) => drop(gone.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
            () = parent_gone => self.parent_gone = None,
        }
        self.was_requested = true;
    }

    /// Whether [`requested`](Self::requested) has ever resolved.
    pub fn was_requested(&self) -> bool {
        self.was_requested
    }
}
