//! `tidewatch run`: a topology at work, on threads, until SIGTERM or SIGINT.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::json;
use tidewatch_operators::detectors;
use tidewatch_operators::rule::lint;

use super::{Exit, Failure, Output, serving};
use crate::deliver::{Deliver, DeliverHandle, KnownTopic};
use crate::log::{Member, TopicPartition};
use crate::rules::reload::Reload;
use crate::run::{Run, RunError, Shared, fault};
use crate::snapshot::SnapshotStore;
use crate::status::{ProcessState, Reporter};
use crate::telemetry::Telemetry;
use crate::topics;
use crate::topology::{Stage, Topology};
use crate::versions::{self, Proposed, VersionError};
use crate::worker::{Bound, system_clock};

/// The embedded log drops what retention no longer keeps this often.
const RETENTION_EVERY: Duration = Duration::from_secs(60);

/// Partition counts of the inputs are read this often: a partition added to an input holds slices from then on.
const ROSTER_EVERY: Duration = Duration::from_secs(5);

/// With `--wait`, pause between two tries to start.
const START_PAUSE: Duration = Duration::from_secs(2);

/// The main thread looks this often whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Run a topology until it is told to stop
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tidewatch run topologies/quickstart.yaml\n  tidewatch run topologies/kafka.yaml --stage detect --ordinal 1\n\n\
                        SIGTERM, Ctrl-C or `tidewatch drain` ends the running epoch, takes a last snapshot and stops, within\n\
                        `drain_within` of the topology; what is committed is never done again.\n\n\
SIGHUP or `tidewatch rules reload` reads the rules again.\n\n\
                        What is not there at the start (brokers, topics, rights) is said, with exit code 2, unless --wait is given. \
                        What goes away later is waited for: see docs/kafka.md."
)]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// Only this stage; may be given several times (default: all)
    #[arg(long = "stage", value_enum, value_name = "STAGE")]
    stages: Vec<StageName>,
    /// Number of this process among those that run the same stages: keep it stable over restarts
    #[arg(long, default_value_t = 0, value_name = "N")]
    ordinal: u32,
    /// Stop when everything that is in the inputs now has been worked off; the end of the inputs closes every slice
    #[arg(long)]
    until_end: bool,
    /// Wait at the start, too, for brokers, topics and rights that are not there, instead of saying so and ending
    #[arg(long)]
    wait: bool,
    /// Where health and metrics are served: ADDRESS:PORT, or off (overrides the topology's http.listen)
    #[arg(long, value_name = "ADDR", value_parser = serving::wish)]
    http: Option<serving::Http>,
    /// Leave the consumer groups for good on stopping, instead of keeping the places for a restart
    #[arg(long)]
    for_good: bool,
    /// Go on from what a version with other outputs committed, without the proof that re-processing gives it again
    #[arg(long)]
    accept_new_outputs: bool,
    /// Begin anew in topics that were deleted and made again, and forget the positions in the old ones
    #[arg(long)]
    accept_new_topics: bool,
    /// Directory with rules to lay over the built-in ones (overrides the topology's)
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Print one JSON object with the figures at the end
    #[arg(long)]
    json: bool,
}

/// Stages as arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StageName {
    /// Inputs to observations.
    Normalize,
    /// Observations to findings.
    Detect,
    /// Findings to signals.
    Correlate,
    /// Signals to destinations.
    Deliver,
}

