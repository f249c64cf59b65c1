//! MITRE ATT&CK techniques that signals may carry, by id, pinned to one version: an id that is not here is a slip of the pen.

/// Version of the list.
pub const VERSION: &str = "v19.1";

/// Techniques, sorted by id.
pub static TECHNIQUES: &[(&str, &str)] = &[
    ("T1018", "Remote System Discovery"),
    ("T1021", "Remote Services"),
    ("T1021.001", "Remote Desktop Protocol"),
    ("T1021.002", "SMB/Windows Admin Shares"),
    ("T1021.004", "SSH"),
    ("T1021.006", "Windows Remote Management"),
    ("T1030", "Data Transfer Size Limits"),
    ("T1041", "Exfiltration Over C2 Channel"),
    ("T1046", "Network Service Discovery"),
    ("T1048", "Exfiltration Over Alternative Protocol"),
    ("T1048.001", "Exfiltration Over Symmetric Encrypted Non-C2 Protocol"),
    ("T1048.002", "Exfiltration Over Asymmetric Encrypted Non-C2 Protocol"),
    ("T1048.003", "Exfiltration Over Unencrypted Non-C2 Protocol"),
    ("T1071", "Application Layer Protocol"),
    ("T1071.001", "Web Protocols"),
    ("T1071.004", "DNS"),
    ("T1090.003", "Multi-hop Proxy"),
    ("T1095", "Non-Application Layer Protocol"),
    ("T1102.002", "Bidirectional Communication"),
    ("T1133", "External Remote Services"),
    ("T1210", "Exploitation of Remote Services"),
    ("T1219", "Remote Access Tools"),
    ("T1498", "Network Denial of Service"),
    ("T1499", "Endpoint Denial of Service"),
    ("T1552.005", "Cloud Instance Metadata API"),
    ("T1557", "Adversary-in-the-Middle"),
    ("T1565.002", "Transmitted Data Manipulation"),
    ("T1567", "Exfiltration Over Web Service"),
    ("T1568", "Dynamic Resolution"),
    ("T1568.001", "Fast Flux DNS"),
    ("T1568.002", "Domain Generation Algorithms"),
    ("T1570", "Lateral Tool Transfer"),
    ("T1571", "Non-Standard Port"),
    ("T1572", "Protocol Tunneling"),
    ("T1573", "Encrypted Channel"),
    ("T1573.001", "Symmetric Cryptography"),
    ("T1573.002", "Asymmetric Cryptography"),
    ("T1584.002", "DNS Server"),
    ("T1587.003", "Digital Certificates"),
    ("T1588.004", "Digital Certificates"),
    ("T1595.001", "Scanning IP Blocks"),
];

/// Name of a technique.
pub fn name(id: &str) -> Option<&'static str> {
    TECHNIQUES.binary_search_by_key(&id, |(known, _)| known).ok().map(|at| TECHNIQUES[at].1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::detectors;

    #[test]
    fn the_list_is_sorted_and_knows_every_id_of_the_detectors() {
        assert!(TECHNIQUES.is_sorted());
        for detector in detectors::ALL {
            for id in detector.attack {
                assert!(name(id).is_some(), "{}: {id}", detector.kind);
            }
        }
    }

    /// Drafts add ids of their own, some on ways that no scenario takes: every text in quotes that looks like one is looked at.
    #[test]
    fn the_list_knows_every_id_in_the_source() {
        let mut found = BTreeSet::new();
        ids(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
        for of_a_draft in ["T1021.001", "T1018", "T1567", "T1573"] {
            assert!(found.contains(of_a_draft), "{of_a_draft}: {found:?}");
        }
        let unknown: Vec<&String> = found.iter().filter(|id| name(id).is_none()).collect();
        assert!(unknown.is_empty(), "not in the list: {unknown:?}");
    }

    #[allow(clippy::disallowed_methods, reason = "the test reads the sources")]
    fn ids(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                ids(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs")
                && path != Path::new(env!("CARGO_MANIFEST_DIR")).join("src/attack.rs")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                let quoted = text.split('"').filter(|t| t.len() >= 5 && t.starts_with('T'));
                found.extend(quoted.filter(|t| t[1..].chars().all(|c| c.is_ascii_digit() || c == '.')).map(str::to_owned));
            }
        }
    }
}
