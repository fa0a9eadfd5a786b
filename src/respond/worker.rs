//! Who does a responder's work: whoever asks, or, where it writes files or runs programs, a thread of its own.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use nix::sys::eventfd::EventFd;

use super::{Deed, Error, Held, Holdings, Prepared, Responder};
use crate::clock::Now;
use crate::policy::Ban;
use crate::source::{Source, Sources};

/// What a responder is to do, in the order of the fields.
#[derive(Default)]
pub struct Orders<'a> {
    /// Look whether all that it needs stands, and make it anew where it does not.
    pub look: bool,
    /// Let these through.
    pub spare: Option<Vec<IpNet>>,
    /// Lift everything, what nobody here knows of too.
    pub clear: bool,
    /// Lift these.
    pub lift: Vec<Source>,
    /// Make these hold.
    pub put: Vec<Cow<'a, Ban>>,
    /// Whether most of `put` may hold already, and there is nothing to tell of it.
    pub is_replay: bool,
    /// Whether `put` is all that should stand, so that nothing else has to be put back where what it needs is made anew.
    pub is_all: bool,
}

/// What became of [`Orders`].
#[derive(Debug, Default)]
pub struct Report {
    /// Whether what the responder needs had to be made anew, without the bans that stood there.
    pub made_anew: bool,
    /// Whether it could not be seen to, nor the friends be let through.
    pub is_unsound: bool,
    /// Those of `put` that do not hold.
    pub unenforced: Vec<Source>,
    /// Those of `lift` that may still hold.
    pub unlifted: Vec<Source>,
    /// Whether `clear` may have left something.
    pub is_not_clear: bool,
    /// What was done for each of `put` that holds; empty for a replay.
    pub deeds: Vec<(Source, Deed)>,
    /// What went wrong.
    pub errors: Vec<Error>,
    /// Whether bans of earlier orders were found to have been taken away by somebody.
    pub lost: bool,
    /// As the responder says it now.
    pub has_clock: bool,
}

impl Orders<'_> {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self {
            look,
            spare,
            clear,
            lift,
            put,
            is_replay: _,
            is_all: _,
        } = self;
        !look && spare.is_none() && !clear && lift.is_empty() && put.is_empty()
    }

    fn into_owned(self) -> Orders<'static> {
        let own = |ban: Cow<'_, Ban>| Cow::Owned(ban.into_owned());
        Orders {
            look: self.look,
            spare: self.spare,
            clear: self.clear,
            lift: self.lift,
            put: self.put.into_iter().map(own).collect(),
            is_replay: self.is_replay,
            is_all: self.is_all,
        }
    }

    /// Has `responder` do it. What fails does not keep the rest from being done.
    #[must_use]
    pub fn carry_out(&self, responder: &mut dyn Responder, now: Now) -> Report {
        let mut report = Report::default();
        let is_restored = self.look && self.is_all && self.is_replay && !self.clear;
        if is_restored {
            let (prepared, put) = responder.restore(&self.bans(), now);
            report.prepared(prepared, true);
            report.put(put, self);
        } else if self.look {
            report.prepared(responder.prepare(), self.is_all);
        }
        if let Some(friends) = &self.spare {
            if let Err(error) = responder.spare(friends) {
                report.unsound(error);
            }
        }
        if self.clear {
            if let Err(error) = responder.unban_all() {
                report.is_not_clear = true;
                report.errors.push(error);
            }
        }
        if !self.lift.is_empty() {
            if let Err(error) = responder.unban(&self.lift) {
                report.unlifted = error.of(|| self.lift.clone());
                report.errors.push(error);
            }
        }
        if !self.put.is_empty() && !is_restored {
            self.put(responder, now, &mut report);
        }
        report.lost = responder.take_lost();
        report.has_clock = responder.has_clock();
        report
    }

    fn bans(&self) -> Vec<&Ban> {
        self.put.iter().map(AsRef::as_ref).collect()
    }

    fn put(&self, responder: &mut dyn Responder, now: Now, report: &mut Report) {
        let bans = self.bans();
        let done = if self.is_replay {
            responder.replay(&bans, now)
        } else {
            responder.ban(&bans, now)
        };
        report.put(done, self);
        if !self.is_replay {
            let refused: HashSet<Source> = report.unenforced.iter().copied().collect();
            let holds = |ban: &&&Ban| !refused.contains(&ban.source);
            let deed = |ban: &&Ban| (ban.source, responder.deed(ban, now));
            report.deeds = bans.iter().filter(holds).map(deed).collect();
        }
    }
}

impl Report {
    /// What became of the look; `is_all`: nothing else has to be put back.
    fn prepared(&mut self, outcome: Result<Prepared, Error>, is_all: bool) {
        match outcome {
            Ok(prepared) => self.made_anew = prepared != Prepared::Adopted && !is_all,
            Err(error) => self.unsound(error),
        }
    }

    /// What became of the bans that were ordered.
    fn put(&mut self, outcome: Result<(), Error>, orders: &Orders<'_>) {
        if let Err(error) = outcome {
            self.unenforced = error.of(|| orders.put.iter().map(|ban| ban.source).collect());
            self.errors.push(error);
        }
    }

    fn unsound(&mut self, error: Error) {
        self.is_unsound = true;
        self.errors.push(error);
    }
}

/// Who does a responder's work.
pub enum Hands {
    /// Whoever asks: its work is a matter of microseconds, or nothing else is going on.
    Own(Box<dyn Responder>),
    /// A thread of its own.
    Thread(Worker),
}

