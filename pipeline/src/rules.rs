//! Rules from disk: the built-in defaults, and a directory of the user's laid over them. Reading only; what a rule may
//! say is decided in `tidewatch_operators::rule`.

pub mod reload;
pub mod testing;
pub mod watch;

use std::fs;
use std::path::{Path, PathBuf};

use tidewatch_operators::operator::Detector;
use tidewatch_operators::rule::{DEFAULTS, Layers, RuleSet, Source, TENANTS_MAX};
use tidewatch_schemas::control::CONTROL_BYTES_MAX;
use tidewatch_schemas::document::{DOCUMENT_BYTES_MAX, Mistake, Mistakes};

use crate::topology;
use crate::versions;

/// Rule files in one directory, at most.
pub const RULE_FILES_MAX: usize = 1_000;

/// Directory below a rules directory with one directory per tenant, named as the tenant: rules for that tenant alone.
pub const TENANTS_DIR: &str = "tenants";

/// A set travels as text inside a JSON record: so much of it is free for what that adds.
const RECORD_BYTES_SPARE: usize = 1_000;

/// Loads the defaults and, over them, `*.yaml` and `*.yml` of a directory, in the order of their names; over both, for
/// single tenants, those of `tenants/TENANT/`. Everything that is wrong comes at once: a directory or file that cannot be
/// read is a mistake like any other.
pub fn load(dir: Option<&Path>, detectors: &[&Detector]) -> Result<RuleSet, Mistakes> {
    let mut mistakes = Mistakes::default();
    let overlay = dir.map(|dir| read(dir, &mut mistakes)).unwrap_or_default();
    let tenants = dir.map(|dir| tenants(&dir.join(TENANTS_DIR), &mut mistakes)).unwrap_or_default();
    let layers = Layers { defaults: &defaults(detectors), overlay: &overlay, tenants: &tenants };
    match RuleSet::load_layers(&layers, detectors) {
        Ok(set) => {
            let content = versions::content_of(&set);
            // Quotes are escaped where it is recorded.
            let recorded = content.len() + content.matches(['"', '\\']).count();
            if recorded > CONTROL_BYTES_MAX - RECORD_BYTES_SPARE {
                let file = dir.map_or_else(|| "rules".to_owned(), |d| d.display().to_string());
                let most = CONTROL_BYTES_MAX - RECORD_BYTES_SPARE;
                mistakes.push(Mistake::of_file(
                    file,
                    format!("the rules come to {recorded} bytes where they are recorded; at most {most}: are there exceptions that a network would say shorter?"),
                ));
            }
            mistakes.or(set)
        }
        Err(found) => {
            mistakes.extend(found);
            Err(mistakes)
        }
    }
}

/// What tenants lay over everybody's rules, in the order of their names.
fn tenants(dir: &Path, mistakes: &mut Mistakes) -> Vec<(String, Vec<Source>)> {
    let mut wrong = |path: &Path, reason: String| mistakes.push(Mistake::of_file(path.display().to_string(), reason));
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(e) => {
            wrong(dir, format!("cannot read the directory of tenants: {e}"));
            return Vec::new();
        }
    };
    let mut dirs: Vec<PathBuf> = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) if entry.path().is_dir() => dirs.push(entry.path()),
            // A file at hand beside the tenants would be passed over in silence.
            Ok(entry) => {
                wrong(&entry.path(), "expected a directory named as a tenant; rules for everybody lie above it".to_owned())
            }
            Err(e) => wrong(dir, format!("cannot read the directory of tenants: {e}")),
        }
    }
    dirs.sort();
    if dirs.len() > TENANTS_MAX {
        wrong(dir, format!("{} tenants; at most {TENANTS_MAX} may have rules of their own", dirs.len()));
        return Vec::new();
    }
    let mut all = Vec::new();
    for dir in dirs {
        let Some(tenant) = dir.file_name().and_then(|n| n.to_str()).map(str::to_owned) else {
            mistakes.push(Mistake::of_file(dir.display().to_string(), "the name of this directory is no text"));
            continue;
        };
        all.push((tenant, read(&dir, mistakes)));
    }
    all
}

/// Those of the detectors that are there: a command with fewer detectors needs no other defaults.
fn defaults(detectors: &[&Detector]) -> Vec<Source> {
    DEFAULTS
        .iter()
        .filter(|default| detectors.iter().any(|d| d.rule_kind == default.rule_kind))
        .map(|default| Source { label: format!("built-in {}", default.file), text: default.text.to_owned() })
        .collect()
}

fn read(dir: &Path, mistakes: &mut Mistakes) -> Vec<Source> {
    let mut wrong = |path: &Path, reason: String| {
        mistakes.push(Mistake::of_file(path.display().to_string(), reason));
    };
    let files = match files(dir) {
        Ok(files) => files,
        Err(reason) => {
            wrong(dir, format!("cannot read the rules directory: {reason}"));
            return Vec::new();
        }
    };
    if files.len() > RULE_FILES_MAX {
        wrong(dir, format!("{} rule files; at most {RULE_FILES_MAX} are read", files.len()));
        return Vec::new();
    }
    let mut sources = Vec::new();
    for path in files {
        match topology::text_of(&path, DOCUMENT_BYTES_MAX as u64) {
            Ok(text) => sources.push(Source { label: path.display().to_string(), text }),
            Err(reason) => wrong(&path, format!("cannot read the rule file: {reason}")),
        }
    }
    sources
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| e.to_string())? {
        let path = entry.map_err(|e| e.to_string())?.path();
        let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if yaml && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_yaml_files_of_the_directory_itself_in_the_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yml", "a.yaml", "c.txt", "README"] {
            fs::write(dir.path().join(name), "rules: []\n").unwrap();
        }
        fs::create_dir_all(dir.path().join("below.yaml/x")).unwrap();
        fs::write(dir.path().join("below.yaml/x/d.yaml"), "not: rules\n").unwrap();
        let mut mistakes = Mistakes::default();
        let read = read(dir.path(), &mut mistakes);
        let names: Vec<_> = read.iter().map(|s| s.label.rsplit('/').next().unwrap().to_owned()).collect();
        assert_eq!(names, ["a.yaml", "b.yml"]);
        assert!(mistakes.is_empty());
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let mistakes = load(Some(Path::new("/nowhere/rules")), &[]).unwrap_err().to_string();
        assert!(mistakes.contains("/nowhere/rules: cannot read the rules directory: "), "{mistakes}");
    }

    #[test]
    fn a_file_that_is_no_text_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), [0xff, 0xfe, 0x00]).unwrap();
        let mistakes = load(Some(dir.path()), &[]).unwrap_err().to_string();
        assert!(mistakes.contains("a.yaml: cannot read the rule file: "), "{mistakes}");
    }
}
