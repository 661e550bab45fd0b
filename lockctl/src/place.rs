//! A place in a queue, as people and as programs read it.

use std::collections::HashMap;
use std::time::Duration;

use lock_core::backend::Kind;
use lock_core::owner::Owner;
use lock_core::{Place, Role};
use serde::Serialize;

use crate::output::plain::{cut, plain};
use crate::output::time::{ago, rfc3339, rough};

/// Characters of a value or a label that a table shows.
const CELL: usize = 40;

/// A place as JSON has it.
#[derive(Debug, Serialize)]
pub(crate) struct Json<'a> {
    /// How many are ahead.
    position: usize,
    role: &'static str,
    /// What the entry asks for.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    permits: Option<u32>,
    token: Option<u64>,
    /// Whether it was asked to let go.
    revoked: bool,
    #[serde(flatten)]
    who: Who<'a>,
    #[serde(flatten)]
    value: Value,
    session: &'a str,
    /// The key or node in the store.
    entry: &'a str,
}

/// Who stands there; nothing of other kinds of clients.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Who<'a> {
    host: Option<&'a str>,
    pid: Option<u32>,
    label: Option<&'a str>,
    /// When it came to the queue; for candidates and members, when their session was opened.
    since: Option<String>,
}

impl<'a> Who<'a> {
    pub(crate) fn of(owner: Option<&'a Owner>) -> Self {
        owner.map_or_else(Self::default, |owner| Self {
            host: Some(&owner.host),
            pid: Some(owner.pid),
            label: owner.label.as_deref(),
            since: rfc3339(owner.since_unix_ms),
        })
    }
}

/// What a candidate or a member shows.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Value {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// What is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
}

impl Value {
    pub(crate) fn of(value: &[u8]) -> Self {
        match std::str::from_utf8(value) {
            Ok(text) => Self { value: Some(text.to_owned()), value_hex: None },
            Err(_) => Self { value: None, value_hex: Some(value.iter().map(|byte| format!("{byte:02x}")).collect()) },
        }
    }
}

pub(crate) fn json(place: &Place) -> Json<'_> {
    Json {
        position: place.position,
        role: match place.role {
            Role::Holder => "holder",
            Role::Waiter => "waiter",
        },
        kind: word(place.kind),
        permits: if let Kind::Permits(permits) = place.kind { Some(permits) } else { None },
        token: place.token,
        revoked: place.revoked,
        who: Who::of(place.owner.as_ref()),
        value: if shows_value(place) { Value::of(&place.value) } else { Value::default() },
        session: &place.session,
        entry: &place.entry.key,
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Exclusive => "lock",
        Kind::Read => "read",
        Kind::Write => "write",
        Kind::Permits(_) => "permits",
        Kind::Candidate => "candidate",
        Kind::Member => "member",
        Kind::Party => "party",
        Kind::Sleeper => "sleeper",
        _ => "unmarked",
    }
}

fn shows_value(place: &Place) -> bool {
    match place.kind {
        Kind::Candidate | Kind::Member => true,
        // Whatever another client keeps there.
        Kind::Unmarked => place.owner.is_none() && !place.value.is_empty(),
        _ => false,
    }
}

/// What the whole queue is used for.
pub(crate) fn recipe(places: &[Place]) -> String {
    let marked = places.iter().filter(|place| place.kind != Kind::Unmarked).map(|place| place.kind.recipe());
    let mut recipes: Vec<_> = marked.collect();
    recipes.sort_unstable();
    recipes.dedup();
    match (&recipes[..], places.first()) {
        ([], Some(place)) => place.kind.recipe().to_owned(),
        _ => recipes.join(" and "),
    }
}

/// How many hold, and how many wait.
pub(crate) fn count(places: &[Place]) -> (usize, usize) {
    let holders = places.iter().filter(|place| place.role == Role::Holder).count();
    (holders, places.len() - holders)
}

/// Who it is, in a sentence: `pid 812 on db1 "nightly"`.
pub(crate) fn who(place: &Place) -> String {
    match &place.owner {
        None => format!("another client, of session {}", plain(&place.session)),
        Some(owner) => {
            let label = owner.label.as_ref().map(|label| format!(" \"{}\"", plain(label))).unwrap_or_default();
            format!("pid {} on {}{label}", owner.pid, plain(&owner.host))
        }
    }
}

