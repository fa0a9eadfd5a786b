//! Commands over the control socket: whose turn it is, and what each is answered.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use super::{Daemon, Error};
use crate::clock::{Mono, Now};
use crate::command;
use crate::config::WatchMode;
use crate::control::{Client, Line, Request, Step};
use crate::history::Seq;
use crate::policy::Place;

/// Clients at once, holders of leases not counted; beyond it, who dawdles makes room for the next.
const MAX_CLIENTS: usize = 64;

/// A client that does not ask within this time, or does not read for so long, is hung up on.
const IDLE: Duration = Duration::from_secs(10);

/// How long an answer waits for history, within the client's patience for an ordinary job and for one it was told is long.
const HISTORY_TAKES: Duration = Duration::from_secs(1);
const LONG_JOB_TAKES: Duration = Duration::from_secs(30);

/// Bans that are listed for one client before it is everybody else's turn: a few milliseconds' work at most.
const LISTED_A_TURN: usize = 512;

/// Those who are being answered, by a number of their own.
#[derive(Default)]
pub(super) struct Clients {
    talking: HashMap<u64, Conversation>,
    /// Those who are to be sent more of a list, each in its turn.
    turns: VecDeque<u64>,
    next: u64,
}

struct Conversation {
    client: Client,
    answer: Answer,
    /// When it came, or, once it has asked, when something last moved.
    moved: Mono,
}

/// How far the answer is.
enum Answer {
    /// The request is not here yet.
    NotAsked,
    /// The bans after this one are still to be listed; `None`: all are.
    Listing(Option<Place>),
    /// Ready, but history must have written up to the mark first, which is waited for until then.
    AfterHistory {
        mark: Seq,
        lines: Vec<Line>,
        until: Mono,
    },
    /// All of it is in the client's outbox.
    Complete,
    /// The same, and it stays on the line: these modes are in force for as long as it does.
    Leased(BTreeSet<WatchMode>),
}

impl Clients {
    /// Makes room for one more: hangs up on somebody if need be, on those first who have not asked, and then on who has dawdled
    /// longest. So whoever asks at once is answered, however many others sit there. How many were hung up on.
    pub(super) fn make_room(&mut self) -> u64 {
        if self.talking.len() - self.leases().count() < MAX_CLIENTS {
            return 0;
        }
        let dawdles = |it: &Conversation| !matches!(it.answer, Answer::Leased(_));
        let first = (self.talking.iter())
            .filter(|(_, it)| dawdles(it))
            .min_by_key(|(id, it)| (it.patience(), it.moved, **id));
        let first = first.map(|(id, _)| *id);
        first.map_or(0, |id| {
            self.talking.remove(&id);
            1
        })
    }

    /// Who holds leases: its process, and the modes.
    pub(super) fn leases(&self) -> impl Iterator<Item = (u32, &BTreeSet<WatchMode>)> {
        self.talking.values().filter_map(|it| match &it.answer {
            Answer::Leased(modes) => Some((it.client.pid, modes)),
            _ => None,
        })
    }

