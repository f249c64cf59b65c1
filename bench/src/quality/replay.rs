//! The two benign days, and days made of them (detection.md 10.2): shifted, with hours and rows missing and the host under
//! another address. Replays depend on the day that they are made of.

use std::fs;

use anyhow::{Context as _, Result};
use tidewatch_generator::random::{Random, mix};
use tidewatch_operators::rule::Rule;

use super::logs::Table;
use super::way::Ran;
use super::{Context, way};

/// A benign day.
#[derive(Clone, Copy, Debug)]
pub struct Day {
    /// Its folder in flows-ctu.
    pub folder: &'static str,
    /// Its host.
    pub host: &'static str,
    /// How long it is.
    pub hours: f64,
}

/// Both.
pub const DAYS: [Day; 2] = [
    Day { folder: "008-benign-day", host: "147.32.81.167", hours: 28.1 },
    Day { folder: "010-benign-day", host: "147.32.83.234", hours: 24.0 },
];
/// The network that the benign days' hosts are in: their addresses are public.
pub const NETWORK: &str = "147.32.0.0/16";
/// Days made of each: 50 host-days in sum and some more.
pub const REPLAYS: u64 = 28;
/// Share of hours that a replay leaves out.
const HOURS_OUT: f64 = 0.1;

/// What the replays of a day gave.
pub struct Replayed {
    /// Signals of all, each entity with the number of its replay: the same pair in another replay is another alert. Rows and lost
    /// ones in sum, states of the last.
    pub ran: Ran,
    /// Host-days in sum.
    pub host_days: f64,
}

/// Runs the replays of a day; `name` keeps the folders of measurements apart that run side by side.
///
/// # Errors
/// Says what cannot be read or written.
pub fn of(context: &Context, day: &Day, name: &str, rules: &[Rule]) -> Result<Replayed> {
    let from = context.set("flows-ctu").join(day.folder);
    let mut tables = Vec::new();
    for entry in fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("").to_owned();
        let log = name.split('.').next().unwrap_or("").to_owned();
        if ["conn", "dns", "http", "ssl"].contains(&log.as_str()) {
            tables.push((log, Table::read(&path)?));
        }
    }
    tables.sort_by(|a, b| a.0.cmp(&b.0));
    let mut all = Ran { signals: Vec::new(), rows: 0, lost: 0, states: Vec::new(), cpu_ns: 0 };
    let mut host_days = 0.0;
    for n in 0..REPLAYS {
        let mut random = Random::of([context.seed, 301, n, mix(&[day.hours.to_bits()])]);
        let (lost, shift_s) = (0.3 * random.unit(), (random.unit() * 7.0 * 86_400.0).floor());
        let out: Vec<bool> = (0..48).map(|_| random.chance(HOURS_OUT)).collect();
        let other = format!("147.32.{}.{}", 100 + n, 10 + n);
        let dir = context.folder(&format!("replay-{name}-{}-{n}", day.folder))?;
        for (log, table) in &tables {
            let mut text = table.header.clone();
            for row in &table.rows {
                let Some(at_s) = row.first().and_then(|t| t.parse::<f64>().ok()) else { continue };
                if out[(at_s / 3_600.0) as usize % 48] || random.chance(lost) {
                    continue;
                }
                let moved: Vec<String> = row
                    .iter()
                    .enumerate()
                    .map(|(i, cell)| match i {
                        0 => format!("{:.6}", at_s + shift_s),
                        _ if cell == day.host => other.clone(),
                        _ => cell.clone(),
                    })
                    .collect();
                text += &moved.join("\t");
                text.push('\n');
            }
            fs::write(dir.join(format!("{log}.log")), text)?;
        }
        let ran = way::run(&dir, &[NETWORK], rules)?;
        fs::remove_dir_all(&dir)?;
        host_days += day.hours / 24.0 * (1.0 - out.iter().filter(|o| **o).count() as f64 / 48.0);
        all.rows += ran.rows;
        all.lost += ran.lost;
        all.states = ran.states;
        all.signals.extend(ran.signals.into_iter().map(|mut s| {
            s.entity.id = format!("{} (replay {n})", s.entity.id);
            s
        }));
    }
    Ok(Replayed { ran: all, host_days })
}
