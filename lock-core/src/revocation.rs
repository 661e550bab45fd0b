//! How a holder is asked to let go: by a mark in the value of its entry, as Curator's `Revoker` does it.

use crate::error::{Error, Result};
use crate::name::Name;
use crate::owner::MAX_METADATA;

/// What Curator writes, and all it writes. This library puts it before the value, which people still want to see.
const MARK: &[u8] = b"__REVOKE__";

/// Whether a value says that its owner is asked to let go.
pub(crate) fn is_asked(value: &[u8]) -> bool {
    value.starts_with(MARK)
}

/// The value that asks its owner to let go.
pub(crate) fn ask(value: &[u8]) -> Vec<u8> {
    if is_asked(value) { value.to_vec() } else { [MARK, value].concat() }
}

/// The value without the mark.
pub(crate) fn plain(value: &[u8]) -> &[u8] {
    value.strip_prefix(MARK).unwrap_or(value)
}

/// A value for an entry to show, if every server can keep it in memory and it cannot be taken for a request to let go.
pub(crate) fn checked(name: &Name, value: &[u8]) -> Result<Vec<u8>> {
    if value.len() > MAX_METADATA {
        return Err(Error::ValueTooLarge { name: name.to_string(), size: value.len(), limit: MAX_METADATA });
    }
    if is_asked(value) {
        return Err(Error::InvalidConfig {
            setting: format!("value for {name:?}"),
            value: String::from_utf8_lossy(MARK).into_owned(),
            expected: "one that does not begin so: that is how an owner is asked to let go".into(),
        });
    }
    Ok(value.to_vec())
}

/// A new value that still asks if the old one did.
pub(crate) fn keep(old: &[u8], new: &[u8]) -> Vec<u8> {
    if is_asked(old) { ask(new) } else { new.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_too_large_or_a_request_is_refused() {
        let name = Name::new("l").unwrap();
        assert_eq!(checked(&name, &[7; 4096]).unwrap(), [7; 4096]);
        let error = checked(&name, &[7; 4097]).unwrap_err();
        assert!(matches!(error, Error::ValueTooLarge { size: 4097, limit: 4096, .. }), "{error}");
        let error = checked(&name, &ask(b"me")).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    }

    #[test]
    fn the_mark_is_curators_and_stands_before_the_value() {
        assert!(is_asked(b"__REVOKE__"));
        assert_eq!(ask(b"me"), b"__REVOKE__me");
        assert_eq!(ask(&ask(b"me")), ask(b"me"));
        assert_eq!(plain(&ask(b"me")), b"me");
        assert_eq!(plain(b"me"), b"me");
        assert_eq!(keep(&ask(b"old"), b"new"), b"__REVOKE__new");
        assert_eq!(keep(b"old", b"new"), b"new");
    }
}
