//! Processes that contend, are killed and are stopped: what no test inside one process can show.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Directory, eventually};
use lock_core::Client;
use lock_core::clock::{BootClock, Clock};
use lock_file::{Config, Files};
use rustix::process::{Pid, Signal, getppid, kill_process};

/// What a worker does: the directory, its log, and what to do.
const VARIABLE: &str = "LOCK_FILE_WORKER";

const LOCK: &str = "contended";

/// How long the long test takes; ten seconds when it is not set.
const SECONDS: &str = "LOCK_FILE_SECONDS";

/// How soon the next in the queue has the lock of a process that was killed, on a machine with much else to do.
const SOON: Duration = Duration::from_secs(2);

const PROCESSES: usize = 64;

/// One line of a log that all workers write, in one call each.
#[derive(Debug)]
struct Event {
    pid: u32,
    what: String,
    at: u64,
    token: u64,
}

impl Event {
    fn read(log: &Path) -> Vec<Self> {
        let log = fs::read_to_string(log).unwrap_or_default();
        let event = |line: &str| {
            let [pid, what, at, token] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
            let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("{line:?}"));
            Self { pid: number(pid) as u32, what: what.to_owned(), at: number(at), token: number(token) }
        };
        log.lines().map(event).collect()
    }
}

fn tell(log: &mut File, what: &str, token: u64) {
    let line = format!("{} {what} {} {token}\n", std::process::id(), BootClock.now().as_nanos());
    log.write_all(line.as_bytes()).expect("the log can be written");
}

