//! The thread that writes history, so that no disk is in the way of a ban.
//!
//! Records are queued in order and written in batches; the event loop hears through an eventfd how far the disk has come,
//! and holds back what it promised until then. What the disk refuses is kept and tried again. What to record is the
//! engine's business.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::text::{TextFiles, local_zone};
use super::{Error, History, Record};
use crate::clock::Wall;
use crate::policy::{Ban, Origin};

/// How many records a [`Recorder`] takes, in order. Zero: none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// The queue is full, since the disk does not keep up or refuses to write. The record was not taken.
#[derive(Debug, thiserror::Error)]
#[error("history is behind: {} records wait for the disk", Recorder::QUEUE)]
pub struct Full;

/// What a stop left unwritten.
#[derive(Debug, thiserror::Error)]
#[error("{records} records did not reach history: {}", trouble.as_deref().unwrap_or("the disk is too slow"))]
pub struct Unwritten {
    /// How many.
    pub records: u64,
    /// What the disk said last.
    pub trouble: Option<String>,
}

/// The thread `history` and the queue before it. Dropping it stops it, with five seconds to write what is queued.
pub struct Recorder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// How many records may wait; beside them, one batch is at the disk.
    pub const QUEUE: usize = 65_536;

    /// How many records go into one transaction. Where sources are many, each of a few writes pages of its own, and each of
    /// many shares them: half the work.
    const BATCH: usize = 8192;

    /// A transaction of so many is a flood's: what comes next from strangers, for which nobody waits, is gathered for this long.
    const FLOOD: usize = 128;
    const GATHERING: Duration = Duration::from_millis(100);

    /// How long a refused batch waits for its next try: at first, and at most.
    const FIRST_PAUSE: Duration = Duration::from_millis(100);
    const LONGEST_PAUSE: Duration = Duration::from_secs(5);

    /// Starts the thread, which inherits the caller's signal mask: block there what another thread is to receive.
    /// `text` says where 1.2's lines go.
    ///
    /// # Errors
    /// When the system has no thread or no eventfd left.
    pub fn start(history: History, text: TextFiles) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            over: Condvar::new(),
            written: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
            eventfd: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        });
        let writer = Writer {
            shared: Arc::clone(&shared),
            path: history.path().to_owned(),
            history: Some(history),
            text,
            told: 0,
            is_flood: false,
        };
        let thread = thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || writer.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Queues `record`. Never waits for the disk.
    ///
    /// # Errors
    /// When the queue is full and the record is one that strangers cause. What people decide, and the ends of bans, are
    /// always taken: there are no more of them than bans.
    pub fn push(&self, record: Record) -> Result<Seq, Full> {
        let is_strangers = match &record {
            Record::Scan { .. } | Record::Line { .. } => true,
            Record::Ban(ban) => matches!(ban.origin, Origin::Scan | Origin::RollUp),
            Record::End { .. } | Record::Name { .. } | Record::ClockMoved { .. } => false,
        };
        let mut state = self.shared.lock();
        if is_strangers && state.queue.len() >= Self::QUEUE {
            return Err(Full);
        }
        state.queue.push_back(record);
        state.pushed += 1;
        state.is_awaited |= !is_strangers;
        let seq = Seq(state.pushed);
        // To wake somebody is a system call, also where nobody sleeps.
        let is_news = !is_strangers || [1, Self::BATCH].contains(&state.queue.len());
        drop(state);
        if is_news {
            self.shared.wake.notify_one();
        }
        Ok(seq)
    }

    /// Queues bans that belong together: those that somebody has asked for at once, or those that run. They are always
    /// taken, for there are no more of them than bans.
    pub fn push_together(&self, bans: impl IntoIterator<Item = Ban>) -> Seq {
        let mut state = self.shared.lock();
        let before = state.queue.len();
        state.queue.extend(bans.into_iter().map(Record::Ban));
        let count = state.queue.len() - before;
        state.pushed += u64::try_from(count).expect("a queue in memory is shorter than 2^64");
        state.is_awaited = true;
        let seq = Seq(state.pushed);
        drop(state);
        self.shared.wake.notify_one();
        seq
    }

    /// Whether there is room for bans that were not taken before.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shared.lock().queue.len() < Self::QUEUE / 2
    }

    /// Has the files looked at, when no records wait: what has befallen them meanwhile is told, and mended where it can be, though
    /// there is nothing to write.
    pub fn look(&self) {
        self.shared.lock().look = true;
        self.shared.wake.notify_one();
    }

    /// Has everything deleted that was over before `before`, when no records wait, a step at a time.
    pub fn prune(&self, before: Wall) {
        let mut state = self.shared.lock();
        state.prune = Some(Pruning { before, from: 0 });
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Has the oldest of what is over `now` deleted while there are more than `most` rows, a step at a time and between what is
    /// written: in a flood too.
    pub fn shorten(&self, most: u64, now: Wall) {
        let mut state = self.shared.lock();
        state.shorten = Some(Shortening { most, now });
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Up to which record all is on disk: it survives the end of this process in any manner.
    #[must_use]
    pub fn written(&self) -> Seq {
        Seq(self.shared.written.load(Ordering::Acquire))
    }

    /// Becomes readable when [`written`](Self::written) or [`trouble`](Self::trouble) changes, for the event loop to
    /// wait on. [`settle`](Self::settle) makes it unreadable again.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.shared.eventfd.as_fd()
    }

    /// Clears [`fd`](Self::fd), and returns what is [`written`](Self::written) from then on.
    pub fn settle(&self) -> Seq {
        // Nothing to read is fine; in this order, no change can fall in between.
        let _ = self.shared.eventfd.read();
        self.written()
    }

    /// What keeps records from the disk or lines from the text file at present, in words.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.lock().trouble()
    }

    /// What keeps records from the disk at present, in words: lines of the text file keep none.
    #[must_use]
    pub fn disk_trouble(&self) -> Option<String> {
        self.shared.lock().disk_trouble.clone()
    }

    /// How often a new file was begun because somebody moved the old one away. A new file knows no bans: whoever
    /// keeps them records them anew when this grows.
    #[must_use]
    pub fn renewals(&self) -> u64 {
        self.shared.renewals.load(Ordering::Acquire)
    }

    /// Writes what is queued, for as long as `patience` at most, and ends the thread.
    ///
    /// # Errors
    /// When not everything was written in time.
    pub fn stop(mut self, patience: Duration) -> Result<(), Unwritten> {
        self.halt(patience)
    }

    fn halt(&mut self, patience: Duration) -> Result<(), Unwritten> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        state.stop_by = Some(deadline);
        self.shared.wake.notify_one();
        let unfinished = |state: &mut State| !state.finished;
        let (state, _) = self
            .shared
            .over
            .wait_timeout_while(state, patience, unfinished)
            .unwrap_or_else(PoisonError::into_inner);
        let (finished, pushed, trouble) = (state.finished, state.pushed, state.trouble());
        drop(state);
        if finished {
            // A panic in there has been told as trouble.
            let _ = thread.join();
        }
        match pushed - self.written().0 {
            0 => Ok(()),
            records => Err(Unwritten { records, trouble }),
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.halt(Duration::from_secs(5));
    }
}

