//! The vocabulary of a proxy's faults.

#[cfg(doc)]
use super::Proxy;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From clients to the server.
    ToServer,
    /// From the server to clients.
    ToClient,
}

impl Direction {
    pub(super) fn opposite(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}

/// What the proxy does with the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Passes them on, those held before first.
    #[default]
    Pass,
    /// Keeps them, in order, until the mode is [`Pass`](Self::Pass); a peer's close is kept as well.
    Hold,
    /// Loses them, and those held before. A peer's close is kept until the mode is [`Pass`](Self::Pass), so that it is
    /// not the one thing that gets through.
    Discard,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// In order: the peer reads an end of file.
    Fin,
    /// By a reset: the peer gets an error, and bytes not sent yet are lost.
    Rst,
}

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The one that connected to the proxy.
    Client,
    /// The one that the proxy connected to.
    Server,
}

/// What a trigger does; the same as the proxy's method of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// [`Proxy::set`].
    Set(Direction, Mode),
    /// [`Proxy::cut`].
    Cut(Cut),
    /// [`Proxy::cut_one`].
    CutOne(Peer, Cut),
}

/// Which chunk of bytes sets off a trigger, where a chunk is what the proxy reads at once: up to 64 KiB, usually one
/// write of the sender. Only chunks that arrive after the trigger was armed count, those of all connections together.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum When {
    /// The `n`-th chunk; 1 is the next.
    Chunk(u64),
    /// The chunk with the `n`-th byte; 1 is the next.
    Byte(u64),
    /// The first chunk that contains these bytes, for example a key. It is the way to pick a request out of heartbeats,
    /// and, where a protocol sends several frames for a request, the frame that matters.
    Contains(Vec<u8>),
}

impl When {
    /// Whether this is the chunk; counts it otherwise.
    pub(super) fn matches(&mut self, chunk: &[u8]) -> bool {
        let (left, step) = match self {
            Self::Chunk(left) => (left, 1),
            Self::Byte(left) => (left, chunk.len() as u64),
            Self::Contains(bytes) => {
                return bytes.is_empty() || chunk.windows(bytes.len()).any(|window| window == bytes);
            }
        };
        *left = left.saturating_sub(step);
        *left == 0
    }
}
