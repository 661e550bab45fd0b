//! What is left when a process is killed between any two system calls, or when any one of them fails.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use lock_core::Error;
use lock_core::backend::{Entry, Kind, Written};
use rustix::io::Errno;

use crate::config::Access;
use crate::error::Failed;
use crate::names::{Place, SESSIONS, record};
use crate::own::Own;
use crate::queue::Entered;
use crate::store::test::{Directory, transact};
use crate::store::{Store, Transaction};
use crate::sys::test::{Plan, plan, steps};
use crate::values::encode;
use crate::watch::test::look_at;

const ID: &str = "0123456789abcdef0123456789abcdef";

/// For the process that is killed: the directory, who may use it, and at which step.
const VARIABLE: &str = "LOCK_FILE_CRASH";

const OLD: &[u8] = b"old";
const NEW: &[u8] = b"new";

fn enqueue(store: &Store, own: &Own, queue: &str, id: &str, kind: Kind) -> Result<Place, Failed> {
    let entered = transact(store, |store| {
        let entered = store.enqueue(queue, (&own.id, id, kind), b"first", false)?;
        if let Entered::Placed { place, .. } = &entered {
            own.has(place.entry(queue).key);
        }
        Ok(entered)
    });
    match entered? {
        Entered::Placed { place, .. } => Ok(place),
        Entered::Busy => panic!("nobody asked for a free queue"),
    }
}

fn write(store: &Store, own: &Own, entry: &Entry, version: u64, value: &[u8]) -> Result<Written, Failed> {
    let draft = store.draft(&own.id, version, value, true)?.expect("a version that has a next one");
    transact(store, |store| store.put(entry, &draft))
}

fn sweep(store: &Store) -> Result<(), Failed> {
    let (dead, queues) = transact(store, |store| {
        store.remove_drafts()?;
        Ok((store.dead_sessions()?, store.names("")?))
    })?;
    for queue in queues {
        transact(store, |store| store.sweep_queue(queue.segment()))?;
    }
    for session in dead {
        transact(store, |store| store.remove_session(&session))?;
    }
    Ok(())
}

/// Makes every kind of change once. Tells each number that it gets.
fn live(store: &Store, mut tell: impl FnMut(u64)) -> Result<(), Failed> {
    let own = transact(store, |store| store.open_session(b"owner"))?;
    let waiter = enqueue(store, &own, "q", ID, Kind::Exclusive)?;
    tell(waiter.order);
    write(store, &own, &waiter.entry("q"), 1, NEW)?;
    write(store, &own, &record("r"), 1, NEW)?;
    transact(store, |store| look_at(store, &record("looked-at")))?;
    let writer = enqueue(store, &own, "w", ID, Kind::Write)?;
    tell(writer.order);
    let reader = transact(store, |store| store.turn_reader(&writer.entry("w"), &own.id))?.expect("the entry is there");
    write(store, &own, &reader, 1, NEW)?;
    transact(store, |store| store.dequeue(&waiter.entry("q")))?;
    transact(store, |store| store.make_directory("empty"))?;
    sweep(store)?;
    transact(store, |store| store.end_session(&own))
}

#[test]
#[ignore = "the process that is killed in the other tests"]
fn victim() {
    let Ok(order) = std::env::var(VARIABLE) else { return };
    let [directory, access, at] = order.split('\n').collect::<Vec<_>>()[..] else { panic!("{order}") };
    let access = if access == "group" { Access::Group } else { Access::Owner };
    let store = Store::new(directory.into(), access);
    plan(at.parse().unwrap(), Plan::Kill);
    let told = Path::new(directory).with_extension("told");
    live(&store, |number| std::fs::write(&told, number.to_string()).unwrap()).unwrap();
}

/// Runs a process that is killed at a step. Returns whether it got that far, and the last number that it told.
fn kill_at(directory: &Path, access: Access, at: usize) -> (bool, u64) {
    let access = if access == Access::Group { "group" } else { "owner" };
    let order = format!("{}\n{access}\n{at}", directory.display());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["crash::victim", "--exact", "--ignored", "--nocapture"])
        .env(VARIABLE, order)
        .output()
        .unwrap();
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let told = directory.with_extension("told");
    let number = std::fs::read_to_string(&told).map_or(0, |number| number.parse().unwrap());
    let _ = std::fs::remove_file(told);
    (killed, number)
}

fn files(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut look = vec![directory.to_owned()];
    while let Some(next) = look.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            found.insert(path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned());
            if path.is_dir() {
                look.push(path);
            }
        }
    }
    found
}

fn greatest_number(files: &BTreeSet<String>) -> u64 {
    let name = |file: &String| Some(Place::parse(file.rsplit_once('/')?.1)?.order);
    files.iter().filter_map(name).max().unwrap_or(0)
}

/// A process that lives all the time, and what it sees of the others.
struct Witness {
    store: std::sync::Arc<Store>,
    own: Own,
    holder: Place,
}

impl Witness {
    fn new(directory: &Directory, access: Access) -> Self {
        let store = directory.store_of(access);
        let own = transact(&store, |store| store.open_session(b"witness")).unwrap();
        let holder = enqueue(&store, &own, "q", &ID.replace('0', "1"), Kind::Exclusive).unwrap();
        assert_eq!(write(&store, &own, &record("r"), 0, OLD).unwrap(), Written::Done);
        Self { store, own, holder }
    }

