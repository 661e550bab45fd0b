//! What people, and programs, get to see.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::history::{Event, Holder, Outcome, Record, Verdict, Who};

/// Grants shown at the beginning and at the end of the table.
const FIRST: usize = 10;
const LAST: usize = 3;

/// Wrong things shown, of each kind.
const WRONG: usize = 5;

const REDRAW: Duration = Duration::from_millis(100);
const PLAIN_LINES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(15)];

/// Without a grant for this long, the progress says so.
const QUIET: Duration = Duration::from_millis(1500);

/// What a run did, to be shown when it is over.
#[derive(Debug)]
pub struct Summary {
    /// What the ledger tells.
    pub verdict: Verdict,
    /// How many grants there would be if nobody stopped the program.
    pub expected: u64,
    /// The time from the start of the workers to the end of the last one.
    pub elapsed: Duration,
    /// A line on each process that was killed.
    pub killed: Vec<String>,
}

impl Summary {
    /// The summary as one line of JSON.
    pub fn json(&self) -> String {
        let (verdict, waits) = (&self.verdict, self.waits());
        let ms = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
        // Written by hand to keep the order of the keys.
        format!(
            r#"{{"grants":{},"overlaps":{},"order_violations":{},"tokens_increasing":{},"lost":{},"elapsed_ms":{},"wait_ms":{{"p50":{},"p99":{},"max":{}}},"late_writes":{},"killed":{}}}"#,
            verdict.grants.len(),
            verdict.overlaps.len(),
            verdict.order_violations.len(),
            verdict.tokens_increasing,
            verdict.lost,
            self.elapsed.as_millis(),
            json!(ms(percentile(&waits, 50))),
            json!(ms(percentile(&waits, 99))),
            json!(ms(percentile(&waits, 100))),
            verdict.late_writes.len(),
            self.killed.len(),
        )
    }

    /// The summary for people.
    pub fn text(&self, style: Style) -> String {
        let (verdict, waits) = (&self.verdict, self.waits());
        let grants = &verdict.grants;
        let mut text = String::new();
        if !grants.is_empty() {
            table(&mut text, grants, style);
            let seconds = self.elapsed.as_secs_f64();
            let rate = rate(grants.len() as u64, self.elapsed);
            let of = match self.expected {
                expected if expected > grants.len() as u64 => format!(" of {expected}"),
                _ => String::new(),
            };
            line(&mut text, format_args!(""));
            line(
                &mut text,
                format_args!(
                    "waited  p50 {}, p99 {}, at most {}",
                    short(percentile(&waits, 50)),
                    short(percentile(&waits, 99)),
                    short(percentile(&waits, 100))
                ),
            );
            line(
                &mut text,
                format_args!("paused  at most {} from the end of one grant to the next", short(longest_pause(grants))),
            );
            line(&mut text, format_args!("total   {}{of} grants in {seconds:.2} s, {rate} a second", grants.len()));
        }
        if verdict.lost > 0 {
            line(
                &mut text,
                format_args!("lost    {} times a worker lost the lock or its place and began again", verdict.lost),
            );
        }
        for killed in &self.killed {
            line(&mut text, format_args!("killed  {killed}"));
        }
        line(&mut text, format_args!(""));
        for (what, wrong) in [
            ("two held the lock at once", &verdict.overlaps),
            ("granted out of order", &verdict.order_violations),
            ("written without the lock", &verdict.late_writes),
        ] {
            for problem in wrong.iter().take(WRONG) {
                line(&mut text, format_args!("{} {what}: {problem}", style.bad("WRONG")));
            }
            if wrong.len() > WRONG {
                line(&mut text, format_args!("{} {what}: {} times more", style.bad("WRONG"), wrong.len() - WRONG));
            }
        }
        if !verdict.tokens_increasing {
            line(&mut text, format_args!("{} the tokens do not increase in the ledger", style.bad("WRONG")));
        }
        match (verdict.is_right(), grants.first(), grants.last()) {
            (false, ..) => line(&mut text, format_args!("The ledger is wrong.")),
            (true, Some(first), Some(last)) => line(
                &mut text,
                format_args!(
                    "{}: no two workers held the lock at once, and the tokens increase from {} to {}.",
                    style.good("The ledger is right"),
                    first.token,
                    last.token
                ),
            ),
            (true, ..) => line(&mut text, format_args!("Nobody was granted the lock.")),
        }
        text
    }

