//! The rules that every backend has to keep, one named test per rule, to be run against the real server.
//!
//! Implement [`World`] for the store and call [`conformance!`](crate::conformance!) in a test file:
//!
//! ```text
//! lock_core::conformance!(tokio::test(flavor = "multi_thread"), my_world());
//! ```
//!
//! A rule asserts with a panic. Times are multiples of [`World::ttl`]; nothing waits for a fixed time where a condition
//! can be waited for.

pub mod barrier;
pub mod condvar;
pub mod count_down_latch;
pub mod double_barrier;
pub mod election;
pub mod faults;
pub mod group;
pub mod lock_delay;
pub mod multi_lock;
pub mod mutex;
pub mod queue;
pub mod reentrant_mutex;
pub mod rw_lock;
pub mod semaphore;
mod subject;
pub mod wrong_use;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::{Entry, QueueEntry};
use crate::{Client, Guard, Name};
pub use subject::Subject;
use subject::{Everywhere, Exclusive, Held};

/// A store under test, with the hand of an operator and links that can be broken.
#[async_trait]
pub trait World: Send + Sync {
    /// The ttl of the sessions; 2 to 5 s on a real server.
    fn ttl(&self) -> Duration;

    /// A client with a session of its own, over a link of its own.
    async fn contender(&self) -> Contender;

    /// Every entry of a queue, read past all broken links.
    async fn entries(&self, queue: &Name) -> Vec<QueueEntry>;

    /// Removes an entry by hand.
    async fn remove(&self, entry: &Entry);

    /// Ends a session by hand; its id is [`Client::session_id`].
    async fn expire(&self, session: &str);
}

/// A client and its link to the store.
#[allow(missing_debug_implementations, reason = "test code")]
pub struct Contender {
    /// The client.
    pub client: Client,
    /// Its link.
    pub link: Arc<dyn Link>,
}

/// A link that can be broken.
#[async_trait]
pub trait Link: Send + Sync {
    /// From now on nothing arrives in either direction, and nothing tells either side so.
    async fn hold(&self);

    /// Delivers what was held, as far as its connection still exists.
    async fn resume(&self);

    /// Closes the connection once. The client may connect again.
    async fn cut(&self, how: Cut);

    /// Lets the next request that contains this text, a lock's name or a value, reach the store and be applied, and closes
    /// the connection before its reply comes back. Returns at once.
    async fn lose_next_reply(&self, text: &str, how: Cut);
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// In order.
    Fin,
    /// With a reset.
    Rst,
}

