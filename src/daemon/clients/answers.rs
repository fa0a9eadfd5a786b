//! What each command is answered.

use std::path::Path;
use std::time::Duration;

use super::{Answer, Conversation};
use crate::clock::{Mono, Now};
use crate::command::{self, Outcome, Unbanning};
use crate::control::{Line, Request, Step};
use crate::daemon::{Daemon, Error};

/// How long an answer waits for history, within the client's patience for an ordinary job and for one it was told is long.
const HISTORY_TAKES: Duration = Duration::from_secs(1);
const LONG_JOB_TAKES: Duration = Duration::from_secs(30);

/// Who asks for more bans than this to be lifted is asked for patience.
const MANY: usize = 64;

/// Lines that are said to one client before it is everybody else's turn: a few milliseconds' work at most.
const LINES_A_TURN: usize = 512;

impl Daemon {
    /// Something can be read from or written to client `id`.
    ///
    /// # Errors
    /// History could not be put back before a request that changes bans.
    pub(in crate::daemon) fn client_moves(&mut self, id: u64, now: Now) -> Result<(), Error> {
        let Some(conversation) = self.clients.talking.get_mut(&id) else {
            return Ok(());
        };
        match conversation.answer {
            Answer::NotHeard | Answer::NotAsked => return self.hear(id, now),
            Answer::Listing(_) | Answer::Telling(_) => self.clients.queue(id),
            // It has its turns already, and they go on also where it has gone away.
            Answer::Unbanning(_) => {}
            Answer::Leased(_) => {
                if conversation.is_over() {
                    let pid = conversation.client.pid;
                    self.clients.remove(id);
                    self.give_up_the_lease_of(pid, now);
                } else {
                    self.send(id, now);
                }
            }
            _ => self.send(id, now),
        }
        Ok(())
    }

    /// Goes on with who waits for its turn longest.
    ///
    /// # Errors
    /// As with [`client_moves`](Self::client_moves).
    pub(in crate::daemon) fn next_turn(&mut self, now: Now) -> Result<(), Error> {
        let Some(id) = self.clients.whose_turn() else {
            return Ok(());
        };
        match self.clients.talking.get(&id).map(|it| &it.answer) {
            Some(Answer::NotAsked) => self.hear(id, now),
            Some(Answer::Unbanning(_)) => {
                self.go_on_unbanning(id, now);
                Ok(())
            }
            _ => {
                self.send(id, now);
                Ok(())
            }
        }
    }

    /// Hears what client `id` asks, and begins to answer when that is complete.
    fn hear(&mut self, id: u64, now: Now) -> Result<(), Error> {
        let Some(conversation) = self.clients.talking.get_mut(&id) else {
            return Ok(());
        };
        conversation.answer = Answer::NotAsked;
        let uid = conversation.client.uid;
        let answer = match conversation.client.read() {
            Step::Wait => return Ok(()),
            Step::More => {
                self.clients.queue(id);
                return Ok(());
            }
            Step::Gone => {
                self.clients.remove(id);
                return Ok(());
            }
            Step::Nonsense(why) => self.at_once(id, vec![Line::Failed(why)]),
            Step::Ask(request) => self.answer(id, request, uid, now)?,
        };
        let takes_turns = matches!(answer, Answer::Listing(_) | Answer::Unbanning(_));
        if let Some(conversation) = self.clients.talking.get_mut(&id) {
            conversation.answer = answer;
            conversation.moved = now.mono;
        }
        if takes_turns {
            self.clients.queue(id);
        } else {
            self.send(id, now);
        }
        Ok(())
    }

    /// History may have written on, or not for too long: answer those who wait for it.
    pub(in crate::daemon) fn history_moves(&mut self, now: Now) {
        for id in self.clients.waiting_for_history() {
            self.send(id, now);
        }
    }