/// Who it is, and what an operator needs to act on it.
pub(crate) fn who_exactly(place: &Place) -> String {
    let mut told = vec![who(place)];
    match place.kind {
        Kind::Read => told.push("reads".into()),
        Kind::Write => told.push("writes".into()),
        Kind::Permits(permits) => told.push(permits_of(permits)),
        _ => {}
    }
    if let Some(owner) = &place.owner {
        told.push(format!("came {}", ago(owner.since_unix_ms)));
        told.push(format!("session {}", plain(&place.session)));
    }
    told.push(place.token.map_or_else(|| "token not told".into(), |token| format!("token {token}")));
    if place.revoked {
        told.push("asked to let go".into());
    }
    told.join(", ")
}

/// How long the store would keep the sessions of the holders if they fell silent now.
pub(crate) type Left = HashMap<String, Duration>;

/// A place in a queue that is shown as a whole.
#[derive(Debug, Serialize)]
pub(crate) struct Timed<'a> {
    #[serde(flatten)]
    place: Json<'a>,
    /// For holders, where the store tells.
    time_left_ms: Option<u128>,
}

impl<'a> Timed<'a> {
    pub(crate) fn of(place: &'a Place, left: &Left) -> Self {
        Self { place: json(place), time_left_ms: time_left(place, left).map(|left| left.as_millis()) }
    }
}

/// Waiters may be in the session of a holder.
fn time_left(place: &Place, left: &Left) -> Option<Duration> {
    left.get(&place.session).filter(|_| place.role == Role::Holder).copied()
}

/// The columns that a queue's table has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    wants: bool,
    label: bool,
    value: bool,
}

impl Columns {
    pub(crate) fn of(places: &[Place]) -> Self {
        let wants = |place: &Place| matches!(place.kind, Kind::Read | Kind::Write | Kind::Permits(_));
        let label = |place: &Place| place.owner.as_ref().is_some_and(|owner| owner.label.is_some());
        Self { wants: places.iter().any(wants), label: places.iter().any(label), value: places.iter().any(shows_value) }
    }

    pub(crate) fn heads(self) -> Vec<String> {
        self.row(
            ["AHEAD", "ROLE", "WANTS", "TOKEN", "CAME", "TIME LEFT", "HOST", "PID", "LABEL", "VALUE", "SESSION"]
                .map(str::to_owned),
        )
    }

    pub(crate) fn cells(self, place: &Place, left: &Left) -> Vec<String> {
        let owner = place.owner.as_ref();
        let or_dash = |cell: Option<String>| cell.unwrap_or_else(|| "-".into());
        let role = match (place.role, place.revoked) {
            (Role::Holder, false) => "holds",
            (Role::Holder, true) => "holds, asked to let go",
            (Role::Waiter, _) => "waits",
        };
        let wants = match place.kind {
            Kind::Permits(permits) => permits_of(permits),
            kind => word(kind).to_owned(),
        };
        self.row([
            place.position.to_string(),
            role.to_owned(),
            wants,
            or_dash(place.token.map(|token| token.to_string())),
            or_dash(owner.map(|owner| ago(owner.since_unix_ms))),
            or_dash(time_left(place, left).map(rough)),
            or_dash(owner.map(|owner| cut(&owner.host, CELL))),
            or_dash(owner.map(|owner| owner.pid.to_string())),
            or_dash(owner.and_then(|owner| owner.label.as_ref()).map(|label| cut(label, CELL))),
            or_dash(shows_value(place).then(|| cut(&String::from_utf8_lossy(&place.value), CELL))),
            plain(&place.session),
        ])
    }

    fn row(self, all: [String; 11]) -> Vec<String> {
        let shown = [true, true, self.wants, true, true, true, true, true, self.label, self.value, true];
        all.into_iter().zip(shown).filter_map(|(cell, shown)| shown.then_some(cell)).collect()
    }
}

fn permits_of(permits: u32) -> String {
    if permits == 1 { "1 permit".to_owned() } else { format!("{permits} permits") }
}