/// What both threads see.
struct Shared {
    state: Mutex<State>,
    /// For the writer: there is something to do.
    wake: Condvar,
    /// For [`Recorder::stop`]: the writer has ended.
    over: Condvar,
    written: AtomicU64,
    renewals: AtomicU64,
    eventfd: EventFd,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Record>,
    /// Whether somebody may wait for what is queued.
    is_awaited: bool,
    pushed: u64,
    look: bool,
    prune: Option<Pruning>,
    shorten: Option<Shortening>,
    disk_trouble: Option<String>,
    text_trouble: Option<String>,
    stop_by: Option<Instant>,
    finished: bool,
}

#[derive(Clone, Copy)]
struct Pruning {
    before: Wall,
    from: i64,
}

#[derive(Clone, Copy)]
struct Shortening {
    most: u64,
    now: Wall,
}

impl State {
    fn trouble(&self) -> Option<String> {
        match (&self.disk_trouble, &self.text_trouble) {
            (Some(disk), Some(text)) => Some(format!("{disk}; {text}")),
            (one, other) => one.as_ref().or(other.as_ref()).cloned(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self) {
        // It can only fail when the counter is at its end, and then the descriptor is readable anyway.
        let _ = self.eventfd.write(1);
    }

    /// Puts `now` where `place` says, and tells the event loop if that is news.
    fn tell(&self, place: impl Fn(&mut State) -> &mut Option<String>, now: Option<String>) {
        let mut state = self.lock();
        let told = place(&mut state);
        if *told != now {
            *told = now;
            drop(state);
            self.signal();
        }
    }
}

/// The thread's side.
struct Writer {
    shared: Arc<Shared>,
    path: PathBuf,
    /// `None` after a failed attempt to open a new file.
    history: Option<History>,
    text: TextFiles,
    /// How many records at the head of the queue are in the text files already.
    told: usize,
    /// Whether the last batch was one of many.
    is_flood: bool,
}

enum Job {
    Write(Vec<Record>),
    Look,
    Shorten,
    Prune(Pruning),
    End,
}

impl Writer {
    fn run(mut self) {
        let _finish = Finish(Arc::clone(&self.shared));
        loop {
            match self.next_job() {
                Job::Write(batch) => {
                    self.is_flood = batch.len() >= Recorder::FLOOD;
                    let told = self.told.min(batch.len());
                    self.told -= told;
                    self.write_lines(&batch[told..]);
                    if !self.write_surely(&batch) {
                        return;
                    }
                    let count = u64::try_from(batch.len()).expect("a batch is in memory");
                    self.shared.written.fetch_add(count, Ordering::Release);
                    self.shared.signal();
                    self.shorten();
                }
                Job::Shorten => self.shorten(),
                Job::Look => self.look(),
                Job::Prune(pruning) => self.prune(pruning),
                Job::End => return,
            }
        }
    }

    /// Waits for something to do. Records come first; a stop comes when none are left.
    fn next_job(&self) -> Job {
        let idle = |state: &mut State| {
            state.queue.is_empty()
                && !state.look
                && state.prune.is_none()
                && state.shorten.is_none()
                && state.stop_by.is_none()
        };
        let state = self.shared.lock();
        let mut state = self
            .shared
            .wake
            .wait_while(state, idle)
            .unwrap_or_else(PoisonError::into_inner);
        if !state.queue.is_empty() {
            if self.is_flood {
                let has_time = |state: &mut State| {
                    let is_short = state.queue.len() < Recorder::BATCH;
                    is_short && !state.is_awaited && state.stop_by.is_none()
                };
                (state, _) = self
                    .shared
                    .wake
                    .wait_timeout_while(state, Recorder::GATHERING, has_time)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if state.queue.len() > Recorder::BATCH {
                return Job::Write(state.queue.drain(..Recorder::BATCH).collect());
            }
            state.is_awaited = false;
            let all = std::mem::take(&mut state.queue);
            drop(state);
            return Job::Write(all.into());
        }
        if state.stop_by.is_some() {
            return Job::End;
        }
        if std::mem::take(&mut state.look) {
            return Job::Look;
        }
        if state.shorten.is_some() {
            return Job::Shorten;
        }
        state.prune.take().map_or(Job::End, Job::Prune)
    }

    /// Writes `batch`, again and again until it is done; false if a stop comes first.
    fn write_surely(&mut self, batch: &[Record]) -> bool {
        let mut pause = Recorder::FIRST_PAUSE;
        loop {
            match self.write(batch) {
                Ok(()) => {
                    self.shared.tell(|state| &mut state.disk_trouble, None);
                    return true;
                }
                Err(error) => self.complain(&error),
            }
            self.write_queued_lines();
            if !self.pause(pause) {
                return false;
            }
            pause = (pause * 2).min(Recorder::LONGEST_PAUSE);
        }
    }

    fn write(&mut self, batch: &[Record]) -> Result<(), Error> {
        self.history()?.append(batch)
    }

    /// The history, or a new one where somebody has moved the file away. One that somebody has damaged is left as it is: what
    /// is to be written waits until it is out of the way.
    fn history(&mut self) -> Result<&mut History, Error> {
        let history = match self.history.take() {
            Some(history) if !history.was_moved() => {
                if let Err(damage) = history.check() {
                    self.history = Some(history);
                    return Err(damage);
                }
                history
            }
            // It is closed first: SQLite would mistake the old file's log for the new one's.
            moved => {
                if let Some(moved) = moved {
                    moved.close_moved();
                }
                let history = History::open(&self.path)?;
                self.shared.renewals.fetch_add(1, Ordering::Release);
                self.shared.signal();
                history
            }
        };
        Ok(self.history.insert(history))
    }

    /// Waits out `pause`, or until a stop is asked for; then only short pauses until its deadline. False: give up.
    fn pause(&self, pause: Duration) -> bool {
        let state = self.shared.lock();
        if let Some(stop_by) = state.stop_by {
            drop(state);
            let left = stop_by.saturating_duration_since(Instant::now());
            thread::sleep(left.min(Recorder::FIRST_PAUSE));
            return !left.is_zero();
        }
        let running = |state: &mut State| state.stop_by.is_none();
        let waited = self.shared.wake.wait_timeout_while(state, pause, running);
        drop(waited);
        true
    }

    fn look(&mut self) {
        match self.history().map(|history| history.let_go()) {
            Ok(()) => self.shared.tell(|state| &mut state.disk_trouble, None),
            Err(error) => self.complain(&error),
        }
        self.write_lines(&[]);
    }

    fn complain(&self, error: &Error) {
        if let (Error::Refused { .. }, Some(damaged)) = (error, &self.history) {
            damaged.leave_as_it_is();
        }
        let trouble = Some(error.to_string());
        self.shared.tell(|state| &mut state.disk_trouble, trouble);
    }

    /// No record waits for the text files' lines, which are for people; what a file does not take, it is given again later.
    fn write_lines(&mut self, batch: &[Record]) {
        let zone = local_zone();
        let lines = batch.iter().filter_map(|record| match record {
            Record::Line { line, at } => Some((line, *at)),
            _ => None,
        });
        let trouble = self.text.append(lines, &zone).err();
        self.shared.tell(|state| &mut state.text_trouble, trouble);
    }

    /// Who follows the text files hears of what has happened though history cannot be written.
    fn write_queued_lines(&mut self) {
        let is_line = |record: &&Record| matches!(record, Record::Line { .. });
        let (lines, queued): (Vec<Record>, usize) = {
            let state = self.shared.lock();
            let untold = state.queue.iter().skip(self.told);
            (untold.filter(is_line).cloned().collect(), state.queue.len())
        };
        self.told = queued;
        self.write_lines(&lines);
    }

    fn prune(&mut self, pruning: Pruning) {
        let Pruning { before, from } = pruning;
        // If it fails, the next one asked for will do: nothing is lost by keeping too much.
        let step = self
            .history()
            .and_then(|history| history.prune(before, from));
        if let Ok(Some(from)) = step {
            let mut state = self.shared.lock();
            state.prune.get_or_insert(Pruning { before, from });
        }
    }

    /// One step, if that has been asked for.
    fn shorten(&mut self) {
        let Some(asked) = self.shared.lock().shorten.take() else {
            return;
        };
        // If it fails, the next one asked for will do, as with pruning.
        let step = self
            .history()
            .and_then(|history| history.shorten(asked.most, asked.now));
        if matches!(step, Ok(true)) {
            self.shared.lock().shorten.get_or_insert(asked);
        }
    }
}

/// Says that the thread has ended, in whatever way.
struct Finish(Arc<Shared>);

impl Drop for Finish {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.finished = true;
        if thread::panicking() {
            state.disk_trouble = Some("the thread that writes history died".to_owned());
        }
        drop(state);
        self.0.over.notify_all();
        self.0.signal();
    }
}
