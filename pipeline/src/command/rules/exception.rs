//! Exceptions that commands write for analysts (`mute`, `acknowledge`): one line each, appended to a file of their own
//! beside the rules, for everybody or for one tenant. Were the rules wrong with it, nothing is written.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tidewatch_operators::detectors;
use tidewatch_schemas::document::parse_duration;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::{Failure, Output, Which};
use crate::command::processes;
use crate::log::socket::ask_to_reload;
use crate::rules::{self, TENANTS_DIR};
use crate::topology::Topology;
use crate::worker::system_clock;

/// Where an exception goes.
pub(super) struct Target {
    /// Rules directory.
    dir: PathBuf,
    /// File in it.
    pub path: PathBuf,
}

impl Target {
    /// A file beside the rules; with a tenant beside that tenant's.
    pub(super) fn of(which: &Which, tenant: Option<&str>, file: &str) -> Result<Self, Failure> {
        let Some(dir) = which.dir()? else {
            return Err(Failure::Usage("give --rules DIR, or --topology FILE whose `rules` names a directory".to_owned()));
        };
        let path = match tenant {
            Some(tenant) if tenant.is_empty() || tenant.contains(['/', '\\']) || tenant.starts_with('.') => {
                return Err(Failure::Usage(format!("{tenant} is no tenant's id")));
            }
            Some(tenant) => dir.join(TENANTS_DIR).join(tenant).join(file),
            None => dir.join(file),
        };
        Ok(Self { dir, path })
    }

    /// Appends it, unless the rules are then wrong: they stay as they were. A new file begins with `head`.
    pub(super) fn append(&self, head: &str, entry: &str) -> Result<(), Failure> {
        let path = &self.path;
        let failed = |e: std::io::Error| Failure::File { verb: "write", path: path.display().to_string(), reason: e.to_string() };
        let before = match std::fs::read(path) {
            Ok(before) => Some(before),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(failed(e)),
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut file = std::fs::File::options().create(true).append(true).open(path).map_err(failed)?;
        if before.as_ref().is_none_or(Vec::is_empty) {
            file.write_all(format!("# {head}\nallow:\n").as_bytes()).map_err(failed)?;
        }
        file.write_all(entry.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        if let Err(mistakes) = rules::load(Some(&self.dir), detectors::ALL) {
            match before {
                Some(before) => std::fs::write(path, before).map_err(failed)?,
                None => std::fs::remove_file(path).map_err(failed)?,
            }
            return Err(mistakes.into());
        }
        Ok(())
    }
}

/// One line of YAML: texts as JSON writes them, which YAML reads. What has no value is left out.
pub(super) fn line(parts: impl IntoIterator<Item = Option<(&'static str, Value)>>) -> String {
    let parts: Vec<String> = parts.into_iter().flatten().map(|(name, value)| format!("{name}: {value}")).collect();
    format!("  - {{{}}}\n", parts.join(", "))
}

/// From now on for so long. Whole seconds: it is read by people.
pub(super) fn until(lasts: Duration) -> EventTime {
    EventTime::from_secs(system_clock()().plus(lasts.as_nanos() as i64).0 / SECOND_NS)
}

/// A length of time: `30m`, `8h`, or whole days as `30d`; more than nothing, at most `most`.
pub(super) fn length(text: &str, most: Duration) -> Result<Duration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let lasts = match days {
        Some(days) => Duration::from_secs(u64::from(days) * 86_400),
        None => parse_duration(text).map_err(str::to_owned)?,
    };
    if lasts.is_zero() || lasts > most {
        return Err(format!("more than nothing and at most {}h", most.as_secs() / 3600));
    }
    Ok(lasts)
}

/// Lets a process of the topology read its rules; `None` = there is no topology, or none answers here.
pub(super) fn reload(which: &Which) -> Result<Option<Value>, Failure> {
    let Some(path) = which.topology.as_deref() else { return Ok(None) };
    let topology = Topology::read(path)?;
    let running = processes::running(&topology);
    let Some(process) = running.first() else { return Ok(None) };
    match ask_to_reload(&process.socket)? {
        Ok(done) => Ok(serde_json::from_str(&done).ok()),
        Err(reason) => Err(Failure::Usage(format!("the rules stay as they are:\n{reason}"))),
    }
}

/// Says from when on it acts, or which command makes it act.
pub(super) fn tell_reload(which: &Which, reloaded: Option<&Value>, out: &mut Output) -> Result<(), Failure> {
    match reloaded {
        Some(done) => match done["from"].as_str() {
            Some(from) => out.line(format_args!("recorded; it acts for rows from {from} on")),
            None => out.line("recorded"),
        },
        None => {
            let topology = which.topology.as_deref().unwrap_or(Path::new("TOPOLOGY")).display();
            out.line(format_args!(
                "no process of the topology was asked on this machine; where one runs: tidewatch rules reload {topology}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_lengths_are_bounded() {
        let most = Duration::from_secs(90 * 86_400);
        assert_eq!(length("30d", most), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(length("90m", most), Ok(Duration::from_secs(5_400)));
        for wrong in ["0h", "0d", "91d", "1.5d", "-1d", "d", "30"] {
            assert!(length(wrong, most).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_is_yaml_whatever_the_texts_are() {
        let entry = line([Some(("owner", "ann: \"#7\"".into())), None, Some(("port", 443.into()))]);
        assert_eq!(entry, "  - {owner: \"ann: \\\"#7\\\"\", port: 443}\n");
    }
}
