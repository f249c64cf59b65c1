//! `tidewatch dlq list`: counts of rejected records by reason, topic, format and tenant.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bumpalo::Bump;
use serde_json::json;
use tidewatch_schemas::wire::{Decoded, Format, RecordMeta};

use super::{Rejected, place, shown};
use crate::command::{Exit, Failure, Output};
use crate::log::Record;
use crate::normalize::reject;
use crate::topology::{Tenancy, Topology};

/// Lines of the list, at most; what comes beyond is counted in one line.
const GROUPS_MAX: usize = 1_000;

/// Count the rejected records by reason, topic, format and tenant
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tidewatch dlq list topologies/quickstart.yaml --json\n\
                        The tenant is the input's own, or what the record claims; nobody has verified it.")]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// One JSON object, for machines
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    reason: String,
    topic: String,
    format: String,
    tenant: String,
}

struct Group {
    records: u64,
    replayed: u64,
    first: (u32, i64),
    last: (u32, i64),
    /// Reason of the newest, in full.
    example: String,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let rejected = Rejected::open(&args.topology)?;
    let replayed = rejected.replayed()?;
    let mut groups: BTreeMap<Key, Group> = BTreeMap::new();
    let mut beyond = 0u64;
    rejected.each(|partition, record| {
        let key = key_of(&rejected.topology, &record);
        if groups.len() >= GROUPS_MAX && !groups.contains_key(&key) {
            beyond += 1;
            return Ok(());
        }
        let place = (partition, record.offset);
        let group =
            groups.entry(key).or_insert(Group { records: 0, replayed: 0, first: place, last: place, example: String::new() });
        group.records += 1;
        group.replayed += u64::from(replayed.contains(&place));
        group.last = place;
        group.example = shown::text_of(&record, reject::REASON).unwrap_or_default();
        Ok(())
    })?;
    let total = groups.values().map(|g| g.records).sum::<u64>() + beyond;
    if args.json {
        let list: Vec<_> = groups
            .iter()
            .map(|(k, g)| {
                json!({
                    "reason": k.reason, "topic": k.topic, "format": k.format, "tenant": k.tenant,
                    "records": g.records, "replayed": g.replayed, "example": g.example,
                    "first": {"partition": g.first.0, "offset": g.first.1},
                    "last": {"partition": g.last.0, "offset": g.last.1},
                })
            })
            .collect();
        out.json(&json!({"records": total, "groups": list, "beyond_limit": beyond}))?;
        return Ok(Exit::Good);
    }
    if total == 0 {
        out.line("nothing was rejected")?;
        return Ok(Exit::Good);
    }
    // A partition is only named where there are several.
    let at = |(partition, offset): (u32, i64)| {
        if rejected.partitions > 1 { format!("{partition}:{offset}") } else { offset.to_string() }
    };
    let rows: Vec<Vec<String>> = groups
        .iter()
        .map(|(k, g)| {
            vec![
                g.records.to_string(),
                g.replayed.to_string(),
                k.reason.clone(),
                k.topic.clone(),
                k.format.clone(),
                k.tenant.clone(),
                format!("{}..{}", at(g.first), at(g.last)),
                g.example.clone(),
            ]
        })
        .collect();
    out.table(&["records", "replayed", "reason", "topic", "format", "tenant", "offsets", "newest"], &rows)?;
    if beyond > 0 {
        out.line(format_args!("{beyond} more in further groups"))?;
    }
    Ok(Exit::Good)
}

/// The class of a reason: `bytes`, `tenant`, `future`, `time`, `replay`.
fn class(reason: &str) -> &str {
    reason.split_once(':').map_or(reason, |(class, _)| class)
}

fn key_of(topology: &Topology, record: &Record) -> Key {
    let header = |name: &str| shown::text_of(record, name).unwrap_or_else(|| "-".to_owned());
    let topic = header(reject::TOPIC);
    let input = topology.inputs.iter().find(|i| i.topic == topic);
    let own = input.and_then(|i| match (&i.lane, &i.tenancy) {
        (Some(lane), _) => Some(lane.tenant.clone()),
        (None, Tenancy::Static(tenant)) => Some(tenant.clone()),
        _ => None,
    });
    let format = input.and_then(|i| place::format(i.format.name).ok());
    let tenant = own.or_else(|| format.and_then(|f| claimed(f, record))).unwrap_or_else(|| reject::NO_TENANT.to_owned());
    Key { reason: class(&header(reject::REASON)).to_owned(), topic, format: header(reject::FORMAT), tenant }
}

/// The tenant that the rows claim, else the one in probectl's key (`tenant` or `tenant|letters`).
fn claimed(format: &Format, record: &Record) -> Option<String> {
    let arena = Bump::new();
    let mut out = Decoded::default();
    let value = record.value.as_deref().unwrap_or_default();
    let decoded = (format.decoder)().decode(value, RecordMeta { timestamp: record.timestamp }, &arena, &mut out);
    let of_rows = out.rows.first().filter(|_| decoded.is_ok()).map(|r| r.tenant.to_owned());
    let of_key = || {
        let key = std::str::from_utf8(record.key.as_deref()?).ok()?;
        Some(key.split('|').next().unwrap_or(key).to_owned())
    };
    of_rows.or_else(of_key).filter(|t| crate::topology::is_tenant(t))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_classes() {
        assert_eq!(class("bytes: cut off: varint needs more bytes at 3"), "bytes");
        assert_eq!(class("-"), "-");
    }
}
