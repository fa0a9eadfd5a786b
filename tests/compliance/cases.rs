//! All cases, by what they are about.

mod configuration;
mod ignore;
mod life;
mod modes;
mod names;
mod packets;
mod ports;
mod readers;
mod responses;
mod trigger;

use crate::case::Case;

pub(crate) fn all() -> Vec<Case> {
    [
        modes::cases(),
        packets::cases(),
        trigger::cases(),
        responses::cases(),
        ignore::cases(),
        ports::cases(),
        names::cases(),
        configuration::cases(),
        life::cases(),
        readers::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
