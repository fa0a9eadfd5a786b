//! Commands over the control socket: who is let in, whose turn it is, and who is hung up on. What each is answered is in `answers`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tracing::warn;

use crate::clock::Mono;
use crate::command::Unbanning;
use crate::config::WatchMode;
use crate::control::{Client, Line, Step};
use crate::history::Seq;
use crate::policy::Place;

mod answers;

/// Clients at once, and as many holders of leases; beyond it, a client that dawdles makes room for the next.
const PLACES: usize = 64;

/// Descriptors that are left for all else, where the limit of open files leaves less than all places.
const KEPT_FREE: usize = 16;

/// How often it is told in the log, at most, that somebody was hung up on.
const TOLD_AGAIN: Duration = Duration::from_secs(1);

/// A client that does not ask within this time, or does not read for so long, is hung up on.
const IDLE: Duration = Duration::from_secs(10);

/// Those who are being answered, by a number of their own.
pub(super) struct Clients {
    talking: HashMap<u64, Conversation>,
    /// So many at once, and as many holders of leases.
    places: usize,
    /// Those who have asked for more than is done at a time, each in its turn.
    turns: VecDeque<u64>,
    next: u64,
    hung_up: HungUp,
}

/// Those who were hung up on.
#[derive(Default)]
struct HungUp {
    all: u64,
    /// How many of them the log knows of, and when it was last told.
    told: u64,
    at: Option<Mono>,
}

struct Conversation {
    client: Client,
    answer: Answer,
    /// When it came, or, once it has asked, when something last moved.
    moved: Mono,
}

/// How far the answer is.
enum Answer {
    /// It has just come, and was not listened to.
    NotHeard,
    /// The request is not here yet, or not all of it.
    NotAsked,
    /// The bans after this one are still to be listed; `None`: all are.
    Listing(Option<Place>),
    /// Bans are still to be lifted.
    Unbanning(Box<Unbanning>),
    /// Ready, but history must have written up to the mark first, which is waited for until then.
    AfterHistory {
        mark: Seq,
        lines: Vec<Line>,
        until: Mono,
    },
    /// Ready, and these lines of it are still to be said.
    Telling(VecDeque<Line>),
    /// All of it is in the client's outbox.
    Complete,
    /// The same, and it stays on the line: these modes are in force for as long as it does.
    Leased(BTreeSet<WatchMode>),
}

/// What a client has done for its place, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It was listened to, and asked for nothing yet.
    Silent,
    /// It is to read.
    Reader,
    /// It could do nothing yet.
    Fresh,
    /// It asked, and it is we who dawdle.
    Waiting,
}

impl Clients {
    /// As many places as there may be, or as the limit of open files has room for beside what is open now.
    pub(super) fn new() -> Self {
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let open = fs::read_dir("/proc/self/fd").map_or(PLACES, Iterator::count);
        Self::with_places(limit.saturating_sub(open + KEPT_FREE) / 2)
    }

    fn with_places(places: usize) -> Self {
        Self {
            talking: HashMap::new(),
            places: places.clamp(1, PLACES),
            turns: VecDeque::new(),
            next: 0,
            hung_up: HungUp::default(),
        }
    }

    /// So many leases may be held.
    pub(super) fn places(&self) -> usize {
        self.places
    }

    /// How many are talked to, holders of leases not counted.
    pub(super) fn count(&self) -> usize {
        self.talking.len() - self.leases().count()
    }

    /// How many were hung up on so far.
    pub(super) fn hung_up(&self) -> u64 {
        self.hung_up.all
    }

    /// Whether one more may come. If not, those who have just come are listened to first.
    pub(super) fn may_come(&self) -> bool {
        self.count() < self.places || self.first_to_go().is_some()
    }

    /// Makes room for one more, if need be.
    pub(super) fn make_room(&mut self) {
        if self.count() >= self.places {
            self.hang_up_on_one();
        }
    }

    /// Hangs up on who is the first to go. False: there is nobody.
    pub(super) fn hang_up_on_one(&mut self) -> bool {
        let Some(first) = self.first_to_go() else {
            return false;
        };
        self.remove(first);
        self.hung_up.all += 1;
        true
    }

