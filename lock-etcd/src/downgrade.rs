//! A writer that goes on as a reader, in its place.

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp};
use lock_core::Result;
use lock_core::backend::{Entry, Kind};

use crate::error::Failure;
use crate::keys;
use crate::session::EtcdSession;

pub(crate) const DOWNGRADE: &str = "downgrade an entry";

/// How often the writer's key is read again because somebody wrote to it meanwhile.
const TRIES: usize = 8;

/// What the value of a former writer begins with. Its key stays, and with it its place and its token.
const READS: &[u8] = b"__READ__";

/// What the value of a writer begins with if it would begin with either mark by itself.
const WRITES: &[u8] = b"__WRITE__";

impl EtcdSession {
    /// Marks the value of a writer. A request that was delayed on its way applies only to the value that was read for it.
    pub(crate) async fn turn_reader(&self, mine: &Entry) -> Result<Option<Entry>> {
        let (key, created) = keys::bytes(mine)?;
        if !keys::is_of_session(&key, self.lease) {
            return Ok(None);
        }
        for _ in 0..TRIES {
            let range = self.get(DOWNGRADE, key.as_slice(), GetOptions::new()).await?;
            let Some(now) = range.kvs().first().filter(|kv| kv.create_revision() == created) else { return Ok(None) };
            let (Kind::Write, value) = shown(now) else { return Ok(Some(mine.clone())) };
            let turn = Txn::new()
                .when([
                    Compare::create_revision(key.as_slice(), CompareOp::Equal, created),
                    Compare::mod_revision(key.as_slice(), CompareOp::Equal, now.mod_revision()),
                ])
                .and_then([TxnOp::put(key.as_slice(), stored(Kind::Read, value), Some(self.put_with_lease()))]);
            match self.endpoints.txn(turn).await {
                Ok(answer) if answer.succeeded() => return Ok(Some(mine.clone())),
                // Written to or removed, or turned by an earlier request without an answer.
                Ok(_) => {}
                Err(failure) => return Err(self.explain_write(failure, DOWNGRADE, &key, now.mod_revision()).await),
            }
        }
        Err(self.explain(Failure::unavailable("others wrote to the entry again and again"), DOWNGRADE))
    }
}

/// What an entry asks for now, and its value; without the value's being read, what it asked for first.
pub(crate) fn shown(kv: &KeyValue) -> (Kind, &[u8]) {
    unmarked(keys::kind(kv.key()), kv.value())
}

fn unmarked(kind: Kind, stored: &[u8]) -> (Kind, &[u8]) {
    if kind != Kind::Write {
        return (kind, stored);
    }
    match (stored.strip_prefix(READS), stored.strip_prefix(WRITES)) {
        (Some(value), _) => (Kind::Read, value),
        (None, value) => (Kind::Write, value.unwrap_or(stored)),
    }
}

/// How the value of an entry is stored whose key is a writer's and that is now of this kind.
pub(crate) fn stored(kind: Kind, value: &[u8]) -> Vec<u8> {
    let begins_like_a_mark = [READS, WRITES].iter().any(|mark| value.starts_with(mark));
    match kind {
        Kind::Read => [READS, value].concat(),
        _ if begins_like_a_mark => [WRITES, value].concat(),
        _ => value.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_for_people_to_read() {
        assert_eq!(stored(Kind::Write, b"{}"), b"{}");
        assert_eq!(stored(Kind::Read, b"{}"), b"__READ__{}");
        assert_eq!(unmarked(Kind::Read, b"__READ__{}"), (Kind::Read, &b"__READ__{}"[..]), "a reader from the start");
    }

    proptest! {
        #[test]
        fn any_value_comes_back(marks in "(__READ__|__WRITE__|__READ|x){0,3}", rest: Vec<u8>) {
            let value = [marks.as_bytes(), &rest].concat();
            for kind in [Kind::Read, Kind::Write] {
                let stored = stored(kind, &value);
                prop_assert_eq!(unmarked(Kind::Write, &stored), (kind, &value[..]));
            }
        }
    }
}
