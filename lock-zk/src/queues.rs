//! The names of the queues below the chroot.

use lock_core::{Name, Result};
use zookeeper_client as zk;
use zookeeper_client::Client;

use crate::names::Place;
use crate::session::ZkSession;

pub(crate) const LIST_NAMES: &str = "list the names of the queues";

/// Directories listed at a time.
const LISTS: usize = 256;

impl ZkSession {
    pub(crate) async fn read_names(&self, client: &Client, prefix: &str) -> Result<Vec<Name>> {
        let chroot = self.chroot();
        let sync = client.sync(chroot);
        let list = client.list_children(chroot);
        let (synced, listed) = tokio::join!(sync, list);
        let segments = match synced.and(listed) {
            Ok(segments) => segments,
            Err(zk::Error::NoNode) => return Ok(Vec::new()),
            Err(error) => return Err(self.classify(LIST_NAMES, chroot, error)),
        };
        let names = segments.iter().filter_map(|segment| Name::from_segment(segment));
        let mut names: Vec<_> = names.filter(|name| name.as_str().starts_with(prefix)).collect();
        names.sort_unstable();
        let mut live = Vec::new();
        for some in names.chunks(LISTS) {
            // Sent when called, not when awaited.
            let list = |name: &Name| {
                let directory = self.path(name.segment());
                (client.list_children(&directory), directory)
            };
            let lists: Vec<_> = some.iter().map(|name| (name, list(name))).collect();
            for (name, (list, directory)) in lists {
                match list.await {
                    // Directories of any other use, such as `/zookeeper`, have other children.
                    Ok(children) => {
                        live.extend(children.iter().any(|child| Place::parse(child).is_some()).then(|| name.clone()))
                    }
                    Err(zk::Error::NoNode | zk::Error::NoAuth) => {}
                    Err(error) => return Err(self.classify(LIST_NAMES, &directory, error)),
                }
            }
        }
        Ok(live)
    }
}
