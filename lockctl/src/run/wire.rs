//! What `lockctl` and its warden tell each other, and the channel for it.
//!
//! The channel is a pair of sockets that keep messages apart; the end of one process is the end of the channel.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use rustix::process::WaitStatus;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How the warden is to begin. Comes with the command's standard input and, where there is one, the lock's lifeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    /// Until when the lock is proven to be held, in nanoseconds of `CLOCK_BOOTTIME`.
    pub(crate) until: u64,
    pub(crate) grace_ms: u64,
    pub(crate) margin_ms: u64,
    /// Whether the command gets the terminal.
    pub(crate) foreground: bool,
}

/// What `lockctl` tells the warden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The lock is now proven to be held until then.
    Until(u64),
    /// Pass this signal on to the command.
    Pass(i32),
    /// Let a stopped command go on, and say so.
    Resume,
    /// Ask the command to end, then end it.
    Terminate,
    /// End the command now.
    Kill,
}

/// What the warden tells `lockctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The command's process, and process group.
    Started(i32),
    /// The command was stopped by this signal.
    Stopped(i32),
    /// What was reported before came before [`Order::Resume`].
    Resumed,
    /// The lock may soon be another's, so the command was asked to end.
    Ending,
    /// The command itself has ended; others that it started may be left.
    Ended(Outcome),
    /// So many processes that it started are left, and were asked to end.
    Left(usize),
    /// Nothing of it is left.
    Alone,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Exited(u8),
    Signaled(i32),
}

impl Outcome {
    /// `None` while the process has not ended.
    pub(crate) fn of(status: WaitStatus) -> Option<Self> {
        let exited = status.exit_status().map(|code| Self::Exited(u8::try_from(code).unwrap_or(u8::MAX)));
        exited.or_else(|| status.terminating_signal().map(Self::Signaled))
    }
}

/// One end of the channel.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// More than any message has.
const LONGEST: usize = 512;

impl Channel {
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(a), b))
    }

    pub(crate) const fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Sends a message without waiting. `WouldBlock` when the other end has not read what was sent before.
    pub(crate) fn send(&self, message: &impl Serialize) -> io::Result<()> {
        send(&self.0, &serde_json::to_vec(message)?, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next message that has arrived; `None` at the end of the other process. `WouldBlock` when there is none yet.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        let mut buffer = [0; LONGEST];
        let length = loop {
            match recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
                // Told once, when the other process ended with messages unread; its own last ones are still to come.
                Err(Errno::CONNRESET) => {}
                received => break received?.0,
            }
        };
        if length == 0 { Ok(None) } else { Ok(Some(serde_json::from_slice(&buffer[..length])?)) }
    }

    /// Tells when messages have arrived.
    pub(crate) fn arrivals(&self) -> io::Result<tokio::net::UnixStream> {
        let socket = std::os::unix::net::UnixStream::from(self.0.try_clone()?);
        socket.set_nonblocking(true)?;
        tokio::net::UnixStream::from_std(socket)
    }

    /// Sends the first message, and files with it.
    pub(crate) fn send_start(&self, start: &Start, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let message = serde_json::to_vec(start)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(Errno::NOBUFS.into());
        }
        sendmsg(&self.0, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for the first message, and the files with it; `None` at the end of the other process.
    pub(crate) fn receive_start(&self) -> io::Result<Option<(Start, Vec<OwnedFd>)>> {
        let mut buffer = [0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let start = serde_json::from_slice(&buffer[..received.bytes])?;
        let files = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => files.collect(),
            _ => Vec::new(),
        });
        Ok(Some((start, files.collect())))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn messages_arrive_one_by_one_until_the_other_end_is_gone() {
        let (here, there) = Channel::pair().unwrap();
        let there = Channel::new(there);
        let nothing = there.receive::<Order>().unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        for order in [Order::Until(u64::MAX), Order::Pass(15), Order::Kill] {
            here.send(&order).unwrap();
        }
        assert_eq!(there.receive().unwrap(), Some(Order::Until(u64::MAX)));
        assert_eq!(there.receive().unwrap(), Some(Order::Pass(15)));
        drop(here);
        assert_eq!(there.receive().unwrap(), Some(Order::Kill));
        assert_eq!(there.receive::<Order>().unwrap(), None);
        assert!(there.send(&Report::Alone).is_err());
    }

    #[test]
    fn the_last_messages_arrive_from_one_that_ended_without_reading() {
        let (here, there) = Channel::pair().unwrap();
        let there = Channel::new(there);
        here.send(&Order::Until(1)).unwrap();
        there.send(&Report::Ended(Outcome::Exited(0))).unwrap();
        there.send(&Report::Alone).unwrap();
        drop(there);
        assert_eq!(here.receive().unwrap(), Some(Report::Ended(Outcome::Exited(0))));
        assert_eq!(here.receive().unwrap(), Some(Report::Alone));
        assert_eq!(here.receive::<Report>().unwrap(), None);
    }

    #[test]
    fn the_first_message_brings_files() {
        for texts in [&["input"][..], &["input", "lifeline"]] {
            let (here, there) = Channel::pair().unwrap();
            let files = texts.iter().map(|text| {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(text.as_bytes()).unwrap();
                io::Seek::rewind(&mut file).unwrap();
                file
            });
            let files: Vec<_> = files.collect();
            let start = Start { until: u64::MAX, grace_ms: u64::MAX, margin_ms: u64::MAX, foreground: true };
            here.send_start(&start, &files.iter().map(AsFd::as_fd).collect::<Vec<_>>()).unwrap();
            let (got, files) = Channel::new(there).receive_start().unwrap().unwrap();
            assert_eq!((got.until, got.foreground), (u64::MAX, true));
            let read = |file| io::read_to_string(std::fs::File::from(file)).unwrap();
            assert_eq!(files.into_iter().map(read).collect::<Vec<_>>(), texts);
        }
    }
}
