//! What the sources say of themselves holds: every ordering is labelled at both ends, and `unsafe` stands behind the
//! two doors alone.
#![cfg(not(modelled))]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// (path below `src`, text) of every source file.
fn all() -> Vec<(String, String)> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let mut paths = Vec::new();
    sources(root, &mut paths);
    let name = |path: &PathBuf| path.strip_prefix(root).expect("below it").to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).expect("text"))).collect()
}

#[test]
fn every_ordering_is_labelled_at_both_ends() {
    let mut ends: BTreeMap<String, BTreeSet<char>> = BTreeMap::new();
    for (name, text) in all() {
        for rest in text.split("// SYNC ").skip(1) {
            let Some((label, end)) = rest.split_once(" (") else {
                panic!("{name}: {rest:.60} says no end");
            };
            let end = end.chars().next().expect("an end");
            assert!(matches!(end, 'W' | 'R') && !label.contains(' '), "{name}: {rest:.60} is no label");
            ends.entry(label.to_owned()).or_default().insert(end);
        }
    }
    println!("{} orderings", ends.len());
    assert!(ends.len() > 10);
    for (label, ends) in ends {
        assert_eq!(ends, BTreeSet::from(['R', 'W']), "SYNC {label} has one end only");
    }
}

#[test]
fn unsafe_stands_behind_the_two_doors() {
    let is_door = |name: &str| name == "view.rs" || name.starts_with("os/");
    for (name, text) in all() {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let found: Vec<&str> = code.filter(|line| line.contains("unsafe ")).collect();
        assert!(found.is_empty() || is_door(&name), "{name}: {found:?}");
    }
}
