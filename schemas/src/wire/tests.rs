//! Golden rows of every format, and what holds of all of them: bad rows alone, cut-off records, any bytes.

#![allow(clippy::unwrap_used)]

mod all;
mod extract;
mod probectl;
mod zeek;

use bumpalo::Bump;

use super::*;
use crate::proto::tests::T0_NS;

/// Timestamp of the records of these tests: an hour after t0, so later than every row.
const META: RecordMeta = RecordMeta { timestamp: EventTime(T0_NS + 3_600_000_000_000) };

/// Decodes with a decoder that keeps what it learns and shows everything that came out, a line each.
fn show(decoder: &mut dyn Decoder, value: &[u8]) -> String {
    let arena = Bump::new();
    let mut out = Decoded::default();
    if let Err(fault) = decoder.decode(value, META, &arena, &mut out) {
        return format!("rejected: {fault}\n");
    }
    let mut text = String::new();
    for row in &out.rows {
        let mut columns = row.row.describe();
        // Filled later, by normalize.
        for name in ["tenant", "key", "primary", "offset", "row", "source_class", "destination_class"] {
            columns.remove(name);
        }
        let columns: Vec<String> = columns.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let kind = row.row.kind().name();
        text += &format!("{} {kind} tenant={:?} agent={:?}\n  {}\n", row.index, row.tenant, row.agent, columns.join(" "));
    }
    for bad in &out.bad {
        text += &format!("{} bad: {}\n", bad.index, bad.fault);
    }
    for (reason, n) in &out.skipped {
        text += &format!("skipped {n}: {reason}\n");
    }
    text
}

fn show_fresh(name: &str, value: &[u8]) -> String {
    show(&mut *(format(name).unwrap().decoder)(), value)
}
