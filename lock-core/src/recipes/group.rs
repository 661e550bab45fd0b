//! Who is there: members that show a value as long as they live.

use std::sync::Arc;

use tokio::sync::watch;

use crate::backend::Kind;
use crate::client::Client;
use crate::decision::of_own_recipe;
use crate::error::{Error, Loss, Result};
use crate::guard::{Guard, Release};
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::{Place, Queue, QueueWatch};
use crate::recipes::Named;
use crate::recipes::persistent::{Held, Persistent};
use crate::record;
use crate::revocation;

const GROUP: &str = "group";

/// A group of members that everybody can list and follow, such as the live instances of a service.
///
/// Each member shows a value. It is seen while its session lives, and no longer than a ttl after its process has died.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let workers = client.group("workers")?;
/// let _one = workers.join("10.0.0.1:7000").await?;
/// let _two = workers.join("10.0.0.2:7000").await?; // in any process
/// let values = workers.members().await?.into_iter().map(|member| member.value);
/// assert!(values.eq([b"10.0.0.1:7000", b"10.0.0.2:7000"]));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Group {
    named: Named,
}

/// One who is in a group.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let membership = client.group("workers")?.join("10.0.0.1:7000").await?;
/// let member = client.group("workers")?.members().await?.remove(0);
/// assert_eq!(Some(&member.id), membership.id().as_ref());
/// assert_eq!(member.owner.map(|owner| owner.pid), Some(std::process::id()));
/// # Ok(()) }
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Unlike that of every other member, also of the same one before it was registered anew.
    pub id: String,
    /// Grows from one registration in this group to the next; `None` where the listing does not tell.
    pub token: Option<u64>,
    /// The value that it shows.
    pub value: Vec<u8>,
    /// Who it is; `None` for other kinds of clients.
    pub owner: Option<Owner>,
    /// The session that owns it, as the store's own tools show it.
    pub session: String,
}

/// A group, from one change to the next.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let workers = client.group("workers")?;
/// let mut watch = workers.watch();
/// let _member = workers.join("10.0.0.1:7000").await?;
/// while watch.next().await?.is_empty() {} // until somebody is there to do the work
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct GroupWatch {
    group: Group,
    watch: QueueWatch,
}

/// Being in a group: registered, and again by itself after every loss, until it is left or dropped, or the client is closed.
///
/// # Examples
/// ```
/// # #[tokio::main] async fn main() -> lock_core::Result<()> {
/// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
/// let workers = client.group("workers")?;
/// let membership = workers.join("10.0.0.1:7000").await?; // to be kept as long as it works
/// assert!(membership.id().is_some());
/// membership.leave().await;
/// assert!(workers.members().await?.is_empty());
/// # Ok(()) }
/// ```
#[must_use = "the group is left when this is dropped"]
#[derive(Debug)]
pub struct Membership {
    group: Group,
    inner: Persistent<Registration>,
    wanted: watch::Sender<Wanted>,
    shown: watch::Receiver<Shown>,
}

/// The value that a member wants to show.
#[derive(Clone, Debug)]
struct Wanted {
    /// Counts the values.
    version: u64,
    value: Vec<u8>,
}

/// What became of the value that was written last.
#[derive(Debug)]
struct Shown {
    version: u64,
    outcome: Result<()>,
}

impl Group {
    pub(crate) fn new(client: Client, name: Name) -> Self {
        Self { named: Named::new(client, name) }
    }

    /// The group's name.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// assert_eq!(client.group("workers")?.name(), "workers");
    /// # Ok(()) }
    /// ```
    pub fn name(&self) -> &str {
        self.named.name.as_str()
    }

    /// Joins the group, showing this value of at most 4 KiB. Returns when everybody can see it.
    ///
    /// # Errors
    /// As [`Mutex::lock`](crate::Mutex::lock); [`Error::ValueTooLarge`]; [`Error::InvalidConfig`] for a value that begins with
    /// `__REVOKE__`; [`Error::OtherRecipe`] when the name is in use by another recipe. What goes wrong later,
    /// [`Membership::trouble`] tells.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let group = client.group("workers")?;
    /// let membership = group.join("10.0.0.1:7000").await?;
    /// for member in group.members().await? {
    ///     println!("{} {:?}", member.id, String::from_utf8_lossy(&member.value));
    /// }
    /// membership.update("10.0.0.1:7001").await?;
    /// assert_eq!(group.members().await?[0].value, b"10.0.0.1:7001");
    /// membership.leave().await;
    /// # Ok(()) }
    /// ```
    pub async fn join(&self, value: impl AsRef<[u8]>) -> Result<Membership> {
        let value = revocation::checked(&self.named.name, value.as_ref())?;
        let (wanted, to_show) = watch::channel(Wanted { version: 0, value });
        let (has_shown, shown) = watch::channel(Shown { version: 0, outcome: Ok(()) });
        let has_shown = Arc::new(has_shown);
        let register = {
            let named = self.named.clone();
            move || {
                let registering = register(named.clone(), to_show.clone(), has_shown.clone());
                let client = named.client.clone();
                async move { client.while_wanted(registering).await }
            }
        };
        let first = register().await?;
        let inner = Persistent::start(&self.named.client, self.name(), Some(first), register);
        Ok(Membership { group: self.clone(), inner, wanted, shown })
    }

