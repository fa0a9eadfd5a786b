//! All cases, by what they are about.

mod modes;

use crate::case::Case;

pub(crate) fn all() -> Vec<Case> {
    [modes::cases()].into_iter().flatten().collect()
}
