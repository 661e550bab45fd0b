//! A queue as the session knows it, kept up to date by a persistent watch on its directory.
//!
//! The client does not renew such a watch after a reconnect, so a view ends with the connection. On one connection, an
//! event comes before any answer that shows what it tells: when the queue is listed after the watch was asked for, all
//! events that the list has made old are there by then, and to apply them once more changes nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lock_core::Error;
use lock_core::backend::{Ahead, Entry, Feed, Placed, Standing, View, Watched};
use tokio::time::timeout;
use zookeeper_client::{AddWatchMode, Client, EventType, PersistentWatcher, Stat};

use crate::names::{Place, Seat};
use crate::queue::{entry, place};
use crate::session::{LIST, ZkSession};
use crate::watch::{WATCH_QUEUE, at_once, caught};

/// How long to wait for being told of an entry before it is seen to whether it is there at all, and how long after that.
const LATE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// How often in a row a connection has to be lost while a view is opened, until the server is taken for one that does it.
const LOST: usize = 3;

/// An entry that waits before anybody was told of it. If nobody ever is, nobody says that it left.
struct Untold<'a> {
    session: &'a ZkSession,
    entry: &'a Entry,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        self.session.is_gone(self.entry);
    }
}

/// Passes on what is told of a queue.
struct Teller {
    directory: String,
    /// Some place of the queue. Those that are not near it have no place in a view.
    origin: i32,
    /// How many nodes were ever created in the directory, as far as is known: the number of the next one.
    created: i32,
}

/// Why a view can go no further.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Failed(#[from] Error),
    #[error("no queue is viewed")]
    Off,
    #[error("the connection has changed")]
    Reconnected,
    #[error("the directory is another one")]
    DirectoryGone,
    /// Servers hide events of nodes that the client may not read, and have lost some.
    #[error("nothing was told of the nodes with the numbers from {0} up to {1}")]
    Untold(i32, i32),
    #[error("{0} is far from all others")]
    Far(String),
}

impl Teller {
    fn new(directory: &str, origin: Place<'_>, stat: &Stat) -> Self {
        let created = created(origin.sequence(), stat.cversion, stat.num_children);
        Self { directory: directory.to_owned(), origin: origin.sequence(), created }
    }

    fn standing(&self, place: Place<'_>) -> Result<(Seat, Standing), End> {
        if !place.is_near(self.origin) {
            return Err(End::Far(place.name().to_owned()));
        }
        let entry = entry(format!("{}/{}", self.directory, place.name()));
        Ok((place.into(), Standing { entry, kind: place.kind() }))
    }

    /// Makes a view of the queue, in which `mine` is or was.
    fn list(&self, children: &[String], mine: Place<'_>) -> Result<View<Seat>, End> {
        let listed = children.iter().filter_map(|name| Place::parse(name)).map(|place| self.standing(place));
        // It was created before the list was made, and so was whoever is ahead of it.
        Ok(View::new(listed.collect::<Result<Vec<_>, _>>()?, mine.into()))
    }

    /// Passes on an event, which may be older than the list if `is_old`.
    fn tell(&mut self, view: &View<Seat>, event: EventType, path: &str, is_old: bool) -> Result<(), End> {
        if event == EventType::Session {
            return Err(End::Reconnected);
        }
        let Some(below) = path.strip_prefix(self.directory.as_str()) else { return Ok(()) };
        let Some(name) = below.strip_prefix('/') else {
            return if event == EventType::NodeDataChanged { Ok(()) } else { Err(End::DirectoryGone) };
        };
        if name.contains('/') {
            return Ok(());
        }
        let place = Place::parse(name);
        match event {
            EventType::NodeDeleted => view.remove(path),
            EventType::NodeCreated => {
                let skipped = place.map_or(0, |place| place.sequence().wrapping_sub(self.created));
                if let Some(place) = place.filter(|_| skipped > 0) {
                    return Err(End::Untold(self.created, place.sequence()));
                }
                // Only nodes without a number of their own, or with that of another, are told of with a smaller one. Of an
                // old event, the count may know already. If it does not, the next number will seem to be skipped, which is
                // safe.
                if place.is_some() && skipped == 0 || !is_old {
                    self.created = self.created.wrapping_add(1);
                }
                self.put(view, place)?;
            }
            _ => self.put(view, place)?,
        }
        Ok(())
    }

