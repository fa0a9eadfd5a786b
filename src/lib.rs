//! portsentry watches a host's unused ports and bans whoever scans them, through an nftables set.
//!
//! The modules stand in the order in which a probe meets them.
//! `docs/architecture.md` tells what each holds and what it must leave to others.

pub mod clock;
pub mod source;

pub mod capture;
pub mod listen;
pub mod probe;

pub mod detect;
pub mod guard;
pub mod policy;

pub mod respond;
pub mod traps;

pub mod history;
pub mod nft;

pub mod host;
pub mod privilege;

pub mod engine;

pub mod command;
pub mod control;
pub mod daemon;

pub mod config;
pub mod migrate;
pub mod rewrite;

pub mod cli;
pub mod log;

mod sys;

pub use cli::main;