    /// Nothing of a dead process counts, whole values are what they were or what they were to be, numbers go on, and all
    /// that is left can be removed.
    fn check(&self, directory: &Directory, told: u64) {
        let store = &*self.store;
        let before = files(directory.root());
        let queue = transact(store, |store| store.entries("q", usize::MAX)).unwrap();
        let keys: Vec<_> = queue.into_iter().map(|entry| entry.entry.key).collect();
        assert_eq!(keys, [self.holder.entry("q").key]);
        let others = transact(store, |store| store.entries("w", usize::MAX)).unwrap();
        assert!(others.is_empty(), "{others:?}");
        let found = transact(store, |store| store.read_value(&record("r"))).unwrap().unwrap();
        let is = |version: u64, value: &[u8]| found.version == version && found.value == value;
        assert!(is(1, OLD) || is(2, NEW), "{found:?}");
        std::fs::write(directory.path("%record/r"), encode(1, OLD)).unwrap();
        let next = enqueue(store, &self.own, "w", ID, Kind::Exclusive).unwrap();
        let last = told.max(greatest_number(&before));
        assert!(next.order > last, "{} after {last}", next.order);
        transact(store, |store| store.dequeue(&next.entry("w"))).unwrap();
        sweep(store).unwrap();
        let _ = std::fs::remove_file(directory.path("%record/looked-at"));
        let own = format!("{SESSIONS}/{}", self.own.id);
        let holder = self.holder.entry("q").key;
        let expected = ["%counter", "%next", "%record", "%record/r", SESSIONS, &own, "q", &holder];
        assert_eq!(files(directory.root()), expected.into_iter().map(str::to_owned).collect());
    }
}

fn a_kill_at_any_step_harms_nobody(access: Access) {
    let directory = Directory::of(access);
    let witness = Witness::new(&directory, access);
    let mut at = 0;
    loop {
        let (killed, told) = kill_at(directory.root(), access, at);
        witness.check(&directory, told);
        if !killed {
            break;
        }
        at += 1;
    }
    assert!(at > 100, "only {at} steps");
}

#[test]
fn a_kill_at_any_step_harms_nobody_of_the_same_user() {
    a_kill_at_any_step_harms_nobody(Access::Owner);
}

#[test]
fn a_kill_at_any_step_harms_nobody_of_the_same_group() {
    a_kill_at_any_step_harms_nobody(Access::Group);
}

#[test]
fn a_kill_of_the_first_process_at_any_step_leaves_a_store_that_works() {
    let mut at = 0;
    loop {
        let directory = Directory::new();
        let (killed, told) = kill_at(directory.root(), Access::Owner, at);
        let last = told.max(greatest_number(&files(directory.root())));
        let witness = Witness::new(&directory, Access::Owner);
        assert!(witness.holder.order > last, "{} after {last}", witness.holder.order);
        witness.check(&directory, 0);
        if !killed {
            break;
        }
        at += 1;
    }
}

/// Lets each system call of a change fail in turn, and looks at what became of the change.
fn fail_at_any_step(
    errno: Errno,
    change: impl Fn(&Store, &Own, &Place) -> Result<(), Failed>,
    is_done: impl Fn(&mut Transaction<'_>, &Place) -> bool,
) {
    let directory = Directory::new();
    let store = directory.store();
    let own = transact(&store, |store| store.open_session(b"")).unwrap();
    for at in 0.. {
        let mine = enqueue(&store, &own, "q", ID, Kind::Write).unwrap();
        plan(at, Plan::Fail(errno));
        let answer = change(&store, &own, &mine);
        let taken = steps();
        plan(0, Plan::Nothing);
        let done = transact(&store, |store| Ok(is_done(store, &mine))).unwrap();
        match answer.map_err(|failed| failed.classify("change", directory.root())) {
            Ok(()) => assert!(done, "{errno:?} at {at}"),
            Err(Error::Refused { .. } | Error::AccessDenied { .. }) => assert!(!done, "{errno:?} at {at}"),
            Err(Error::Unavailable { .. }) => {}
            Err(other) => panic!("{errno:?} at {at}: {other:?}"),
        }
        for place in transact(&store, |store| store.entries("q", usize::MAX)).unwrap() {
            transact(&store, |store| store.dequeue(&place.entry)).unwrap();
        }
        if at > taken {
            return;
        }
    }
}

/// A full disk, a missing permission, a broken disk, no more descriptors.
const ERRORS: [Errno; 4] = [Errno::NOSPC, Errno::ACCESS, Errno::IO, Errno::MFILE];

#[test]
fn a_refused_enqueue_has_left_nothing() {
    let other = ID.replace('0', "2");
    for errno in ERRORS {
        fail_at_any_step(
            errno,
            |store, own, _| enqueue(store, own, "q", &other, Kind::Write).map(drop),
            |store, _| store.entries("q", usize::MAX).unwrap().len() == 2,
        );
    }
}

#[test]
fn a_refused_dequeue_has_removed_nothing() {
    for errno in ERRORS {
        fail_at_any_step(
            errno,
            |store, _, mine| transact(store, |store| store.dequeue(&mine.entry("q"))).map(drop),
            |store, _| store.entries("q", usize::MAX).unwrap().is_empty(),
        );
    }
}

#[test]
fn a_refused_write_has_changed_nothing() {
    for errno in ERRORS {
        fail_at_any_step(
            errno,
            |store, own, mine| write(store, own, &mine.entry("q"), 1, NEW).map(drop),
            |store, mine| store.read_value(&mine.entry("q")).unwrap().unwrap().value == NEW,
        );
    }
}

#[test]
fn a_refused_downgrade_has_changed_nothing() {
    for errno in ERRORS {
        fail_at_any_step(
            errno,
            |store, own, mine| transact(store, |store| store.turn_reader(&mine.entry("q"), &own.id)).map(drop),
            |store, _| store.entries("q", usize::MAX).unwrap()[0].kind == Kind::Read,
        );
    }
}