/// A program that outlives who started it, but not for long.
fn sleep() -> Command {
    let mut command = Command::new("sleep");
    command.arg("60").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn is_orphan(parent: Option<Pid>) -> bool {
    getppid() != parent
}

#[tokio::test]
#[ignore = "the process that the other tests start"]
async fn worker() {
    let Ok(order) = std::env::var(VARIABLE) else { return };
    let [directory, log, task] = order.split('\n').collect::<Vec<_>>()[..] else { panic!("{order}") };
    let parent = getppid();
    let mut log = OpenOptions::new().append(true).open(log).expect("the log can be opened");
    let client = Client::connect(Files::new(Config::new(directory)).expect("valid")).await.expect("it connects");
    let mutex = client.mutex(LOCK).expect("a valid name");
    match task {
        "hammer" => {
            let stop = Path::new(directory).with_extension("stop");
            while !stop.exists() && !is_orphan(parent) {
                let guard = mutex.lock().await.expect("the lock is granted");
                tell(&mut log, "enter", guard.token());
                guard.check().expect("held");
                tokio::task::yield_now().await;
                guard.check().expect("held");
                tell(&mut log, "leave", guard.token());
                // Half of them leave the release to the background.
                if guard.token() % 2 == 0 {
                    guard.release().await;
                }
            }
            client.close().await;
        }
        "hold" | "hold with a child" => {
            let guard = mutex.lock().await.expect("the lock is granted");
            let child = (task != "hold").then(|| sleep().spawn().expect("sleep starts"));
            tell(&mut log, "enter", guard.token());
            if let Some(child) = child {
                tell(&mut log, "child", child.id().into());
            }
            while !is_orphan(parent) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        other => panic!("{other}"),
    }
}

/// A worker process, which is killed at the latest when this is dropped.
struct Worker(Child);

impl Worker {
    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).expect("it has not been waited for");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Contest {
    // The parent of the store, for a log and a sign that are not in the store.
    directory: Directory,
}

impl Contest {
    fn new() -> Self {
        let directory = Directory::new();
        fs::create_dir(directory.path("locks")).expect("it is made");
        fs::write(directory.path("log"), "").expect("it is written");
        Self { directory }
    }

    fn store(&self) -> PathBuf {
        self.directory.path("locks")
    }

    fn log(&self) -> PathBuf {
        self.directory.path("log")
    }

    fn start(&self, task: &str) -> Worker {
        let order = format!("{}\n{}\n{task}", self.store().display(), self.log().display());
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(program);
        command.args(["worker", "--exact", "--ignored", "--nocapture"]).env(VARIABLE, order);
        Worker(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("a worker starts"))
    }

    async fn client(&self) -> Client {
        Client::connect(Files::new(Config::new(self.store())).expect("valid")).await.expect("it connects")
    }

    /// Starts a worker that takes the lock, and waits until it is the `n`-th in the queue.
    async fn start_in_place(&self, observer: &Client, task: &str, n: usize) -> Worker {
        let worker = self.start(task);
        eventually("it is in the queue", || async {
            observer.entries(LOCK).await.expect("it can be listed").len() == n
        })
        .await;
        worker
    }

    /// Waits until a worker has the lock, and returns when.
    async fn granted(&self, worker: &Worker) -> u64 {
        let of_worker = || {
            let event = Event::read(&self.log()).into_iter().find(|event| event.pid == worker.pid());
            event.map(|event| event.at)
        };
        eventually("it has the lock", || async { of_worker().is_some() }).await;
        of_worker().expect("it was there")
    }

    fn has_lock(&self, worker: &Worker) -> bool {
        Event::read(&self.log()).iter().any(|event| event.pid == worker.pid())
    }
}

fn now() -> u64 {
    BootClock.now().as_nanos()
}

#[tokio::test]
async fn a_killed_holder_is_followed_at_once() {
    let contest = Contest::new();
    let observer = contest.client().await;
    let holder = contest.start_in_place(&observer, "hold", 1).await;
    contest.granted(&holder).await;
    let waiter = contest.start_in_place(&observer, "hold", 2).await;
    // Past the time in which it looks without being told.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let killed = now();
    holder.signal(Signal::KILL);
    let took = Duration::from_nanos(contest.granted(&waiter).await - killed);
    assert!(took < SOON, "took {took:?}");
}

#[tokio::test]
async fn a_killed_waiter_lets_nobody_jump_ahead() {
    let contest = Contest::new();
    let observer = contest.client().await;
    let holder = contest.start_in_place(&observer, "hold", 1).await;
    let middle = contest.start_in_place(&observer, "hold", 2).await;
    let last = contest.start_in_place(&observer, "hold", 3).await;
    middle.signal(Signal::KILL);
    eventually("it has left", || async { observer.entries(LOCK).await.expect("listed").len() == 2 }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!contest.has_lock(&last), "the holder still holds");
    let killed = now();
    holder.signal(Signal::KILL);
    let took = Duration::from_nanos(contest.granted(&last).await - killed);
    assert!(took < SOON, "took {took:?}");
}

#[tokio::test]
async fn programs_that_a_killed_holder_started_do_not_keep_its_lock() {
    let contest = Contest::new();
    let observer = contest.client().await;
    let holder = contest.start_in_place(&observer, "hold with a child", 1).await;
    let child = || Event::read(&contest.log()).into_iter().find(|event| event.what == "child");
    eventually("the child runs", || async { child().is_some() }).await;
    let waiter = contest.start_in_place(&observer, "hold", 2).await;
    let killed = now();
    holder.signal(Signal::KILL);
    let took = Duration::from_nanos(contest.granted(&waiter).await - killed);
    assert!(took < SOON, "took {took:?}");
    let child = Pid::from_raw(child().expect("it was there").token as i32).expect("a process id");
    kill_process(child, Signal::KILL).expect("the child outlived its parent");
}

#[tokio::test]
async fn a_stopped_holder_keeps_the_others_out() {
    let contest = Contest::new();
    let observer = contest.client().await;
    let holder = contest.start_in_place(&observer, "hold", 1).await;
    contest.granted(&holder).await;
    holder.signal(Signal::STOP);
    let mutex = observer.mutex(LOCK).expect("a valid name");
    assert!(mutex.try_lock_for(Duration::from_secs(1)).await.expect("an answer").is_none());
    assert_eq!(observer.entries(LOCK).await.expect("listed").len(), 1);
    holder.signal(Signal::KILL);
    let guard = mutex.try_lock_for(SOON).await.expect("an answer");
    guard.expect("a dead one does not").release().await;
}

/// What the log says about the killed and the living: how often each had the lock, or what went wrong.
fn check_history(events: &[Event], killed: &HashMap<u32, u64>) -> Result<HashMap<u32, usize>, String> {
    let mut times: HashMap<u32, usize> = HashMap::new();
    let mut inside: Option<&Event> = None;
    let mut last_token = 0;
    for event in events {
        if event.what == "enter" {
            if let Some(other) = inside {
                let died = killed.get(&other.pid).copied();
                if died.is_none_or(|died| died > event.at) {
                    return Err(format!("two at once: {other:?} and {event:?}, killed {died:?}"));
                }
            }
            if event.token <= last_token {
                return Err(format!("token {} after {last_token}: out of order", event.token));
            }
            last_token = event.token;
            inside = Some(event);
            *times.entry(event.pid).or_default() += 1;
        } else if inside.map(|event| event.token) == Some(event.token) {
            inside = None;
        } else {
            return Err(format!("{event:?} left what it did not hold"));
        }
    }
    Ok(times)
}

#[tokio::test]
async fn many_processes_of_which_some_are_killed_at_any_moment_neither_overlap_nor_get_lost() {
    let seconds = std::env::var(SECONDS).map_or(10, |seconds| seconds.parse().expect("a number of seconds"));
    let contest = Contest::new();
    let mut killed: HashMap<u32, u64> = HashMap::new();
    let mut workers: Vec<Worker> = (0..PROCESSES).map(|_| contest.start("hammer")).collect();
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..100))).await;
        let victim = workers.swap_remove(fastrand::usize(..workers.len()));
        // It may go on until the signal reaches it; it has not died before this.
        killed.insert(victim.pid(), now());
        victim.signal(Signal::KILL);
        drop(victim);
        workers.push(contest.start("hammer"));
    }
    fs::write(contest.directory.path("locks.stop"), "").expect("it is written");
    for worker in &mut workers {
        eventually("every survivor had its last turn", || {
            let ended = worker.0.try_wait().expect("it can be waited for");
            async move { ended.inspect(|status| assert!(status.success(), "{status}")).is_some() }
        })
        .await;
    }
    let events = Event::read(&contest.log());
    let times = check_history(&events, &killed).unwrap_or_else(|fault| panic!("{fault}"));
    println!("{} grants to {} processes, {} killed", events.len() / 2, times.len(), killed.len());
    assert!(events.len() > 200, "only {} grants", events.len() / 2);
    // The last sessions may have ended by a kill.
    let last = contest.client().await;
    let own = format!("locks/%session/{}", last.session_id().await.expect("a session"));
    let expected = |own: &[&str]| {
        let always = ["locks/%counter", "locks/%next", "locks/%record", "locks/%session", "log", "locks", "locks.stop"];
        always.iter().chain(own).map(|file| (*file).to_owned()).collect::<BTreeSet<_>>()
    };
    eventually("nothing of the dead is left", || async { contest.directory.files() == expected(&[&own]) }).await;
    last.close().await;
    assert_eq!(contest.directory.files(), expected(&[]));
}

/// The check above finds what it is for.
#[test]
fn a_history_with_a_fault_is_found() {
    let event = |pid, what: &str, at, token| Event { pid, what: what.into(), at, token };
    let is_right =
        |events: &[Event], killed: &[(u32, u64)]| check_history(events, &killed.iter().copied().collect()).is_ok();
    let enter_twice = [event(1, "enter", 10, 1), event(2, "enter", 20, 2)];
    assert!(is_right(&enter_twice, &[(1, 15)]), "the first was killed before");
    assert!(!is_right(&enter_twice, &[(1, 25)]), "the first was killed after");
    assert!(!is_right(&enter_twice, &[]), "overlap");
    let late = [event(1, "enter", 10, 2), event(1, "leave", 11, 2), event(2, "enter", 20, 1)];
    assert!(!is_right(&late, &[]), "out of order");
    assert!(!is_right(&[event(1, "leave", 10, 1)], &[]), "left without entering");
}
