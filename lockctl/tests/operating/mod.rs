//! What operators see and do, on any store that this process and `lockctl` share. Contenders are clients of this process.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use lock_any::{Settings, Store};
use lock_core::{Client, Guard, Loss, Mutex};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};
use tokio::time::timeout;

/// Long enough for anything that is not broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A store, and a client that contends there.
pub(crate) struct Bench {
    pub(crate) url: String,
    pub(crate) client: Client,
}

impl Bench {
    pub(crate) async fn new(url: &str) -> Self {
        let store = Store::new(url, &Settings::default()).unwrap();
        let client = Client::builder(store).label("a \"label\"").connect().await.unwrap();
        Self { url: url.to_owned(), client }
    }

    /// Whether the store tells how long it keeps a session.
    fn tells_time_left(&self) -> bool {
        self.url.starts_with("etcd")
    }

    /// `lockctl`, which has this store and nothing else from the environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = lockctl();
        command.args(["--backend", &self.url]).args(args);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    /// The same, whose output must be JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(&[args, &["--json"]].concat());
        assert_eq!((ran.out.lines().count(), &*ran.err), (1, ""), "{args:?}: {ran:?}");
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{args:?}: {error}: {ran:?}"))
    }

    /// Starts waiting, and returns when the queue has `n` entries.
    pub(crate) async fn waiter(&self, mutex: &Mutex, n: usize) -> tokio::task::JoinHandle<lock_core::Result<Guard>> {
        let waiting = tokio::spawn(mutex.lock());
        self.has_length(mutex.name(), n).await;
        waiting
    }

    pub(crate) async fn has_length(&self, name: &str, n: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.client.entries(name).await.unwrap().len() != n {
            assert!(Instant::now() < deadline, "{name} has not {n} entries");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// With nothing of the caller's settings, and no signal ignored, as under `nohup`.
pub(crate) fn lockctl() -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal", env!("CARGO_BIN_EXE_lockctl")]);
    for (variable, _) in std::env::vars_os() {
        if variable.as_encoded_bytes().starts_with(b"LOCKCTL_") {
            command.env_remove(variable);
        }
    }
    command.env_remove("NO_COLOR").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How a `lockctl` ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("all that is written is UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Ended well, without a word on the standard error output.
    pub(crate) fn lines(&self) -> Vec<&str> {
        assert_eq!((self.code, &*self.err), (Some(0), ""), "{self:?}");
        self.out.lines().collect()
    }

    /// Ended with this code, said so in one line that has all of these, and printed nothing.
    pub(crate) fn refused(&self, code: i32, has: &[&str]) {
        assert_eq!((self.code, &*self.out, self.err.lines().count()), (Some(code), "", 1), "{self:?}");
        assert!(self.err.starts_with("lockctl: "), "{self:?}");
        for part in has {
            assert!(self.err.contains(part), "{part}: {self:?}");
        }
    }
}

/// A `lockctl` that goes on, read line by line.
pub(crate) struct Going {
    pub(crate) child: Child,
    out: BufReader<ChildStdout>,
}

impl Going {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "ended: {:?}", self.child.wait_with_error());
        line.trim_end().to_owned()
    }

    /// Reads until a line has this.
    pub(crate) fn until(&mut self, part: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(part) {
                return line;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// No more is read.
    pub(crate) fn ends(mut self) -> std::process::ExitStatus {
        drop(self.out);
        ends(&mut self.child)
    }
}

trait WithError {
    fn wait_with_error(&mut self) -> String;
}

impl WithError for Child {
    fn wait_with_error(&mut self) -> String {
        let status = self.wait();
        let mut said = String::new();
        if let Some(stderr) = &mut self.stderr {
            let _ = stderr.read_to_string(&mut said);
        }
        format!("{status:?}: {said}")
    }
}

pub(crate) fn ends(child: &mut Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it goes on");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The cells of a table's line.
fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

pub(crate) async fn ls_tells_who_is_where(bench: Bench) {
    let (all, none) = (bench.run(&["ls"]), bench.run(&["ls", "x"]));
    assert_eq!((all.code, &*all.out, &*all.err), (Some(0), "", "lockctl: nobody holds or waits for anything\n"));
    assert!(none.code == Some(0) && none.err.contains("starts with \"x\""), "{none:?}");
    assert_eq!(bench.json(&["ls"]), json!([]));

    let mutex = bench.client.mutex("jobs/nightly").unwrap();
    let holder = mutex.lock().await.unwrap();
    let waiter = bench.waiter(&mutex, 2).await;
    let lock = bench.client.rw_lock("jobs/\x1b[2J").unwrap();
    let readers = (lock.read().await.unwrap(), lock.read().await.unwrap());
    let leading = bench.client.election("primary").unwrap().campaign("10.0.0.1").await.unwrap();

    let ran = bench.run(&["ls"]);
    let lines = ran.lines();
    let pid = format!("pid {}", std::process::id());
    assert_eq!(cells(lines[0]), ["NAME", "RECIPE", "HOLDERS", "WAITERS", "FIRST"]);
    assert_eq!(cells(lines[1])[..4], ["jobs/\\u{1b}[2J", "read-write lock", "2", "0"]);
    assert_eq!(cells(lines[2])[..4], ["jobs/nightly", "mutex", "1", "1"]);
    assert!(lines[2].contains(&pid) && lines[2].ends_with("\"a \"label\"\""), "{}", lines[2]);
    assert_eq!(cells(lines[3])[..4], ["primary", "election", "1", "0"]);
    assert_eq!(lines.len(), 4);

    assert_eq!(bench.run(&["ls", "jobs/"]).lines().len(), 3);
    let row = |name, recipe, holders, waiters| json!({"name": name, "recipe": recipe, "holders": holders, "waiters": waiters});
    let jobs = [row("jobs/\x1b[2J", "read-write lock", 2, 0), row("jobs/nightly", "mutex", 1, 1)];
    assert_eq!(bench.json(&["ls", "jobs"]), json!(jobs));
    waiter.abort();
    drop((holder, readers, leading));
}

pub(crate) async fn queue_tells_everybody_in_order(bench: Bench) {
    let empty = bench.run(&["queue", "l"]);
    assert_eq!((empty.code, &*empty.out, &*empty.err), (Some(0), "", "lockctl: nobody holds or waits for \"l\"\n"));
    assert_eq!(bench.json(&["queue", "l"]), json!({"name": "l", "recipe": null, "places": []}));

    let semaphore = bench.client.semaphore("l", 3).unwrap().labelled("x\x1b]0;\n");
    let held = semaphore.acquire(2).await.unwrap();
    let waiting = tokio::spawn(semaphore.acquire(3));
    bench.has_length("l", 2).await;
    let mut behind = Vec::new();
    for n in 3..=42 {
        behind.push(tokio::spawn(semaphore.acquire(1)));
        bench.has_length("l", n).await;
    }

    let ran = bench.run(&["queue", "l"]);
    let lines = ran.lines();
    assert_eq!(lines[0], "l: semaphore, 1 holder, 41 waiting");
    assert_eq!(
        cells(lines[1]),
        ["AHEAD", "ROLE", "WANTS", "TOKEN", "CAME", "TIME LEFT", "HOST", "PID", "LABEL", "SESSION"]
    );
    let [first, second, last] = [2, 3, 43].map(|at| cells(lines[at]));
    let (token, pid) = (held.token().to_string(), std::process::id().to_string());
    assert_eq!((&first[..4], first[7], first[8]), (&["0", "holds", "2 permits", &*token][..], &*pid, "x\\u{1b}]0;\\n"));
    assert_eq!((&second[..3], second[5]), (&["1", "waits", "3 permits"][..], "-"));
    assert_eq!(first[5] != "-", bench.tells_time_left(), "{}", first[5]);
    assert_eq!(last[..3], ["41", "waits", "1 permit"]);
    assert_eq!((lines.len(), ran.out.contains('\x1b')), (44, false), "everybody, and nothing for terminals only");

    let whole = bench.json(&["queue", "l"]);
    assert_eq!((&whole["name"], &whole["recipe"]), (&json!("l"), &json!("semaphore")));
    assert_eq!(whole["places"].as_array().unwrap().len(), 42);
    let mut first = whole["places"][0].clone();
    let since = first.as_object_mut().unwrap().remove("since").unwrap();
    assert!(since.as_str().unwrap().starts_with("20") && since.as_str().unwrap().ends_with('Z'), "{since}");
    let session = bench.client.session_id().await.unwrap();
    let left = first.as_object_mut().unwrap().remove("time_left_ms").unwrap();
    if bench.tells_time_left() {
        assert!((1..=16_000).contains(&left.as_u64().unwrap()), "of the usual 15 s: {left}");
    } else {
        assert_eq!(left, Value::Null);
    }
    let expected = json!({
        "position": 0, "role": "holder", "kind": "permits", "permits": 2, "token": held.token(), "revoked": false,
        "host": first["host"], "pid": std::process::id(), "label": "x\x1b]0;\n", "session": session,
        "entry": held.entry().key,
    });
    assert_eq!(first, expected);
    assert_eq!((&whole["places"][41]["position"], &whole["places"][41]["role"]), (&json!(41), &json!("waiter")));
    assert_eq!(whole["places"][41]["time_left_ms"], Value::Null);
    waiting.abort();
    behind.iter().for_each(tokio::task::JoinHandle::abort);
}

pub(crate) async fn queue_shows_what_candidates_show(bench: Bench) {
    let election = bench.client.election("e").unwrap();
    let leading = election.campaign("10.0.0.1\x1b").await.unwrap();
    let ran = bench.run(&["queue", "e"]);
    let lines = ran.lines();
    assert_eq!(cells(lines[1])[7..], ["LABEL", "VALUE", "SESSION"]);
    assert_eq!(cells(lines[2])[7..9], ["a \"label\"", "10.0.0.1\\u{1b}"]);
    assert_eq!(bench.json(&["queue", "e"])["places"][0]["value"], json!("10.0.0.1\x1b"));
    leading.proclaim(b"\xff\x00").await.unwrap();
    let place = bench.json(&["queue", "e"])["places"][0].clone();
    assert_eq!((&place["value_hex"], place.get("value")), (&json!("ff00"), None));
}

pub(crate) async fn queue_watch_tells_each_change_in_a_line(bench: Bench) {
    let mut text = Going::start(bench.command(&["queue", "l", "--watch"]));
    let mut lines = Going::start(bench.command(&["queue", "l", "-w", "--json"]));
    assert!(text.line().ends_with("Z l: nobody"));
    let places = |line: String| serde_json::from_str::<Value>(&line).unwrap()["places"].clone();
    assert_eq!(places(lines.line()), json!([]));
    let mutex = bench.client.mutex("l").unwrap();
    let holder = mutex.lock().await.unwrap();
    let held = format!("l: held by pid {} on ", std::process::id());
    let line = text.until(&held);
    assert!(line.ends_with(&format!("(token {}), 0 waiting", holder.token())), "{line}");
    assert_eq!(places(lines.line())[0]["token"], json!(holder.token()));
    let waiter = bench.waiter(&mutex, 2).await;
    text.until(", 1 waiting");
    holder.release().await;
    let next = timeout(PATIENCE, waiter).await.unwrap().unwrap().unwrap();
    text.until(&format!("(token {}), 0 waiting", next.token()));
    while places(lines.line())[0]["token"] != json!(next.token()) {}
    next.release().await;
    text.until("l: nobody");
    text.signal(Signal::TERM);
    assert_eq!(text.ends().code(), Some(143));
    lines.signal(Signal::INT);
    // As shells want it: by the signal.
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&lines.ends()), Some(2));
}

pub(crate) async fn a_reader_that_is_gone_ends_a_watch_quietly(bench: Bench) {
    let mut watch = Going::start(bench.command(&["queue", "l", "--watch"]));
    watch.line();
    let mut said = watch.child.stderr.take().unwrap();
    let status = {
        let Going { child, out } = &mut watch;
        // The reading end of the pipe is closed.
        drop(std::mem::replace(out, BufReader::new(empty_stdout())));
        let guard = bench.client.mutex("l").unwrap().lock().await.unwrap();
        let status = ends(child);
        drop(guard);
        status
    };
    let mut text = String::new();
    said.read_to_string(&mut text).unwrap();
    assert_eq!((status.code(), &*text), (Some(141), ""));
}

fn empty_stdout() -> ChildStdout {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
    let out = child.stdout.take().unwrap();
    child.wait().unwrap();
    out
}

/// A terminal of 24 lines, on which a `lockctl` writes.
struct Terminal {
    screen: File,
    child: Child,
    seen: String,
}

impl Terminal {
    fn start(mut command: Command, term: &str) -> Self {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&screen, size).unwrap();
        let path = ptsname(&screen, Vec::new()).unwrap().into_string().unwrap();
        let side = OpenOptions::new().read(true).write(true).open(path).unwrap();
        command.env("TERM", term).stdout(side.try_clone().unwrap()).stderr(side);
        Self { child: command.spawn().unwrap(), screen: screen.into(), seen: String::new() }
    }

    /// Reads until something was written, and returns all that was until then.
    fn until(&mut self, part: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            if let Some(at) = self.seen.find(part) {
                let rest = self.seen.split_off(at + part.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let read = self.screen.read(&mut bytes).unwrap_or_else(|error| panic!("{error}: {}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }

    /// Everything that is written until the end.
    fn all(mut self) -> String {
        let status = ends(&mut self.child);
        assert_eq!(status.code(), Some(0));
        let mut bytes = [0; 4096];
        // After the last byte, reading fails.
        while let Ok(read) = self.screen.read(&mut bytes) {
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn a_long_queue_fits_on_a_terminal(bench: Bench) {
    let mutex = bench.client.mutex("l").unwrap();
    let holder = mutex.lock().await.unwrap();
    let waiters: Vec<_> = (0..60).map(|_| tokio::spawn(mutex.lock())).collect();
    bench.has_length("l", 61).await;

    let once = Terminal::start(bench.command(&["queue", "l"]), "xterm").all();
    let lines: Vec<_> = once.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[22]), (23, "l: mutex, 1 holder, 60 waiting", "… and 41 more"));
    assert!(lines[2].starts_with("\x1b[1m0 ") && lines[3].starts_with("1 "), "the holder stands out: {lines:?}");
    let all = Terminal::start(bench.command(&["queue", "l", "--all"]), "xterm").all();
    assert_eq!(all.lines().count(), 63);
    let mut plain = bench.command(&["queue", "l"]);
    plain.env("NO_COLOR", "1");
    assert!(!Terminal::start(plain, "xterm").all().contains('\x1b'));

    let mut watch = Terminal::start(bench.command(&["queue", "l", "--watch"]), "xterm");
    let frame = watch.until("\x1b[?7h");
    assert!(frame.starts_with("\x1b[?7ll: mutex, 1 holder, 60 waiting"), "{frame}");
    assert!(frame.contains("… and 41 more") && frame.lines().count() == 24, "{frame}");
    holder.release().await;
    watch.until("\x1b[23A");
    watch.until("… and 40 more");
    // Not drawn in place where the cursor cannot be moved.
    let mut dumb = Terminal::start(bench.command(&["queue", "l", "--watch"]), "dumb");
    assert!(!dumb.until(", 59 waiting\r\n").contains('\x1b'));
    waiters.iter().for_each(tokio::task::JoinHandle::abort);
}

pub(crate) async fn who_tells_the_holders_and_75_without(bench: Bench) {
    bench.run(&["who", "l"]).refused(75, &["nobody holds \"l\""]);
    let quiet = bench.run(&["who", "l", "--json"]);
    assert_eq!((quiet.code, &*quiet.out, &*quiet.err), (Some(75), "[]\n", ""));
    let lock = bench.client.rw_lock("l").unwrap().labelled("shard 3");
    let (one, two) = (lock.read().await.unwrap(), lock.read().await.unwrap());
    let waiting = tokio::spawn(lock.write());
    bench.has_length("l", 3).await;
    let ran = bench.run(&["who", "l"]);
    let lines = ran.lines();
    assert_eq!(lines.len(), 2, "the holders only");
    assert!(lines[0].starts_with(&format!("pid {} on ", std::process::id())), "{}", lines[0]);
    for (line, guard) in lines.iter().zip([&one, &two]) {
        for part in [" \"shard 3\", reads, came ", " ago, session ", &format!(", token {}", guard.token())] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    let tokens: Vec<_> =
        bench.json(&["who", "l"]).as_array().unwrap().iter().map(|place| place["token"].clone()).collect();
    assert_eq!(tokens, [one.token(), two.token()]);
    waiting.abort();
}

pub(crate) async fn leader_prints_the_value_and_75_without(bench: Bench) {
    bench.run(&["leader", "e"]).refused(75, &["nobody leads \"e\""]);
    let none = bench.run(&["leader", "e", "--json"]);
    assert_eq!((none.code, &*none.out), (Some(75), "{\"name\":\"e\",\"leader\":null}\n"));
    let mut watch = Going::start(bench.command(&["leader", "e", "--watch"]));
    let mut json_lines = Going::start(bench.command(&["leader", "e", "--watch", "--json"]));
    let mut leader = || serde_json::from_str::<Value>(&json_lines.line()).unwrap()["leader"].clone();
    assert_eq!(leader(), Value::Null);
    let election = bench.client.election("e").unwrap();
    let leading = election.campaign("10.0.0.1").await.unwrap();
    assert_eq!(watch.line(), "10.0.0.1");
    let told = leader();
    assert_eq!(
        (&told["value"], &told["token"], &told["term"]),
        (&json!("10.0.0.1"), &json!(leading.token()), &json!(1))
    );
    assert_eq!(bench.run(&["leader", "e"]).lines(), ["10.0.0.1"]);
    assert_eq!(bench.json(&["leader", "e"])["leader"], told);
    leading.proclaim("10.0.0.2").await.unwrap();
    assert_eq!((watch.line().as_str(), &leader()["value"]), ("10.0.0.2", &json!("10.0.0.2")));
    leading.resign().await;
    assert_eq!(leader(), Value::Null);
    for going in [watch, json_lines] {
        going.signal(Signal::TERM);
        assert_eq!(going.ends().code(), Some(143));
    }
}

async fn is_asked(guard: &Guard) {
    timeout(PATIENCE, guard.revoked()).await.expect("it hears of it");
}

pub(crate) async fn revoke_asks_all_holders_or_one(bench: Bench) {
    bench.run(&["revoke", "l"]).refused(75, &["nobody holds \"l\""]);
    let semaphore = bench.client.semaphore("l", 3).unwrap();
    let (one, two) = (semaphore.acquire(1).await.unwrap(), semaphore.acquire(1).await.unwrap());
    let token = two.token().to_string();
    bench.run(&["revoke", "l", "--token", "0"]).refused(75, &["token 0", &format!("(token {})", one.token()), &token]);
    assert!(!one.is_revoked() && !two.is_revoked());
    let ran = bench.run(&["revoke", "l", "--token", &token]);
    let told = format!("asked pid {} on ", std::process::id());
    assert!(ran.lines()[0].starts_with(&told) && ran.out.ends_with(&format!("(token {token}) to let go\n")), "{ran:?}");
    is_asked(&two).await;
    assert!(!one.is_revoked());
    let asked = bench.json(&["revoke", "l"]);
    assert_eq!(
        asked.as_array().unwrap().iter().map(|place| place["token"].clone()).collect::<Vec<_>>(),
        [one.token(), two.token()]
    );
    is_asked(&one).await;
    assert!(bench.run(&["queue", "l"]).lines()[2].contains("holds, asked to let go"));
    one.check().unwrap();
}

pub(crate) async fn break_removes_that_holder_and_no_other(bench: Bench) {
    bench.run(&["break", "l", "--token", "3"]).refused(75, &["nobody holds \"l\""]);
    let mutex = bench.client.mutex("l").unwrap();
    let holder = mutex.lock().await.unwrap();
    let waiter = bench.waiter(&mutex, 2).await;
    let waiting = bench.client.entries("l").await.unwrap()[1].token.unwrap().to_string();
    bench.run(&["break", "l", "--token", &waiting]).refused(75, &["token", &holder.token().to_string()]);
    holder.check().unwrap();
    let token = holder.token().to_string();
    let ran = bench.run(&["break", "l", "--token", &token]);
    let told = format!("(token {token}): {}", holder.entry().key);
    assert!(ran.lines()[0].starts_with("removed pid ") && ran.lines()[0].ends_with(&told), "{ran:?}");
    assert_eq!(timeout(PATIENCE, holder.lost()).await.unwrap(), Loss::EntryRemoved);
    let next = timeout(PATIENCE, waiter).await.unwrap().unwrap().unwrap();
    bench.run(&["break", "l", "--token", &token]).refused(75, &[&token, &next.token().to_string()]);
    next.check().unwrap();
    let removed = bench.json(&["break", "l", "--token", &next.token().to_string()]);
    assert_eq!(removed["entry"], json!(next.entry().key));
    bench.has_length("l", 0).await;
}

/// With the usual grace, which leaves room for renewals.
pub(crate) async fn a_command_runs_for_longer_than_the_ttl(bench: Bench) {
    let ran = bench.run(&["run", "--ttl", "4s", "l", "--", "sh", "-c", "sleep 6; echo done"]);
    assert_eq!(ran.lines(), ["done"]);
}

pub(crate) async fn wait_ends_when_nobody_holds(bench: Bench) {
    let nothing = (Some(0), String::new(), String::new());
    let said = |ran: Ran| (ran.code, ran.out, ran.err);
    assert_eq!(said(bench.run(&["wait", "l"])), nothing);
    assert_eq!(said(bench.run(&["wait", "l", "--timeout", "0s"])), nothing);
    let holder = bench.client.mutex("l").unwrap().labelled("me").lock().await.unwrap();
    for time in ["0s", "300ms"] {
        let token = format!("(token {})", holder.token());
        bench.run(&["wait", "l", "--timeout", time]).refused(75, &["\"l\" is held by pid ", "\"me\"", &token]);
    }
    let mut waiting =
        [&["wait", "l"][..], &["wait", "l", "--timeout", "1h"]].map(|args| bench.command(args).spawn().unwrap());
    std::thread::sleep(Duration::from_millis(500));
    assert!(waiting.iter_mut().all(|child| child.try_wait().unwrap().is_none()));
    holder.release().await;
    for mut child in waiting {
        assert_eq!(ends(&mut child).code(), Some(0));
    }
}

pub(crate) async fn doctor_finds_nothing_bad_and_leaves_nothing(bench: Bench) {
    let ran = bench.run(&["doctor"]);
    let lines = ran.lines();
    assert!(lines[0].starts_with("lockctl ") && !lines[0].contains('?'), "{}", lines[0]);
    assert!(lines[1..].iter().all(|line| line.starts_with("ok ")), "{ran:?}");
    let report = bench.json(&["doctor"]);
    let checks: Vec<_> = report["findings"].as_array().unwrap().iter().map(|f| f["check"].as_str().unwrap()).collect();
    assert_eq!(checks[1..], ["session", "ttl", "round trip", "lock", "clock"]);
    assert!(report["findings"].as_array().unwrap().iter().all(|finding| finding["verdict"] == "ok"), "{report}");
    assert_eq!(bench.json(&["ls"]), json!([]));
}

pub(crate) async fn bench_measures_and_leaves_nothing(bench: Bench) {
    let report = bench.json(&["bench", "--workers", "3", "--time", "300ms"]);
    assert_eq!((&report["alone"]["workers"], &report["contended"]["workers"]), (&json!(1), &json!(3)));
    for part in ["alone", "contended"] {
        let number = |figure: &str| report[part][figure].as_u64().unwrap();
        assert!(number("grants") >= 3 && number("least") >= 1 && number("most") <= number("grants"), "{report}");
        assert!(number("acquire_median_us") <= number("acquire_p99_us"), "{report}");
        assert!(number("acquire_p99_us") <= number("acquire_longest_us"), "{report}");
    }
    assert_eq!(bench.json(&["ls"]), json!([]));
    let ran = bench.run(&["bench", "--workers", "2", "--time", "100ms"]);
    let lines = ran.lines();
    assert_eq!((lines.len(), cells(lines[1])[0], cells(lines[2])[0]), (3, "1", "2"));
}

/// The tests of this module, each on a store of its own.
macro_rules! operating {
    ($store:expr; $($test:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let (url, _store) = $store.await;
            $crate::operating::$test($crate::operating::Bench::new(&url).await).await;
        }
    )+};
    ($store:expr) => {
        $crate::operating::operating! { $store;
            ls_tells_who_is_where,
            queue_tells_everybody_in_order,
            queue_shows_what_candidates_show,
            queue_watch_tells_each_change_in_a_line,
            a_long_queue_fits_on_a_terminal,
            a_reader_that_is_gone_ends_a_watch_quietly,
            who_tells_the_holders_and_75_without,
            leader_prints_the_value_and_75_without,
            revoke_asks_all_holders_or_one,
            break_removes_that_holder_and_no_other,
            a_command_runs_for_longer_than_the_ttl,
            wait_ends_when_nobody_holds,
            doctor_finds_nothing_bad_and_leaves_nothing,
            bench_measures_and_leaves_nothing,
        }
    };
}
pub(crate) use operating;
