//! What is run: the topology under test and the traffic through it, both from one seed.
//!
//! Two scenes. In [`MAIN`] rows never pause, so that nothing but rows moves time and an undisturbed run must give the same
//! bytes. In [`MARKS`] they pause longer than `idle_after`, so that silence moves time too, and some come late; what was
//! recorded then is repeated by a backtest, and by nobody else. Event time runs faster than the clock in both: every
//! moment has open slices.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use tidewatch::topology::{Names, Stage};
use tidewatch_generator::attack::{Attack, Beacon, Egress, Scan};
use tidewatch_generator::{PRESET_START, Plan};

/// Time-outs of the deployment under test, seconds: a dead worker is missed after `SESSION_S`.
pub const SESSION_S: u32 = 6;
const TRANSACTION_S: u32 = 4;
/// A commit without an answer is settled after so long.
pub const COMMIT_S: u32 = 2;
/// Partitions of `obs`, `findings` and `signals`: at least one for each of three workers.
pub const INTERNAL_PARTITIONS: [u32; 3] = [4, 3, 3];
/// A rotation takes at most so long on average, or the traffic runs out.
const ROTATION_S_MAX: u32 = 90;
/// Hosts of a tenant: a scanner that comes back to what it knows is told of once, and a short run must have signals enough.
const HOSTS: u32 = 300;
/// Signals that a run aims at: so many, and so many more for each rotation.
const SIGNALS_AIM: (u32, u32) = (1_500, 25);
/// Seconds that a rotation takes, for the rate of attacks only.
const ROTATION_S_USUAL: u32 = 12;

/// An input topic.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// As the generator names it.
    pub generated: &'static str,
    /// As the topology does.
    pub topic: &'static str,
    /// Its format.
    pub format: &'static str,
    /// Partitions at the beginning.
    pub partitions: u32,
}

/// A scene.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Its name, and its directory's.
    pub name: &'static str,
    /// Deployment under test.
    pub deployment: &'static str,
    /// Deployment of the undisturbed run; `None` = time depends on the clock, so there can be none.
    pub undisturbed: Option<&'static str>,
    /// Inputs.
    pub sources: [Source; 2],
    /// Length of a slice, seconds.
    pub slice_s: u32,
    /// Lateness of all inputs, seconds.
    pub lateness_s: u32,
    /// A partition without rows for so many seconds of the clock is silent.
    pub idle_after_s: u32,
    /// Seconds of event time in a second of the clock.
    pub speed: u32,
    /// Rows come for so many seconds and then pause for so many.
    pub pauses: Option<(u32, u32)>,
    /// Every so many records an old one comes once more.
    pub stale_every: Option<u64>,
}

const fn sources(flow: &'static str, ebpf: &'static str) -> [Source; 2] {
    [
        Source { generated: "probectl.flow.events", topic: flow, format: "probectl-flow", partitions: 3 },
        Source { generated: "probectl.ebpf.flows", topic: ebpf, format: "probectl-ebpf", partitions: 2 },
    ]
}

/// Rows only.
pub const MAIN: Scene = Scene {
    name: "main",
    deployment: "chaos",
    undisturbed: Some("calm"),
    sources: sources("main.flow", "main.ebpf"),
    slice_s: 10,
    // Longer than a new partition goes unnoticed.
    lateness_s: 150,
    idle_after_s: 3_600,
    speed: 10,
    pauses: None,
    stale_every: None,
};

/// Silence, and rows that come late.
pub const MARKS: Scene = Scene {
    name: "marks",
    deployment: "chaos-marks",
    undisturbed: None,
    sources: sources("marks.flow", "marks.ebpf"),
    slice_s: 2,
    lateness_s: 20,
    idle_after_s: 2,
    speed: 4,
    pauses: Some((8, 5)),
    stale_every: Some(100),
};

impl Scene {
    /// Names of its deployment.
    pub fn names(&self, deployment: &str) -> Names {
        Names::of(deployment).expect("deployments of scenes are valid names")
    }

    /// What a stage of a deployment reads, with partitions; of normalize, what it reads besides its inputs.
    pub fn reads(names: &Names, stage: Stage) -> Vec<(String, u32)> {
        match stage {
            Stage::Detect => vec![(names.obs(), INTERNAL_PARTITIONS[0])],
            Stage::Correlate => vec![(names.findings(), INTERNAL_PARTITIONS[1])],
            _ => Vec::new(),
        }
    }

