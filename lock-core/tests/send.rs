//! What users put into their own tasks can be put there.

use std::future::Future;
use std::time::Duration;

use lock_core::memory::Memory;
use lock_core::{
    Barrier, Builder, Campaign, Candidate, Client, Condvar, CountDownLatch, DoubleBarrier, Election, Error, Group,
    GroupWatch, Guard, Leader, LeaderLatch, Leadership, Member, Membership, Metrics, Mutex, Name, Observer, Party,
    Release, Selector, State, StateWatch, Stopper, Turn,
};

fn send_sync<T: Send + Sync + 'static>() {}
fn send<T: Send + 'static>() {}
fn send_future<F: Future + Send>(_: F) {}

#[test]
fn public_types_and_futures_can_cross_threads() {
    send_sync::<Barrier>();
    send_sync::<Builder>();
    send_sync::<Candidate>();
    send_sync::<Client>();
    send_sync::<Condvar>();
    send_sync::<CountDownLatch>();
    send_sync::<DoubleBarrier>();
    send_sync::<Party>();
    send_sync::<Election>();
    send_sync::<Error>();
    send_sync::<Guard>();
    send_sync::<Leader>();
    send_sync::<Leadership>();
    send_sync::<Memory>();
    send_sync::<Metrics>();
    send_sync::<Mutex>();
    send_sync::<Name>();
    send_sync::<Release>();
    send_sync::<State>();
    send_sync::<StateWatch>();

    fn futures(client: &Client, mutex: &Mutex, guard: Guard, mut states: StateWatch) {
        send_future(Client::connect(Memory::new()));
        send_future(client.close());
        send_future(client.entries("l"));
        send_future(mutex.lock());
        send_future(mutex.try_lock());
        send_future(mutex.try_lock_for(Duration::ZERO));
        send_future(guard.run(async {}));
        send_future(guard.lost());
        send_future(guard.release());
        send_future(async move { states.changed().await });
    }
    let _ = futures;

    fn of_barriers(barrier: &Barrier, latch: &CountDownLatch, double: &DoubleBarrier, party: Party) {
        send_future(barrier.raise());
        send_future(barrier.wait());
        send_future(barrier.wait_for(Duration::ZERO));
        send_future(latch.count_down());
        send_future(latch.wait());
        send_future(latch.wait_for(Duration::ZERO));
        send_future(latch.reset());
        send_future(double.enter());
        send_future(double.enter_for(Duration::ZERO));
        send_future(party.leave());
    }
    let _ = of_barriers;

    fn of_condvars(condvar: &Condvar, guard: Guard, mutex: &Mutex) {
        send_future(condvar.wait(guard, mutex));
        send_future(condvar.notify_one());
        send_future(condvar.notify_all());
    }
    let _ = of_condvars;
    send_sync::<LeaderLatch>();
    send_sync::<Stopper>();
    send_sync::<Turn>();
    send_sync::<Selector>();

    fn of_elections(election: &Election, leadership: Leadership, mut observer: Observer) {
        fn send_static<F: Future + Send + 'static>(_: F) {}
        send_static::<Campaign>(election.campaign(String::new().as_str()));
        send_future(election.leader());
        send_future(election.candidates());
        send_future(leadership.proclaim("x"));
        async fn transfer(leadership: &Leadership, candidate: &Candidate) -> lock_core::Result<bool> {
            Ok(leadership.transfer_to(candidate).await? || leadership.transfer().await?)
        }
        let _ = |leadership: &Leadership, candidate: &Candidate| send_future(transfer(leadership, candidate));
        send_future(leadership.resign());
        send_future(async move { observer.next().await });
        let mut latch = election.latch("x").expect("a valid value");
        send_future(async move {
            drop(latch.changed().await);
            drop(latch.leading().await);
            latch.close().await
        });
        let mut selector = election.selector("x").expect("a valid value");
        send_future(async move {
            while let Ok(Some(turn)) = selector.next().await {
                turn.ending().await;
                turn.done().await;
            }
        });
    }
    let _ = of_elections;

    send_sync::<Group>();
    send::<GroupWatch>();
    send::<Observer>();
    send_sync::<Member>();
    send_sync::<Membership>();

    fn of_groups(group: &Group, mut watch: GroupWatch, mut membership: Membership) {
        send_future(group.join("x"));
        send_future(group.members());
        send_future(async move { watch.next().await });
        send_future(async move {
            drop(membership.changed().await);
            drop(membership.update("x").await);
            membership.leave().await
        });
    }
    let _ = of_groups;
}