    /// Waiting times, sorted.
    fn waits(&self) -> Vec<Duration> {
        let mut waits: Vec<_> = self.verdict.grants.iter().map(|grant| grant.waited).collect();
        waits.sort_unstable();
        waits
    }
}

fn table(text: &mut String, grants: &[Holder], style: Style) {
    let who = grants.iter().map(|grant| grant.who.to_string().len()).max().unwrap_or(0).max("worker".len());
    let token = grants.last().map_or(0, |grant| grant.token.to_string().len()).max("token".len());
    let heading = format!("{:>7}  {:>token$}  {:<who$}  {:>8}  {:>8}", "grant", "token", "worker", "waited", "held");
    line(text, format_args!("{}", style.dim(&heading)));
    let hidden = if grants.len() > FIRST + LAST + 1 { FIRST..grants.len() - LAST } else { 0..0 };
    for (i, grant) in grants.iter().enumerate() {
        if i == hidden.start && !hidden.is_empty() {
            line(text, format_args!("{:>7}", "…"));
        }
        if !hidden.contains(&i) {
            let note = match grant.outcome {
                Outcome::Ended => "",
                Outcome::Lost => "  lost",
                Outcome::Open | Outcome::Refused => "  not ended",
            };
            let (n, waited, held) = (i + 1, short(grant.waited), short(grant.held()));
            line(
                text,
                format_args!("{n:>7}  {:>token$}  {:<who$}  {waited:>8}  {held:>8}{note}", grant.token, grant.who),
            );
        }
    }
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{words}");
}

/// The longest time for which nobody is known to have had the lock: the ttl, after its holder was killed.
fn longest_pause(grants: &[Holder]) -> Duration {
    let pauses = grants.windows(2).map(|pair| pair[1].granted.saturating_sub(pair[0].until));
    Duration::from_nanos(pauses.max().unwrap_or(0))
}

