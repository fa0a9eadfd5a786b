//! History, read on a thread of its own at the start: what it holds is put back a portion at a time, between other events.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::thread;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tracing::warn;

use super::{Daemon, Error};
use crate::clock::{Now, Wall};
use crate::config::BanRules;
use crate::history::{self, History};
use crate::log::counted;
use crate::policy::{Ban, MAX_FORGIVEN, Past, most_past};
use crate::source::Source;

/// The thread's other end.
pub(super) struct Replay {
    portions: Receiver<Result<Portion, history::Error>>,
    /// Readable once for each portion.
    bell: Arc<EventFd>,
}

/// Some of what history holds.
enum Portion {
    /// Prefixes whose roll-up somebody has lifted, and when.
    Lifted(Vec<(Source, Wall)>),
    /// How many bans run.
    Coming(u64),
    /// Bans that run, and whether these are the last of them.
    Bans(Vec<Ban>, bool),
    /// Bans that are over, and count towards the length of the next.
    Pasts(Vec<(Source, Past)>),
    /// That was all.
    End,
}

/// Bans, or sources with a past, that are put back between two looks at other events.
const SLICE: usize = 4096;

/// How long each further portion of a short history is waited for.
const A_MOMENT: Duration = Duration::from_millis(200);

/// Portions that wait.
const AHEAD: usize = 2;

impl Replay {
    /// Begins to read: first who is banned, then who was, as far as that is remembered by these rules.
    pub(super) fn start(history: Option<History>, rules: &BanRules) -> io::Result<Self> {
        let (memory, most_past) = (rules.memory, most_past(rules));
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_SEMAPHORE;
        let bell = Arc::new(EventFd::from_flags(flags)?);
        let (send, portions) = mpsc::sync_channel(AHEAD);
        let reader = Reader {
            send,
            bell: Arc::clone(&bell),
        };
        thread::Builder::new()
            .name("replay".to_owned())
            .spawn(move || {
                let read = match history {
                    Some(history) => reader.read(&history, memory, most_past),
                    None => {
                        reader.send(Ok(Portion::Bans(Vec::new(), true)));
                        Ok(())
                    }
                };
                reader.send(read.map(|()| Portion::End));
            })?;
        Ok(Self { portions, bell })
    }

    /// Readable when there is a portion.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// The thread's side.
struct Reader {
    send: SyncSender<Result<Portion, history::Error>>,
    bell: Arc<EventFd>,
}

impl Reader {
    fn read(
        &self,
        history: &History,
        memory: Option<Duration>,
        most_past: usize,
    ) -> Result<(), history::Error> {
        // A scan that comes meanwhile would hide the ban that it replaces.
        history.hold_still()?;
        // Before the bans, for some of them do not count towards a roll-up then.
        let lifted = history.rollups_lifted(MAX_FORGIVEN)?;
        if !lifted.is_empty() {
            self.send(Ok(Portion::Lifted(lifted)));
        }
        let (beginning, count) = history.beginning(Now::read().wall)?;
        self.send(Ok(Portion::Coming(count)));
        let mut cursor = Some(beginning);
        while let Some(from) = cursor {
            let slice = history.active(Now::read(), from, SLICE)?;
            if slice.unreadable > 0 {
                warn!(
                    "history: {} left out",
                    counted(
                        slice.unreadable,
                        "ban cannot be read, and is",
                        "bans cannot be read, and are"
                    )
                );
            }
            cursor = slice.next;
            self.send(Ok(Portion::Bans(slice.bans, cursor.is_none())));
        }
        let now = Now::read().wall;
        let mut pasts = Vec::new();
        for past in history.past(now, memory, most_past)? {
            let runs_still = past.last_end.is_none_or(|end| end > now);
            let count = past.bans.saturating_sub(u32::from(runs_still));
            let last_end = past.last_end.map_or(now, |end| end.min(now));
            if count > 0 {
                pasts.push((past.source, Past { count, last_end }));
            }
            if pasts.len() == SLICE {
                self.send(Ok(Portion::Pasts(std::mem::take(&mut pasts))));
            }
        }
        self.send(Ok(Portion::Pasts(pasts)));
        Ok(())
    }

    /// Waits until there is room. The daemon may have stopped meanwhile: then nobody wants to know.
    fn send(&self, portion: Result<Portion, history::Error>) {
        let _ = self.send.send(portion);
        let _ = self.bell.write(1);
    }
}

impl Daemon {
    /// Whether bans of history are still missing.
    pub(super) fn is_replaying(&self) -> bool {
        self.ready_at.is_none()
    }

    /// Puts the first portion back, for which nothing else is waited for; where that was all bans, what is over has a moment too.
    /// So most hosts have all of history back before anything happens.
    pub(super) fn replay_first(&mut self, now: Now) -> Result<(), Error> {
        let mut patience = Duration::MAX;
        while let Some(replay) = &self.replay {
            match replay.portions.recv_timeout(patience) {
                Ok(Ok(first @ (Portion::Lifted(_) | Portion::Coming(_)))) => {
                    self.put_back(first, now)?;
                    continue;
                }
                Ok(portion) => self.put_back(portion?, now)?,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Err(has_died()),
            }
            if self.is_replaying() {
                break;
            }
            patience = A_MOMENT;
        }
        Ok(())
    }

    /// Puts the next portion back, if it is there.
    pub(super) fn replay_some(&mut self, now: Now) -> Result<(), Error> {
        let Some(replay) = &self.replay else {
            return Ok(());
        };
        // Nothing to read is fine.
        let _ = replay.bell.read();
        match replay.portions.try_recv() {
            Ok(portion) => self.put_back(portion?, now),
            Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Disconnected) => Err(has_died()),
        }
    }

    /// Puts all bans back that are still missing: what history has to say comes first, or it would undo what is decided now.
    pub(super) fn finish_replay(&mut self, now: Now) -> Result<(), Error> {
        while let Some(replay) = self.replay.as_ref().filter(|_| self.is_replaying()) {
            let portion = replay.portions.recv().map_err(|_| has_died())?;
            self.put_back(portion?, now)?;
        }
        Ok(())
    }

    fn put_back(&mut self, portion: Portion, now: Now) -> Result<(), Error> {
        match portion {
            Portion::Lifted(lifted) => self.engine.forgive(&lifted),
            Portion::Coming(count) => self.engine.make_room(count),
            Portion::Bans(bans, are_last) => {
                self.engine.replay(bans, now);
                if are_last {
                    self.ready(now)?;
                }
            }
            Portion::Pasts(pasts) => self.engine.remember(pasts, now),
            // The descriptor is closed with it, which takes it out of the epoll set.
            Portion::End => self.replay = None,
        }
        Ok(())
    }
}

fn has_died() -> Error {
    Error::thread("read history")(io::Error::other("its thread has died"))
}
