//! Commands over the control socket: whose turn it is, and what each is answered.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use super::{Daemon, Error};
use crate::clock::{Mono, Now};
use crate::command;
use crate::control::{Client, Line, Request, Step};
use crate::history::Seq;
use crate::source::Source;

/// Clients at once; beyond it, the next is hung up on.
const MAX_CLIENTS: usize = 64;

/// A client that neither asks nor reads for so long is hung up on.
const IDLE: Duration = Duration::from_secs(10);

/// How long an answer waits for history, within the client's patience for an ordinary job and for one it was told is long.
const HISTORY_TAKES: Duration = Duration::from_secs(1);
const LONG_JOB_TAKES: Duration = Duration::from_secs(30);

/// Those who are being answered, by a number of their own.
#[derive(Default)]
pub(super) struct Clients {
    talking: HashMap<u64, Conversation>,
    next: u64,
}

struct Conversation {
    client: Client,
    answer: Answer,
    /// When something last moved.
    moved: Mono,
}

/// How far the answer is.
enum Answer {
    /// The request is not here yet.
    NotAsked,
    /// These are still to be listed.
    Listing(std::vec::IntoIter<Source>),
    /// Ready, but history must have written up to the mark first, which is waited for until then.
    AfterHistory {
        mark: Seq,
        lines: Vec<Line>,
        until: Mono,
    },
    /// All of it is in the client's outbox.
    Complete,
}

impl Clients {
    /// Whether one more may come in.
    pub(super) fn has_room(&self) -> bool {
        self.talking.len() < MAX_CLIENTS
    }

    /// Takes a client in; the number by which it will be known.
    pub(super) fn add(&mut self, client: Client, now: Mono) -> u64 {
        self.next += 1;
        self.talking.insert(
            self.next,
            Conversation {
                client,
                answer: Answer::NotAsked,
                moved: now,
            },
        );
        self.next
    }

    /// The socket of client `id`.
    pub(super) fn fd(&self, id: u64) -> Option<BorrowedFd<'_>> {
        self.talking
            .get(&id)
            .map(|conversation| conversation.client.as_fd())
    }

    /// Hangs up on this one.
    pub(super) fn remove(&mut self, id: u64) {
        self.talking.remove(&id);
    }

    /// When the next client is hung up on, or answered without history, if nothing moves.
    pub(super) fn next_deadline(&self) -> Option<Mono> {
        self.talking.values().map(Conversation::deadline).min()
    }

    /// Hangs up on those who dawdle.
    pub(super) fn drop_idle(&mut self, now: Mono) {
        let waits_for_us = |conversation: &Conversation| {
            matches!(conversation.answer, Answer::AfterHistory { .. })
        };
        self.talking
            .retain(|_, conversation| waits_for_us(conversation) || now < conversation.deadline());
    }

    fn waiting_for_history(&self) -> Vec<u64> {
        let waits = |conversation: &Conversation| {
            matches!(conversation.answer, Answer::AfterHistory { .. })
        };
        self.talking
            .iter()
            .filter(|(_, conversation)| waits(conversation))
            .map(|(id, _)| *id)
            .collect()
    }
}

impl Conversation {
    fn deadline(&self) -> Mono {
        match self.answer {
            Answer::AfterHistory { until, .. } => until,
            _ => self.moved.later(IDLE),
        }
    }
}

impl Daemon {
    /// Something can be read from or written to client `id`.
    ///
    /// # Errors
    /// History could not be put back before a request that changes bans.
    pub(super) fn client_moves(&mut self, id: u64, now: Now) -> Result<(), Error> {
        let Some(conversation) = self.clients.talking.get_mut(&id) else {
            return Ok(());
        };
        conversation.moved = now.mono;
        if matches!(conversation.answer, Answer::NotAsked) {
            let step = conversation.client.read();
            let uid = conversation.client.uid;
            let answer = match step {
                Step::Wait => return Ok(()),
                Step::Gone => {
                    self.clients.remove(id);
                    return Ok(());
                }
                Step::Nonsense(why) => self.at_once(id, vec![Line::Failed(why)]),
                Step::Ask(request) => self.answer(id, request, uid, now)?,
            };
            if let Some(conversation) = self.clients.talking.get_mut(&id) {
                conversation.answer = answer;
            }
        }
        self.send(id, now);
        Ok(())
    }

    /// History may have written on, or not for too long: answer those who wait for it.
    pub(super) fn history_moves(&mut self, now: Now) {
        for id in self.clients.waiting_for_history() {
            self.send(id, now);
        }
    }

