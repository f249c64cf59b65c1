//! `tidewatch top`: the running processes of a topology on this machine, partition by partition, redrawn every second.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::{cursor, execute, queue, terminal};
use serde_json::json;
use tidewatch_schemas::document::show_duration;
use tidewatch_schemas::time::EventTime;

use super::{Exit, Failure, Output, processes};
use crate::status::{ProcessState, ProcessStatus, TaskStatus};
use crate::topology::{Stage, Topology};

/// Show the running tasks, live: lag, rate, watermark, state, epochs
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tidewatch top topologies/quickstart.yaml\n  tidewatch top topologies/kafka.yaml --once --json\n\n\
                        Shows the processes of this machine. q or Ctrl-C leaves. Without a terminal it is drawn once. \
                        Exit code 1 when no process answers."
)]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// Draw once and end
    #[arg(long)]
    once: bool,
    /// One JSON object a look, for machines
    #[arg(long)]
    json: bool,
    /// Only this stage: normalize, detect, correlate or deliver
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// Seconds between two looks
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let topology = Topology::read(&args.topology)?;
    if let Some(stage) = &args.stage
        && Stage::parse(stage).is_none()
    {
        return Err(Failure::Usage(format!("unknown stage {stage:?}: normalize, detect, correlate or deliver")));
    }
    if args.once || (!args.json && !out.is_terminal()) {
        let found = look(&topology, args);
        tell(&found, args, out)?;
        return Ok(if found.is_empty() { Exit::Findings } else { Exit::Good });
    }
    if args.json {
        loop {
            tell(&look(&topology, args), args, out)?;
            out.flush()?;
            std::thread::sleep(Duration::from_secs(args.every));
        }
    }
    let _screen = Screen::open()?;
    loop {
        draw(&look(&topology, args))?;
        if left(Duration::from_secs(args.every))? {
            return Ok(Exit::Good);
        }
    }
}

fn look(topology: &Topology, args: &Args) -> Vec<ProcessStatus> {
    let mut found: Vec<ProcessStatus> = processes::running(topology).into_iter().map(|p| p.status).collect();
    if let Some(stage) = &args.stage {
        for process in &mut found {
            process.tasks.retain(|t| t.stage == *stage);
        }
    }
    found
}

fn tell(found: &[ProcessStatus], args: &Args, out: &mut Output) -> Result<(), Failure> {
    if args.json {
        let summed: Vec<_> = found
            .iter()
            .map(|p| {
                let mut value = serde_json::to_value(p).unwrap_or_default();
                value["ready"] = json!(p.not_ready().is_empty());
                value["not_ready"] = json!(p.not_ready());
                for (task, told) in p.tasks.iter().zip(value["tasks"].as_array_mut().into_iter().flatten()) {
                    told["lag"] = json!(task.lag());
                    told["lag_s"] = json!(task.lag_s(p.now));
                    told["watermark_lag_s"] = json!(task.watermark_lag_s(p.now));
                }
                value
            })
            .collect();
        return out.json(&json!({"processes": summed}));
    }
    if found.is_empty() {
        return out.line("no process of this topology answers on this machine");
    }
    for process in found {
        for line in head(process) {
            out.line(line)?;
        }
        out.table(COLUMNS, &process.tasks.iter().map(|t| row(t, process.now)).collect::<Vec<_>>())?;
        for line in tail(process) {
            out.line(line)?;
        }
    }
    Ok(())
}

const COLUMNS: &[&str] =
    &["stage", "partition", "phase", "lag", "behind", "rate", "watermark", "state", "keys", "waiting", "epoch", "age"];

fn head(p: &ProcessStatus) -> Vec<String> {
    let not_ready = p.not_ready();
    let ready = match (p.state, not_ready.len()) {
        (ProcessState::Draining, _) => "draining".to_owned(),
        (_, 0) => "ready".to_owned(),
        (_, n) => format!("not ready ({n} reasons)"),
    };
    let up = show_duration(Duration::from_secs((p.now.since(p.started).max(0) / 1_000_000_000) as u64));
    vec![format!("process {}  ordinal {}  {}  up {up}  {ready}  version {}", p.pid, p.ordinal, p.stages.join("+"), p.version)]
}

