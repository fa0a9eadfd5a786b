//! The terms of the libraries that are linked into the program: they ask for being handed on with it.
//!
//! All that is linked can be had by the MIT licence or the zlib licence; where there is a choice, that is ours.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const HEAD: &str = "\
Libraries that are part of portsentry
=====================================

portsentry itself is free software by the terms of the GNU General Public
License, version 2 or any later version. These libraries are linked into the
program; each may be used by the terms that stand below its name. Where a
library leaves the choice between several, those chosen here stand here.
";

/// What a licence says beside who holds the copyright.
type Terms = String;

/// A library, and who holds its copyright.
type Holder = (String, Vec<String>);

pub(crate) fn page() -> String {
    let mut by_terms: BTreeMap<Terms, BTreeSet<Holder>> = BTreeMap::new();
    let mut without = Vec::new();
    for package in linked() {
        let name = format!("{} {}", text(&package["name"]), text(&package["version"]));
        match licence(&package) {
            Some(licence) => {
                let (holders, terms) = divide(&licence);
                by_terms.entry(terms).or_default().insert((name, holders));
            }
            None => without.push((name, authors(&package))),
        }
    }
    // Who has packed no licence names MIT: its usual words are those that most libraries have.
    let usual = by_terms
        .iter()
        .max_by_key(|(_, holders)| holders.len())
        .map(|(terms, _)| terms.clone())
        .expect("something is linked");
    assert!(usual.contains("Permission is hereby granted, free of charge"));
    by_terms.entry(usual).or_default().extend(without);

    let mut page = HEAD.to_owned();
    for (terms, libraries) in by_terms {
        page += "\n----------------------------------------------------------------------\n\n";
        for (name, holders) in libraries {
            writeln!(page, "{name}").expect("a string takes all");
            for holder in holders {
                writeln!(page, "    {holder}").expect("a string takes all");
            }
        }
        write!(page, "\n{terms}").expect("a string takes all");
    }
    page
}

/// The packages that are linked into the program: not those that are used while it is built, nor what these need.
fn linked() -> Vec<Value> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&metadata.stderr);
    assert!(metadata.status.success(), "{said}");
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("cargo writes JSON");
    let by_id = |list: &Value| -> HashMap<String, Value> {
        let items = list.as_array().expect("a list").iter();
        items
            .map(|it| (text(&it["id"]).to_owned(), it.clone()))
            .collect()
    };
    let (packages, nodes) = (
        by_id(&metadata["packages"]),
        by_id(&metadata["resolve"]["nodes"]),
    );
    let root = text(&metadata["resolve"]["root"]).to_owned();
    let mut seen = BTreeSet::from([root.clone()]);
    let mut to_do = vec![root.clone()];
    while let Some(id) = to_do.pop() {
        for dependency in items(&nodes[&id]["deps"]) {
            let is_linked = items(&dependency["dep_kinds"]).any(|it| it["kind"].is_null());
            let id = text(&dependency["pkg"]).to_owned();
            let is_program = items(&packages[&id]["targets"])
                .any(|target| items(&target["kind"]).any(|kind| kind == "proc-macro"));
            if is_linked && !is_program && seen.insert(id.clone()) {
                to_do.push(id);
            }
        }
    }
    seen.remove(&root);
    seen.iter().map(|id| packages[id].clone()).collect()
}

/// The text of the package's licence, of those that it leaves the choice of.
fn licence(package: &Value) -> Option<String> {
    let named = text(&package["license"]);
    let is_ours = |name: &str| ["MIT", "Zlib"].contains(&name);
    let names = named.split([' ', '/', '(', ')']);
    assert!(
        names.clone().any(is_ours) && !names.clone().any(|name| name == "AND"),
        "{}: {named} is neither MIT nor Zlib: have this page tell its terms",
        text(&package["name"])
    );
    let dir = Path::new(text(&package["manifest_path"])).parent();
    let files = fs::read_dir(dir.expect("a file has a directory")).expect("cargo has unpacked it");
    let mut files: Vec<_> = files
        .map(|file| file.expect("it can be read").path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| {
                let stem = name.trim_end_matches(".md").trim_end_matches(".txt");
                ["LICENSE-MIT", "LICENSE"].contains(&stem)
            })
        })
        .collect();
    files.sort();
    files
        .pop()
        .map(|path| fs::read_to_string(path).expect("licences are text"))
}

/// Who holds the copyright, and the terms, the latter in lines of one length, so that the same words are the same text.
fn divide(licence: &str) -> (Vec<String>, Terms) {
    let is_holder = |line: &&str| line.to_lowercase().starts_with("copyright ");
    let is_title = |line: &str| {
        let line = line.trim_matches(['#', ' ']);
        ["MIT License", "The MIT License (MIT)", "License"].contains(&line)
            || line.starts_with("All rights reserved")
    };
    let lines = licence.lines().map(str::trim);
    // Some name holders of parts, which stands best where they say it.
    let is_plain = !lines.clone().any(|line| line.ends_with("copyright:"));
    let is_holder = |line: &&str| is_plain && is_holder(line);
    let holders = lines.clone().filter(is_holder).map(str::to_owned).collect();
    let mut terms = String::new();
    let kept: Vec<&str> = lines
        .filter(|line| !is_holder(line) && !is_title(line))
        .collect();
    for paragraph in kept.split(|line| line.is_empty()) {
        let mut width = 0;
        let words = paragraph.iter().flat_map(|line| line.split_whitespace());
        for word in words {
            if width > 0 && width + word.len() < 72 {
                terms.push(' ');
                width += 1;
            } else if width > 0 {
                terms.push('\n');
                width = 0;
            }
            terms += word;
            width += word.len();
        }
        if width > 0 {
            terms += "\n\n";
        }
    }
    (holders, format!("{}\n", terms.trim_end()))
}

fn authors(package: &Value) -> Vec<String> {
    items(&package["authors"])
        .map(|author| format!("Copyright {}", text(author)))
        .collect()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