    /// Sends client `id` what it takes now; when that was all, hangs up.
    fn send(&mut self, id: u64, now: Now) {
        let written = self.engine.recorder().written();
        let Some(conversation) = self.clients.talking.get_mut(&id) else {
            return;
        };
        let Conversation { client, answer, .. } = conversation;
        loop {
            match answer {
                Answer::NotAsked => return,
                Answer::AfterHistory { mark, lines, until } => {
                    if *mark > written {
                        let trouble = self.engine.recorder().trouble();
                        if trouble.is_none() && now.mono < *until {
                            return;
                        }
                        lines.pop();
                        lines.push(Line::Failed(not_in_history(trouble.as_deref())));
                    }
                    lines.drain(..).for_each(|line| client.push(&line));
                    *answer = Answer::Complete;
                }
                Answer::Listing(sources) => {
                    while client.has_room() {
                        let Some(source) = sources.next() else {
                            client.push(&Line::Done);
                            *answer = Answer::Complete;
                            break;
                        };
                        // One that ended meanwhile is left out.
                        if let Some(ban) = self.engine.bans().get(source) {
                            client.push(&Line::Listed(command::listed_by(&self.engine, ban, now)));
                        }
                    }
                }
                Answer::Complete => {}
            }
            match client.flush() {
                Ok(true) if matches!(answer, Answer::Complete) => break,
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => break,
            }
        }
        self.clients.talking.remove(&id);
    }

    fn at_once(&mut self, id: u64, lines: Vec<Line>) -> Answer {
        if let Some(conversation) = self.clients.talking.get_mut(&id) {
            lines.iter().for_each(|line| conversation.client.push(line));
        }
        Answer::Complete
    }

    fn answer(&mut self, id: u64, request: Request, uid: u32, now: Now) -> Result<Answer, Error> {
        Ok(match request {
            Request::Status => {
                let status = Line::Status(Box::new(self.status(now)));
                self.at_once(id, vec![status, Line::Done])
            }
            Request::List => {
                let mut sources: Vec<Source> =
                    self.engine.bans().iter().map(|ban| ban.source).collect();
                sources.sort_unstable();
                Answer::Listing(sources.into_iter())
            }
            change @ (Request::Ban { .. } | Request::Unban { .. } | Request::UnbanAll) => {
                let is_long = self.replay.is_some() || matches!(change, Request::UnbanAll);
                if is_long {
                    self.ask_for_patience(id);
                }
                // What history still has to say comes first, or it would undo what is decided now.
                while self.replay.is_some() {
                    self.replay_some(now)?;
                }
                let by = format!("uid {uid}");
                let outcome = command::carry_out(&mut self.engine, change, &by, now);
                Answer::AfterHistory {
                    mark: outcome.recorded.unwrap_or_default(),
                    lines: outcome.lines,
                    until: now.mono.later(if is_long {
                        LONG_JOB_TAKES
                    } else {
                        HISTORY_TAKES
                    }),
                }
            }
            Request::AddModes { modes, config } => {
                let line = match self.add_modes(&modes, Path::new(&config), now) {
                    Ok(()) => Line::Done,
                    Err(why) => Line::Failed(why),
                };
                self.at_once(id, vec![line])
            }
            Request::Explain { address } => {
                let known = self.engine.explain(address, now);
                let trigger = self.engine.config().detect.trigger;
                let told = command::explained(address, &known, trigger, now);
                self.at_once(id, vec![Line::Explained(Box::new(told)), Line::Done])
            }
            Request::Reload => {
                let line = match self.reload(now) {
                    Ok(reloaded) => vec![Line::Reloaded(reloaded), Line::Done],
                    Err(why) => vec![Line::Failed(why)],
                };
                self.at_once(id, line)
            }
            Request::ReadIgnore => {
                // Nothing is waited for: the file itself outlives us, and who stands in it is let in at the next start.
                let lines = match self.read_ignore(now) {
                    Ok(read) => vec![Line::IgnoreRead(read), Line::Done],
                    Err(complaints) => vec![Line::Failed(complaints.to_string())],
                };
                self.at_once(id, lines)
            }
        })
    }

    /// Tells client `id` that this may take long.
    fn ask_for_patience(&mut self, id: u64) {
        if let Some(conversation) = self.clients.talking.get_mut(&id) {
            conversation.client.push(&Line::Wait);
            // If it has gone away, its answer will find that out.
            let _ = conversation.client.flush();
        }
    }
}

fn not_in_history(trouble: Option<&str>) -> String {
    let trouble = trouble.unwrap_or("the disk is slow");
    format!(
        "done in the kernel, but history has not written it yet ({trouble}): if portsentry is stopped before it has, \
         its next start knows nothing of this"
    )
}
