//! Commands over the control socket: whose turn it is, and what each is answered.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::Daemon;
use crate::clock::{Mono, Now};
use crate::command;
use crate::control::{Client, Line, Request, Step};
use crate::history::Seq;
use crate::source::Source;

/// Clients at once; beyond it, the next is hung up on.
const MAX_CLIENTS: usize = 64;

/// A client that neither asks nor reads for so long is hung up on.
const IDLE: Duration = Duration::from_secs(10);

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
    /// Ready, but history must have written up to the mark first.
    AfterHistory(Seq, Vec<Line>),
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

    /// When the next client is hung up on if nothing moves.
    pub(super) fn next_deadline(&self) -> Option<Mono> {
        self.talking
            .values()
            .map(|conversation| conversation.moved.later(IDLE))
            .min()
    }

    /// Hangs up on those who dawdle.
    pub(super) fn drop_idle(&mut self, now: Mono) {
        self.talking
            .retain(|_, conversation| now.since(conversation.moved) < IDLE);
    }

    fn waiting_for_history(&self) -> Vec<u64> {
        let waits =
            |conversation: &Conversation| matches!(conversation.answer, Answer::AfterHistory(..));
        self.talking
            .iter()
            .filter(|(_, conversation)| waits(conversation))
            .map(|(id, _)| *id)
            .collect()
    }
}

impl Daemon {
    /// Something can be read from or written to client `id`.
    pub(super) fn client_moves(&mut self, id: u64, now: Now) {
        let Some(conversation) = self.clients.talking.get_mut(&id) else {
            return;
        };
        conversation.moved = now.mono;
        if matches!(conversation.answer, Answer::NotAsked) {
            let step = conversation.client.read();
            let uid = conversation.client.uid;
            let answer = match step {
                Step::Wait => return,
                Step::Gone => {
                    self.clients.talking.remove(&id);
                    return;
                }
                Step::Nonsense(why) => self.at_once(id, vec![Line::Failed(why)]),
                Step::Ask(request) => self.answer(id, request, uid, now),
            };
            if let Some(conversation) = self.clients.talking.get_mut(&id) {
                conversation.answer = answer;
            }
        }
        self.send(id, now);
    }

    /// History has written on: answer those who waited for it.
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
                Answer::AfterHistory(mark, _) if *mark > written => return,
                Answer::AfterHistory(_, lines) => {
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
                            client.push(&Line::Listed(command::listed(ban, now)));
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

    fn answer(&mut self, id: u64, request: Request, uid: u32, now: Now) -> Answer {
        match request {
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
                let outcome =
                    command::carry_out(&mut self.engine, change, &format!("uid {uid}"), now);
                Answer::AfterHistory(outcome.recorded.unwrap_or_default(), outcome.lines)
            }
            Request::Reload => {
                let line = match self.reload(now) {
                    Ok(reloaded) => vec![Line::Reloaded(reloaded), Line::Done],
                    Err(why) => vec![Line::Failed(why)],
                };
                self.at_once(id, line)
            }
        }
    }
}
