//! Exactly once on a real cluster: three brokers and three workers, all processes, that are killed, frozen, cut off,
//! drained and scaled while rows come; then the signals, read by Kafka's own client, must be those of an undisturbed run
//! over the same topics and those of a backtest, byte for byte.
//!
//! What always holds: nothing is taken from the deployment under test but what anybody could read off its topics and
//! groups; what is compared was read with read_committed by a client that is not ours; a run that was interrupted goes on
//! from its directory.

pub mod compare;
pub mod feed;
pub mod fleet;
pub mod kinds;
pub mod report;
pub mod rotation;
pub mod scene;
pub mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tidewatch::log::kafka::KafkaLog;
use tidewatch::log::{Log, PollLimit, TopicPartition, TopicSpec};
use tidewatch_schemas::control::{Cause, Mark};
use tidewatch_schemas::signal::from_json;
use tidewatch_schemas::time::SECOND_NS;

use crate::cluster::{Cluster, ClusterOptions};
use crate::program::Process;
use compare::{PerTenant, compare};
use feed::{Feed, Partitions};
use fleet::Fleet;
use kinds::Kind;
use report::{Report, SceneReport};
use rotation::Stand;
use scene::{MAIN, MARKS, Scene};
use watch::{STAGES, Watch};

/// Workers under test.
const WORKERS: usize = 3;
/// Longest wait for everything to be worked off once no more rows come.
const WORK_OFF_WAIT: Duration = Duration::from_secs(600);
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// The Java client ends when it has heard nothing for so long.
const CONSUME_IDLE: Duration = Duration::from_secs(5);
/// Variable by which a worker process hears of the fault planted in it.
pub const PLANTED: &str = "TIDEWATCH_PLANTED";
/// Where a run keeps what it has come to.
const STATE: &str = "state.json";

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rotations of the main scene; the scene with marks gets a twentieth more, at least two.
    pub rotations: u32,
    /// Seed of traffic and rotations.
    pub seed: u64,
    /// Where everything lies.
    pub dir: PathBuf,
    /// Go on with what lies there.
    pub resume: bool,
    /// Only these kinds; all when empty.
    pub only: Vec<Kind>,
    /// A fault that every worker under test has: what this run must find.
    pub planted: Option<String>,
    /// A rotation that went wrong leaves everything running for so long, to look into.
    pub hold: Duration,
}

/// Runs it, telling how it goes. The report is kept in the directory after each rotation.
pub fn run(options: &Options, say: &dyn Fn(&str)) -> Result<Report> {
    let began = Instant::now();
    let state = options.dir.join(STATE);
    let mut report = if options.resume {
        let text =
            std::fs::read_to_string(&state).with_context(|| format!("no run to go on with in {}", options.dir.display()))?;
        let mut report: Report = serde_json::from_str(&text)?;
        report.resumed += 1;
        report
    } else {
        std::fs::create_dir_all(&options.dir)?;
        let (only, planted) = (options.only.clone(), options.planted.clone());
        Report { seed: options.seed, rotations: options.rotations, only, planted, ..Report::default() }
    };
    let dir = options.dir.canonicalize()?;
    let before_s = report.wall_s;
    let save = |report: &mut Report| -> Result<()> {
        report.wall_s = before_s + began.elapsed().as_secs_f64();
        // Whole or not at all.
        let fresh = state.with_extension("new");
        std::fs::write(&fresh, serde_json::to_string(report)?)?;
        Ok(std::fs::rename(fresh, &state)?)
    };
    save(&mut report)?;
    let mut cluster = Cluster::start(&ClusterOptions { dir: Some(dir.join("kafka")), ..ClusterOptions::default() })?;
    say(&format!("three brokers started in {:.1} s; everything lies in {}", cluster.start_time.as_secs_f64(), dir.display()));
    for (scene, rotations) in [(MAIN, report.rotations), (MARKS, (report.rotations / 20).max(2))] {
        let (only, planted) = (report.only.clone(), report.planted.clone());
        let (seed, dir) = (report.seed, dir.join(scene.name));
        let mut stage = Performance { cluster: &mut cluster, scene, seed, rotations, only, planted, dir, options, say };
        let mut so_far = report.scenes.remove(scene.name).unwrap_or_default();
        if !so_far.done {
            stage.perform(&mut so_far, &mut |so_far| {
                report.scenes.insert(scene.name.to_owned(), so_far.clone());
                save(&mut report)
            })?;
        }
        report.scenes.insert(scene.name.to_owned(), so_far);
        save(&mut report)?;
    }
    Ok(report)
}

