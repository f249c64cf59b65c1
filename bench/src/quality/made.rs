//! Plans of the generator as logs on disk, and what of their attacks ought to be found.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use tidewatch_generator::attack::Attack;
use tidewatch_generator::event::{Event, FlowEvent, Outcome};
use tidewatch_generator::zeek::{Log, ZeekLine};
use tidewatch_generator::{Plan, Style, Traffic, world, zeek_lines_of};
use tidewatch_schemas::time::EventTime;

use super::measure::Wanted;
use crate::zeek_files::{Rotate, ZeekFiles};

/// Names and addresses of the plan that become others: what the generator has no word for.
pub type Renames = HashMap<String, String>;

/// Writes a plan of one tenant as Zeek's logs; look-ups written.
///
/// # Errors
/// Says what cannot be written.
pub fn write(plan: &Plan, renames: &Renames, dir: &Path) -> Result<u64> {
    write_logs(plan, renames, dir, &Log::ALL)
}

/// The same of some logs alone, where nothing reads the others.
///
/// # Errors
/// Says what cannot be written.
pub fn write_logs(plan: &Plan, renames: &Renames, dir: &Path, logs: &[Log]) -> Result<u64> {
    let mut files = ZeekFiles::new(plan, dir, Style::Tsv, Rotate::Never);
    let mut looks = 0;
    for ZeekLine { log, tenant, at, line } in zeek_lines_of(plan, Style::Tsv, logs) {
        looks += u64::from(log == Log::Dns);
        if renames.is_empty() {
            files.write(tenant, log, at, &line)?;
            continue;
        }
        let cells: Vec<&str> = line.split('\t').map(|cell| renames.get(cell).map_or(cell, String::as_str)).collect();
        files.write(tenant, log, at, &cells.join("\t"))?;
    }
    files.finish()?;
    Ok(looks)
}

/// What ought to be found of each attack, in the plan's order; `None` for those that do not come to a contact. The contacts
/// of a scan are its targets that fail, those of DNS attacks their look-ups.
pub fn wanted(plan: &Plan, renames: &Renames) -> Vec<Option<Wanted>> {
    let mut seen: Vec<Option<(Vec<EventTime>, EventTime)>> = vec![None; plan.attacks.len()];
    for event in Traffic::attacks_only(plan) {
        let Event::Flow(flow) = event else { continue };
        let Some(n) = flow.connection.attack.map(usize::from) else { continue };
        let Some(entry) = seen.get_mut(n) else { continue };
        let (contacts, last) = entry.get_or_insert_with(|| (Vec::new(), flow.end));
        *last = (*last).max(flow.end);
        if counts(&plan.attacks[n], &flow) {
            contacts.push(flow.start);
        }
    }
    let of = |(n, attack): (usize, &Attack)| {
        let (mut contacts, last) = seen[n].take()?;
        contacts.sort_unstable();
        let mut kinds = vec![attack.kind()];
        kinds.extend(attack.also());
        let (destination, _) = attack.destination(plan.seed, n as u16);
        // Scans are told per host, and volumes may name any of several addresses.
        let one = matches!(attack, Attack::Beacon(_) | Attack::Tunnel(_) | Attack::Stay(_));
        let destination = destination.map(|d| renames.get(&d).cloned().unwrap_or(d));
        let destinations = destination.filter(|_| one).into_iter().collect();
        Some(Wanted { kinds, host: Some(world::host(attack.place().1).to_string()), destinations, contacts, last })
    };
    plan.attacks.iter().enumerate().map(of).collect()
}

/// Addresses that attacks call, by the attack's place in the plan.
pub fn called(plan: &Plan) -> Vec<Vec<String>> {
    let mut out: Vec<std::collections::BTreeSet<String>> = vec![Default::default(); plan.attacks.len()];
    for event in Traffic::attacks_only(plan) {
        let Event::Flow(flow) = event else { continue };
        let entry = flow.connection.attack.and_then(|n| out.get_mut(usize::from(n)));
        if let Some(entry) = entry.filter(|_| flow.connection.responder_port != 53) {
            entry.insert(flow.connection.responder.to_string());
        }
    }
    out.into_iter().map(|of| of.into_iter().collect()).collect()
}

fn counts(attack: &Attack, flow: &FlowEvent) -> bool {
    let lookup = flow.connection.responder_port == 53;
    match attack {
        Attack::Names(_) | Attack::Tunnel(_) => lookup,
        Attack::Scan(_) => matches!(flow.outcome, Outcome::Refused | Outcome::NoReply),
        _ => !lookup,
    }
}
