//! The mutex on the memory backend, in virtual time.

use std::time::Duration;

use lock_core::clock::TokioClock;
use lock_core::memory::Memory;
use lock_core::{Client, Release};

async fn client(store: &Memory) -> Client {
    let builder = Client::builder(store.clone()).clock(TokioClock::new());
    builder.runtime(tokio::runtime::Handle::current()).connect().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn hand_over() {
    let store = Memory::new();
    let a = client(&store).await.mutex("l").unwrap();
    let b = client(&store).await.mutex("l").unwrap();
    let first = a.lock().await.unwrap();
    assert!(b.try_lock().await.unwrap().is_none());
    assert!(b.try_lock_for(Duration::from_secs(1)).await.unwrap().is_none());
    let waiter = tokio::spawn({
        let b = b.clone();
        async move { b.lock().await.unwrap() }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    first.check().unwrap();
    let token = first.token();
    assert_eq!(first.release().await, Release::Released);
    let second = waiter.await.unwrap();
    assert!(second.token() > token);
    drop(second);
    a.try_lock_for(Duration::from_secs(1)).await.unwrap().unwrap().release().await;
    assert_eq!(a.entries().await.unwrap(), []);
}
