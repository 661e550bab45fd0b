//! Random schedules of every recipe on the memory backend, in virtual time.
//!
//! A schedule is a value ([`plan::Plan`]): what each task does and when, what breaks and when, and the seed of the library's
//! jitter. [`play`] plays one, with clients that share nothing but the store; a [`world::World`] knows who holds what and
//! compares that with the store at every change. So a schedule that breaks a promise is made smaller as long as it still
//! does, and printed together with the seed that it was drawn from.
//!
//! To repeat one: `SCHEDULE_SEED=42 cargo test -p lock-core --test schedules mutex`. To play more of each recipe, and
//! others than those of every run: `SCHEDULES=100000 SCHEDULES_FROM=1000000 cargo test …`. The same seed draws the same schedule as long as the strategies stay as they are; what is to be kept
//! for good becomes a named test.

mod barrier;
mod chronicle;
mod condvar;
mod count_down_latch;
mod double_barrier;
mod election;
mod group;
mod lock_delay;
mod multi_lock;
mod mutex;
mod plan;
mod play;
mod reentrant_mutex;
mod rw_lock;
mod semaphore;
mod spy;
mod turn;
mod world;