/// One test per rule, for one store. The first argument is the test attribute, the second an expression that is awaited
/// for the [`World`](crate::conformance::World).
///
/// The mutex's rules are run for each [`Subject`](crate::conformance::Subject).
#[macro_export]
macro_rules! conformance {
    ($test:meta, $world:expr) => {
        $crate::conformance! { @exclusive $test, $world, mutex, Mutex, names_do_not_overlap }
        $crate::conformance! { @exclusive $test, $world, writer, Writer, names_do_not_overlap }
        $crate::conformance! { @exclusive $test, $world, semaphore_of_one, SemaphoreOfOne, names_do_not_overlap }
        $crate::conformance! { @exclusive $test, $world, last_of_five_permits, LastOfFivePermits, }
        $crate::conformance! { @rules $test, $world;
            semaphore:
                never_grants_more_than_its_limit,
                grants_all_permits_at_once_or_none,
                grants_in_the_order_of_the_queue,
                nobody_overtakes_one_who_waits_for_many,
                what_comes_back_may_be_enough_for_several,
                wakes_one_waiter_and_promotes_one_per_grant,
                permits_have_ids_of_their_own,
                refuses_another_limit,
                refuses_no_permits_and_more_than_there_are,
                raised_limit_lets_waiters_in,
                lowered_limit_takes_nothing_away_and_lets_nobody_in,
                lowered_limit_refuses_who_wants_more,
                first_waiter_that_withdraws_makes_way,
                first_waiter_withdrawn_at_its_grant_makes_way,
                first_waiter_whose_session_ends_makes_way,
                first_waiter_that_is_removed_makes_way,
                first_waiter_cut_off_at_its_grant_holds_up_nobody_for_longer_than_its_session,
                slow_one_that_never_waits_tells_the_next,
                cut_links_lose_no_wakeup,
                lost_reply_of_a_first_waiter_loses_no_wakeup,
                dead_holder_gives_all_its_permits_back,
                never_grants_more_than_its_limit_while_links_break;
            rw_lock:
                readers_share,
                one_writer_or_readers_under_contention,
                reader_waits_for_the_nearest_writer_before_it,
                reader_never_overtakes_a_waiting_writer,
                writer_waits_for_everybody_before_it,
                who_does_not_wait_leaves_nothing,
                reading_withdrawn_at_any_moment_leaves_nothing,
                writers_release_wakes_the_readers_behind_it_and_nobody_else,
                reader_in_the_middle_that_goes_lets_nobody_in,
                upgrade_is_refused,
                downgrade_keeps_its_place_and_its_token,
                downgrade_lets_new_readers_in_and_no_writer,
                downgrade_lets_no_writer_in_that_watches_the_one_that_turns,
                downgrade_is_seen_by_who_comes_in_that_moment,
                dropped_downgrade_releases,
                lost_reply_of_a_downgrade_is_settled,
                downgraded_reader_is_released_after_a_lost_reply,
                removed_reader_that_was_a_writer_is_lost_within_a_second,
                lost_writer_cannot_go_on_as_a_reader,
                downgrade_in_silence_ends_before_the_next_writer_is_in,
                dead_reader_makes_way_for_the_writer,
                dead_writer_makes_way_for_the_readers,
                waiting_writer_that_dies_or_is_removed_lets_the_readers_behind_share,
                cut_keeps_readers_and_places;
            multi_lock:
                order_of_the_names_does_not_matter,
                name_given_twice_counts_once,
                twenty_with_random_names_never_block_each_other,
                excludes_the_mutexes_of_its_names,
                first_error_releases_all,
                try_lock_takes_all_or_nothing,
                deadline_releases_all,
                deadline_holds_in_silence,
                withdrawing_at_any_moment_leaves_nothing,
                one_lost_is_all_lost,
                broken_link_keeps_all_of_them_for_less_than_the_ttl,
                long_silence_loses_all_of_them_before_the_next_grant,
                one_lost_while_the_others_are_waited_for_releases_all,
                ended_session_makes_way_in_every_queue,
                ended_session_of_a_waiter_releases_what_it_held,
                lost_replies_leave_one_entry_in_each_queue;
            reentrant_mutex:
                owner_locks_again_at_once,
                other_owners_are_excluded,
                excludes_the_plain_mutex_of_its_name,
                tasks_of_one_owner_share_one_place,
                owner_that_let_go_starts_anew,
                first_attempt_withdrawn_hands_over_to_the_second,
                withdrawing_at_any_moment_leaves_nothing,
                loss_is_that_of_every_hold_and_the_next_is_new,
                ended_session_loses_every_hold,
                broken_link_keeps_every_hold_for_less_than_the_ttl,
                long_silence_loses_every_hold_before_the_next_grant;
            queue:
                list_tells_who_holds_and_who_waits,
                time_left_is_of_holders_and_within_the_ttl,
                time_left_runs_while_the_holder_is_silent,
                list_tells_every_holder_of_a_shared_lock,
                watch_sees_who_joins_and_leaves,
                watch_goes_on_after_a_cut_and_a_session,
                watch_dropped_at_any_moment_misses_nothing,
                revoke_reaches_the_holder_and_nobody_else,
                revoke_before_the_holder_listens_is_heard,
                revoke_picks_one_of_several_holders,
                revoke_survives_a_lost_reply_and_a_cut,
                break_lock_removes_that_holder_and_never_the_next,
                break_lock_picks_one_of_several_holders,
                break_lock_with_a_lost_reply_spares_the_next,
                queues_are_those_where_somebody_stands,
                queues_are_told_by_the_names_that_were_given,
                queues_are_told_in_spite_of_lost_replies,
                position_counts_who_is_ahead,
                position_of_a_refused_attempt_is_none;
            lock_delay:
                release_and_drop_cause_no_pause,
                withdrawing_at_any_moment_causes_no_pause,
                ended_session_of_the_holder_causes_a_pause,
                removed_holder_causes_a_pause,
                second_loss_in_the_pause_begins_another,
                withdrawing_in_the_pause_leaves_the_rest_to_the_next,
                closing_withdraws_in_order,
                removed_waiter_causes_no_pause,
                who_did_not_ask_neither_waits_nor_makes_others_wait,
                cut_off_holder_causes_a_pause_after_its_end;
            wrong_use:
                who_comes_to_another_recipe_is_told,
                changing_the_limit_of_another_recipe_is_refused,
                record_of_another_recipe_stays_as_it_is,
                refused_one_leaves_the_name_to_others,
                those_who_wait_are_not_disturbed,
                two_recipes_in_the_same_moment_never_hold_both,
                what_is_kept_beside_the_queue_is_one_recipes,
                one_that_is_about_to_be_refused_makes_nobody_else_be_refused,
                one_that_was_right_once_is_not_refused_later,
                one_behind_another_that_is_about_to_be_refused_is_refused,
                one_that_is_about_to_be_refused_is_not_shown_by_the_recipe,
                misguided_crowd_disturbs_nobody,
                list_shows_what_should_not_be_there;
        }
        $crate::conformance! { @rules $test, $world;
            group:
                shows_its_members_in_the_order_of_their_coming,
                follows_who_comes_and_goes_and_what_they_show,
                removed_member_is_registered_again,
                ended_session_is_replaced_and_the_value_kept,
                long_silence_ends_the_registration_and_what_was_wanted_meanwhile_is_shown,
                cut_keeps_the_members_and_those_who_follow,
                lost_replies_change_nothing,
                joining_and_withdrawing_at_any_moment_leaves_nothing,
                leaves_for_good_with_its_client,
                refuses_bad_input_and_leaves_nothing;
            election:
                leads_in_the_order_of_the_queue,
                has_one_leader_under_contention,
                shows_the_leader_to_everybody,
                proclaims_what_everybody_sees,
                proclaiming_keeps_a_request_to_let_go,
                leader_that_is_asked_to_let_go_leads_until_it_does,
                latch_that_is_asked_to_let_go_leads_until_its_user_hands_over,
                selector_that_is_asked_to_let_go_takes_its_next_turn_unasked,
                observer_sees_every_leader_and_that_nobody_leads,
                withdrawing_at_any_moment_leaves_nothing,
                refuses_bad_input_and_leaves_nothing,
                refuses_the_name_of_another_recipe,
                closing_the_client_ends_the_leadership_at_once,
                removed_leader_is_lost_within_a_second,
                proclaiming_finds_out_that_the_entry_was_removed,
                ended_session_of_the_leader_lets_the_next_lead,
                ended_session_of_a_candidate_keeps_the_order,
                cut_keeps_the_leader_the_candidates_and_the_observers,
                lost_replies_change_nothing,
                long_silence_ends_the_leadership_before_the_next_one,
                withdrawing_in_silence_leaves_nothing,
                transfer_reaches_the_chosen_one_past_the_others,
                transfer_to_nobody_is_refused,
                transfer_hands_over_to_the_next_one,
                transfer_to_one_who_leaves_lets_the_next_one_lead,
                transfer_survives_lost_replies_and_ends_whoever_waits,
                transfer_by_a_latch_makes_it_a_candidate_again,
                latch_leads_again_after_every_loss,
                latch_takes_its_turn_and_ends_when_closed_or_dropped,
                latch_is_no_leader_before_the_next_one_is,
                latch_ends_with_its_client,
                latch_waits_for_better_times,
                work_is_done_by_one_leader_at_a_time_and_in_turns,
                work_comes_to_its_end_before_the_next_one_leads,
                work_whose_leadership_is_lost_is_told_and_not_cut_off,
                selector_runs_work_that_fails_again_and_never_cuts_it_off,
                dropped_run_of_a_selector_resigns,
                turns_stop_while_they_wait_and_with_their_client;
            barrier:
                who_comes_to_a_lowered_one_goes_on,
                lowering_wakes_each_waiter_once,
                stays_raised_without_the_one_who_raised_it,
                raising_again_at_once_lets_the_waiters_go_on,
                lowering_in_the_moment_of_coming_is_not_missed,
                deadline_of_a_wait_passes_on_time,
                dropped_wait_leaves_nothing,
                name_in_use_by_another_recipe_is_told,
                cut_does_not_keep_a_waiter,
                ended_session_does_not_end_a_wait,
                silence_longer_than_the_ttl_does_not_end_a_wait,
                lost_replies_do_not_change_the_outcome,
                deadline_of_a_wait_holds_in_silence;
            count_down_latch:
                opens_at_zero_and_stays_open,
                counts_every_one_of_a_crowd_once,
                opening_in_the_moment_of_coming_is_not_missed,
                resetting_closes_it_and_keeps_nobody_who_waited,
                another_count_is_refused,
                name_in_use_by_another_recipe_is_told,
                lost_replies_count_once,
                cuts_at_any_moment_count_once,
                cut_does_not_keep_a_waiter,
                ended_session_does_not_end_a_wait,
                silence_longer_than_the_ttl_ends_neither_wait_nor_count_down,
                dropped_wait_does_not_change_it,
                deadline_of_a_wait_holds_also_in_silence;
            double_barrier:
                goes_in_together_and_out_together,
                rounds_follow_each_other_without_a_reset,
                later_rounds_neither_wait_for_earlier_ones_nor_keep_them,
                wakes_each_party_once_to_go_in_and_once_to_go_out,
                one_party_goes_in_at_once,
                deadline_passes_and_nobody_counts_on_the_one_who_withdrew,
                deadline_in_the_moment_of_the_last_arrival_leaves_nobody_alone,
                dropped_entrant_leaves_nothing_and_does_not_count,
                dropped_party_has_left,
                refuses_bad_input_and_leaves_nothing,
                party_that_dies_while_it_waits_does_not_count,
                party_that_dies_inside_has_left,
                removed_entrant_is_told_and_does_not_count,
                removed_party_is_lost_within_a_second,
                cuts_keep_the_places_and_the_rounds_whole,
                lost_replies_keep_the_rounds_whole,
                silence_longer_than_the_ttl_ends_an_entrant,
                leaver_goes_on_over_the_next_session,
                deadline_to_enter_holds_in_silence;
            condvar:
                notifying_one_wakes_the_longest_sleeping,
                notifying_all_wakes_everybody_who_sleeps,
                mutex_is_free_in_sleep_and_held_after_it,
                notification_is_not_kept_for_later_sleepers,
                no_notification_is_lost_between_release_and_sleep,
                producers_and_consumers_lose_nothing,
                deadline_of_a_sleep_passes_on_time_and_leaves_nothing,
                notification_in_the_moment_of_a_deadline_wakes_somebody,
                dropped_wait_releases_the_mutex_and_leaves_no_sleeper,
                notification_of_a_dropped_wait_goes_to_the_next,
                refuses_bad_input_and_releases_the_mutex,
                lost_guard_does_not_sleep,
                closing_the_client_wakes_nobody_and_leaves_no_sleeper,
                ended_session_is_never_a_notification,
                silence_longer_than_the_ttl_is_never_a_notification,
                notification_into_short_silence_arrives,
                cut_neither_wakes_nor_forgets_a_sleeper,
                lost_replies_of_the_sleeper_change_nothing,
                lost_replies_of_the_notifier_wake_rather_one_too_many,
                cuts_at_any_moment_of_a_notification_wake_somebody;
        }
    };
    (@exclusive $test:meta, $world:expr, $group:ident, $subject:ident, $($more:ident),*) => {
        mod $group {
            #[allow(unused_imports, reason = "the world may be made with names in scope")]
            use super::*;
            $crate::conformance! { @of_subject $test, $world, $subject, mutex;
                excludes_two_tasks_of_one_session,
                excludes_two_sessions,
                has_one_holder_under_contention,
                grants_in_the_order_of_the_queue,
                wakes_one_waiter_per_release,
                try_lock_takes_a_free_lock,
                try_lock_on_a_held_lock_leaves_nothing,
                try_lock_storm_never_overlaps_and_leaves_nothing,
                deadline_passes_on_time_and_leaves_nothing,
                dropped_guard_releases_outside_of_a_runtime,
                panicking_holder_releases,
                withdrawing_at_any_moment_leaves_nothing,
                withdrawn_middle_waiter_lets_nobody_jump_ahead,
                shows_who_waits,
                refuses_bad_input_and_leaves_nothing,
                closing_releases_everything_at_once,
                forgotten_client_leaves_no_session
                $(, $more)*
            }
            mod faults {
                #[allow(unused_imports, reason = "the world may be made with names in scope")]
                use super::*;
                $crate::conformance! { @of_subject $test, $world, $subject, faults;
                    removed_holder_is_lost_within_a_second,
                    removed_waiter_is_told_and_lets_nobody_jump_ahead,
                    ended_session_is_noticed_and_replaced,
                    ended_session_of_a_middle_waiter_keeps_the_order,
                    ended_session_of_a_waiter_never_grants,
                    cut_keeps_guard_and_places,
                    lost_reply_of_enqueue_keeps_one_entry_in_its_place,
                    lost_reply_of_release_is_settled,
                    short_silence_is_suspect_and_passes,
                    long_silence_ends_the_guard_before_the_next_grant,
                    waiter_cut_off_for_longer_than_the_ttl_never_gets_a_guard,
                    deadline_holds_in_silence,
                    withdrawing_in_silence_leaves_nothing,
                    guard_dropped_in_silence_is_released_later,
                    release_in_silence_is_pending_and_settled_later,
                    work_stops_before_validity_ends
                }
            }
        }
    };
    (@of_subject $test:meta, $world:expr, $subject:ident, $rules:ident; $($rule:ident),+) => {$(
        #[$test]
        async fn $rule() {
            let subject = $crate::conformance::Subject::$subject;
            $crate::conformance::$rules::$rule(&$world.await, subject).await;
        }
    )+};
    (@rules $test:meta, $world:expr; $($group:ident: $($rule:ident),+;)+) => {$(
        mod $group {
            #[allow(unused_imports, reason = "the world may be made with names in scope")]
            use super::*;
            $(
                #[$test]
                async fn $rule() {
                    $crate::conformance::$group::$rule(&$world.await).await;
                }
            )+
        }
    )+};
}

