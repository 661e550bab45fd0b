//! What people see while they wait for a lock.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use lock_core::Client;
use lock_core::backend::{Kind, QueueEntry};
use lock_core::owner::Owner;
use rustix::termios::tcgetwinsize;

use crate::exit::say;
use crate::output::plain::plain;
use crate::output::time::ago;

/// A lock that is free is acquired without a word.
const PATIENCE: Duration = Duration::from_millis(400);

/// How often to look, on a terminal and elsewhere.
const ON_TERMINAL: Duration = Duration::from_secs(1);
const ELSEWHERE: Duration = Duration::from_secs(5);

/// Each waiter lists the queue, so that in a long queue everybody looks less often: a thousand waiters together list it 20 times
/// a second.
const PER_WAITER: Duration = Duration::from_millis(50);

/// Tells the place in the queue on the standard error output: one line that is written anew on a terminal, a line for each
/// change elsewhere.
#[derive(Debug)]
pub(crate) struct Progress {
    client: Client,
    name: String,
    on_terminal: bool,
    told: String,
    /// Whether it was the first one when it looked.
    was_first: bool,
}

impl Progress {
    pub(crate) fn new(client: &Client, name: &str) -> Self {
        let on_terminal = io::stderr().is_terminal();
        Self { client: client.clone(), name: name.to_owned(), on_terminal, told: String::new(), was_first: false }
    }

    /// Tells it again and again, for ever.
    pub(crate) async fn follow(&mut self) {
        tokio::time::sleep(PATIENCE).await;
        loop {
            let mut pause = if self.on_terminal { ON_TERMINAL } else { ELSEWHERE };
            // What keeps the store from answering, the waiting itself will tell.
            if let (Ok(session), Ok(queue)) = (self.client.session_id().await, self.client.entries(&self.name).await) {
                let length = u32::try_from(queue.len()).unwrap_or(u32::MAX);
                pause = pause.max(PER_WAITER.saturating_mul(length));
                if let Some(place) = place(&queue, &session, self.was_first) {
                    self.tell(&format!("waiting for {:?}: {place}", self.name));
                }
                self.was_first = queue.first().is_some_and(|first| first.session == session);
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn tell(&mut self, line: &str) {
        // Others' labels must not get at the terminal.
        let line = plain(line);
        if line == self.told {
            return;
        }
        if self.on_terminal {
            // A terminal that does not know its size says 0.
            let columns =
                tcgetwinsize(io::stderr()).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
            let columns = columns.unwrap_or(80);
            let shown: String = format!("lockctl: {line}").chars().take(columns - 1).collect();
            let _ = write!(io::stderr().lock(), "\r\x1b[K{shown}");
        } else {
            say(&line);
        }
        self.told = line;
    }
}

impl Drop for Progress {
    /// Removes the line from a terminal.
    fn drop(&mut self) {
        if self.on_terminal && !self.told.is_empty() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

/// The place of a session in a queue, and who is first.
fn place(queue: &[QueueEntry], session: &str, was_first: bool) -> Option<String> {
    let at = queue.iter().position(|entry| entry.session == session)?;
    if at == 0 {
        // One that is first for long waits for the end of the lock delay, there is nothing else.
        let told = "first in the queue, but the last holder vanished, and what it ran gets time to end";
        return was_first.then(|| told.to_owned());
    }
    let first = queue.first()?;
    Some(format!("place {} of {}, behind {}", at + 1, queue.len(), who(first)))
}

/// Who owns an entry, as far as it shows.
fn who(entry: &QueueEntry) -> String {
    if entry.kind == Kind::Candidate {
        return format!("{:?}", String::from_utf8_lossy(&entry.value));
    }
    match Owner::decode(&entry.value) {
        Some(owner) => {
            let label = owner.label.map(|label| format!(" ({label})")).unwrap_or_default();
            format!("{} pid {}{label}, which asked for it {}", owner.host, owner.pid, ago(owner.since_unix_ms))
        }
        None => format!("session {}", entry.session),
    }
}

#[cfg(test)]
mod tests {
    use lock_core::backend::Entry;

    use super::*;

    fn entry(session: &str, kind: Kind, value: &[u8]) -> QueueEntry {
        let entry = Entry { key: format!("/{session}").into(), incarnation: 1 };
        QueueEntry { entry, kind, session: session.to_owned(), token: Some(1), value: value.to_vec() }
    }

    #[test]
    fn the_place_and_the_first_are_told() {
        let owner = br#"{"host":"db1","pid":47,"label":"backup"}"#;
        let queue =
            [entry("a", Kind::Exclusive, owner), entry("b", Kind::Exclusive, b""), entry("c", Kind::Exclusive, b"")];
        let told = place(&queue, "c", false).unwrap();
        assert!(told.starts_with("place 3 of 3, behind db1 pid 47 (backup), which asked for it "), "{told}");
        assert_eq!(place(&queue, "a", false), None, "it is about to be granted");
        assert!(place(&queue, "a", true).unwrap().contains("the last holder vanished"));
        assert_eq!(place(&queue, "z", true), None);
        assert_eq!(place(&[], "z", true), None);
        assert_eq!(place(&queue[1..], "c", true).unwrap(), "place 2 of 2, behind session b");
        let election = [entry("a", Kind::Candidate, b"10.0.0.1"), entry("b", Kind::Candidate, b"10.0.0.2")];
        assert_eq!(place(&election, "b", false).unwrap(), "place 2 of 2, behind \"10.0.0.1\"");
    }
}
