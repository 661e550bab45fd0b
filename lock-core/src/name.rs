//! Lock names, and how a name becomes one segment of a store's path.

use std::fmt;
use std::sync::Arc;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::error::{Error, Result};

/// Bytes a [`segment`](Name::segment) may have: what a file system, the strictest of the stores, allows in one file name.
const MAX_SEGMENT: usize = 255;

/// A validated lock name.
///
/// Any non-empty text is a name as long as its escaped form has at most 255 bytes. Backends store it as **one** path
/// segment, so that lock `a` never sees an entry of lock `a/b`.
///
/// # Examples
/// ```
/// use lock_core::Name;
///
/// let name = Name::new("tenants/7")?;
/// assert_eq!((name.as_str(), name.segment()), ("tenants/7", "tenants%2F7"));
/// assert!(Name::new("").is_err() && Name::new("x".repeat(256)).is_err());
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    raw: Arc<str>,
    segment: Arc<str>,
}

impl Name {
    /// Checks and escapes a name.
    ///
    /// # Errors
    /// [`Error::InvalidName`] when it is empty or longer than 255 bytes once escaped.
    ///
    /// # Examples
    /// ```
    /// # use lock_core::{Error, Name};
    /// assert_eq!(Name::new("größe 锁")?.as_str(), "größe 锁");
    /// let slashes = "/".repeat(100); // 300 bytes once escaped
    /// assert!(matches!(Name::new(slashes), Err(Error::InvalidName { .. })));
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let raw = name.as_ref();
        let invalid = |problem: String| Error::InvalidName { name: abbreviated(raw), problem };
        if raw.is_empty() {
            return Err(invalid("it is empty; give the lock a name of at least one character".into()));
        }
        let segment = escape(raw);
        if segment.len() > MAX_SEGMENT {
            return Err(invalid(format!(
                "it takes {} bytes once escaped, at most {MAX_SEGMENT} are allowed; shorten it or use a hash of it",
                segment.len()
            )));
        }
        Ok(Self { raw: raw.into(), segment: segment.into() })
    }

    /// The name whose [segment](Self::segment) this is; `None` when it is the segment of none.
    ///
    /// # Examples
    /// ```
    /// use lock_core::Name;
    ///
    /// assert_eq!(Name::from_segment("a%2Fb"), Some(Name::new("a/b")?));
    /// assert_eq!(Name::from_segment("a%2fb"), None, "hex digits are in upper case");
    /// assert_eq!(Name::from_segment("%record"), None);
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn from_segment(segment: &str) -> Option<Self> {
        let raw = percent_encoding::percent_decode_str(segment).decode_utf8().ok()?;
        Self::new(raw).ok().filter(|name| name.segment() == segment)
    }

    /// What the segments of all names that start with `prefix` start with, as far as that can be told.
    ///
    /// # Examples
    /// ```
    /// use lock_core::Name;
    ///
    /// assert_eq!(Name::common_segment("a/"), "a%2F");
    /// assert_eq!(Name::common_segment("."), "", "the name `.` is escaped, the name `.x` is not");
    /// ```
    pub fn common_segment(prefix: &str) -> String {
        if prefix == "." || prefix == ".." { String::new() } else { escape(prefix) }
    }

    /// The name as the user wrote it.
    ///
    /// # Examples
    /// ```
    /// # use lock_core::Name;
    /// assert_eq!(Name::new("50%")?.as_str(), "50%");
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn as_str(&self) -> &str {
        &self.raw
    }

    /// The name as one path segment that every store accepts.
    ///
    /// Escaped as `%XX` (UTF-8 bytes, upper-case hex): `/`, `%`, control characters, the code points that ZooKeeper
    /// refuses, and the names `.` and `..`. All else stands as it is, so a plain name is the one that other clients see.
    /// No segment starts with `%` followed by anything but two hex digits; backends keep their own nodes there.
    ///
    /// # Examples
    /// ```
    /// # use lock_core::Name;
    /// assert_eq!(Name::new("nightly-backup")?.segment(), "nightly-backup");
    /// assert_eq!(Name::new("50%/a")?.segment(), "50%25%2Fa");
    /// assert_eq!(Name::new("..")?.segment(), "%2E%2E");
    /// # Ok::<(), lock_core::Error>(())
    /// ```
    pub fn segment(&self) -> &str {
        &self.segment
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raw)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.raw, f)
    }
}

