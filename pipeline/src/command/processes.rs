//! The running processes of a topology on this machine, found by their control sockets.

use std::path::{Path, PathBuf};

use crate::log::LogError;
use crate::log::socket::ask_status;
use crate::status::ProcessStatus;
use crate::topology::Topology;

/// Sockets asked, at most.
pub const PROCESSES_MAX: usize = 256;

/// A process that answered.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its socket.
    pub socket: PathBuf,
    /// How it is.
    pub status: ProcessStatus,
}

/// Asks every process whose socket lies where the topology says. Files that nobody listens to any more are passed over; a
/// process that does not answer in time is warned of.
pub fn running(topology: &Topology) -> Vec<Process> {
    let mut found = Vec::new();
    for socket in sockets(&topology.control) {
        match ask(&socket) {
            Ok(status) => found.push(Process { socket, status }),
            Err(LogError::Unreachable { reason, .. }) if reason.contains("does not answer") => {
                tracing::warn!(socket = %socket.display(), "a process does not answer: is it stopped by a signal?");
            }
            Err(error) => tracing::debug!(socket = %socket.display(), %error, "no process"),
        }
    }
    found.sort_by(|a, b| (a.status.ordinal, &a.status.stages).cmp(&(b.status.ordinal, &b.status.stages)));
    found
}

/// Asks one.
pub fn ask(socket: &Path) -> Result<ProcessStatus, LogError> {
    let json = ask_status(socket)?;
    serde_json::from_str(&json).map_err(|e| LogError::Client { call: "status", reason: e.to_string() })
}

/// `control`, and what lies beside it as `NAME.STAGES-ORDINAL.ENDING`.
fn sockets(control: &Path) -> Vec<PathBuf> {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let (stem, ending) = (text(control.file_stem()), text(control.extension()));
    let ending = if ending.is_empty() { "sock".to_owned() } else { ending };
    let dir = match control.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut found = vec![control.to_owned()];
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let between = name.strip_prefix(&format!("{stem}.")).and_then(|n| n.strip_suffix(&format!(".{ending}")));
        if between.and_then(|b| b.rsplit_once('-')).is_some_and(|(_, ordinal)| ordinal.parse::<u32>().is_ok()) {
            found.push(dir.join(name));
        }
    }
    found.sort();
    found.dedup();
    found.truncate(PROCESSES_MAX);
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::topology::{LogChoice, Stage};

    #[test]
    fn every_process_has_a_socket_that_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut topology = Topology::of(LogChoice::Memory, Vec::new());
        topology.control = dir.path().join("c.sock");
        let names: Vec<PathBuf> = [
            topology.control_of(Stage::ALL, 0),
            topology.control_of(Stage::ALL, 2),
            topology.control_of(&[Stage::Detect], 0),
            topology.control_of(&[Stage::Correlate, Stage::Detect], 1),
        ]
        .into();
        let shown: Vec<String> = names.iter().map(|n| n.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(shown, ["c.sock", "c.all-2.sock", "c.detect-0.sock", "c.detect+correlate-1.sock"]);
        for name in &names {
            std::fs::write(name, "").unwrap();
        }
        std::fs::write(dir.path().join("c.other.sock"), "").unwrap();
        let mut wanted = names;
        wanted.sort();
        assert_eq!(sockets(&topology.control), wanted);
        assert!(running(&topology).is_empty());
    }
}