/// A name that no other test uses.
fn fresh_name() -> String {
    format!("rule-{:016x}", fastrand::u64(..))
}

async fn contenders(world: &dyn World, n: usize) -> Vec<Contender> {
    let mut all = Vec::new();
    for _ in 0..n {
        all.push(world.contender().await);
    }
    all
}

/// Waits until `condition` holds, for at most `within`.
async fn eventually<F: Future<Output = bool>>(what: &str, within: Duration, mut condition: impl FnMut() -> F) {
    let poll = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(within, poll).await.unwrap_or_else(|_| panic!("not within {within:?}: {what}"));
}

/// Long enough for anything that is not broken.
fn patience(world: &dyn World) -> Duration {
    world.ttl() * 3 + Duration::from_secs(2)
}

async fn in_time<F: Future>(world: &dyn World, what: &str, future: F) -> F::Output {
    let within = patience(world);
    tokio::time::timeout(within, future).await.unwrap_or_else(|_| panic!("not within {within:?}: {what}"))
}

/// A task that waits for a lock.
struct Waiter<G = Held>(tokio::task::JoinHandle<crate::Result<G>>);

impl Waiter {
    /// Starts waiting in one of the clients and returns when the waiter sleeps as the last of `n` in the queue.
    async fn start(world: &dyn World, locks: &Everywhere, client: usize, n: usize) -> Self {
        let slept = locks.slept(client);
        let waiter = Self::start_blindly(&locks[client]);
        locks.has_length(world, n).await;
        eventually("the waiter sleeps", patience(world), || async { locks.slept(client) > slept }).await;
        waiter
    }

