//! The conformance suite's link, through a proxy.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::conformance::{self, Link};

use crate::{Action, Cut, Direction, Mode, Proxy, When};

/// A link between a contender and one server that breaks on command.
#[derive(Clone, Debug)]
pub struct ProxyLink(Arc<Proxy>);

/// After a request has reached the server, the time it gets to apply it before its reply is lost for good.
const TO_APPLY: Duration = Duration::from_millis(200);

impl ProxyLink {
    /// A link through `proxy`.
    pub fn new(proxy: Proxy) -> Self {
        Self(Arc::new(proxy))
    }

    /// The proxy.
    pub fn proxy(&self) -> &Proxy {
        &self.0
    }
}

fn cut(how: conformance::Cut) -> Cut {
    match how {
        conformance::Cut::Fin => Cut::Fin,
        conformance::Cut::Rst => Cut::Rst,
    }
}

#[async_trait]
impl Link for ProxyLink {
    async fn hold(&self) {
        self.0.set_both(Mode::Hold);
    }

    async fn resume(&self) {
        self.0.set_both(Mode::Pass);
    }

    async fn cut(&self, how: conformance::Cut) {
        self.0.cut(cut(how)).await.unwrap_or_else(|error| panic!("{error}"));
    }

    async fn lose_next_reply(&self, lock: &str, how: conformance::Cut) {
        let request = When::Contains(lock.as_bytes().to_vec());
        let silence = Action::Set(Direction::ToClient, Mode::Hold);
        let sent = self.0.after(Direction::ToServer, request, silence);
        let proxy = self.0.clone();
        tokio::spawn(async move {
            // Without a request there is nothing to lose, and the test will say what it misses.
            if sent.fired().await.is_ok() {
                tokio::time::sleep(TO_APPLY).await;
                let _ = proxy.cut(cut(how)).await;
                proxy.set(Direction::ToClient, Mode::Pass);
            }
        });
    }
}