    /// Writes the topology and the rules of a deployment.
    pub fn write(&self, dir: &Path, deployment: &str, brokers: &str) -> Result<()> {
        std::fs::create_dir_all(dir.join("rules.d"))?;
        std::fs::write(dir.join("rules.d/short.yaml"), RULES)?;
        let brokers: Vec<String> = brokers.split(',').map(|b| format!("{b:?}")).collect();
        let [obs, findings, signals] = INTERNAL_PARTITIONS;
        let mut text = format!(
            "deployment: {deployment}\n\
             log:\n  kafka:\n    brokers: [{}]\n    allow_plaintext: true\n    replication: 3\n    \
             commit_timeout: {COMMIT_S}s\n    transaction_timeout: {TRANSACTION_S}s\n    session_timeout: {SESSION_S}s\n\
             time: {{slice: {}s, max_future: 5s, idle_after: {}s}}\n\
             obs: {{partitions: {obs}, retention: 9000h}}\n\
             findings: {{partitions: {findings}, retention: 9000h}}\n\
             signals: {{partitions: {signals}, retention: 9000h}}\n\
             snapshots: {{url: {}, every: 5s}}\n\
             rules: {}\n\
             inputs:\n",
            brokers.join(", "),
            self.slice_s,
            self.idle_after_s,
            dir.join("snapshots").display(),
            dir.join("rules.d").display(),
        );
        for Source { topic, format, .. } in self.sources {
            let lateness = self.lateness_s;
            let tenant = "{verified: {open: true}}";
            writeln!(text, "  - {{topic: {topic}, format: {format}, tenant: {tenant}, lateness: {lateness}s}}")?;
        }
        std::fs::write(dir.join(format!("{deployment}.yaml")), text)?;
        Ok(())
    }

    /// What comes in: offices at work, and attacks at a steady rate by one host after the other. Longer than the run.
    pub fn plan(&self, seed: u64, rotations: u32) -> Plan {
        let seconds = |of: u32| of * self.speed;
        let duration_s = seconds(600 + rotations * ROTATION_S_MAX);
        let mut plan = Plan::office(seed, 0, HOSTS, PRESET_START, duration_s);
        plan.tenants = ["acme", "brook", "cedar"].map(str::to_owned).to_vec();
        plan.call_kbit_s = 96;
        plan.proxied_share = 0.0;
        let aim = SIGNALS_AIM.0 + SIGNALS_AIM.1 * rotations;
        let gap_s = f64::from(seconds(rotations * ROTATION_S_USUAL)) / f64::from(aim);
        plan.attacks = attacks(duration_s, gap_s);
        plan
    }
}

/// Scans, one every `gap_s`; among them a beacon and an upload now and then.
fn attacks(duration_s: u32, gap_s: f64) -> Vec<Attack> {
    let count = (f64::from(duration_s) / gap_s) as u32;
    (0..count.min(u32::from(u16::MAX)))
        .map(|n| {
            let start_s = (f64::from(n) * gap_s) as u32;
            let tenant = (n % 3) as u16;
            // 37 and the number of hosts have no factor in common: all take their turn.
            let host = n / 3 * 37 % HOSTS;
            match n % 40 {
                7 => Beacon { tenant, host, start_s, duration_s: 400, period_s: 12.0, ..Beacon::default() }.into(),
                23 => Egress { tenant, host, start_s, ..Egress::burst(1 << 30) }.into(),
                _ => Scan { tenant, host, start_s, ..Scan::smb(12, 2.0) }.into(),
            }
        })
        .collect()
}

/// The default rules, but soon ready to speak again.
const RULES: &str = "\
rules:
  - {id: ndr-beaconing-default, version: 2, kind: beaconing, severity: medium, base_confidence: 40, suppress: 2m}
  - {id: ndr-egress-volume-default, version: 2, kind: egress_volume, severity: medium, base_confidence: 35, suppress: 2m}
  - id: ndr-lateral-default
    version: 2
    kind: lateral
    severity: critical
    base_confidence: 50
    suppress: 30s
    thresholds: {window_s: 60}
";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tidewatch::topology::Topology;

    use super::*;

    #[test]
    fn both_scenes_are_valid_topologies_with_valid_rules() {
        for scene in [MAIN, MARKS] {
            let dir = tempfile::tempdir().unwrap();
            scene.write(dir.path(), scene.deployment, "127.0.0.1:1,127.0.0.1:2").unwrap();
            let topology = Topology::read(&dir.path().join(format!("{}.yaml", scene.deployment))).unwrap();
            assert_eq!(topology.obs.partitions, Scene::reads(&topology.names, Stage::Detect)[0].1);
            let rules = tidewatch::rules::load(topology.rules.as_deref(), tidewatch_operators::detectors::ALL).unwrap();
            let laid_over = rules.rules.iter().filter(|r| r.version == 2).count();
            assert_eq!(laid_over, RULES.matches("id: ndr-").count(), "every rule of the scene replaces a built-in one");
        }
    }

    #[test]
    fn attacks_begin_all_the_time() {
        let plan = MAIN.plan(1, 12);
        let starts: Vec<u32> = plan.attacks.iter().map(|a| a.place().2).collect();
        assert!(starts.windows(2).all(|w| w[1] - w[0] <= 20), "a gap in the attacks");
        assert!(starts.last().unwrap() + 60 > plan.duration_s);
    }
}