/// One scene.
struct Performance<'a> {
    cluster: &'a mut Cluster,
    scene: Scene,
    seed: u64,
    rotations: u32,
    only: Vec<Kind>,
    planted: Option<String>,
    dir: PathBuf,
    options: &'a Options,
    say: &'a dyn Fn(&str),
}

impl Performance<'_> {
    fn perform(&mut self, so_far: &mut SceneReport, save: &mut dyn FnMut(&SceneReport) -> Result<()>) -> Result<()> {
        let (scene, log) = (self.scene, self.cluster.log()?);
        std::fs::create_dir_all(&self.dir)?;
        scene.write(&self.dir, scene.deployment, self.cluster.brokers())?;
        let partitions = self.make_inputs(&log)?;
        let mut fleet = Fleet::new(&self.dir, &self.dir.join(format!("{}.yaml", scene.deployment)), WORKERS);
        fleet.plant(self.planted.as_deref());
        for i in 0..WORKERS {
            drop(fleet.start(i)?);
        }
        let direct = self.cluster.direct().to_owned();
        let watch = Watch::start(&direct, &log, scene, scene.deployment, &partitions)?;
        let (mut fleet, watch) =
            if so_far.fed { (fleet, watch) } else { self.rotate(fleet, watch, &partitions, &log, so_far, save)? };
        // So late that every slice with an attack in it is closed.
        let last = feed::last(&log, scene)?.context("no rows came")?;
        let end = last.plus(i64::from(2 * scene.lateness_s + 5 * scene.slice_s) * SECOND_NS);
        feed::close(&direct, scene, &partitions, end)?;
        self.work_off(&mut fleet, &watch, &log, scene.deployment)?;
        so_far.ended.extend(std::mem::take(&mut fleet.ended));
        for i in 0..WORKERS {
            fleet.stop(i)?;
        }
        drop(watch);
        self.compare(&log, &partitions, so_far)?;
        so_far.done = true;
        save(so_far)
    }

    /// Rotation after rotation, while rows come.
    fn rotate(
        &mut self,
        fleet: Fleet,
        watch: Watch,
        partitions: &Partitions,
        log: &KafkaLog,
        so_far: &mut SceneReport,
        save: &mut dyn FnMut(&SceneReport) -> Result<()>,
    ) -> Result<(Fleet, Watch)> {
        let scene = self.scene;
        let after = feed::last(log, scene)?;
        let direct = self.cluster.direct().to_owned();
        let feed = Feed::start(&direct, scene, scene.plan(self.seed, self.rotations), partitions, after)?;
        let (records, rows) = (so_far.records, so_far.rows);
        let fed = Arc::clone(&feed.fed);
        let count = |so_far: &mut SceneReport| {
            let of = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
            (so_far.records, so_far.rows) = (records + of(&fed.records), rows + of(&fed.rows));
        };
        let began = Instant::now();
        let mut stand = Stand { cluster: &mut *self.cluster, fleet, feed, watch, partitions: Arc::clone(partitions), scene };
        stand.wait_until_steady()?;
        (self.say)(&format!("{}: rows come, all stages commit after {:.1} s", scene.name, began.elapsed().as_secs_f64()));
        let kinds = kinds::schedule(self.seed, self.rotations, scene.undisturbed.is_some(), &self.only);
        for (n, kind) in kinds.iter().enumerate().skip(so_far.rotations.len()) {
            let mut random = kinds::chance(self.seed, scene.name, n as u32);
            let number = format!("{} {}/{} {}", scene.name, n + 1, kinds.len(), kind.name());
            let done = match stand.rotate(*kind, &mut random) {
                Ok(done) => done,
                Err(error) => {
                    so_far.ended.extend(std::mem::take(&mut stand.fleet.ended));
                    save(so_far)?;
                    if !self.options.hold.is_zero() {
                        (self.say)(&format!("{number}: {error:#}; held as it is for {:?}", self.options.hold));
                        std::thread::sleep(self.options.hold);
                    }
                    return Err(error.context(number));
                }
            };
            let recovery = done.recovery_s.map_or_else(String::new, |s| format!("next commit after {s:.1} s, "));
            let counts = done.not_counted.as_ref().map_or_else(String::new, |why| format!("; does not count: {why}"));
            (self.say)(&format!(
                "{number}: {}: {recovery}all after {:.1} s ({:.1} s){counts}",
                done.what, done.all_s, done.took_s
            ));
            so_far.rotations.push(done);
            for ended in &stand.fleet.ended {
                (self.say)(&format!("  ended by itself and started again: {ended}"));
            }
            so_far.ended.extend(std::mem::take(&mut stand.fleet.ended));
            count(so_far);
            save(so_far)?;
        }
        // The last deed has to show its effect, too.
        stand.wait_until_steady()?;
        stand.feed.stop()?;
        count(so_far);
        so_far.fed = true;
        save(so_far)?;
        Ok((stand.fleet, stand.watch))
    }

    /// Makes the input topics, or finds them as they have become.
    fn make_inputs(&self, log: &KafkaLog) -> Result<Partitions> {
        let mut found: BTreeMap<String, u32> = log.topics()?.into_iter().collect();
        let mut partitions = BTreeMap::new();
        for source in self.scene.sources {
            let count = match found.remove(source.topic) {
                Some(count) => count,
                None => {
                    log.create_topic(&TopicSpec::new(source.topic, source.partitions))?;
                    source.partitions
                }
            };
            partitions.insert(source.topic.to_owned(), count);
        }
        Ok(Arc::new(Mutex::new(partitions)))
    }

    /// Waits until each stage has committed everything that the one before had written when it was done.
    fn work_off(&self, fleet: &mut Fleet, watch: &Watch, log: &KafkaLog, deployment: &str) -> Result<()> {
        let began = Instant::now();
        for stage in STAGES {
            let ends: Vec<(watch::Task, i64)> = watch
                .all()
                .into_iter()
                .filter(|(of, _)| *of == stage)
                .map(|task| Ok((task.clone(), log.offsets(&task.1)?.end)))
                .collect::<Result<_>>()?;
            loop {
                let positions = watch.positions();
                let behind = ends.iter().find(|(task, end)| positions.get(task).is_none_or(|o| o < end));
                let Some(((_, at), end)) = behind else { break };
                if began.elapsed() > WORK_OFF_WAIT {
                    bail!("{deployment}: {} of {at} has not come to {end} within {WORK_OFF_WAIT:?}", stage.name());
                }
                fleet.tend()?;
                std::thread::sleep(LOOK_PAUSE);
            }
        }
        (self.say)(&format!("{deployment}: worked off in {:.1} s", began.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Reads what was published, and what should have been.
    fn compare(&self, log: &KafkaLog, partitions: &Partitions, so_far: &mut SceneReport) -> Result<()> {
        let scene = self.scene;
        let got = self.published(scene.deployment)?;
        so_far.signals = got.values().map(|l| l.len() as u64).sum();
        so_far.signals_by_kind.clear();
        for line in got.values().flatten() {
            *so_far.signals_by_kind.entry(from_json(line)?.kind).or_default() += 1;
        }
        let names = scene.names(scene.deployment);
        (so_far.late, so_far.rejected) = (records(log, &names.late())?, records(log, &names.rejected())?);
        so_far.silences = silences(log, &names.control())?;
        if let Some(undisturbed) = scene.undisturbed {
            scene.write(&self.dir, undisturbed, self.cluster.direct())?;
            let mut fleet = Fleet::new(&self.dir.join(undisturbed), &self.dir.join(format!("{undisturbed}.yaml")), 1);
            drop(fleet.start(0)?);
            let watch = Watch::start(self.cluster.direct(), log, scene, undisturbed, partitions)?;
            self.started(&mut fleet, &watch)?;
            self.work_off(&mut fleet, &watch, log, undisturbed)?;
            fleet.stop(0)?;
            if let Some(why) = fleet.ended.first() {
                bail!("the undisturbed run was disturbed: {why}");
            }
            so_far.undisturbed = Some(compare(&got, &self.published(undisturbed)?));
        }
        let expected = self.backtest()?;
        so_far.backtest = Some(compare(&got, &expected));
        Ok(())
    }

    /// Waits until a new deployment has committed in every task: its topics are there then.
    fn started(&self, fleet: &mut Fleet, watch: &Watch) -> Result<()> {
        let began = Instant::now();
        while watch.positions().values().any(|o| *o == 0) {
            if began.elapsed() > WORK_OFF_WAIT {
                bail!("the undisturbed run did not begin within {WORK_OFF_WAIT:?}");
            }
            fleet.tend()?;
            std::thread::sleep(LOOK_PAUSE);
        }
        Ok(())
    }

    /// The signals of a deployment, by Kafka's own client.
    fn published(&self, deployment: &str) -> Result<PerTenant> {
        let topic = self.scene.names(deployment).signals();
        let mut all = PerTenant::new();
        for (key, value) in self.cluster.console_consume(&topic, None, CONSUME_IDLE)? {
            all.entry(key).or_default().push(value);
        }
        Ok(all)
    }

    /// The signals of a backtest over the same topics.
    fn backtest(&self) -> Result<PerTenant> {
        let out = self.dir.join("backtest.ndjson");
        let topology = self.dir.join(format!("{}.yaml", self.scene.deployment));
        let (topology, out_name) = (topology.to_string_lossy(), out.to_string_lossy());
        let mut args = vec!["--color", "never", "backtest", "--json", "--topology", &topology, "--out", &out_name];
        let inputs: Vec<String> = self.scene.sources.iter().map(|s| format!("kafka:{}@..", s.topic)).collect();
        inputs.iter().for_each(|input| args.extend(["--input", input]));
        let status = Process::start_self("backtest", &self.dir, &args)?.wait(WORK_OFF_WAIT)?;
        if !status.success() {
            bail!("backtest: {status}; see {}", self.dir.join("backtest.err").display());
        }
        let mut all = PerTenant::new();
        for line in std::fs::read_to_string(&out)?.lines() {
            all.entry(from_json(line)?.tenant).or_default().push(line.to_owned());
        }
        Ok(all)
    }
}

/// Everything readable on the first partition of a topic.
fn read(log: &KafkaLog, topic: &str, mut each: impl FnMut(&tidewatch::log::Record)) -> Result<()> {
    let at = TopicPartition::new(topic, 0);
    let range = log.offsets(&at)?;
    let mut reader = log.reader(&at, range.start)?;
    let began = Instant::now();
    while reader.position() < range.end && !reader.at_end() {
        if began.elapsed() > WORK_OFF_WAIT {
            bail!("{topic} cannot be read");
        }
        reader.poll(PollLimit::default(), Duration::from_secs(1))?.iter().for_each(&mut each);
    }
    Ok(())
}

/// Records of a topic of one partition.
fn records(log: &KafkaLog, topic: &str) -> Result<u64> {
    let mut count = 0;
    read(log, topic, |_| count += 1)?;
    Ok(count)
}

/// Marks of silence.
fn silences(log: &KafkaLog, topic: &str) -> Result<u64> {
    let mut count = 0;
    let is_silence = |value: &[u8]| Mark::decode(value).is_ok_and(|m| m.cause == Cause::Silence);
    read(log, topic, |record| count += u64::from(record.value.as_deref().is_some_and(is_silence)))?;
    Ok(count)
}

/// Removes what an earlier run left in a directory; an error when it holds anything else.
pub fn clear(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    if !dir.join(STATE).is_file() && std::fs::read_dir(dir)?.next().is_some() {
        bail!("{} holds something that is no earlier run; name another directory", dir.display());
    }
    Ok(std::fs::remove_dir_all(dir)?)
}