    fn start_blindly(lock: &Exclusive) -> Self {
        let lock = lock.clone();
        Self::of(async move { lock.lock().await })
    }
}

impl<G: Send + 'static> Waiter<G> {
    fn of(acquire: impl Future<Output = crate::Result<G>> + Send + 'static) -> Self {
        Self(tokio::spawn(acquire))
    }

    /// The same, and returns when the queue has `n` entries.
    async fn nth(
        world: &dyn World,
        (queue, n): (&Name, usize),
        acquire: impl Future<Output = crate::Result<G>> + Send + 'static,
    ) -> Self {
        let waiter = Self::of(acquire);
        has_length(world, queue, n).await;
        waiter
    }

    async fn outcome(self, world: &dyn World) -> crate::Result<G> {
        in_time(world, "the waiter has its answer", self.0).await.expect("the waiter's task does not panic")
    }

    async fn guard(self, world: &dyn World) -> G {
        self.outcome(world).await.expect("the waiter gets the lock")
    }

    /// The guard, with nothing broken: waiters look again by themselves after ten seconds and more, so that one who has
    /// to wait longer than this was not woken.
    async fn guard_at_once(self, what: &str) -> G {
        let woken = tokio::time::timeout(NOT_WOKEN, self.0).await.unwrap_or_else(|_| panic!("not woken: {what}"));
        woken.expect("the waiter's task does not panic").unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    fn is_waiting(&self) -> bool {
        !self.0.is_finished()
    }
}

