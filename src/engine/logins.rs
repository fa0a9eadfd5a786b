//! Those who are logged in are not banned: who they are is looked up when it comes to a ban.

use std::time::Duration;

use tracing::info;

use super::{About, Engine};
use crate::clock::Now;
use crate::guard::Friend;
use crate::host::Login;
use crate::source::Source;

/// Finds out who is logged in from elsewhere: now, if so asked, or a moment ago; `None`: as when it was last asked.
pub type FindLogins = dyn FnMut(bool) -> Result<Option<Vec<Login>>, String>;

/// For how long nothing is made of the scans of somebody who was spared for being logged in.
const QUIET: Duration = Duration::from_secs(10);

impl Engine {
    /// From now on, it is looked up by this who is logged in.
    pub fn find_logins_by(&mut self, find: Box<FindLogins>) {
        self.find_logins = Some(find);
    }

    /// The logins have changed. Who is logged in now is unbanned, and let through.
    pub fn logins_changed(&mut self, now: Now) {
        self.look_for_logins(true, now);
    }

    /// Finds out who is logged in, if that was not done a moment ago or is news.
    pub fn look_for_logins(&mut self, is_news: bool, now: Now) {
        let Some(find) = self
            .find_logins
            .as_mut()
            .filter(|_| self.guard.spares_logins())
        else {
            return;
        };
        match find(is_news) {
            Ok(None) => {}
            Ok(Some(logins)) => {
                self.complaints.settle(About::Logins);
                if self.guard.logins_changed(logins) {
                    self.spare_friends(now);
                    self.lift_friends(now);
                }
            }
            // Those that were known last count.
            Err(cause) => self.complaints.add(About::Logins, now.mono, || cause),
        }
    }

    /// Whether `source` is not to be banned for a scan because somebody is logged in from there, as was looked up last.
    pub(super) fn is_spared_as_logged_in(&mut self, source: Source, now: Now) -> bool {
        let Some(friend @ Friend::Login(_)) = self.guard.friend(source) else {
            return false;
        };
        info!("{source} scans, and is not banned: {friend}");
        self.counters.spared_logins += 1;
        self.detector.mute(source, now.mono.later(QUIET));
        true
    }
}
