//! What an entry asks for.

/// What an entry asks for: the part of a recipe that the others in the queue have to know.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// use lock_core::backend::Kind;
///
/// let writing = client.rw_lock("config")?.write().await?;
/// assert_eq!(client.queue("config")?.list().await?[0].kind, Kind::Write);
/// let reading = writing.downgrade().await?;
/// assert_eq!(client.queue("config")?.list().await?[0].kind, Kind::Read);
/// # Ok(()) }
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A mutex.
    Exclusive,
    /// An entry of another client in a layout that does not tell: a mutex's, or a candidate's.
    Unmarked,
    /// A read-write lock, for reading.
    Read,
    /// A read-write lock, for writing.
    Write,
    /// This many permits of a semaphore, at least one.
    Permits(u32),
    /// Leadership.
    Candidate,
    /// Being in a group.
    Member,
    /// Being at a double barrier.
    Party,
    /// A notification of a condition variable.
    Sleeper,
}

impl Kind {
    /// The kind as a word for keys and node names, of lower-case letters and digits; `None` for an unmarked one.
    ///
    /// # Examples
    /// ```
    /// # use lock_core::backend::Kind;
    /// assert_eq!(Kind::Permits(3).tag().as_deref(), Some("permits3"));
    /// assert_eq!(Kind::Unmarked.tag(), None);
    /// ```
    pub fn tag(self) -> Option<String> {
        Some(match self {
            Self::Unmarked => return None,
            Self::Exclusive => "lock".to_owned(),
            Self::Read => "read".to_owned(),
            Self::Write => "write".to_owned(),
            Self::Permits(permits) => format!("permits{permits}"),
            Self::Candidate => "candidate".to_owned(),
            Self::Member => "member".to_owned(),
            Self::Party => "party".to_owned(),
            Self::Sleeper => "sleeper".to_owned(),
        })
    }

    /// The kind that has this [tag](Self::tag).
    ///
    /// # Examples
    /// ```
    /// # use lock_core::backend::Kind;
    /// assert_eq!(Kind::from_tag("permits3"), Some(Kind::Permits(3)));
    /// assert_eq!(Kind::from_tag("permits03"), None, "another client's");
    /// ```
    pub fn from_tag(tag: &str) -> Option<Self> {
        Some(match tag {
            "lock" => Self::Exclusive,
            "read" => Self::Read,
            "write" => Self::Write,
            "candidate" => Self::Candidate,
            "member" => Self::Member,
            "party" => Self::Party,
            "sleeper" => Self::Sleeper,
            _ => {
                let digits = tag.strip_prefix("permits")?;
                let canonical = digits.starts_with(|first: char| matches!(first, '1'..='9'));
                Self::Permits(digits.parse().ok().filter(|_| canonical)?)
            }
        })
    }

    /// The recipe that uses it, as people call it.
    ///
    /// # Examples
    /// ```
    /// # use lock_core::backend::Kind;
    /// assert_eq!(Kind::Write.recipe(), "read-write lock");
    /// assert_eq!(Kind::Permits(3).recipe(), "semaphore");
    /// ```
    pub fn recipe(self) -> &'static str {
        match self {
            Self::Exclusive => "mutex",
            Self::Unmarked => "mutex or election of another client",
            Self::Read | Self::Write => "read-write lock",
            Self::Permits(_) => "semaphore",
            Self::Candidate => "election",
            Self::Member => "group",
            Self::Party => "double barrier",
            Self::Sleeper => "condition variable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_back_and_nothing_else_is_one() {
        for kind in [
            Kind::Exclusive,
            Kind::Read,
            Kind::Write,
            Kind::Permits(1),
            Kind::Permits(u32::MAX),
            Kind::Candidate,
            Kind::Member,
            Kind::Party,
            Kind::Sleeper,
        ] {
            assert_eq!(kind.tag().and_then(|tag| Kind::from_tag(&tag)), Some(kind));
        }
        for other in
            ["", "locks", "permits", "permits0", "permits01", "permits+1", "permits-1", "permits4294967296", "Read"]
        {
            assert_eq!(Kind::from_tag(other), None, "{other:?}");
        }
        assert_eq!(Kind::Unmarked.tag(), None);
    }
}
