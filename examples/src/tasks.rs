//! Tasks that stand for processes, for a store that is the memory of one process.

use std::pin::pin;

use lock_core::memory::Link;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Failure;
use crate::stop::Stop;

/// The workers of all processes.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    running: JoinSet<Result<(), Failure>>,
}

/// What the tasks of one process, and its link to the store, are killed or stopped with.
#[derive(Clone, Debug)]
pub(crate) struct Rein {
    link: Link,
    order: watch::Sender<Order>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Run,
    Stop,
    Die,
}

impl Tasks {
    /// Starts one more.
    pub(crate) fn start(&mut self, rein: Rein, work: impl Future<Output = Result<(), Failure>> + Send + 'static) {
        self.running.spawn(obey(rein, work));
    }

    /// Waits for all of them. The first request to stop, or the first failure, ends all.
    pub(crate) async fn wait(mut self, stop: &mut Stop) -> Result<(), Failure> {
        let all_done = async {
            while let Some(ended) = self.running.join_next().await {
                ended??;
            }
            Ok(())
        };
        let outcome = tokio::select! {
            outcome = all_done => outcome,
            () = stop.requested() => Ok(()),
        };
        // A worker that is dropped gives back its locks, or its places in the queues.
        self.running.shutdown().await;
        outcome
    }
}

impl Rein {
    pub(crate) fn new(link: Link) -> Self {
        Self { link, order: watch::Sender::new(Order::Run) }
    }

    /// The work ends where it is, and the store does not hear of it.
    pub(crate) fn kill(&self) {
        self.link.hold();
        self.order.send_replace(Order::Die);
    }

    /// The work stands still where it is, and the store does not hear of it.
    pub(crate) fn stop(&self) {
        self.link.hold();
        self.order.send_replace(Order::Stop);
    }

    pub(crate) fn go_on(&self) {
        self.order.send_replace(Order::Run);
        self.link.resume();
    }
}

async fn obey(rein: Rein, work: impl Future<Output = Result<(), Failure>> + Send) -> Result<(), Failure> {
    let mut work = pin!(work);
    let mut orders = rein.order.subscribe();
    loop {
        let order = *orders.borrow_and_update();
        if order == Order::Die {
            return Ok(());
        }
        tokio::select! {
            biased;
            // The sender lives as long as `rein`.
            _ = orders.changed() => {}
            done = &mut work, if order == Order::Run => return done,
        }
    }
}
