//! What the detectors cost: the processor time of a flow and of a look-up with all rules, against the same run with none.
//! Measured alone, after everything else, in one thread.

use anyhow::Result;
use tidewatch_generator::{PRESET_START, Plan};

use super::measure::Part;
use super::{Context, made, way};

const HOSTS: u32 = 40;
/// Runs of each; the quickest counts, because what else the machine does only adds.
const RUNS: usize = 3;

/// Measures it.
pub fn measure(context: &Context) -> Result<Part> {
    let office = Plan::office(context.seed + 500, 0, HOSTS, PRESET_START, 86_400);
    let plan = Plan { tenants: vec!["quality".into()], lookups: true, attacks: Vec::new(), ..office };
    let dir = context.folder("cost")?;
    made::write(&plan, &made::Renames::new(), &dir)?;
    let mut part = Part::default();
    for (log, what) in [("conn.log", "flow"), ("dns.log", "look-up")] {
        let path = dir.join(log);
        let mut best = [f64::INFINITY; 2];
        let mut rows = 0;
        for _ in 0..RUNS {
            for (with, rules) in [&context.rules[..], &[]].into_iter().enumerate() {
                let ran = way::run(&path, &[], rules)?;
                rows = ran.rows;
                best[with] = best[with].min(ran.cpu_ns as f64 / ran.rows.max(1) as f64);
            }
        }
        part.figures.push((
            format!("CPU of a {what}"),
            format!(
                "{:.0} ns with all detectors, {:.0} ns with none: {:.0} ns for detection ({rows} rows of a Zeek text log, quickest of {RUNS} runs, one thread, this machine)",
                best[0],
                best[1],
                best[0] - best[1]
            ),
        ));
    }
    Ok(part)
}