    fn put(&self, view: &View<Seat>, place: Option<Place<'_>>) -> Result<(), End> {
        if let Some(place) = place {
            let (seat, standing) = self.standing(place)?;
            view.put(seat, standing);
        }
        Ok(())
    }
}

/// How many nodes were ever created in a directory of which one had the number `near`.
///
/// A server counts them, and shows how many changes it takes to create that many of which so many are left.
fn created(near: i32, changes: i32, children: i32) -> i32 {
    let created = (changes.wrapping_add(children).cast_unsigned() >> 1).cast_signed();
    // Its highest bit is lost by that.
    let is_far = created.wrapping_sub(near).unsigned_abs() > 1 << 30;
    if is_far { created.wrapping_add(i32::MIN) } else { created }
}

/// What is ahead of an entry as a view shows it that was told of the entry; `None` if it cannot tell.
async fn told_ahead(view: &View<Seat>, mine: &Entry, limit: usize) -> Option<Ahead> {
    let seat = place(&mine.key)?.1.into();
    // Whoever is not in it may have been told of under another name, and the store has the last word.
    if view.reaches(&seat).await { view.ahead(&seat, mine, limit).ok().flatten() } else { None }
}

/// What is ahead of an entry that was just created, of which the view of its queue is told about now.
pub(crate) async fn ahead_of_new(view: &View<Seat>, mine: &Entry, limit: usize) -> Option<Ahead> {
    timeout(LATE[0], told_ahead(view, mine, limit)).await.ok().flatten()
}

impl ZkSession {
    /// As the view of its queue shows it; `None` where there is none, or it cannot tell.
    pub(crate) async fn viewed_ahead(&self, client: &Client, mine: &Entry, limit: usize) -> Option<Ahead> {
        let view = self.view(client, mine).await?;
        for late in LATE {
            if let Ok(ahead) = timeout(late, told_ahead(&view, mine, limit)).await {
                return ahead;
            }
            // It may have been removed before the view was opened, and nobody may ever come after it.
            client.check_stat(&mine.key).await.ok().flatten()?;
        }
        None
    }

    /// As the view of its queue shows it; `None` where there is none, or it cannot tell.
    pub(crate) fn viewed_watch(&self, entry: &Entry) -> Option<Watched> {
        let (directory, place) = place(&entry.key)?;
        let watched = self.views.find(directory)?.watch(&place.into(), entry).ok()?;
        // A reader with a writer's number is told of after those behind it, so that only the store knows who is gone.
        matches!(watched, Watched::Present(_)).then_some(watched)
    }

    /// An entry of this session has joined a queue, which is this long now, and waits unless nobody is ahead: opens a view if
    /// that is worth it.
    pub(crate) async fn has_entered(&self, client: &Client, placed: &Placed, length: usize) {
        let Some((directory, place)) = place(&placed.entry.key) else { return };
        self.views.entered(directory, length);
        if placed.ahead.as_ref().is_some_and(|ahead| ahead.nearest.is_empty()) {
            if self.alone.is_first(directory, place.sequence(), Instant::now()) {
                self.view(client, &placed.entry).await;
            }
            return;
        }
        self.views.waits(directory, &placed.entry);
        if placed.ahead.is_some() {
            let untold = Untold { session: self, entry: &placed.entry };
            self.view(client, &placed.entry).await;
            std::mem::forget(untold);
        }
    }

    /// The view of a queue for one who needs it, if it is worth one, with all who came before that one.
    async fn view(&self, client: &Client, mine: &Entry) -> Option<Arc<View<Seat>>> {
        if self.no_views.load(Ordering::Relaxed) {
            return None;
        }
        let (directory, place) = place(&mine.key)?;
        match self.views.get(directory, async || self.open_view(client, directory, place).await).await? {
            Ok(view) => Some(view),
            Err(end) => {
                tracing::debug!(reason = %end, directory, "no view of the queue");
                None
            }
        }
    }