/// Whoever waits for longer than this while nothing is broken was forgotten.
const NOT_WOKEN: Duration = Duration::from_secs(8);

/// Waits until a queue has `n` entries.
async fn has_length(world: &dyn World, queue: &Name, n: usize) {
    let last = AtomicUsize::new(usize::MAX);
    let poll = async {
        loop {
            last.store(world.entries(queue).await.len(), Ordering::Relaxed);
            if last.load(Ordering::Relaxed) == n {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let within = patience(world);
    let reached = tokio::time::timeout(within, poll).await;
    assert!(reached.is_ok(), "the queue of {queue} has {last:?} entries, not {n}, after {within:?}");
}

/// The record of a name as it is stored; empty when there is none.
async fn record(client: &Client, name: &Name) -> Vec<u8> {
    let name = name.clone();
    let reading = client.with_session(move |live| async move {
        let place = live.session.record(&name);
        live.retry(|| live.session.read(&place)).await
    });
    reading.await.expect("the store answers").expect("a record is always there").value
}

/// Waits until the waiters of a client have gone to sleep this often.
async fn sleeps(world: &dyn World, contender: &Contender, times: u64) {
    let waits = || async { contender.client.metrics().waits >= times };
    eventually("the waiters of a client sleep", patience(world), waits).await;
}

/// The sum of a counter over all clients.
fn count(contenders: &[Contender], counter: fn(crate::Metrics) -> u64) -> u64 {
    contenders.iter().map(|contender| counter(contender.client.metrics())).sum()
}

/// Counts holders, and remembers the greatest token.
#[derive(Debug, Default)]
struct Witness {
    inside: AtomicUsize,
    grants: AtomicU64,
    greatest: AtomicU64,
}

impl Witness {
    fn enter(&self, guard: &Guard) {
        assert_eq!(self.inside.fetch_add(1, Ordering::SeqCst), 0, "two holders at once");
        let before = self.greatest.swap(guard.token(), Ordering::SeqCst);
        assert!(guard.token() > before, "token {} after {before}", guard.token());
        self.grants.fetch_add(1, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }

    fn grants(&self) -> u64 {
        self.grants.load(Ordering::SeqCst)
    }
}

/// Polls a future up to `polls` times, then drops it.
async fn poll_and_drop<F: Future>(future: F, polls: usize) {
    let mut future = pin!(future);
    for _ in 0..polls {
        // A poll happens at once and at each wake-up; the time limit is for futures that are not woken any more.
        let woken = tokio::time::timeout(
            Duration::from_millis(20),
            std::future::poll_fn({
                let mut polled = false;
                let future = &mut future;
                move |cx| match (future.as_mut().poll(cx), std::mem::replace(&mut polled, true)) {
                    (std::task::Poll::Ready(_), _) => std::task::Poll::Ready(true),
                    (std::task::Poll::Pending, false) => std::task::Poll::Pending,
                    (std::task::Poll::Pending, true) => std::task::Poll::Ready(false),
                }
            }),
        )
        .await;
        if woken == Ok(true) {
            return;
        }
    }
}