/// The smallest value that `percent` of them do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// Grants a second, with a decimal when there are few.
fn rate(grants: u64, time: Duration) -> String {
    let rate = grants as f64 / time.as_secs_f64().max(f64::EPSILON);
    if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

/// A duration in at most eight characters.
pub fn short(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match duration.as_nanos() {
        0..1_000_000 => format!("{:.0} µs", seconds * 1e6),
        1_000_000..1_000_000_000 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

/// How one output stream can be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// Colours on a terminal, unless the environment has `NO_COLOR`.
    pub fn of(stream: &impl IsTerminal) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: stream.is_terminal() && !refused }
    }

    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { colour: false }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// Writes to the standard output. A reader that has gone away, such as `head`, is no error.
///
/// # Errors
/// Any other failure of writing.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes an error and its causes to the standard error.
pub fn complain(error: &(dyn std::error::Error + 'static)) {
    let mut text = format!("{} {error}", Style::of(&io::stderr()).bad("error:"));
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  caused by: {error}");
        cause = error.source();
    }
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A line on the standard error that says how far a run is: redrawn on a terminal, now and then a new one elsewhere.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    expected: u64,
    started: Instant,
    drawn: Instant,
    grants: u64,
    lost: u64,
    holder: Option<Who>,
    latest: Instant,
    trouble: Option<String>,
}

impl Progress {
    /// Starts now; `expected` grants are to come.
    pub fn new(expected: u64) -> Self {
        let now = Instant::now();
        Self {
            terminal: io::stderr().is_terminal(),
            expected,
            started: now,
            drawn: now,
            grants: 0,
            lost: 0,
            holder: None,
            latest: now,
            trouble: None,
        }
    }

    /// Takes note of records, and writes the line when it is time to.
    pub fn update(&mut self, records: &[Record]) {
        for record in records {
            match &record.event {
                Event::Begin { .. } => {
                    self.grants += 1;
                    self.holder = Some(record.who);
                    self.latest = Instant::now();
                    self.trouble = None;
                }
                Event::Lost { why } => {
                    self.lost += 1;
                    self.trouble = Some(why.clone());
                }
                _ => {}
            }
        }
        // A log of a long run need not be long.
        let plain = (self.started.elapsed() / 5).clamp(PLAIN_LINES[0], PLAIN_LINES[1]);
        if self.drawn.elapsed() >= if self.terminal { REDRAW } else { plain } {
            self.drawn = Instant::now();
            let (clear, end) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
            let line = self.line();
            // A line that wraps cannot be redrawn.
            let line = if self.terminal { line.chars().take(79).collect() } else { line };
            let mut stderr = io::stderr().lock();
            // The progress is not worth an error.
            let _ = write!(stderr, "{clear}{line}{end}").and_then(|()| stderr.flush());
        }
    }

    /// Removes the line from a terminal.
    pub fn clear(&self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    fn line(&self) -> String {
        let rate = rate(self.grants, self.started.elapsed());
        let mut line = format!("{} of {} grants, {rate} a second", self.grants, self.expected);
        if self.lost > 0 {
            let _ = write!(line, ", {} lost", self.lost);
        }
        let quiet = self.latest.elapsed();
        let _ = match (&self.trouble, self.holder) {
            (Some(trouble), _) if quiet > QUIET => write!(line, "; none for {quiet:.0?}: {trouble}"),
            (_, Some(holder)) if quiet > QUIET => write!(line, "; none for {quiet:.0?}, last {holder}"),
            (_, Some(holder)) => write!(line, ", now {holder}"),
            (_, None) if quiet > QUIET => write!(line, "; none for {quiet:.0?}, somebody else may have the lock"),
            (_, None) => Ok(()),
        };
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(n: u64) -> Holder {
        Holder {
            who: Who { process: 0, worker: (n % 3) as u32 },
            token: n,
            granted: n * 1000,
            until: n * 1000 + 500,
            waited: Duration::from_millis(n),
            outcome: Outcome::Ended,
        }
    }

    fn summary(grants: u64) -> Summary {
        let verdict =
            Verdict { grants: (1..=grants).map(holder).collect(), tokens_increasing: true, ..Verdict::default() };
        Summary { verdict, expected: 200, elapsed: Duration::from_millis(2500), killed: Vec::new() }
    }

    #[test]
    fn the_json_line_can_be_parsed_and_says_what_the_text_says() {
        let json: serde_json::Value = serde_json::from_str(&summary(200).json()).unwrap();
        assert_eq!(
            json,
            json!({
                "grants": 200, "overlaps": 0, "order_violations": 0, "tokens_increasing": true, "lost": 0,
                "elapsed_ms": 2500, "wait_ms": {"p50": 100.0, "p99": 198.0, "max": 200.0}, "late_writes": 0, "killed": 0
            })
        );
        serde_json::from_str::<serde_json::Value>(&summary(0).json()).unwrap();
        let text = summary(200).text(Style::plain());
        assert!(
            text.contains("p50 100.0 ms, p99 198.0 ms, at most 200.0 ms") && text.contains("80 a second"),
            "{text}"
        );
        assert!(!text.contains('\x1b') && text.contains("The ledger is right"), "{text}");
    }

    #[test]
    fn the_table_shows_the_first_and_the_last_grants_or_all() {
        let rows = |grants| {
            let text = summary(grants).text(Style::plain());
            text.lines().filter(|line| line.contains("p0/w")).count()
        };
        assert_eq!((rows(5), rows(14), rows(15), rows(1000)), (5, 14, 13, 13));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut wrong = summary(2);
        wrong.verdict.overlaps = (0..9).map(|n| format!("pair {n}")).collect();
        let text = wrong.text(Style::plain());
        assert!(
            text.contains("pair 0") && text.contains("4 times more") && text.contains("The ledger is wrong"),
            "{text}"
        );
    }

    #[test]
    fn durations_are_short() {
        let nanos = [999, 999_999, 1_000_000, 999_940_000, 1_000_000_000, 3_600_000_000_000];
        let texts = nanos.map(|nanos| short(Duration::from_nanos(nanos)));
        assert_eq!(texts, ["1 µs", "1000 µs", "1.0 ms", "999.9 ms", "1.00 s", "3600.00 s"]);
    }
}
