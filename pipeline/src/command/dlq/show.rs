//! `tidewatch dlq show`: one rejected record, with what can be read of it.

use std::path::PathBuf;

use tidewatch_schemas::document;

use super::{Rejected, place, shown};
use crate::command::{Exit, Failure, Output};
use crate::log::TopicPartition;

/// Bytes in a line of the dump.
const LINE_BYTES: usize = 16;

/// Bytes dumped unless all are asked for.
const DUMP_BYTES: usize = 4 << 10;

/// Show one rejected record: headers, what can be decoded, bytes
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tidewatch dlq show topologies/quickstart.yaml 17 --value > record.bin")]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// Offset in the rejected topic; `tidewatch dlq list` shows them
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    offset: i64,
    /// Partition of the rejected topic
    #[arg(long, default_value_t = 0, value_name = "N")]
    partition: u32,
    /// The bytes alone and all of them, to be repaired
    #[arg(long, conflicts_with = "json")]
    value: bool,
    /// One JSON object, for machines
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let rejected = Rejected::open(&args.topology)?;
    let record = rejected.at(args.partition, args.offset)?;
    let value = record.value.clone().unwrap_or_default();
    if args.value {
        out.bytes(&value)?;
        return Ok(Exit::Good);
    }
    let at = TopicPartition::new(rejected.topic.clone(), args.partition);
    if args.json {
        let mut shower = shown::Shower::new(&rejected.topology, rejected.log.as_ref(), &at)?;
        for one in shower.show(&record) {
            out.json(&one.json)?;
        }
        return Ok(Exit::Good);
    }
    out.line(format_args!("{at} offset {}, {}", record.offset, record.timestamp))?;
    if let Some(key) = &record.key {
        out.line(format_args!("key: {}", document::shown(&String::from_utf8_lossy(key))))?;
    }
    for (name, text) in &record.headers {
        out.line(format_args!("{name}: {}", printable(&String::from_utf8_lossy(text))))?;
    }
    out.line("")?;
    let formats: Vec<_> =
        rejected.topology.inputs.iter().filter_map(|i| Some((i.topic.clone(), place::format(i.format.name).ok()?))).collect();
    match shown::named_format(&record, &formats) {
        None => out.line("its topic is no input of this topology: it cannot be decoded")?,
        Some(format) => match shown::attempt((format.decoder)().as_mut(), &value, record.timestamp) {
            Ok(json) => out.line(serde_json::to_string_pretty(&json).map_err(std::io::Error::from)?)?,
            Err(fault) => out.line(format_args!("not a record of {}: {fault}", format.name))?,
        },
    }
    out.line("")?;
    dump(&value, out)
}

fn dump(value: &[u8], out: &mut Output) -> Result<Exit, Failure> {
    for (i, bytes) in value[..value.len().min(DUMP_BYTES)].chunks(LINE_BYTES).enumerate() {
        let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let text: String = bytes.iter().map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' }).collect();
        out.line(format_args!("{:08x}  {:47}  {text}", i * LINE_BYTES, hex.join(" ")))?;
    }
    if value.len() > DUMP_BYTES {
        out.line(format_args!("... {} bytes in all; --value writes them", value.len()))?;
    }
    Ok(Exit::Good)
}

/// Control characters escaped: headers hold what a record said.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}