    async fn open_view(
        &self,
        client: &Client,
        directory: &str,
        mine: Place<'_>,
    ) -> Result<(Arc<View<Seat>>, Feed), End> {
        // It may have been found out while this one waited to open a view.
        if self.no_views.load(Ordering::Relaxed) {
            return Err(End::Off);
        }
        let mut muted = self.muted.subscribe();
        let mut watcher = match client.watch(directory, AddWatchMode::PersistentRecursive).await {
            Ok(watcher) => watcher,
            Err(error) => return Err(self.unviewable(self.classify(WATCH_QUEUE, directory, error)).into()),
        };
        self.lost_views.store(0, Ordering::Relaxed);
        let listed = client.get_children(directory).await;
        let (children, stat) = listed.map_err(|error| self.classify(LIST, directory, error))?;
        let mut teller = Teller::new(directory, mine, &stat);
        let view = Arc::new(teller.list(&children, mine)?);
        while let Some(event) = at_once(watcher.changed()) {
            let event = event.ok_or(End::Reconnected)?;
            teller.tell(&view, event.event_type, &event.path, true)?;
        }
        tracing::debug!(directory, entries = view.len(), "view opened");
        let fed = view.clone();
        let feed = async move {
            let reason = tokio::select! {
                biased;
                _ = muted.changed() => End::DirectoryGone,
                end = feed(teller, &fed, &mut watcher) => end,
            };
            tracing::debug!(%reason, "view ended");
        };
        Ok((view, Box::pin(feed)))
    }

    /// Takes note of why a view was not opened.
    ///
    /// Servers before 3.6 do not know such watches. They say so and close the connection, which may lose the answer.
    fn unviewable(&self, error: Error) -> Error {
        let lost = self.lost_views.fetch_add(1, Ordering::Relaxed) + 1;
        if matches!(error, Error::AccessDenied { .. } | Error::Refused { .. }) || lost >= LOST {
            tracing::debug!(session = self.id, %error, "no queue is viewed any more");
            self.no_views.store(true, Ordering::Relaxed);
        }
        error
    }
}

