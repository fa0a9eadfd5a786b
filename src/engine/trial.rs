//! From a probe to a verdict, and what follows from it: a ban, a program, a report.

use std::net::IpAddr;
use std::time::Duration;

use super::aftermath::Untold;
use super::report::Outcome;
use super::{About, Ask, Engine, Probe, Purpose, Question, Record, Source};
use crate::clock::{Mono, Now};
use crate::config::{Response, WatchMode, When};
use crate::detect::Scan;
use crate::log::counted;
use crate::policy::{Alarm, Ban, Reason, Spare, Verdict, judge, spare_any};
use crate::probe::{Protocol, ScanType};

impl Engine {
    /// Judges a batch of probes, and bans in one go whom it convicts: the kernel first, history after.
    pub fn probes(&mut self, probes: &[Probe], now: Now, ask: &mut dyn Ask) {
        let mut scans = Vec::new();
        let mut convicted = Vec::new();
        let mut is_first = true;
        for probe in probes {
            // What more comes of somebody who was found out in this batch depends on what comes of that.
            let is_of = |(scan, _): &(Scan, Alarm)| scan.source.covers(probe.source);
            if scans.iter().any(is_of) {
                self.try_all(&mut scans, &mut convicted, &mut is_first, now, ask);
            }
            scans.extend(self.observe(probe, now, ask));
        }
        self.try_all(&mut scans, &mut convicted, &mut is_first, now, ask);
        self.carry_out(convicted, true, now);
    }

    /// Tries those who scan, but for whom somebody has answered, who need not be there any more: a service for one caller alone
    /// (an FTP server's data port, say) may be gone before we can ask for it. The kernel is asked of all at once.
    fn try_all(
        &mut self,
        scans: &mut Vec<(Scan, Alarm)>,
        convicted: &mut Vec<(Source, Alarm)>,
        is_first: &mut bool,
        now: Now,
        ask: &mut dyn Ask,
    ) {
        let is_syn = |probe: &Probe| probe.scan_type == ScanType::Syn;
        let probes = scans.iter().map(|(_, alarm)| alarm.probe);
        let syns: Vec<Probe> = probes.filter(is_syn).collect();
        let answered = if syns.is_empty() {
            Some(Vec::new())
        } else {
            self.heard(ask.were_answered(&syns), now)
        };
        let is_known = answered.is_some();
        let mut answered = answered.unwrap_or_default().into_iter();
        for (scan, alarm) in scans.drain(..) {
            if is_syn(&alarm.probe) && answered.next().unwrap_or(true) {
                self.counters.hits -= 1;
                self.counters.services += 1;
                if is_known {
                    self.learn_service(&alarm.probe, now);
                }
                continue;
            }
            if std::mem::take(is_first) {
                self.notice(now);
                self.look_for_logins(false, now);
            }
            convicted.extend(self.convict(&scan, alarm, now));
        }
    }

    /// Follows one probe up to a scan of a trap by somebody who is neither banned nor a friend.
    fn observe(&mut self, probe: &Probe, now: Now, ask: &mut dyn Ask) -> Option<(Scan, Alarm)> {
        self.counters.probes += 1;
        if !self.guard.is_ours(probe) {
            self.counters.not_ours += 1;
            return None;
        }
        let Some(mode) = self.guard.mode_of(probe) else {
            self.counters.unwatched += 1;
            return None;
        };
        let alarm = Alarm {
            probe: *probe,
            mode,
        };
        if self.bans.covers(probe.source) {
            self.counters.already_banned += 1;
            self.again(alarm, now);
        } else if self
            .guard
            .lasting_friend(Source::from(probe.source))
            .is_some()
        {
            self.counters.ignored += 1;
            self.spared
                .observe(Source::from(probe.source), probe, now.mono);
        } else if self.is_dealt_with(probe, now) {
            self.counters.hits += 1;
        } else if self.is_service(probe, Freshness::WithinASecond, now, ask) {
            self.counters.services += 1;
        } else if self.is_answer(probe, now, ask) {
            self.counters.answers += 1;
        } else {
            self.counters.hits += 1;
            let source = self.source_of(probe.source);
            if self.config.has_traps() && !is_handshake(probe) {
                self.counters.unconfirmed += 1;
                self.unconfirmed.observe(source, probe, now.mono);
                return None;
            }
            let Some(scan) = self.detector.observe(source, probe, now.mono) else {
                // A look-up for nothing, where nobody wants to be told.
                if self.config.log.repeats && self.detector.is_muted(source, now.mono) {
                    self.again(alarm, now);
                }
                return None;
            };
            let spare = spare_any(self.response_to(mode), &self.config.ban, &self.bans, now);
            if let Some(spare @ (Spare::Limit | Spare::Rate)) = spare {
                // Nothing hangs on what the kernel would answer, and a flood has it asked for each packet.
                self.counters.scans += 1;
                self.spare(spare, now);
                return None;
            }
            if !self.is_service(probe, Freshness::Now, now, ask) {
                return Some((scan, alarm));
            }
            self.counters.hits -= 1;
            self.counters.services += 1;
        }
        None
    }