fn row(t: &TaskStatus, now: EventTime) -> Vec<String> {
    let dash = || "-".to_owned();
    let time = |s: f64| show_duration(Duration::from_secs(s as u64));
    let phase =
        t.phase.fraction().map_or_else(|| t.phase.name().to_owned(), |f| format!("{} {:.0} %", t.phase.name(), f * 100.0));
    vec![
        t.stage.clone(),
        t.at(),
        phase,
        t.lag().map_or_else(dash, |n| n.to_string()),
        t.lag_s(now).map_or_else(dash, time),
        format!("{:.0}/s", t.records_per_s),
        t.progress.watermark.filter(|w| *w != EventTime::MIN).map_or_else(dash, |w| w.to_rfc3339()),
        bytes(t.progress.state_bytes),
        t.progress.keys.to_string(),
        t.progress.waiting_rows.to_string(),
        t.epoch.map_or_else(dash, |e| format!("{:.0} ms", e.took_s * 1000.0)),
        t.epoch.map_or_else(dash, |e| time(now.since(e.at).max(0) as f64 / 1e9)),
    ]
}

fn tail(p: &ProcessStatus) -> Vec<String> {
    let mut lines = Vec::new();
    let mut shadows: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for judged in p.tasks.iter().flat_map(|t| &t.progress.judged).filter(|j| j.shadow > 0) {
        let sum = shadows.entry(&judged.rule).or_default();
        *sum = (sum.0 + judged.shadow, sum.1 + judged.suppressed);
    }
    for (rule, (shadow, suppressed)) in shadows {
        lines.push(format!("rule {rule}  shadow {shadow}  suppressed {suppressed}"));
    }
    for d in &p.destinations {
        let reason = d.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
        lines.push(format!("destination {}  {}  delivered {}  backlog {}{reason}", d.name, d.is, d.delivered, d.backlog));
    }
    for c in &p.conditions {
        lines.push(format!("{}  {}: {}  (since {})", c.cause.name(), c.about, c.reason, c.since));
        lines.push(format!("    {}", c.cause.advice()));
    }
    for t in p.tasks.iter().filter(|t| !t.phase.is_ready()) {
        lines.push(format!("{} {}: {}", t.stage, t.at(), t.phase.words(p.now)));
    }
    lines
}

fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        _ => format!("{:.1} MiB", n as f64 / 1_048_576.0),
    }
}

/// The terminal while it is ours; given back however the command ends.
struct Screen;

impl Screen {
    fn open() -> Result<Self, Failure> {
        terminal::enable_raw_mode()?;
        let screen = Self;
        execute!(std::io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // When the terminal is gone there is nothing to give back.
        let _ = execute!(std::io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// One screen: what does not fit is cut, and the last line says how much.
fn draw(found: &[ProcessStatus]) -> Result<(), Failure> {
    let (width, height) = terminal::size()?;
    let mut lines = Vec::new();
    if found.is_empty() {
        lines.push("no process of this topology answers on this machine".to_owned());
    }
    for process in found {
        lines.extend(head(process));
        let rows: Vec<Vec<String>> = std::iter::once(COLUMNS.iter().map(|c| (*c).to_owned()).collect())
            .chain(process.tasks.iter().map(|t| row(t, process.now)))
            .collect();
        let widths: Vec<usize> =
            (0..COLUMNS.len()).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or_default()).collect();
        lines.extend(rows.iter().map(|r| {
            let cells: Vec<String> = r.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            cells.join("  ")
        }));
        lines.extend(tail(process));
        lines.push(String::new());
    }
    let room = usize::from(height).saturating_sub(1);
    if lines.len() > room {
        let more = lines.len() - room + 1;
        lines.truncate(room.saturating_sub(1));
        lines.push(format!("... {more} more lines; --stage shows one stage, --once --json everything"));
    }
    let mut screen = std::io::stdout().lock();
    queue!(screen, cursor::MoveTo(0, 0))?;
    for line in &lines {
        let cut: String = line.chars().take(usize::from(width)).collect();
        write!(screen, "{cut}")?;
        queue!(screen, terminal::Clear(terminal::ClearType::UntilNewLine), cursor::MoveToNextLine(1))?;
    }
    queue!(screen, terminal::Clear(terminal::ClearType::FromCursorDown))?;
    screen.flush()?;
    Ok(())
}

/// Waits for the next look; true when the user leaves.
fn left(every: Duration) -> Result<bool, Failure> {
    let until = std::time::Instant::now() + every;
    loop {
        let wait = until.saturating_duration_since(std::time::Instant::now());
        if !event::poll(wait)? {
            return Ok(false);
        }
        match event::read()? {
            Event::Key(key) if key.kind == KeyEventKind::Press => {
                let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                if control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                    return Ok(true);
                }
            }
            Event::Resize(..) => return Ok(false),
            _ => {}
        }
    }
}