    /// Who makes room: those first who have not asked though they were listened to, and then who has dawdled longest. So whoever
    /// asks at once is answered, however many others sit there. `None`: nobody, until those who have just come were listened to.
    fn first_to_go(&self) -> Option<u64> {
        let candidates = self.talking.iter().filter_map(|(id, it)| {
            let standing = it.standing()?;
            Some((standing, it.moved, *id))
        });
        let (_, _, first) = candidates
            .min()
            .filter(|(standing, ..)| *standing != Standing::Fresh)?;
        Some(first)
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
                answer: Answer::NotHeard,
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

    /// Who has waited for its turn longest, and does no more.
    fn whose_turn(&mut self) -> Option<u64> {
        self.turns.pop_front()
    }

    /// Hangs up on this one.
    pub(super) fn remove(&mut self, id: u64) {
        self.talking.remove(&id);
        self.turns.retain(|waiting| *waiting != id);
    }

    /// When the next client is hung up on, or answered without history, if nothing moves; at once where one waits for its turn.
    pub(super) fn next_deadline(&self) -> Option<Mono> {
        if !self.turns.is_empty() {
            return Some(Mono(0));
        }
        let deadlines = self.talking.values().filter_map(Conversation::deadline);
        deadlines.chain(self.hung_up.next_deadline()).min()
    }

    /// Hangs up on those who dawdle, and tells of all who were hung up on.
    pub(super) fn drop_idle(&mut self, now: Mono) {
        let dawdles = |it: &Conversation| {
            let waits_for_us = matches!(it.answer, Answer::AfterHistory { .. });
            !waits_for_us && it.deadline().is_some_and(|deadline| deadline <= now)
        };
        let dawdlers: Vec<u64> = (self.talking.iter())
            .filter(|(_, it)| dawdles(it))
            .map(|(id, _)| *id)
            .collect();
        for id in dawdlers {
            self.remove(id);
            self.hung_up.all += 1;
        }
        self.hung_up.tell(now);
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
    /// `None`: it makes room for nobody.
    fn standing(&self) -> Option<Standing> {
        match self.answer {
            Answer::NotAsked => Some(Standing::Silent),
            Answer::Listing(_) | Answer::Telling(_) | Answer::Complete => Some(Standing::Reader),
            Answer::NotHeard => Some(Standing::Fresh),
            Answer::AfterHistory { .. } => Some(Standing::Waiting),
            // What was begun for it is done to its end.
            Answer::Unbanning(_) | Answer::Leased(_) => None,
        }
    }

    fn deadline(&self) -> Option<Mono> {
        match self.answer {
            Answer::AfterHistory { until, .. } => Some(until),
            Answer::Unbanning(_) | Answer::Leased(_) => None,
            _ => Some(self.moved.later(IDLE)),
        }
    }

    /// Whether it went away, or says more than was asked of it. Looked at where nothing else is read any more: the kernel
    /// tells of each end once.
    fn is_over(&mut self) -> bool {
        !matches!(self.client.read(), Step::Wait)
    }
}

impl HungUp {
    fn tell(&mut self, now: Mono) {
        let is_early = self.at.is_some_and(|at| now < at.later(TOLD_AGAIN));
        if self.all == self.told || is_early {
            return;
        }
        warn!(
            "hung up on {} at the control socket, who neither asked nor read (ss -xp shows who talks to pid {})",
            self.all - self.told,
            std::process::id()
        );
        self.told = self.all;
        self.at = Some(now);
    }

    /// When there is something to be told; `None`: nothing is.
    fn next_deadline(&self) -> Option<Mono> {
        let at = self.at.filter(|_| self.all > self.told)?;
        Some(at.later(TOLD_AGAIN))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::control::{Caller, Server};

    struct Door {
        // It goes last: the socket is in it.
        server: Server,
        callers: Vec<UnixStream>,
        dir: tempfile::TempDir,
    }

    impl Door {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let server = Server::bind(&dir.path().join("control.sock")).unwrap();
            Self {
                server,
                callers: Vec::new(),
                dir,
            }
        }

        fn call(&mut self, clients: &mut Clients, now: Mono) -> u64 {
            let path = self.dir.path().join("control.sock");
            self.callers.push(UnixStream::connect(path).unwrap());
            let Caller::Client(client) = self.server.accept().unwrap() else {
                panic!("nobody has come, or a stranger");
            };
            clients.make_room();
            clients.add(client, now)
        }
    }

    impl Clients {
        fn is(&mut self, id: u64, answer: Answer) {
            self.talking.get_mut(&id).unwrap().answer = answer;
        }
    }

    #[test]
    fn a_lease_takes_no_clients_place_and_is_not_hung_up_on() {
        let (mut door, mut clients) = (Door::new(), Clients::with_places(PLACES));
        let atcp = BTreeSet::from([WatchMode::from_name("atcp").unwrap()]);
        let holder = door.call(&mut clients, Mono(0));
        clients.is(holder, Answer::Leased(atcp.clone()));
        assert_eq!(clients.next_deadline(), None);
        for _ in 0..PLACES {
            let id = door.call(&mut clients, Mono(0));
            clients.is(id, Answer::NotAsked);
        }
        assert_eq!(clients.hung_up(), 0);
        door.call(&mut clients, Mono(0));
        assert_eq!((clients.hung_up(), clients.count()), (1, PLACES));
        clients.drop_idle(Mono(0).later(IDLE));
        assert_eq!(clients.hung_up(), 1 + u64::try_from(PLACES).unwrap());
        let pid = std::process::id();
        assert_eq!(clients.leases().collect::<Vec<_>>(), [(pid, &atcp)]);
        assert_eq!(clients.talking.len(), 1);
    }

    #[test]
    fn who_has_just_come_is_listened_to_before_it_makes_room() {
        let (mut door, mut clients) = (Door::new(), Clients::with_places(3));
        let waits = door.call(&mut clients, Mono(0));
        let answer = Answer::AfterHistory {
            mark: Seq::default(),
            lines: Vec::new(),
            until: Mono(0),
        };
        clients.is(waits, answer);
        let reader = door.call(&mut clients, Mono(0));
        clients.is(reader, Answer::Complete);
        let [fresh, another] = [(); 2].map(|()| door.call(&mut clients, Mono(0)));
        assert!(!clients.talking.contains_key(&reader), "it dawdles");
        assert!(!clients.may_come());
        clients.is(fresh, Answer::NotAsked);
        assert!(clients.may_come());
        let last = door.call(&mut clients, Mono(0));
        let mut left: Vec<u64> = clients.talking.into_keys().collect();
        left.sort_unstable();
        assert_eq!(left, [waits, another, last]);
    }

    #[test]
    fn who_is_gone_waits_for_no_turn() {
        let (mut door, mut clients) = (Door::new(), Clients::with_places(1));
        for _ in 0..10 {
            let id = door.call(&mut clients, Mono(0));
            clients.is(id, Answer::NotAsked);
            clients.queue(id);
            clients.queue(id);
        }
        assert_eq!(clients.turns, [10]);
    }

    #[test]
    fn the_log_is_told_once_a_second_of_who_was_hung_up_on() {
        let mut hung_up = HungUp::default();
        let t0 = Mono(0);
        hung_up.tell(t0);
        assert_eq!((hung_up.told, hung_up.next_deadline()), (0, None));
        hung_up.all = 3;
        hung_up.tell(t0);
        assert_eq!((hung_up.told, hung_up.next_deadline()), (3, None));
        hung_up.all = 900;
        hung_up.tell(t0.later(TOLD_AGAIN / 2));
        let due = Some(t0.later(TOLD_AGAIN));
        assert_eq!((hung_up.told, hung_up.next_deadline()), (3, due));
        hung_up.tell(t0.later(TOLD_AGAIN));
        assert_eq!((hung_up.told, hung_up.next_deadline()), (900, None));
    }
}
