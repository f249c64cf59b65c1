//! A half's held connections: open for days, which ought to be told, and for a long working day or two, which ought not.

use anyhow::Result;
use tidewatch_generator::attack::{Attack, Stay};
use tidewatch_generator::random::mix;
use tidewatch_generator::zeek::Log;
use tidewatch_generator::{PRESET_START, Plan};
use tidewatch_operators::rule::Rule;

use super::super::{Context, made, way};
use super::tally::{Around, Tally, Truth};
use super::{Half, ordinary};

const KIND: &str = "ndr.long_connection";
/// Ports of what is held, and hours that it is open: of an intruder, and of somebody at work.
const PORTS: [u16; 6] = [22, 443, 3_389, 4_444, 5_900, 8_022];
const HELD_H: [u32; 5] = [50, 60, 72, 96, 120];
const WORKED_H: [u32; 5] = [9, 14, 20, 30, 40];
/// Hosts that hold nothing.
const OTHERS: u32 = 10;
const DAYS: u32 = 6;

pub fn material(context: &Context, half: Half, rules: &[Rule], tally: &mut Tally) -> Result<()> {
    let seed = half.seed(context) + 500;
    let grid = |hours: [u32; 5]| -> Vec<(u16, u32)> {
        PORTS.into_iter().flat_map(|port| hours.into_iter().map(move |h| (port, h))).collect()
    };
    let name = |(port, hours): &(u16, u32)| format!("held for {hours} h at port {port}");
    let held = half.of(grid(HELD_H), name);
    let told = held.len();
    let attacks: Vec<Attack> = held
        .into_iter()
        .chain(half.of(grid(WORKED_H), name))
        .zip(0..)
        .map(|((port, hours), host)| {
            let start_s = 600 + (mix(&[seed, 208, u64::from(host)]) % 14_400) as u32;
            Stay { tenant: 0, host, start_s, duration_s: hours * 3_600, port }.into()
        })
        .collect();
    let hosts = attacks.len() as u32 + OTHERS;
    let office = Plan::office(seed, 0, hosts, PRESET_START, DAYS * 86_400);
    let plan = Plan { tenants: vec!["quality".into()], attacks, ..office };
    let dir = context.folder(&format!("half-{}-held", half.name()))?;
    made::write_logs(&plan, &made::Renames::new(), &dir, &[Log::Conn])?;
    let ran = way::run(&dir, &[], rules)?;
    std::fs::remove_dir_all(&dir)?;
    let wanted = made::wanted(&plan, &made::Renames::new());
    let truths: Vec<Truth> = wanted.into_iter().take(told).flatten().map(|w| Truth::of(KIND, w)).collect();
    tally.take(&ran, &truths, Around::Generated(f64::from(hosts * DAYS)), |_| true);
    ordinary::days(context, half, "held", rules, tally)
}
