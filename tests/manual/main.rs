//! The manual pages in packaging/man, the completions in packaging/completions and the licences of what is linked: what they are
//! made of, and that they are up to date. They are committed, so that whoever builds a package needs neither the tools that make them nor a program that runs on
//! the machine that builds.
//!
//!     make manual        writes them anew
//!
//! portsentry(8) and the completions come from what `--help` comes from, portsentry.toml(5) from the comments in
//! config/portsentry.toml. portsentry.conf(5) is written by hand; that it names each of 1.2's keys is a test of the reader of these.

mod command;
mod configuration;
mod licences;
mod roff;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use clap_complete::Shell;

/// A file that is made: where it stands, and what belongs there.
struct Made {
    path: &'static str,
    text: String,
}

fn all() -> [Made; 6] {
    let made = |path, text| Made { path, text };
    [
        made("packaging/man/portsentry.8", command::page()),
        made("packaging/man/portsentry.toml.5", configuration::page()),
        made("packaging/licences.txt", licences::page()),
        made(
            "packaging/completions/portsentry.bash",
            completions(Shell::Bash),
        ),
        made("packaging/completions/_portsentry", completions(Shell::Zsh)),
        made(
            "packaging/completions/portsentry.fish",
            completions(Shell::Fish),
        ),
    ]
}

fn completions(shell: Shell) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(
        shell,
        &mut portsentry::cli::command(),
        "portsentry",
        &mut bytes,
    );
    String::from_utf8(bytes).expect("completions are text")
}

fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// With PORTSENTRY_MANUAL=write it makes them so.
#[test]
fn the_manual_the_completions_and_the_licences_are_those_of_this_program() {
    let writes = env::var_os("PORTSENTRY_MANUAL").is_some_and(|value| value == "write");
    for Made { path, text } in all() {
        if writes {
            fs::write(in_tree(path), &text).expect("the tree can be written");
        }
        let found = fs::read_to_string(in_tree(path)).unwrap_or_default();
        assert!(found == text, "{path} is not up to date: run `make manual`");
    }
}

#[test]
fn the_page_of_the_program_names_every_command_and_every_flag() {
    let page = plain(&command::page());
    for (name, command) in command::leaves() {
        assert!(page.contains(&name), "{name}");
        for argument in command.get_arguments() {
            if let Some(long) = argument.get_long() {
                assert!(page.contains(&format!("--{long}")), "{name} --{long}");
            }
        }
    }
    for flag in [
        "-tcp", "-udp", "-stcp", "-sudp", "-atcp", "-audp", "--config",
    ] {
        assert!(page.contains(flag), "{flag}");
    }
}

#[test]
fn the_page_of_the_configuration_names_every_key_with_its_default() {
    let page = plain(&configuration::page());
    let sample = configuration::SAMPLE;
    let mut section = "";
    for line in sample.lines() {
        if line.starts_with('[') {
            section = line;
            assert!(page.contains(section), "{section}");
        } else if line.contains(" = ") && !line.starts_with('#') {
            assert!(page.contains(line), "{line} of {section}");
        }
    }
}

/// As a reader sees it, but for its line breaks.
fn plain(page: &str) -> String {
    let fonts = ["\\fB", "\\fI", "\\fR"];
    let bare = fonts
        .iter()
        .fold(page.to_owned(), |text, font| text.replace(font, ""));
    bare.replace("\\-", "-").replace("\\(aq", "'")
}