    /// The modes that somebody holds a lease of.
    pub(super) fn leased(&self) -> BTreeSet<WatchMode> {
        self.leases()
            .flat_map(|(_, modes)| modes)
            .copied()
            .collect()
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

    /// Has it wait for its turn.
    fn queue(&mut self, id: u64) {
        if !self.turns.contains(&id) {
            self.turns.push_back(id);
        }
    }

    /// Hangs up on this one.
    pub(super) fn remove(&mut self, id: u64) {
        self.talking.remove(&id);
    }

    /// When the next client is hung up on, or answered without history, if nothing moves; at once where one waits for its turn.
    pub(super) fn next_deadline(&self) -> Option<Mono> {
        if !self.turns.is_empty() {
            return Some(Mono(0));
        }
        self.talking
            .values()
            .filter_map(Conversation::deadline)
            .min()
    }

    /// Hangs up on those who dawdle. How many that were.
    pub(super) fn drop_idle(&mut self, now: Mono) -> u64 {
        let before = self.talking.len();
        let waits_for_us = |conversation: &Conversation| {
            matches!(conversation.answer, Answer::AfterHistory { .. })
        };
        self.talking.retain(|_, conversation| {
            let deadline = conversation.deadline();
            waits_for_us(conversation) || deadline.is_none_or(|deadline| now < deadline)
        });
        u64::try_from(before - self.talking.len()).unwrap_or(u64::MAX)
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
    /// Who has asked for nothing is hung up on first, who has done something last.
    fn patience(&self) -> u8 {
        match self.answer {
            Answer::NotAsked => 0,
            Answer::Listing(_) | Answer::Complete => 1,
            Answer::AfterHistory { .. } | Answer::Leased(_) => 2,
        }
    }

    fn deadline(&self) -> Option<Mono> {
        match self.answer {
            Answer::AfterHistory { until, .. } => Some(until),
            Answer::Leased(_) => None,
            _ => Some(self.moved.later(IDLE)),
        }
    }

    /// Whether it went away, or says more than was asked of it. Looked at where nothing else is read any more: the kernel
    /// tells of each end once.
    fn is_over(&mut self) -> bool {
        !matches!(self.client.read(), Step::Wait)
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
        if !matches!(conversation.answer, Answer::NotAsked) {
            conversation.moved = now.mono;
        }
        if matches!(conversation.answer, Answer::Leased(_)) && conversation.is_over() {
            let pid = conversation.client.pid;
            self.clients.remove(id);
            self.give_up_the_lease_of(pid, now);
            return Ok(());
        }
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
                conversation.moved = now.mono;
            }
        }
        match self.clients.talking.get(&id).map(|it| &it.answer) {
            Some(Answer::Listing(_)) => self.clients.queue(id),
            _ => self.send(id, now),
        }
        Ok(())
    }

    /// Goes on with the list of who waits for that longest.
    pub(super) fn next_turn(&mut self, now: Now) {
        if let Some(id) = self.clients.turns.pop_front() {
            self.send(id, now);
        }
    }

    /// History may have written on, or not for too long: answer those who wait for it.
    pub(super) fn history_moves(&mut self, now: Now) {
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
                Answer::NotAsked => return,
                Answer::AfterHistory { mark, lines, until } => {
                    if *mark > written {
                        let trouble = self.engine.recorder().disk_trouble();
                        if trouble.is_none() && now.mono < *until {
                            return;
                        }
                        lines.pop();
                        lines.push(Line::Failed(not_in_history(trouble.as_deref())));
                    }
                    lines.drain(..).for_each(|line| client.push(&line));
                    *answer = Answer::Complete;
                }
                Answer::Listing(listed) => {
                    let mut bans = self.engine.bans().by_end(*listed);
                    is_turn_over = true;
                    for _ in 0..LISTED_A_TURN {
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
            match client.flush() {
                Ok(true) if matches!(answer, Answer::Complete) => break,
                Ok(true) if is_turn_over => {
                    *moved = now.mono;
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
                let is_long = self.is_replaying()
                    || matches!(change, Request::UnbanAll | Request::Import { .. });
                if is_long {
                    self.ask_for_patience(id);
                }
                self.finish_replay(now)?;
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

fn not_in_history(trouble: Option<&str>) -> String {
    let trouble = trouble.unwrap_or("the disk is slow");
    format!(
        "done in the kernel, but history has not written it yet ({trouble}): if portsentry is stopped before it has, \
         its next start knows nothing of this"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::control::Server;

    #[test]
    fn a_lease_takes_no_clients_place_and_is_not_hung_up_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let server = Server::bind(&path).unwrap();
        let mut clients = Clients::default();
        let mut callers = Vec::new();
        let mut call = |clients: &mut Clients| {
            callers.push(UnixStream::connect(&path).unwrap());
            clients.add(server.accept().unwrap().unwrap(), Mono(0))
        };
        let atcp = BTreeSet::from([WatchMode::from_name("atcp").unwrap()]);
        let holder = call(&mut clients);
        let lease = Answer::Leased(atcp.clone());
        clients.talking.get_mut(&holder).unwrap().answer = lease;
        assert_eq!(clients.next_deadline(), None);
        for _ in 0..MAX_CLIENTS {
            assert_eq!(clients.make_room(), 0);
            call(&mut clients);
        }
        assert_eq!(clients.make_room(), 1);
        let left = u64::try_from(MAX_CLIENTS - 1).unwrap();
        assert_eq!(clients.drop_idle(Mono(0).later(IDLE)), left);
        let pid = std::process::id();
        assert_eq!(clients.leases().collect::<Vec<_>>(), [(pid, &atcp)]);
        assert_eq!(clients.talking.len(), 1);
    }
}
