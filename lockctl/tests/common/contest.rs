//! Two `lockctl` that want the same lock, and a command that sees whether it is alone.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{PATIENCE, Running, children, is_alive, lockctl, signal};

/// A command that is hard to end: it ignores SIGTERM, and a process of another session belongs to it. It tells who it is, and
/// whether one that was there before is still alive, then shows again and again that it runs. SIGUSR1 ends it.
const COMMAND: &str = r#"
trap '' TERM
trap 'echo "end $LOCK_TOKEN" >> "$0"; exit 0' USR1
setsid sleep 1000 &
earlier=$(awk '$1 == "begin" { print $3; print $4 }' "$0")
echo "begin $LOCK_TOKEN $$ $! $EPOCHREALTIME $LOCK_KEY" >> "$0"
for pid in $earlier; do
    if read -r _ _ state _ < "/proc/$pid/stat" && [ "$state" != Z ]; then
        echo "overlap $LOCK_TOKEN $pid $state" >> "$0"
    fi
done 2>/dev/null
while :; do
    echo "beat $LOCK_TOKEN $EPOCHREALTIME" >> "$0"
    sleep 0.02
done
"#;

/// One lock and the log of those who had it.
#[derive(Debug)]
pub struct Contest {
    dir: TempDir,
    name: String,
    pub ttl: Duration,
}

/// A time in which the command ran.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    pub token: u64,
    /// The command, and its process in another session.
    pub pids: [u32; 2],
    pub begin: f64,
    pub last: f64,
    pub key: String,
}

