//! A store of the test's own.

use super::*;

pub(crate) struct Directory(tempfile::TempDir);

impl Directory {
    pub(crate) fn new() -> Self {
        Self::of(Access::Owner)
    }

    pub(crate) fn of(access: Access) -> Self {
        let directory = tempfile::tempdir().unwrap();
        crate::backend::prepare(directory.path(), access).unwrap();
        Self(directory)
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// As a process of its own would see it.
    pub(crate) fn store(&self) -> Arc<Store> {
        self.store_of(Access::Owner)
    }

    pub(crate) fn store_of(&self, access: Access) -> Arc<Store> {
        Arc::new(Store::new(self.root().to_owned(), access))
    }
}

pub(crate) fn transact<T>(
    store: &Store,
    work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Failed>,
) -> Result<T, Failed> {
    store.transact(&Patience::until(Instant::now() + Duration::from_secs(10)), work)
}
