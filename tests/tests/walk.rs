//! The walk through adding a detector in ARCHITECTURE.md holds as long as the tree is what it says: every file and symbol that
//! it names is there, and every fragment stands in its file as it is quoted. Fragments are pieces of files that are compiled
//! and tested where they stand, so a fragment that holds compiles.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;

use tidewatch_tests::project::{files, root};

/// Stands for lines that a fragment leaves out.
const LEFT_OUT: &str = "…";

/// The walk: its section, without the headings around it.
fn walk() -> String {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, after) = text.split_once("\n## Adding a detector\n").expect("the walk is a section of ARCHITECTURE.md");
    after.split("\n## ").next().unwrap_or_default().to_owned()
}

/// What is wrong with a walk, with a way to read files.
fn wrong(walk: &str, read: &dyn Fn(&str) -> Option<String>, words: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut file: Option<String> = None;
    let mut lines = walk.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let fragment: Vec<&str> = lines.by_ref().take_while(|l| !l.starts_with("```")).collect();
            match file.as_ref().and_then(|f| read(f).map(|text| (f, text))) {
                None => found.push(format!("a fragment of no file: {}", fragment.first().unwrap_or(&""))),
                Some((name, text)) => {
                    if let Some(line) = missing(&fragment, &text) {
                        found.push(format!("{name} does not hold, where it is quoted: {line}"));
                    }
                }
            }
            continue;
        }
        // Between backticks: a file, a command, or a symbol.
        for quoted in line.split('`').skip(1).step_by(2) {
            if quoted.contains(' ') || quoted == LEFT_OUT {
                continue;
            }
            if quoted.contains('/') {
                if read(quoted).is_none() {
                    found.push(format!("there is no file {quoted}"));
                }
                file = Some(quoted.to_owned());
            } else if !words.contains(quoted.rsplit("::").next().unwrap_or(quoted)) {
                found.push(format!("nothing is called {quoted}"));
            }
        }
    }
    found
}

/// The first line of a fragment that does not follow in the text: lines stand one after the other as they are quoted, and
/// [`LEFT_OUT`] skips some.
fn missing<'f>(fragment: &[&'f str], text: &str) -> Option<&'f str> {
    let lines: Vec<&str> = text.lines().collect();
    let pieces: Vec<&[&str]> = fragment.split(|l| l.trim() == LEFT_OUT).filter(|p| !p.is_empty()).collect();
    let mut from = 0;
    for piece in pieces {
        let fits = |at: usize| piece.iter().zip(&lines[at..]).all(|(a, b)| a.trim_end() == b.trim_end());
        let Some(at) = (from..lines.len().saturating_sub(piece.len() - 1)).find(|at| fits(*at)) else {
            return piece.first().copied();
        };
        from = at + piece.len();
    }
    None
}

/// Words of the sources that the walk is about.
fn words() -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for source in files(".rs").iter().filter(|s| s.path.starts_with("operators/src/")) {
        out.extend(source.text.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned));
    }
    out
}

#[test]
fn the_walk_is_what_the_tree_is() {
    let read = |path: &str| fs::read_to_string(root().join(path)).ok();
    let walk = walk();
    let found = wrong(&walk, &read, &words());
    assert!(found.is_empty(), "ARCHITECTURE.md, adding a detector:\n  {}", found.join("\n  "));
    // It shows all four: file, line, rule, scenarios.
    let fragments = walk.matches("\n```rust").count() + walk.matches("\n```yaml").count();
    for of in ["operators/src/detectors.rs", "rules/", "/tests.rs", "operators/src/conformance.rs"] {
        assert!(walk.contains(of), "the walk does not come by {of}");
    }
    assert!(fragments >= 8, "{fragments} fragments");
}

#[test]
fn a_walk_out_of_date_is_told() {
    let tree = |path: &str| (path == "a/b.rs").then(|| "fn one() {\n    two();\n    three();\n}\n".to_owned());
    let words = BTreeSet::from(["one".to_owned()]);
    let told = |walk: &str| wrong(walk, &tree, &words);
    assert_eq!(told("In `a/b.rs`, `one`:\n```rust\nfn one() {\n…\n    three();\n}\n```\n"), Vec::<String>::new());
    for (walk, why) in [
        ("In `a/b.rs`:\n```rust\nfn one() {\n    three();\n```\n", "does not hold"),
        ("In `a/b.rs`:\n```rust\n    three();\n…\n    two();\n```\n", "does not hold"),
        ("In `a/c.rs`.", "there is no file a/c.rs"),
        ("See `four`.", "nothing is called four"),
        ("```rust\nfn one() {\n```\n", "of no file"),
    ] {
        let found = told(walk);
        assert!(found.len() == 1 && found[0].contains(why), "{walk}: {found:?}");
    }
}
