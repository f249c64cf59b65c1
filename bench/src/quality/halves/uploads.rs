//! A half's uploads: forms of the grid on hosts of an office of the half's own, and nightly backups from their third night on.

use anyhow::Result;
use tidewatch_generator::world;
use tidewatch_generator::zeek::Log;
use tidewatch_operators::rule::Rule;
use tidewatch_schemas::signal::Signal;

use super::super::egress::{BACKUPS, Cell, DAYS, cells, night, uploads};
use super::super::{Context, made, way};
use super::tally::{Around, Tally, Truth};
use super::{Half, ordinary};

/// Hosts of each form.
const HOSTS: u32 = 2;
/// Nights on which a backup may be told of.
const NIGHTS_TOLD: usize = 2;

pub fn material(context: &Context, half: Half, rules: &[Rule], tally: &mut Tally) -> Result<()> {
    let forms = half.of(cells(1, 1), |cell: &Cell| format!("{cell:?}"));
    let ours: Vec<Cell> = forms.into_iter().flat_map(|cell| (0..HOSTS).map(move |_| cell)).collect();
    let made = uploads(half.seed(context), &ours);
    let dir = context.folder(&format!("half-{}-uploads", half.name()))?;
    made::write_logs(&made.plan, &made.renames, &dir, &[Log::Conn])?;
    let ran = way::run(&dir, &[], rules)?;
    std::fs::remove_dir_all(&dir)?;
    // What is wanted of backups explains nothing: from the third night on they are to be silent.
    let wanted = made::wanted(&made.plan, &made.renames).into_iter().take(ours.len()).flatten();
    let truths: Vec<Truth> = wanted.map(|w| Truth::of("ndr.egress_volume", w)).collect();
    let hosts = ours.len() as u32 + BACKUPS;
    let backups: Vec<String> = (ours.len() as u32..hosts).map(|h| world::host(h).to_string()).collect();
    let counts = |s: &Signal| !backups.contains(&s.entity.id) || night(s.decided_at) >= NIGHTS_TOLD;
    tally.take(&ran, &truths, Around::Generated(f64::from(hosts * DAYS)), counts);
    ordinary::days(context, half, "uploads", rules, tally)
}
