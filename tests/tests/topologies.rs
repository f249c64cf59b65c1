//! What is shipped to be used as it is: every topology, every default rule, and the compose file that must name the same
//! topics as its topology.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tidewatch::rules;
use tidewatch::topology::{LogChoice, Stage, Topology};
use tidewatch_operators::detectors;
use tidewatch_operators::rule::DEFAULTS;
use tidewatch_schemas::document::{Document, Mistakes};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The YAML files of a folder of the project.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join(folder)).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml"));
    files.sort();
    assert!(!files.is_empty(), "no YAML in {folder}/");
    files
}

fn topology(name: &str) -> Topology {
    Topology::read(&root().join("topologies").join(name)).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_shipped_topology_is_good() {
    for path in files("topologies") {
        let topology = Topology::read(&path).unwrap_or_else(|e| panic!("{e}"));
        for stage in Stage::ALL {
            assert!(topology.names.group(*stage).starts_with("tidewatch-"), "{}", path.display());
        }
    }
}

#[test]
fn the_quickstart_needs_no_broker_and_probectls_topics_are_never_made() {
    assert!(matches!(topology("quickstart.yaml").log, LogChoice::Embedded(_)));
    assert!(topology("probectl.yaml").input_topics().is_empty());
}

#[test]
fn every_default_rule_file_is_built_in_and_every_detector_has_one() {
    let on_disk: BTreeSet<String> =
        files("rules").iter().map(|p| format!("rules/{}", p.file_name().unwrap().to_string_lossy())).collect();
    let built_in: BTreeSet<String> = DEFAULTS.iter().map(|d| d.file.to_owned()).collect();
    assert_eq!(on_disk, built_in);
    for detector in detectors::ALL {
        assert!(DEFAULTS.iter().any(|d| d.rule_kind == detector.rule_kind), "{} has no default rule", detector.rule_kind);
    }
}

#[test]
fn every_default_rule_is_good() {
    let set = rules::load(None, detectors::ALL).unwrap_or_else(|e| panic!("{e}"));
    let kinds: BTreeSet<&str> = set.rules.iter().map(|r| r.kind.as_str()).collect();
    let detectors: BTreeSet<&str> = detectors::ALL.iter().map(|d| d.rule_kind).collect();
    assert_eq!(kinds, detectors);
    for rule in set.rules {
        assert!(rule.suppress_ns > 0, "{} would fire on every slice", rule.id);
    }
}

#[test]
fn compose_names_the_topics_of_its_topology() {
    let path = root().join("docker-compose.yml");
    let document = Document::parse("docker-compose.yml", &fs::read_to_string(path).unwrap()).unwrap();
    let mut mistakes = Mistakes::default();
    let m = &mut mistakes;
    let services = document.root(m).map(m).unwrap().get("services").unwrap().map(m).unwrap();
    let kafka = services.get("kafka").unwrap().map(m).unwrap();
    let labels = kafka.get("labels").unwrap().map(m).unwrap();
    let topics = |name: &str, m: &mut Mistakes| -> BTreeSet<String> {
        labels.get(name).unwrap().str(m).unwrap().split_whitespace().map(str::to_owned).collect()
    };
    let topology = topology("kafka.yaml");
    let inputs: BTreeSet<String> = topology.inputs.iter().map(|i| i.topic.clone()).collect();
    let internal: BTreeSet<String> = topology.internal_topics().into_iter().map(|t| t.name).collect();
    assert_eq!(topics("tidewatch.topics.inputs", m), inputs);
    assert_eq!(topics("tidewatch.topics.internal", m), internal);
    // Compose makes no topic, so tidewatch must make them all.
    assert_eq!(topology.input_topics().len(), topology.inputs.len());
    let mut ports = BTreeSet::new();
    for stage in Stage::ALL {
        let service = services.get(stage.name()).unwrap().map(m).unwrap();
        let command: Vec<&str> =
            service.get("command").unwrap().list(m).unwrap().iter().map(|n| n.str(&mut Mistakes::default()).unwrap()).collect();
        assert_eq!(command[..4], ["run", "topologies/kafka.yaml", "--stage", stage.name()]);
        assert!(ports.insert(command[5].to_owned()), "two services serve health on one port of one network");
    }
    assert!(mistakes.is_empty(), "{mistakes}");
}

/// Overlays in probectl's form, with its thresholds: rule files of its users must load as they are.
const OVERLAYS: &[(&str, &str)] = &[
    (
        "beaconing",
        "rules:
  - id: ndr-beaconing-default
    version: 2
    kind: beaconing
    name: Beaconing
    severity: warning
    base_confidence: 45
    suppress: 4h
    thresholds: {min_samples: 12, max_jitter: 0.08, min_interval_s: 10, max_interval_s: 3600}
",
    ),
    (
        "dns_dga",
        "rules:
  - id: ndr-dns-dga-default
    version: 2
    kind: dns_dga
    severity: warning
    base_confidence: 50
    suppress: 1h
    thresholds: {min_names: 20, entropy: 3.8, ratio: 0.5, window_s: 600}
",
    ),
    (
        "dns_exfil",
        "rules:
  - id: ndr-dns-exfil-default
    version: 2
    kind: dns_exfil
    severity: critical
    base_confidence: 55
    suppress: 1h
    thresholds: {min_queries: 30, qname_bytes: 4096, unique_ratio: 0.9, window_s: 600}
",
    ),
    (
        "egress_volume",
        "rules:
  - id: ndr-egress-volume-default
    version: 2
    kind: egress_volume
    severity: warning
    base_confidence: 35
    suppress: 30m
    thresholds: {min_samples: 12, spike_factor: 10, min_bytes: 10485760}
",
    ),
    (
        "lateral",
        "rules:
  - id: ndr-lateral-default
    version: 2
    kind: lateral
    severity: critical
    base_confidence: 50
    suppress: 30m
    thresholds: {fanout: 10, window_s: 300}
    lists: {ports: ['22', '445', '3389', '5985', '5986']}
",
    ),
];

#[test]
fn probectls_overlays_load_unchanged_and_replace_every_default() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, text) in OVERLAYS.iter().filter(|(kind, _)| detectors::by_rule_kind(kind).is_some()) {
        fs::write(dir.path().join(kind).with_extension("yaml"), text).unwrap();
    }
    let set = rules::load(Some(dir.path()), detectors::ALL).unwrap_or_else(|e| panic!("{e}"));
    for rule in set.rules.iter().filter(|r| OVERLAYS.iter().any(|(kind, _)| *kind == r.kind)) {
        assert_eq!(rule.version, 2, "{} is not replaced", rule.id);
    }
    let beaconing = set.rules.iter().find(|r| r.kind == "beaconing").unwrap();
    assert_eq!((beaconing.base_confidence, beaconing.threshold("max_jitter")), (45, 0.08));
}