    /// Everybody in the group, in the order in which they were registered.
    ///
    /// # Errors
    /// As [`Client::entries`], and [`Error::OtherRecipe`].
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let workers = client.group("workers")?;
    /// assert!(workers.members().await?.is_empty());
    /// let _membership = workers.join("10.0.0.1:7000").await?;
    /// assert_eq!(workers.members().await?[0].value, b"10.0.0.1:7000");
    /// # Ok(()) }
    /// ```
    pub async fn members(&self) -> Result<Vec<Member>> {
        let queue = Queue::new(self.named.client.clone(), self.named.name.clone());
        self.as_members(queue.list().await?)
    }

    /// The members now, and again whenever one has come or gone or shows another value.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let group = client.group("workers")?;
    /// let mut watch = group.watch();
    /// assert!(watch.next().await?.is_empty());
    /// let membership = group.join("idle").await?;
    /// assert_eq!(watch.next().await?[0].value, b"idle");
    /// membership.update("busy").await?;
    /// assert_eq!(watch.next().await?[0].value, b"busy");
    /// membership.leave().await;
    /// assert!(watch.next().await?.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn watch(&self) -> GroupWatch {
        let queue = Queue::new(self.named.client.clone(), self.named.name.clone());
        GroupWatch { group: self.clone(), watch: queue.watch() }
    }

    fn as_members(&self, places: Vec<Place>) -> Result<Vec<Member>> {
        let members = of_own_recipe(places, Kind::Member, |place| place.kind);
        let members = members.map_err(|found| record::other_recipe(&self.named.name, Kind::Member, found))?;
        Ok(members.into_iter().map(Member::from).collect())
    }
}

impl GroupWatch {
    /// The members: the first time at once, then when something has changed. Goes on through lost connections and sessions.
    /// Changes that come close together are seen as one.
    ///
    /// # Errors
    /// Those that asking again does not help against, such as [`Error::AccessDenied`] and [`Error::OtherRecipe`].
    ///
    /// # Cancel safety
    /// No change is missed by dropping it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// # let workers = client.group("workers")?;
    /// let mut watch = workers.watch();
    /// assert!(watch.next().await?.is_empty()); // at once
    /// let membership = workers.join("10.0.0.1:7000").await?;
    /// assert_eq!(watch.next().await?.len(), 1);
    /// drop(membership);
    /// assert!(watch.next().await?.is_empty());
    /// # Ok(()) }
    /// ```
    pub async fn next(&mut self) -> Result<Vec<Member>> {
        self.group.as_members(self.watch.next().await?)
    }
}

impl Membership {
    /// The group.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let membership = client.group("workers")?.join("10.0.0.1:7000").await?;
    /// assert_eq!(membership.group().name(), "workers");
    /// # Ok(()) }
    /// ```
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The [id](Member::id) under which it is registered at this moment, as far as this client can know; `None` while it is not
    /// registered. Synchronous, without I/O.
    ///
    /// It changes with every registration. To be recognised for longer, show a name of your own in the value.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let membership = client.group("workers")?.join("10.0.0.1:7000").await?;
    /// let members = membership.group().members().await?;
    /// let mine = members.iter().position(|member| Some(&member.id) == membership.id().as_ref());
    /// assert_eq!(mine, Some(0)); // this one's share of the work, of `members.len()` shares
    /// # Ok(()) }
    /// ```
    pub fn id(&self) -> Option<String> {
        self.inner.current().map(|registration| registration.guard.entry().id())
    }

    /// Resolves with the [id](Self::id) when it has changed since this was asked last. Changes that come close together are
    /// seen as one.
    ///
    /// # Errors
    /// [`Error::Lost`] when the client was closed, from then on for ever.
    ///
    /// # Cancel safety
    /// No change is missed by dropping it.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> lock_core::Result<()> {
    /// # let store = lock_core::memory::Memory::new();
    /// # let clock = lock_core::clock::TokioClock::new();
    /// # let client = lock_core::Client::builder(store.clone()).clock(clock);
    /// # let client = client.runtime(tokio::runtime::Handle::current()).connect().await?;
    /// let mut membership = client.group("workers")?.join("10.0.0.1:7000").await?;
    /// let first = membership.id();
    /// store.expire_session(&client.session_id().await?); // it was out of reach for too long
    /// assert_eq!(membership.changed().await?, None);
    /// let second = membership.changed().await?; // registered anew
    /// assert!(second.is_some() && second != first);
    /// # Ok(()) }
    /// ```
    pub async fn changed(&mut self) -> Result<Option<String>> {
        let registration = self.inner.changed().await?;
        Ok(registration.map(|registration| registration.guard.entry().id()))
    }