impl From<StageName> for Stage {
    fn from(name: StageName) -> Self {
        match name {
            StageName::Normalize => Self::Normalize,
            StageName::Detect => Self::Detect,
            StageName::Correlate => Self::Correlate,
            StageName::Deliver => Self::Deliver,
        }
    }
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let topology = Topology::read(&args.topology)?;
    let rules_dir = args.rules.clone().or_else(|| topology.rules.clone());
    let rules = crate::rules::load(rules_dir.as_deref(), detectors::ALL).map_err(Failure::Config)?;
    let hang_up = hang_up_flag()?;
    for warning in lint(&rules, system_clock()()) {
        tracing::warn!("{warning}");
    }
    let stages: Vec<Stage> = match args.stages.as_slice() {
        [] => Stage::ALL.to_vec(),
        some => some.iter().map(|s| Stage::from(*s)).collect(),
    };
    let stop = stop_flag()?;
    let log = patiently(args.wait, &stop, || super::open::log(&topology))?;
    let mut run = Run::new(topology, rules.rules.clone(), log.clone(), system_clock());
    run.ordinal = args.ordinal;
    run.accept_new_outputs = args.accept_new_outputs;
    // For ever: the others go on. To an end: whoever waits for it hears that it was not reached.
    run.alone = !args.until_end;
    run.patient = args.wait;
    patiently(args.wait, &stop, || Ok(run.create_topics()?))?;
    run.accept_new_topics = args.accept_new_topics;
    run.topics = patiently(args.wait, &stop, || topics::settle(&*log, &run.topology, args.accept_new_topics).map_err(unsettled))?;
    let need = patiently(args.wait, &stop, || Ok(run.need(&stages)?))?;
    need.within(&run.topology).map_err(|exceeded| Failure::Usage(exceeded.to_string()))?;
    // Rules are proposed by whoever detects; what is recorded wins.
    if stages.contains(&Stage::Detect) {
        match versions::propose(&*log, &run.topology, &rules, (run.clock)()) {
            Ok(Proposed::From(t)) => tracing::warn!(from = %t, "the rules differ from the recorded ones: they hold from then on"),
            Ok(Proposed::First | Proposed::Unchanged) => {}
            Err(e) => return Err(Failure::Failed(e.to_string())),
        }
        run.versions = versions::by_time(&*log, &run.topology).map_err(|e| Failure::Failed(e.to_string()))?;
    }
    if args.until_end {
        bound_by_what_is_there(&mut run)?;
    }
    let store = SnapshotStore::open(&run.topology.snapshots.url).map_err(|e| Failure::Usage(e.to_string()))?;
    run.snapshots = Some(match run.topology.names.deployment() {
        Some(deployment) => store.of(deployment),
        None => store,
    });
    let shared = run.shared();
    run.telemetry = Telemetry::start(&run.topology, &stages, run.ordinal, shared.metrics.clone())
        .map_err(|e| Failure::Usage(format!("telemetry: {e}")))?;
    let finished = Arc::new(AtomicBool::new(false));
    let flags = serving::Flags { stop: stop.clone(), finished: finished.clone() };
    let (reporter, serving) = serving::start(&run, &shared, &stages, args.http, &flags)?;
    reporter.reloads(Reload { dir: rules_dir, detectors: detectors::ALL, log: log.clone(), topology: run.topology.clone() });
    let delivery = deliver(&run, &stages)?;
    reporter.delivers(delivery.as_ref().map(DeliverHandle::watch).unwrap_or_default());
    run.expect_workers(&stages, &shared);
    shared.board.set_state(ProcessState::Running);
    tracing::info!(stages = ?stages, ordinal = args.ordinal, "running");
    reload_on(hang_up, reporter.clone(), finished.clone());
    let result = work(&run, &stages, &shared, &stop, args.for_good, &delivery);
    if let Some(delivery) = delivery {
        if args.until_end && result.is_ok() {
            delivery.wait_idle(Duration::from_secs(60));
        }
        delivery.stop();
    }
    finished.store(true, Ordering::Release);
    if let Some(telemetry) = run.telemetry.take() {
        telemetry.stop();
    }
    drop(serving);
    result.map_err(failure)?;
    let total = shared.ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner).total();
    if args.json {
        out.json(&json!({"stages": stages.iter().map(|s| s.name()).collect::<Vec<_>>(), "counts": total}))?;
    }
    Ok(Exit::Good)
}

/// With `--wait`: repeats a step of the start until what is not there is there. The reason is logged when it changes.
fn patiently<T>(wait: bool, stop: &AtomicBool, mut step: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut told = None;
    loop {
        let error = match step() {
            Err(Failure::Log(error)) if wait && !stop.load(Ordering::Acquire) => error,
            result => return result,
        };
        let Some(cause) = fault::of_log(&error) else { return Err(Failure::Log(error)) };
        if told != Some(cause) {
            told = Some(cause);
            tracing::warn!(cause = cause.name(), %error, to_do = cause.advice(), "waiting at the start");
        }
        std::thread::sleep(START_PAUSE);
    }
}

fn unsettled(e: VersionError) -> Failure {
    match e {
        VersionError::Log(e) => Failure::Log(e),
        e => Failure::Failed(format!("ids of topics: {e}")),
    }
}

