//! [`Kernel`]: whom the engine asks about probes.

use std::net::SocketAddr;

use crate::engine::{Ask, Question};
use crate::host::{Flows, Link, Services};
use crate::probe::{Probe, ScanType};

/// What it takes to ask for an answer.
pub(super) struct Kernel<'a> {
    pub(super) services: &'a mut Services,
    pub(super) flows: &'a mut Flows,
    pub(super) links: &'a [Link],
}

impl Ask for Kernel<'_> {
    fn ask(&mut self, question: Question, probe: &Probe) -> Result<bool, String> {
        let (from, to) = ends(probe);
        let (protocol, flows) = (probe.protocol, &mut *self.flows);
        match question {
            Question::IsService => self.services.bound(protocol, to, self.links),
            Question::WasAnswered => {
                let answered = self.were_answered(std::slice::from_ref(probe))?;
                return Ok(answered == [true]);
            }
            Question::IsRedirected if probe.scan_type == ScanType::Connect => {
                flows.was_redirected(protocol, from, to)
            }
            Question::IsRedirected => flows.is_redirected(protocol, from, to),
            Question::IsAnswer => flows.is_answer(protocol, from, to),
        }
        .map_err(|error| error.to_string())
    }

    fn were_answered(&mut self, probes: &[Probe]) -> Result<Vec<bool>, String> {
        let packets: Vec<_> = probes.iter().map(ends).collect();
        let answered = self.services.connected(&packets);
        answered.map_err(|error| error.to_string())
    }
}

/// From where to where.
fn ends(probe: &Probe) -> (SocketAddr, SocketAddr) {
    (
        SocketAddr::new(probe.source, probe.source_port),
        SocketAddr::new(probe.dest, probe.port),
    )
}