    /// Shows another value of at most 4 KiB, from now on and after every registration to come. Returns when everybody can see
    /// it, or a later one: while the member is not registered, it waits until it is.
    ///
    /// # Errors
    /// [`Error::ValueTooLarge`], and [`Error::InvalidConfig`] for a value that begins with `__REVOKE__`. What the store refuses;
    /// the value stands for registrations to come. [`Error::Lost`] when the client was closed.
    ///
    /// # Cancel safety
    /// The value is shown all the same.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let workers = client.group("workers")?;
    /// let membership = workers.join("idle").await?;
    /// membership.update("busy").await?;
    /// assert_eq!(workers.members().await?[0].value, b"busy", "everybody can see it");
    /// # Ok(()) }
    /// ```
    pub async fn update(&self, value: impl AsRef<[u8]>) -> Result<()> {
        let value = revocation::checked(&self.group.named.name, value.as_ref())?;
        let mut mine = 0;
        self.wanted.send_modify(|wanted| {
            mine = wanted.version + 1;
            *wanted = Wanted { version: mine, value };
        });
        let mut shown = self.shown.clone();
        match shown.wait_for(|shown| shown.version >= mine).await {
            Ok(shown) if shown.version == mine => shown.outcome.clone(),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Lost { lock: self.group.name().to_owned(), loss: Loss::Closed }),
        }
    }

    /// Why it could not be registered again, while it is not. It goes on trying, with growing pauses of up to a second; up to
    /// ten when that is not expected to help.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// let membership = client.group("workers")?.join("10.0.0.1:7000").await?;
    /// if let Some(error) = membership.trouble() {
    ///     println!("nobody can see this one at the moment: {error}");
    /// }
    /// # assert!(membership.trouble().is_none());
    /// # Ok(()) }
    /// ```
    pub fn trouble(&self) -> Option<Error> {
        self.inner.trouble()
    }

    /// Leaves the group and waits for the store's answer, as [`Guard::release`]; [`Release::NotHeld`] when it was not
    /// registered.
    ///
    /// # Cancel safety
    /// The group is left all the same.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main] async fn main() -> lock_core::Result<()> {
    /// # let client = lock_core::Client::connect(lock_core::memory::Memory::new()).await?;
    /// use lock_core::Release;
    ///
    /// let membership = client.group("workers")?.join("10.0.0.1:7000").await?;
    /// assert_eq!(membership.leave().await, Release::Released);
    /// assert!(client.group("workers")?.members().await?.is_empty());
    /// # Ok(()) }
    /// ```
    pub async fn leave(self) -> Release {
        self.inner.close().await
    }
}

impl From<Place> for Member {
    fn from(place: Place) -> Self {
        let Place { token, value, owner, session, entry, .. } = place;
        Self { id: entry.id(), token, value, owner, session }
    }
}

/// An entry in the group, and the values that it is to show.
#[derive(Debug)]
struct Registration {
    guard: Guard,
    /// The value that it was registered with.
    version: u64,
    wanted: watch::Receiver<Wanted>,
    shown: Arc<watch::Sender<Shown>>,
}

async fn register(
    named: Named,
    wanted: watch::Receiver<Wanted>,
    shown: Arc<watch::Sender<Shown>>,
) -> Result<Registration> {
    let Wanted { version, value } = wanted.borrow().clone();
    let request = crate::acquire::Request::new(&named.name, Kind::Member, value);
    let guard = named.wait(Ok(request), |guard, _| guard).await?;
    // Another recipe may be kept beside an empty queue.
    if let Err(error) = record::read(guard.live(), &named.name, GROUP).await {
        guard.release().await;
        return Err(error);
    }
    Ok(Registration { guard, version, wanted, shown })
}

impl Registration {
    async fn show(&self, value: &[u8]) -> Result<()> {
        self.guard.show(value).await?;
        // Whoever follows the group does not watch each member.
        record::count_change(self.guard.live(), self.guard.lock()).await
    }
}

impl Held for Registration {
    fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Shows each new value, until it is lost.
    async fn attend(&self) {
        let mut wanted = self.wanted.clone();
        let mut version = self.version;
        self.shown.send_replace(Shown { version, outcome: Ok(()) });
        loop {
            let now = wanted.borrow_and_update().clone();
            if now.version != version {
                let outcome = self.show(&now.value).await;
                if self.guard.check().is_err() {
                    return;
                }
                version = now.version;
                self.shown.send_replace(Shown { version, outcome });
            }
            tokio::select! {
                biased;
                _ = self.guard.lost() => return,
                // An error means that nobody can want another value any more.
                Ok(()) = wanted.changed() => {}
            }
        }
    }
}