fn failure(e: RunError) -> Failure {
    match e {
        RunError::Log(e) => Failure::Log(e),
        RunError::Registry(e) => Failure::Usage(e.to_string()),
        e => Failure::Failed(e.to_string()),
    }
}

/// A flag that SIGTERM and SIGINT raise; a second signal ends the process at once.
fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        let registered = signal_hook::flag::register_conditional_shutdown(signal, 1, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()));
        registered.map_err(|e| Failure::Failed(format!("cannot listen for signals: {e}")))?;
    }
    Ok(stop)
}

/// A flag that SIGHUP raises.
fn hang_up_flag() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, flag.clone())
        .map_err(|e| Failure::Failed(format!("cannot listen for signals: {e}")))?;
    Ok(flag)
}

/// Reads the rules again at every SIGHUP, on a thread that nobody waits for: brokers that are away make it slow.
fn reload_on(hang_up: Arc<AtomicBool>, reporter: Arc<Reporter>, finished: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        while !finished.load(Ordering::Acquire) {
            if hang_up.swap(false, Ordering::AcqRel) {
                // What came of it is logged there.
                let _ = reporter.reload();
            }
            std::thread::sleep(LOOK_EVERY);
        }
    });
}

/// Every input ends where it ends now.
pub(super) fn bound_by_what_is_there(run: &mut Run) -> Result<(), Failure> {
    for input in &run.topology.inputs {
        for partition in 0..run.log.partitions(&input.topic)? {
            let at = TopicPartition::new(input.topic.clone(), partition);
            let end = run.log.offsets(&at)?.end;
            run.bounds.insert(at, Bound { from: None, until: Some(end), ends: true });
        }
    }
    Ok(())
}

fn deliver(run: &Run, stages: &[Stage]) -> Result<Option<DeliverHandle>, Failure> {
    if !stages.contains(&Stage::Deliver) || run.topology.destinations.is_empty() {
        return Ok(None);
    }
    let id = run.topology.names.writer_id(Stage::Deliver, run.ordinal, 0);
    let signals = run.topology.names.signals();
    let accept_new = run.accept_new_topics;
    let topic = KnownTopic {
        recorded: run.topics.get(&signals).cloned(),
        made_again: accept_new && topics::made_again(&*run.log, &run.topology, &signals)?,
        accept_new,
    };
    let config = run.topology.deliver(Member { id, index: 0, of: 1 }, topic);
    Deliver::start(run.log.clone(), config).map(Some).map_err(|e| Failure::Failed(e.to_string()))
}

fn work(
    run: &Run,
    stages: &[Stage],
    shared: &Shared,
    stop: &Arc<AtomicBool>,
    for_good: bool,
    delivery: &Option<DeliverHandle>,
) -> Result<(), RunError> {
    let working = stages.iter().any(|s| *s != Stage::Deliver);
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| house_keeping(run, shared, stop, &finished));
        let result = if working {
            run.threaded(stages, shared, stop, for_good)
        } else {
            while !stop.load(Ordering::Acquire) && delivery.is_some() {
                std::thread::sleep(LOOK_EVERY);
            }
            Ok(())
        };
        finished.store(true, Ordering::Release);
        result
    })
}

/// Retention of a log that does not keep it by itself, and new partitions of the inputs.
fn house_keeping(run: &Run, shared: &Shared, stop: &AtomicBool, finished: &AtomicBool) {
    let mut waited = Duration::ZERO;
    let mut looked = Duration::ZERO;
    // Told once: the workers tell the rest.
    let (mut unread, mut unkept) = (false, false);
    while !stop.load(Ordering::Acquire) && !finished.load(Ordering::Acquire) {
        std::thread::sleep(LOOK_EVERY);
        waited += LOOK_EVERY;
        looked += LOOK_EVERY;
        if looked >= ROSTER_EVERY {
            looked = Duration::ZERO;
            let result = run.refresh_roster(shared);
            if let (false, Err(error)) = (unread, &result) {
                tracing::warn!(%error, "partition counts of the inputs cannot be read for now");
            }
            unread = result.is_err();
        }
        if waited >= RETENTION_EVERY {
            waited = Duration::ZERO;
            let result = run.log.enforce_retention((run.clock)());
            if let (false, Err(error)) = (unkept, &result) {
                tracing::warn!(%error, "retention cannot be kept for now");
            }
            unkept = result.is_err();
        }
    }
}