/// Passes on whatever is told, until a view can go no further.
async fn feed(mut teller: Teller, view: &View<Seat>, watcher: &mut PersistentWatcher) -> End {
    loop {
        let Some(event) = caught(watcher.changed()).await else { return End::Reconnected };
        if let Err(end) = teller.tell(view, event.event_type, &event.path, false) {
            return end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lock_core::backend::Kind;
    use zookeeper_client::EventType::{NodeCreated, NodeDataChanged, NodeDeleted, Session};

    const LAST: &str = "z-lock-0000000999";

    fn lock(number: i32) -> String {
        format!("x-lock-{number:010}")
    }

    /// A view of a queue that was listed when so many had been created, as the first of these sees it.
    fn listed(names: &[&str], created: i32) -> (Teller, View<Seat>) {
        let mine = Place::parse(names[0]).unwrap();
        let teller = Teller { directory: "/l".into(), origin: mine.sequence(), created };
        let children: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let view = teller.list(&children, mine).unwrap();
        (teller, view)
    }

    fn old(teller: &mut Teller, view: &View<Seat>, event: EventType, name: &str) -> Result<(), End> {
        teller.tell(view, event, &format!("/l/{name}"), true)
    }

    fn tell(teller: &mut Teller, view: &View<Seat>, event: EventType, name: &str) -> Result<(), End> {
        teller.tell(view, event, &format!("/l/{name}"), false)
    }

    /// Who is in it, in the order of the queue.
    fn shown(view: &View<Seat>) -> Vec<String> {
        let last = Place::parse(LAST).unwrap();
        let mine = entry(format!("/l/{LAST}"));
        view.put(last.into(), Standing { entry: mine.clone(), kind: Kind::Exclusive });
        let ahead = view.ahead(&last.into(), &mine, 99).unwrap().unwrap();
        ahead.nearest.iter().rev().map(|other| other.entry.key["/l/".len()..].to_owned()).collect()
    }

    #[test]
    fn what_was_told_before_the_list_changes_nothing_and_what_came_after_it_counts() {
        let (one, two, three, four) = (lock(1), lock(2), lock(3), lock(4));
        let (mut teller, view) = listed(&[&two, "no-contender"], 4);
        // Came and went before it was listed; came before; came and went.
        old(&mut teller, &view, NodeDeleted, &one).unwrap();
        old(&mut teller, &view, NodeCreated, &two).unwrap();
        old(&mut teller, &view, NodeCreated, &three).unwrap();
        old(&mut teller, &view, NodeDataChanged, &three).unwrap();
        old(&mut teller, &view, NodeDeleted, &three).unwrap();
        // Came after it was listed, and was told of at the same time.
        old(&mut teller, &view, NodeCreated, &four).unwrap();
        tell(&mut teller, &view, NodeCreated, &lock(5)).unwrap();
        assert_eq!(shown(&view), [two.as_str(), &four, &lock(5)]);
    }

    #[test]
    fn a_removal_between_the_list_and_the_view_is_not_lost() {
        let (two, three) = (lock(2), lock(3));
        let (mut teller, view) = listed(&[&two, &three], 4);
        old(&mut teller, &view, NodeDeleted, &two).unwrap();
        assert_eq!(shown(&view), [three]);
    }

    /// As when a server hides the nodes that the client may not read.
    #[test]
    fn a_node_that_was_not_told_of_ends_a_view() {
        let (mut teller, view) = listed(&[&lock(2)], 3);
        tell(&mut teller, &view, NodeCreated, &lock(3)).unwrap();
        let end = tell(&mut teller, &view, NodeCreated, &lock(5)).unwrap_err();
        assert_eq!(end.to_string(), "nothing was told of the nodes with the numbers from 4 up to 5");
    }

    #[test]
    fn nodes_without_a_number_or_with_a_former_one_count_too() {
        let writer = "_c_01234567-89ab-cdef-0123-456789abcdef-__WRIT__0000000003";
        let reader = Place::parse(writer).unwrap().as_reader(77).unwrap();
        let (mut teller, view) = listed(&[writer], 4);
        tell(&mut teller, &view, NodeCreated, "garbage").unwrap();
        tell(&mut teller, &view, NodeCreated, &reader).unwrap();
        tell(&mut teller, &view, NodeDeleted, writer).unwrap();
        tell(&mut teller, &view, NodeCreated, &lock(6)).unwrap();
        assert!(tell(&mut teller, &view, NodeCreated, &lock(8)).is_err());
        assert_eq!(shown(&view), [reader, lock(6)]);
    }

    #[test]
    fn of_an_old_event_it_is_not_known_whether_it_was_counted() {
        let (mut teller, view) = listed(&[&lock(2)], 5);
        old(&mut teller, &view, NodeCreated, "garbage").unwrap();
        old(&mut teller, &view, NodeCreated, &lock(4)).unwrap();
        old(&mut teller, &view, NodeDeleted, &lock(4)).unwrap();
        assert!(
            tell(&mut teller, &view, NodeCreated, &lock(6)).is_err(),
            "more may have been created than were told of"
        );
    }

    #[test]
    fn the_end_of_the_connection_or_of_the_directory_ends_a_view() {
        let (mut teller, view) = listed(&[&lock(2)], 3);
        assert!(matches!(teller.tell(&view, Session, "", false), Err(End::Reconnected)));
        assert!(matches!(teller.tell(&view, NodeDeleted, "/l", false), Err(End::DirectoryGone)));
        teller.tell(&view, NodeDataChanged, "/l", false).unwrap();
        tell(&mut teller, &view, NodeCreated, "below/x-lock-0000000099").unwrap();
        assert_eq!(shown(&view), [lock(2)]);
    }

    #[test]
    fn a_place_far_from_all_others_has_no_order_in_a_view() {
        let (mut teller, view) = listed(&[&lock(2)], 3);
        assert!(matches!(tell(&mut teller, &view, NodeCreated, "x-lock--2147483000"), Err(End::Far(_))));
        let mine = lock(2);
        assert!(matches!(teller.list(&["x-lock-1999999999".into()], Place::parse(&mine).unwrap()), Err(End::Far(_))));
    }

    #[test]
    fn numbers_go_on_behind_their_end() {
        for created_before in [0, 7, i32::MAX - 1, i32::MAX, i32::MIN, -5] {
            for children in [1, 2, 30] {
                let shown = created_before.wrapping_mul(2).wrapping_sub(children);
                assert_eq!(created(created_before.wrapping_sub(3), shown, children), created_before);
            }
        }
        let (mut teller, view) = listed(&[&lock(i32::MAX - 1)], i32::MAX);
        for number in [i32::MAX, i32::MIN, i32::MIN + 1] {
            tell(&mut teller, &view, NodeCreated, &lock(number)).unwrap();
        }
        let last = lock(i32::MIN + 1);
        let ahead = view.ahead(&Place::parse(&last).unwrap().into(), &entry(format!("/l/{last}")), 9).unwrap().unwrap();
        let numbers = [i32::MIN, i32::MAX, i32::MAX - 1].map(|number| entry(format!("/l/{}", lock(number))));
        assert!(ahead.nearest.iter().map(|other| &other.entry).eq(&numbers));
    }
}