/// Work under way on a thread.
pub struct UnderWay(Receiver<Report>);

/// What became of work that was begun.
pub enum Begun {
    /// It is done.
    Done(Report),
    /// It will be told when the bell has rung.
    UnderWay(UnderWay),
}

impl Hands {
    /// Has the work done, or begins it.
    pub fn begin(&mut self, orders: Orders<'_>, now: Now) -> Begun {
        match self {
            Self::Own(responder) => Begun::Done(orders.carry_out(responder.as_mut(), now)),
            Self::Thread(worker) => {
                let orders = orders.into_owned();
                let work = move |responder: &mut dyn Responder| orders.carry_out(responder, now);
                Begun::UnderWay(UnderWay(worker.begin(work)))
            }
        }
    }

    /// Has something else done, and waits for it no longer than `patience`; `None`: it is not done by then.
    pub fn ask<R: Send + 'static>(
        &mut self,
        patience: Duration,
        work: impl FnOnce(&mut dyn Responder) -> R + Send + 'static,
    ) -> Option<R> {
        match self {
            Self::Own(responder) => Some(work(responder.as_mut())),
            Self::Thread(worker) => {
                let answer = worker.begin(work).recv_timeout(patience).ok();
                if answer.is_none() {
                    self.give_up();
                }
                answer
            }
        }
    }

    /// Whether it was waited for in vain, and is not done yet with what it was at then. Nobody gains by waiting once more.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        match self {
            Self::Own(_) => false,
            Self::Thread(worker) => worker.done.load(Ordering::Acquire) < worker.given_up_at,
        }
    }

    /// It was waited for in vain.
    pub fn give_up(&mut self) {
        if let Self::Thread(worker) = self {
            worker.given_up_at = worker.begun.get();
        }
    }

    /// A job for another thread that lists all that the world holds of ours.
    #[must_use]
    pub fn holdings(&self) -> Option<Holdings> {
        match self {
            Self::Own(responder) => responder.holdings(),
            Self::Thread(worker) => {
                let reply = worker.begin(|responder| responder.holdings());
                Some(Box::new(move |known| list(&reply, known)))
            }
        }
    }
}

/// Lists by the job that the thread hands out when it comes to it.
fn list(reply: &Receiver<Option<Holdings>>, known: &Sources) -> Result<Vec<Held>, Error> {
    match reply.recv() {
        Ok(Some(job)) => job(known),
        // Nothing to list, or the daemon has stopped.
        Ok(None) | Err(_) => Ok(Vec::new()),
    }
}

impl UnderWay {
    /// What became of it; gives the work back while it is under way still.
    ///
    /// # Errors
    /// It is under way still.
    pub fn finish(self) -> Result<Option<Report>, Self> {
        match self.0.try_recv() {
            Ok(report) => Ok(Some(report)),
            Err(TryRecvError::Empty) => Err(self),
            Err(TryRecvError::Disconnected) => Ok(None),
        }
    }

    /// The same, and waits for it as long as `patience`.
    ///
    /// # Errors
    /// It is under way still.
    pub fn wait(self, patience: Duration) -> Result<Option<Report>, Self> {
        match self.0.recv_timeout(patience) {
            Ok(report) => Ok(Some(report)),
            Err(RecvTimeoutError::Timeout) => Err(self),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
        }
    }
}

/// A thread that does one responder's work, one thing after the other.
pub struct Worker {
    jobs: mpsc::Sender<Job>,
    bell: Arc<EventFd>,
    /// How many jobs it was given, and how many are over.
    begun: Cell<u64>,
    done: Arc<AtomicU64>,
    /// How many it had been given when somebody last waited in vain.
    given_up_at: u64,
}

type Job = Box<dyn FnOnce(&mut dyn Responder) + Send>;

impl Worker {
    /// Starts the thread, with the rights of the one that calls. It rings `bell` whenever it has done something.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(
        mut responder: Box<dyn Responder + Send>,
        bell: &Arc<EventFd>,
    ) -> io::Result<Self> {
        let (jobs, work) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name(responder.name().to_owned())
            .spawn(move || {
                for job in work {
                    job(responder.as_mut());
                }
            })?;
        Ok(Self {
            jobs,
            bell: Arc::clone(bell),
            begun: Cell::new(0),
            done: Arc::default(),
            given_up_at: 0,
        })
    }

    /// Queues work. Its answer comes out of the receiver, and nothing ever does if the thread has died of it.
    fn begin<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Responder) -> R + Send + 'static,
    ) -> Receiver<R> {
        let (send, reply) = mpsc::channel();
        self.begun.set(self.begun.get() + 1);
        let ring = Ring {
            bell: Arc::clone(&self.bell),
            done: Arc::clone(&self.done),
        };
        let job = move |responder: &mut dyn Responder| {
            // In this order also when the work panics: the bell rings when there is something to receive.
            let _ring = ring;
            let send = send;
            // Nobody may wait for it any more.
            let _ = send.send(work(responder));
        };
        // It can only fail when the thread has died, and then `send` is dropped with the job: the receiver says so.
        let _ = self.jobs.send(Box::new(job));
        reply
    }
}

/// Counts a job as done and rings when it goes.
struct Ring {
    bell: Arc<EventFd>,
    done: Arc<AtomicU64>,
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.done.fetch_add(1, Ordering::Release);
        // It can only fail when the counter is at its end, and then the descriptor is readable anyway.
        let _ = self.bell.write(1);
    }
}
