//! `tidewatch decode`: one record of an input format to JSON, as normalize would read it. Decides nothing: tenants are as
//! claimed, classes and hosts are not there yet.

use std::io::Read as _;
use std::path::PathBuf;

use tidewatch_schemas::time::EventTime;
use tidewatch_schemas::wire::FORMATS;

use super::place::Place;
use super::{Exit, Failure, Output, open, place, shown};
use crate::log::{PollLimit, TopicPartition};
use crate::topology::Topology;

/// Bytes read from standard input, at most: far above any broker's record limit. As hex that is twice as much text.
const VALUE_BYTES_MAX: u64 = 64 << 20;

/// Decode one record of an input format to JSON
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  head -c 4096 conn.log | tidewatch decode zeek-conn\n  \
                        echo 0a0274311a03646e73 | tidewatch decode probectl-result --hex\n  \
                        tidewatch decode probectl-flow --topic probectl.flow.events@0:17 --topology topologies/quickstart.yaml\n\
                        Exit code 1 when the record cannot be decoded; standard error says why.")]
pub struct Args {
    /// The format; --list names them
    #[arg(required_unless_present = "list")]
    format: Option<String>,
    /// Standard input is hexadecimal text; blanks and line ends do not count
    #[arg(long, conflicts_with = "topic")]
    hex: bool,
    /// Take the record from a topic instead of standard input
    #[arg(long, value_name = "TOPIC@PARTITION:OFFSET", requires = "topology")]
    topic: Option<Place>,
    /// The topology whose log has the topic
    #[arg(long, value_name = "FILE", requires = "topic")]
    topology: Option<PathBuf>,
    /// List the formats
    #[arg(long, conflicts_with_all = ["format", "hex", "topic"])]
    list: bool,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let Some(name) = args.format.as_ref().filter(|_| !args.list) else {
        let rows: Vec<Vec<String>> = FORMATS.iter().map(|f| vec![f.name.to_owned(), f.about.to_owned()]).collect();
        out.table(&["format", "what"], &rows)?;
        return Ok(Exit::Good);
    };
    let format = place::format(name)?;
    let (value, mut decoder, timestamp) = match (&args.topic, &args.topology) {
        (Some(at), Some(path)) => {
            let topology = Topology::read(path)?;
            let log = open::reading(&topology)?.log;
            let (topic, _) = place::topic(&topology, log.as_ref(), &at.topic)?;
            let partition = TopicPartition::new(topic, at.partition);
            let limit = PollLimit { records: 1, ..PollLimit::default() };
            let found = log.reader(&partition, at.offset)?.poll(limit, super::POLL_WAIT)?;
            let record = found.into_iter().find(|r| r.offset == at.offset).ok_or_else(|| {
                Failure::Usage(format!("there is no record at offset {} of {partition}; offsets may have gaps", at.offset))
            })?;
            let value = record.value.ok_or_else(|| Failure::Failed("the record has no value: a tombstone".to_owned()))?;
            (value.to_vec(), shown::decoder(format, log.as_ref(), &partition)?, record.timestamp)
        }
        // Nothing to compare with: no row of it is too far ahead.
        _ => (from_stdin(args.hex)?, (format.decoder)(), EventTime::MAX),
    };
    let json = shown::attempt(decoder.as_mut(), &value, timestamp)
        .map_err(|fault| Failure::Failed(format!("not a record of {name}: {fault}")))?;
    if out.is_terminal() {
        out.line(serde_json::to_string_pretty(&json).map_err(std::io::Error::from)?)?;
    } else {
        out.json(&json)?;
    }
    Ok(Exit::Good)
}

fn from_stdin(hex: bool) -> Result<Vec<u8>, Failure> {
    let limit = if hex { 2 * VALUE_BYTES_MAX } else { VALUE_BYTES_MAX };
    let mut bytes = Vec::new();
    let failed = |e: std::io::Error| Failure::File { verb: "read", path: "standard input".into(), reason: e.to_string() };
    std::io::stdin().lock().take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(Failure::Usage(format!("standard input is longer than one record can be ({VALUE_BYTES_MAX} bytes)")));
    }
    if !hex {
        return Ok(bytes);
    }
    from_hex(&bytes).map_err(|reason| Failure::Usage(format!("standard input is not hexadecimal: {reason}")))
}

/// Hexadecimal text with blanks and line ends anywhere.
pub fn from_hex(text: &[u8]) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    hex::decode(digits).map_err(|e| e.to_string())
}
