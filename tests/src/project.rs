//! The project as files: what the tidy test and the documents' generator look at. Reads the tree this crate was built
//! from; never writes.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the project.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path from the root, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// A named limit: a constant whose name ends in `_MAX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Name.
    pub name: String,
    /// Value as written.
    pub value: String,
    /// Its doc comment, or the comment above it.
    pub meaning: String,
}

/// Folders that are no part of the project: built, fetched or run there.
const OUTSIDE: &[&str] = &["target", ".git", "tidewatch-data", "corpus", "artifacts"];

/// The root of the project.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in a folder of the project")
}

/// The files with an ending, sorted by path.
///
/// # Panics
/// When the tree cannot be read: then nothing can be said of it.
pub fn files(ending: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    walk(root(), &mut paths);
    let mut sources: Vec<Source> = paths
        .iter()
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().ends_with(ending)))
        .map(|p| Source {
            path: p.strip_prefix(root()).expect("found below the root").to_string_lossy().replace('\\', "/"),
            text: fs::read_to_string(p).expect("sources are readable text"),
        })
        .collect();
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the project's folders are readable") {
        let path = entry.expect("the project's folders are readable").path();
        if !path.is_dir() {
            out.push(path);
        } else if !path.file_name().is_some_and(|n| OUTSIDE.contains(&n.to_string_lossy().as_ref())) {
            walk(&path, out);
        }
    }
}

impl Source {
    /// The text without its test modules: everything before the first `#[cfg(test)]` that opens a module in the file. A
    /// file that is tests as a whole has none.
    pub fn product(&self) -> &str {
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") || self.path.contains("/fuzz") {
            return "";
        }
        let inside = |at: usize| {
            let next = self.text[at..].lines().nth(1).unwrap_or_default();
            next.contains("mod ") && next.ends_with('{')
        };
        let end = self.text.match_indices("#[cfg(test)]\n").map(|(at, _)| at).find(|at| inside(*at));
        &self.text[..end.unwrap_or(self.text.len())]
    }

    /// The lines of the header, without their `//!`.
    pub fn header(&self) -> Vec<&str> {
        self.text.lines().map_while(|l| l.strip_prefix("//!")).map(|l| l.strip_prefix(' ').unwrap_or(l)).collect()
    }

    /// The limits that the file names, tests left out.
    pub fn limits(&self) -> Vec<Limit> {
        let lines: Vec<&str> = self.product().lines().collect();
        let mut limits = Vec::new();
        for (i, line) in lines.iter().enumerate() {
            let Some((head, value)) = line.split_once(" = ") else { continue };
            let Some((before, declared)) = head.split_once("const ") else { continue };
            let Some((name, _)) = declared.split_once(':') else { continue };
            let constant = before.trim_start().is_empty() || before.trim_start().starts_with("pub");
            if !constant || !name.ends_with("_MAX") {
                continue;
            }
            let above = lines[..i].iter().rev().take_while(|l| l.trim_start().starts_with("//"));
            let mut words: Vec<&str> = above.map(|l| l.trim_start().trim_start_matches('/').trim()).collect();
            words.reverse();
            limits.push(Limit {
                name: name.to_owned(),
                value: value.split("; //").next().unwrap_or(value).trim_end_matches(';').to_owned(),
                meaning: words.join(" "),
            });
        }
        limits
    }
}