    /// What a ban of `address` would name. A program shuts out the address alone, and must hear the same one when the ban ends.
    fn source_of(&self, address: IpAddr) -> Source {
        if self.bans_by_program() {
            Source::from(address)
        } else {
            self.guard.source_of(address)
        }
    }

    /// Whether nothing comes of the probe, whatever the kernel would say of its port: its source's scans have been told, and what
    /// follows them is not.
    fn is_dealt_with(&self, probe: &Probe, now: Now) -> bool {
        let counts = !self.config.has_traps() || is_handshake(probe);
        let source = self.source_of(probe.source);
        counts && !self.config.log.repeats && self.detector.is_muted(source, now.mono)
    }

    /// Tells of a probe by somebody who is dealt with already, if that is wanted.
    fn again(&mut self, alarm: Alarm, now: Now) {
        if self.config.log.repeats && self.repeats.spend(now.mono) {
            self.report(alarm, None, true, Outcome::Again, now);
        }
    }

    /// Whether something serves the probe's port, or did so lately. What a listener of ours was told on a port of its own is
    /// for no service; what a trap was told may be, when that is down for a moment.
    fn is_service(&mut self, probe: &Probe, fresh: Freshness, now: Now, ask: &mut dyn Ask) -> bool {
        let is_trapped = self.config.has_traps() && is_handshake(probe);
        if probe.scan_type == ScanType::Connect && !is_trapped {
            return false;
        }
        let Probe {
            protocol,
            dest,
            port,
            ..
        } = *probe;
        let known = self.guard.services.lookup(protocol, dest, port, now.mono);
        let is_enough = |service: bool, asked: Mono| {
            service || fresh == Freshness::WithinASecond || asked == now.mono
        };
        if let Some((service, _)) = known.filter(|&(service, asked)| is_enough(service, asked)) {
            return service;
        }
        let Some(bound) = self.ask(Question::IsService, probe, now, ask) else {
            return true;
        };
        if (self.guard.services).learn(protocol, dest, port, bound, now.mono) {
            return true;
        }
        let Some(redirected) = self.ask(Question::IsRedirected, probe, now, ask) else {
            return true;
        };
        // Who listens elsewhere may answer for this port all the same (a rule of tproxy, say). At a verdict it is asked of all.
        let may_be_answered = fresh == Freshness::WithinASecond
            && probe.scan_type == ScanType::Syn
            && !self.config.has_traps();
        let served = redirected
            || may_be_answered
                && (self.ask(Question::WasAnswered, probe, now, ask)).unwrap_or(true);
        served && self.learn_service(probe, now)
    }

    /// Keeps that somebody serves this port, whether anything is bound to it or not. True: so it is a service.
    fn learn_service(&mut self, probe: &Probe, now: Now) -> bool {
        let Probe {
            protocol,
            dest,
            port,
            ..
        } = *probe;
        (self.guard.services).learn(protocol, dest, port, true, now.mono)
    }