    /// Sends client `id` what it takes now, of a list no more than is its turn; when that was all, hangs up.
    fn send(&mut self, id: u64, now: Now) {
        let written = self.engine.recorder().written();
        let Some(conversation) = self.clients.talking.get_mut(&id) else {
            return;
        };
        let Conversation {
            client,
            answer,
            moved,
        } = conversation;
        loop {
            let mut is_turn_over = false;
            match answer {
                Answer::NotHeard | Answer::NotAsked | Answer::Unbanning(_) => return,
                Answer::AfterHistory { mark, lines, until } => {
                    if *mark > written {
                        let trouble = self.engine.recorder().disk_trouble();
                        if trouble.is_none() && now.mono < *until {
                            return;
                        }
                        lines.pop();
                        lines.push(Line::Failed(not_in_history(trouble.as_deref())));
                    }
                    *answer = Answer::Telling(std::mem::take(lines).into());
                    continue;
                }
                Answer::Telling(lines) => {
                    is_turn_over = true;
                    for _ in 0..LINES_A_TURN {
                        if !client.has_room() {
                            break;
                        }
                        let Some(line) = lines.pop_front() else {
                            break;
                        };
                        client.push(&line);
                    }
                    if lines.is_empty() {
                        *answer = Answer::Complete;
                    }
                }
                Answer::Listing(listed) => {
                    let mut bans = self.engine.bans().by_end(*listed);
                    is_turn_over = true;
                    for _ in 0..LINES_A_TURN {
                        if !client.has_room() {
                            break;
                        }
                        let Some((place, ban)) = bans.next() else {
                            client.push(&Line::Done);
                            *answer = Answer::Complete;
                            break;
                        };
                        client.push(&Line::Listed(command::listed_by(&self.engine, ban, now)));
                        *listed = Some(place);
                    }
                }
                Answer::Complete => {}
                Answer::Leased(_) => {
                    // If it has gone away, the kernel tells of that too.
                    let _ = client.flush();
                    return;
                }
            }
            let unsent = client.unsent();
            let flushed = client.flush();
            if client.unsent() < unsent {
                *moved = now.mono;
            }
            match flushed {
                Ok(true) if matches!(answer, Answer::Complete) => break,
                Ok(true) if is_turn_over => {
                    self.clients.queue(id);
                    return;
                }
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
            Request::List => Answer::Listing(None),
            change @ (Request::Ban { .. }
            | Request::Confirm { .. }
            | Request::Import { .. }
            | Request::Unban { .. }
            | Request::UnbanAll) => {
                let (is_long, lifts_many) = match &change {
                    Request::Import { .. } => (true, false),
                    Request::UnbanAll => (true, true),
                    Request::Unban { sources } => (sources.len() > MANY, sources.len() > MANY),
                    _ => (false, false),
                };
                let is_long = is_long || self.is_replaying();
                if is_long {
                    self.ask_for_patience(id);
                }
                self.finish_replay(now)?;
                let by = format!("uid {uid}");
                if lifts_many {
                    return Ok(match Unbanning::begin(&self.engine, &change, &by) {
                        Ok(unbanning) => Answer::Unbanning(Box::new(unbanning)),
                        Err(why) => self.at_once(id, vec![Line::Failed(why)]),
                    });
                }
                let outcome = command::carry_out(&mut self.engine, change, &by, now);
                let patience = if is_long {
                    LONG_JOB_TAKES
                } else {
                    HISTORY_TAKES
                };
                after_history(outcome, now.mono.later(patience))
            }
            Request::Lease { modes, config } => self.answer_lease(id, &modes, &config, now),
            Request::IgnoredNames => {
                let names = self.engine.guard().names.iter().map(command::named);
                let lines = names.map(Line::Named).chain([Line::Done]);
                self.at_once(id, lines.collect())
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

    /// Lifts the next portion for client `id`, and answers when that was the last.
    fn go_on_unbanning(&mut self, id: u64, now: Now) {
        let Some(conversation) = self.clients.talking.get_mut(&id) else {
            return;
        };
        let Answer::Unbanning(unbanning) = &mut conversation.answer else {
            return;
        };
        if !unbanning.go_on(&mut self.engine, now) {
            self.clients.queue(id);
            return;
        }
        let done = std::mem::replace(&mut conversation.answer, Answer::Complete);
        if let Answer::Unbanning(unbanning) = done {
            let outcome = unbanning.finish(&self.engine);
            conversation.answer = after_history(outcome, now.mono.later(LONG_JOB_TAKES));
            conversation.moved = now.mono;
        }
        self.send(id, now);
    }

    fn answer_lease(&mut self, id: u64, modes: &[String], config: &str, now: Now) -> Answer {
        let Some(conversation) = self.clients.talking.get_mut(&id) else {
            return Answer::Complete;
        };
        if conversation.is_over() {
            // It did not wait: nothing is begun for who is not there.
            return Answer::Complete;
        }
        let pid = conversation.client.pid;
        match self.lease(modes, Path::new(config), pid, now) {
            Ok(modes) => {
                self.at_once(id, vec![Line::Done]);
                Answer::Leased(modes)
            }
            Err(why) => self.at_once(id, vec![Line::Failed(why)]),
        }
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

fn after_history(outcome: Outcome, until: Mono) -> Answer {
    Answer::AfterHistory {
        mark: outcome.recorded.unwrap_or_default(),
        lines: outcome.lines,
        until,
    }
}

fn not_in_history(trouble: Option<&str>) -> String {
    let trouble = trouble.unwrap_or("the disk is slow");
    format!(
        "done in the kernel, but history has not written it yet ({trouble}): if portsentry is stopped before it has, \
         its next start knows nothing of this"
    )
}