const ESCAPED: &AsciiSet = &CONTROLS.add(b'/').add(b'%');

fn escape(raw: &str) -> String {
    if raw == "." || raw == ".." {
        return raw.replace('.', "%2E");
    }
    let mut out = String::with_capacity(raw.len());
    for c in raw.chars() {
        let mut utf8 = [0; 4];
        let utf8 = c.encode_utf8(&mut utf8);
        if refused_by_zookeeper(c) {
            out.extend(utf8.bytes().map(percent_encoding::percent_encode_byte));
        } else if c.is_ascii() {
            out.extend(utf8_percent_encode(utf8, ESCAPED));
        } else {
            out.push(c);
        }
    }
    out
}

/// Beyond ASCII; see "data model" in ZooKeeper's programmer's guide. Characters above U+FFFF reach its server, which
/// is written in Java, as surrogate pairs and are refused as such.
fn refused_by_zookeeper(c: char) -> bool {
    matches!(c, '\u{80}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

/// Enough of a long text to recognise it in an error message.
pub(crate) fn abbreviated(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(name: &str) -> String {
        Name::new(name).unwrap().segment().to_owned()
    }

    #[test]
    fn plain_names_stand_as_they_are() {
        for name in ["nightly-backup", "a.b_c:d", "mit Leerzeichen", "größe", "锁", ".hidden", "..."] {
            assert_eq!(segment(name), name);
        }
    }

    #[test]
    fn what_a_store_would_misread_is_escaped() {
        for (name, want) in [
            ("a/b", "a%2Fb"),
            ("%", "%25"),
            ("a\0b", "a%00b"),
            ("\u{7f}", "%7F"),
            ("\u{85}", "%C2%85"),
            ("\u{e000}", "%EE%80%80"),
            ("\u{fff0}", "%EF%BF%B0"),
            ("🔒", "%F0%9F%94%92"),
            (".", "%2E"),
            ("..", "%2E%2E"),
        ] {
            assert_eq!(segment(name), want, "{name:?}");
        }
    }

    #[test]
    fn empty_and_overlong_names_are_refused_with_the_name_and_the_limit() {
        let error = Name::new("").unwrap_err().to_string();
        assert!(error.contains("empty"), "{error}");
        let error = Name::new("x".repeat(5000)).unwrap_err().to_string();
        assert!(error.contains("xxx…") && error.contains("255") && error.len() < 300, "{error}");
        assert!(Name::new("x".repeat(255)).is_ok());
    }

    proptest! {
        #[test]
        fn escaping_is_reversible_and_one_segment(name in "\\PC{1,60}|[\\x00-\\x7f]{1,60}") {
            if let Ok(n) = Name::new(&name) {
                let back = percent_encoding::percent_decode_str(n.segment()).decode_utf8().unwrap();
                prop_assert_eq!(back.as_ref(), name.as_str());
                prop_assert!(!n.segment().contains('/') && n.segment() != "." && n.segment() != "..");
                prop_assert!(!n.segment().chars().any(char::is_control));
                prop_assert_eq!(Name::from_segment(n.segment()), Some(n));
            }
        }

        #[test]
        fn a_segment_is_that_of_the_name_it_is_read_as(segment in "\\PC{0,20}|[%0-9A-Fa-f./]{0,12}|(%[0-9A-F]{2}){0,4}") {
            if let Some(name) = Name::from_segment(&segment) {
                prop_assert_eq!(name.segment(), segment);
            }
        }

        #[test]
        fn segments_start_as_their_prefixes_do(name in "[\\.]{1,3}|[./%a🔒\u{85}]{1,6}", at in 0..7_usize) {
            let prefix: String = name.chars().take(at).collect();
            let segment = Name::new(&name).unwrap().segment().to_owned();
            prop_assert!(segment.starts_with(&Name::common_segment(&prefix)), "{segment} {prefix}");
        }
    }
}