impl Contest {
    pub fn new(name: &str, ttl: Duration) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), name: name.to_owned(), ttl }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Starts one more contender.
    pub fn enter(&self, url: &str, who: &str) -> Contender {
        let stderr = self.dir.path().join(who);
        let mut command = lockctl(url);
        command
            .args(["run", "--grace", "500ms", "--ttl", &format!("{}ms", self.ttl.as_millis()), "--label", who])
            .args([&self.name, "--", "bash", "-c", COMMAND])
            .arg(self.log())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr).unwrap());
        Contender { child: Running::start(&mut command), stderr }
    }

    /// All terms so far, in the order of their begins.
    pub fn terms(&self) -> Vec<Term> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let mut terms: Vec<Term> = Vec::new();
        for line in text.lines() {
            let fields: Vec<&str> = line.splitn(6, ' ').collect();
            let time = |at: usize| fields[at].parse::<f64>().unwrap();
            match fields[0] {
                "begin" => terms.push(Term {
                    token: fields[1].parse().unwrap(),
                    pids: [fields[2].parse().unwrap(), fields[3].parse().unwrap()],
                    begin: time(4),
                    last: time(4),
                    key: fields[5].to_owned(),
                }),
                "beat" => {
                    let token: u64 = fields[1].parse().unwrap();
                    let at = time(2);
                    terms.iter_mut().filter(|term| term.token == token).for_each(|term| term.last = at);
                }
                _ => {}
            }
        }
        terms
    }

    /// Waits for the begin of a term, counted from 0.
    pub async fn term(&self, number: usize, within: Duration) -> Term {
        let deadline = Instant::now() + within;
        loop {
            if let Some(term) = self.terms().get(number) {
                return term.clone();
            }
            assert!(Instant::now() < deadline, "{}: term {number} has not begun:\n{}", self.name, self.story());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Fails unless nobody ever ran while another one did, in any way that can be seen.
    pub fn check(&self) {
        let text = fs::read_to_string(self.log()).unwrap();
        assert!(!text.contains("overlap"), "{}: {}\n{text}", self.name, self.story());
        let terms = self.terms();
        for pair in terms.windows(2) {
            assert!(pair[0].last <= pair[1].begin && pair[0].token < pair[1].token, "{}: {pair:?}", self.name);
        }
        // Whose time was over is dead, and not only silent.
        for term in &terms[..terms.len() - 1] {
            assert!(!term.pids.into_iter().any(is_alive), "{}: {term:?}", self.name);
        }
    }

    /// What everybody had to say.
    pub fn story(&self) -> String {
        let files = fs::read_dir(self.dir.path()).unwrap().map(|file| file.unwrap().path());
        let texts = files.filter(|file| file != &self.log());
        texts.map(|file| format!("{}: {}", file.display(), fs::read_to_string(&file).unwrap())).collect()
    }
}

/// A `lockctl` that runs.
#[derive(Debug)]
pub struct Contender {
    child: Running,
    stderr: PathBuf,
}

impl Contender {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn warden(&self) -> u32 {
        *children(self.pid()).first().expect("it runs a command")
    }

    pub fn signal(&self, what: Signal) {
        signal(self.pid(), what);
    }

    /// Waits until it says that it waits.
    pub async fn waits(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(&self.stderr).unwrap().contains("waiting for") {
            assert!(Instant::now() < deadline, "{self:?} does not wait: {}", fs::read_to_string(&self.stderr).unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for its end. The exit code, unless a signal ended it.
    pub async fn exit(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "{self:?} has not ended: {}", fs::read_to_string(&self.stderr).unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the command in order.
    pub async fn finish(&mut self) {
        self.signal(Signal::USR1);
        assert_eq!(self.exit().await, Some(0), "{}", fs::read_to_string(&self.stderr).unwrap());
    }
}

impl Contest {
    /// One holds, the other waits, something goes wrong, and the other has the lock within `limit`. The exit code of the first
    /// is `exit`, if it was not killed.
    pub async fn is_handed_on(
        &self,
        urls: [&str; 2],
        fault: impl AsyncFnOnce(&Contender, &Term),
        limit: Duration,
        exit: Option<i32>,
    ) {
        let mut first = self.enter(urls[0], "first");
        let term = self.term(0, PATIENCE).await;
        let mut second = self.enter(urls[1], "second");
        second.waits().await;
        assert_eq!(self.terms().len(), 1, "{}", self.story());
        fault(&first, &term).await;
        self.term(1, limit).await;
        assert_eq!(first.exit().await, exit, "{}", self.story());
        self.check();
        second.finish().await;
        self.check();
        assert_eq!(self.terms().len(), 2, "{}", self.story());
    }
}

/// Waits until the command of a term is dead, while its lock is still its.
pub async fn is_ended(contest: &Contest, term: &Term) {
    let deadline = Instant::now() + PATIENCE;
    while term.pids.into_iter().any(is_alive) {
        assert!(Instant::now() < deadline, "{term:?} goes on: {}", contest.story());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for the end of a term, before which nobody else may begin.
pub async fn alone(contest: &Contest, term: &Term) {
    is_ended(contest, term).await;
    assert_eq!(contest.terms().len(), 1, "ended before anybody else began: {}", contest.story());
}

/// An entry or a session is removed by force: the first one learns of it in a moment, and its command does not get a grace. The
/// next one is there at once, and its command is not started before the first one is dead.
pub async fn is_removed(ttl: Duration, url: &str, remove: impl AsyncFnOnce(&Contender, &Term)) {
    let contest = Contest::new("removed", ttl);
    let fault = async |holder: &Contender, term: &Term| {
        remove(holder, term).await;
        let removed = Instant::now();
        is_ended(&contest, term).await;
        assert!(removed.elapsed() < ttl / 2, "it was told, and not only out of proof: {}", contest.story());
    };
    contest.is_handed_on([url, url], fault, after_pause(ttl), Some(80)).await;
}

/// The same, while the first one cannot hear of it: its command goes on until its proof runs out.
pub async fn is_removed_while_deaf(
    contest: &Contest,
    urls: [&str; 2],
    remove: impl AsyncFnOnce(&Contender, &Term),
    hear: impl AsyncFnOnce(&Contender),
) {
    let fault = async |holder: &Contender, term: &Term| {
        remove(holder, term).await;
        alone(contest, term).await;
        contest.term(1, after_pause(contest.ttl)).await;
        hear(holder).await;
    };
    contest.is_handed_on(urls, fault, after_pause(contest.ttl), Some(80)).await;
}

/// By when somebody has a lock whose last holder vanished, once the store knows of that.
pub fn after_pause(ttl: Duration) -> Duration {
    ttl + Duration::from_secs(6)
}

/// Breaks the lock as an operator does.
pub fn break_lock(url: &str, name: &str, term: &Term) {
    let output = lockctl(url).args(["break", name, "--token", &term.token.to_string()]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

pub async fn kill_lockctl(holder: &Contender, _: &Term) {
    holder.signal(Signal::KILL);
}

pub async fn kill_warden(holder: &Contender, _: &Term) {
    signal(holder.warden(), Signal::KILL);
}