    /// Whether the probe is the late answer to a question that left this host, or a host behind it. TCP's answers are told
    /// by their flags.
    fn is_answer(&mut self, probe: &Probe, now: Now, ask: &mut dyn Ask) -> bool {
        probe.protocol == Protocol::Udp
            && probe.scan_type != ScanType::Connect
            && self
                .ask(Question::IsAnswer, probe, now, ask)
                .unwrap_or(true)
    }

    fn ask(
        &mut self,
        question: Question,
        probe: &Probe,
        now: Now,
        ask: &mut dyn Ask,
    ) -> Option<bool> {
        self.heard(ask.ask(question, probe), now)
    }

    /// What the kernel says; `None` when it cannot be asked: then the benefit of the doubt is the source's.
    fn heard<T>(&mut self, answer: Result<T, String>, now: Now) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(cause) => {
                self.counters.unanswered += 1;
                let words =
                    || format!("cannot tell traps from services, and probes from answers: {cause}");
                self.complaints.add(About::Services, now.mono, words);
                None
            }
        }
    }

    /// Bans the scan's source in memory, or spares it. The world and history come after the whole batch; `None`: there is
    /// nothing for them to do, or not yet.
    fn convict(&mut self, scan: &Scan, alarm: Alarm, now: Now) -> Option<(Source, Alarm)> {
        self.counters.scans += 1;
        if self.is_spared_as_logged_in(scan.source, now) {
            return None;
        }
        let response = self.response_to(alarm.mode);
        match judge(scan, response, &self.config.ban, &self.bans, now) {
            Verdict::Ban(_) if self.cannot_ban(alarm) => {
                self.complain_of_ipv4_programs();
                self.let_be(scan, alarm, Outcome::Open, now);
            }
            Verdict::Ban(ban) => {
                self.counters.bans += 1;
                self.bans.count_new(now.mono);
                self.detector.forget(scan.source);
                self.bans.insert(ban);
                if self.config.command.when == When::Before && self.tells_of_bans() {
                    let run = self.config.command.run.clone();
                    let purpose = Purpose::TellFirst(alarm, scan.source);
                    if self.run(run, Some(alarm), purpose, alarm.probe.source, now) {
                        self.world.hold_back(scan.source);
                        let reason = Some(Reason::Scan(scan.summary));
                        self.report(alarm, reason, true, Outcome::Open, now);
                        return None;
                    }
                }
                return Some((scan.source, alarm));
            }
            Verdict::Spare(Spare::LogOnly) => {
                let outcome = match response {
                    Response::Command => Outcome::ProgramAlone,
                    _ => Outcome::LetBe,
                };
                self.let_be(scan, alarm, outcome, now);
                if response == Response::Command {
                    self.tell_program(alarm, now);
                }
            }
            Verdict::Spare(spare) => self.spare(spare, now),
        }
        None
    }

    /// What a scan of this mode leads to.
    fn response_to(&self, mode: WatchMode) -> Response {
        match mode.protocol {
            Protocol::Tcp => self.config.tcp.response,
            Protocol::Udp => self.config.udp.response,
        }
    }

    /// Counts a scan that there are too many of.
    fn spare(&mut self, spare: Spare, now: Now) {
        let rules = &self.config.ban;
        match spare {
            Spare::LogOnly => {}
            Spare::Limit => {
                self.counters.spared_limit += 1;
                let words = || {
                    format!(
                        "ban.limit of {} is reached: scanners are spared",
                        counted(rules.limit, "ban", "bans")
                    )
                };
                self.complaints.add(About::Limit, now.mono, words);
            }
            Spare::Rate => {
                self.counters.spared_rate += 1;
                let words = || {
                    format!(
                        "ban.rate of {} a second is reached: scanners are spared",
                        counted(rules.rate, "scan", "scans")
                    )
                };
                self.complaints.add(About::Rate, now.mono, words);
            }
        }
    }

    /// Tells of a scan once, and bans nobody for it.
    fn let_be(&mut self, scan: &Scan, alarm: Alarm, outcome: Outcome, now: Now) {
        self.counters.logged += 1;
        self.bans.count_new(now.mono);
        let quiet = self.config.ban.duration.unwrap_or(A_DAY);
        self.detector.mute(scan.source, now.mono.later(quiet));
        let reason = Reason::Scan(scan.summary);
        self.report(alarm, Some(reason.clone()), true, outcome, now);
        let scan = Record::Scan {
            source: scan.source,
            reason,
            at: now.wall,
        };
        self.record(scan, now.mono);
    }

    fn tell_program(&mut self, alarm: Alarm, now: Now) {
        let run = self.config.command.run.clone();
        let purpose = Purpose::Tell(alarm);
        self.run(run, Some(alarm), purpose, alarm.probe.source, now);
    }

    /// Makes bans real that stand in memory, and tells of them when they are. `is_first`: nothing has been told yet.
    pub(super) fn carry_out(&mut self, convicted: Vec<(Source, Alarm)>, is_first: bool, now: Now) {
        let bans: Vec<(Ban, Alarm)> = convicted
            .into_iter()
            .filter_map(|(source, alarm)| Some((self.bans.get(source)?.clone(), alarm)))
            .collect();
        if bans.is_empty() {
            return;
        }
        let is_for_programs_alone = !self.world.has_responders();
        let parts: Vec<Source> = bans.iter().map(|(ban, _)| ban.source).collect();
        self.world
            .ban(&bans.iter().map(|(ban, _)| ban).collect::<Vec<_>>(), now);
        for (ban, alarm) in &bans {
            let untold = Untold {
                alarm: *alarm,
                reason: ban.reason.clone(),
                is_seen: !is_first,
                is_real: false,
                has_failed: false,
                is_for_programs: true,
            };
            self.untold.insert(ban.source, untold);
            // What programs alone make real is a ban when they have.
            if !is_for_programs_alone {
                self.record(Record::Ban(ban.clone()), now.mono);
            }
        }
        self.follow_up(now);
        for (ban, alarm) in bans {
            let source = ban.source;
            let unseen = self.untold.get_mut(&source);
            if unseen.is_some_and(|it| !std::mem::replace(&mut it.is_seen, true)) {
                self.report(alarm, Some(ban.reason), true, Outcome::Open, now);
            }
            if is_for_programs_alone {
                self.untold.remove(&source);
                self.ban_by_programs_alone(source, alarm, now);
            }
        }
        self.roll_up(&parts, now);
    }

    /// Has the only ones who can ban this source do so: the admin's programs.
    fn ban_by_programs_alone(&mut self, source: Source, alarm: Alarm, now: Now) {
        if self.bans_by_program() {
            self.world.hold_back(source);
            if !self.run_to_ban(source, alarm, now) {
                self.not_banned(source, Some(alarm), now);
            }
        }
        self.tell_program_after(alarm, now);
    }

    /// Has programs do their part in a ban that the responders have done theirs in.
    pub(super) fn go_on_with_programs(&mut self, source: Source, alarm: Alarm, now: Now) {
        if self.bans_by_program() {
            self.run_to_ban(source, alarm, now);
        }
        self.tell_program_after(alarm, now);
    }

    fn run_to_ban(&mut self, source: Source, alarm: Alarm, now: Now) -> bool {
        let line = self.config.command.ban.clone();
        let purpose = Purpose::Ban(source, Some(alarm));
        self.run(line, Some(alarm), purpose, alarm.probe.source, now)
    }

    fn tell_program_after(&mut self, alarm: Alarm, now: Now) {
        if self.config.command.when == When::After && self.tells_of_bans() {
            self.tell_program(alarm, now);
        }
    }
}

/// Whether its sender cannot be forged.
fn is_handshake(probe: &Probe) -> bool {
    (probe.protocol, probe.scan_type) == (Protocol::Tcp, ScanType::Connect)
}

const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// How old an answer about a service may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Freshness {
    WithinASecond,
    Now,
}
