//! What the formats and the batches of observations promise of any bytes.

use bumpalo::Bump;

use crate::observation::{self, BatchError, Columns, Kind, Packers, Row, packed};
use crate::time::EventTime;
use crate::wire::{self, Decoded, Decoder, Format, RECORD_ROWS_MAX, RecordMeta};

/// Bytes of learned state, at most: what an offset's metadata has room for.
const LEARNED_BYTES_MAX: usize = 2048;

/// Bytes of rejected rows per byte of input and beside it, at most: every bad line repeats its header.
const BAD_BYTES_MAX: usize = (8 << 20) + (64 << 10);

/// The way through columns and Arrow costs ten times the rest, so one input in so many takes it, chosen by its bytes.
const COLUMNS_EVERY: u64 = 16;

/// Rows of one record that are extracted and compared, at most.
const ROWS_CHECKED_MAX: usize = 32;

/// One record of a format: no panic, bounded output, the same twice, and rows that fit the tables.
pub(crate) fn format(name: &str, bytes: &[u8]) {
    let Some(format) = wire::format(name) else { return };
    let meta = RecordMeta { timestamp: EventTime::from_secs(1_780_574_400) };
    let (first, second) = (Bump::new(), Bump::new());
    let (mut one, mut two) = (Decoded::default(), Decoded::default());
    let mut decoder = (format.decoder)();
    let verdict = decoder.decode(bytes, meta, &first, &mut one);
    let again = (format.decoder)().decode(bytes, meta, &second, &mut two);
    assert_eq!(verdict, again, "not deterministic");
    same(&one, &two);
    assert!(one.rows.len() + one.bad.len() <= RECORD_ROWS_MAX);
    assert!(one.bad.iter().map(|b| b.bytes.len()).sum::<usize>() <= bytes.len() * 4 + BAD_BYTES_MAX);
    if let Some(learned) = decoder.learned() {
        assert!(learned.len() <= LEARNED_BYTES_MAX, "learned {} bytes", learned.len());
        let mut resumed = (format.decoder)();
        resumed.resume(&learned);
        assert_eq!(resumed.learned().as_deref(), Some(&*learned), "resume loses what was learned");
    }
    if verdict.is_err() {
        return;
    }
    extracted(format, decoder.as_ref(), bytes, meta, &one);
    if xxhash_rust::xxh3::xxh3_64(bytes).is_multiple_of(COLUMNS_EVERY) {
        columns(&one);
    }
    for bad in one.bad.iter().take(8) {
        let arena = Bump::new();
        let mut alone = Decoded::default();
        let verdict = (format.decoder)().decode(&bad.bytes, meta, &arena, &mut alone);
        assert_eq!(verdict, Ok(()), "a bad row's bytes are no record");
        assert!(alone.bad.len() == 1 && alone.rows.is_empty(), "a bad row alone is not bad");
        assert_eq!(alone.bad[0].fault, bad.fault);
    }
}

/// The same came out twice. Doubles compare by bits, so that a NaN equals itself.
fn same(one: &Decoded<'_>, two: &Decoded<'_>) {
    assert_eq!((one.rows.len(), &one.bad, &one.skipped), (two.rows.len(), &two.bad, &two.skipped), "not deterministic");
    for (a, b) in one.rows.iter().zip(&two.rows) {
        assert_eq!((a.tenant, a.agent, a.index), (b.tenant, b.agent, b.index), "not deterministic");
        assert!(a.row.compare_content(&b.row).is_eq(), "not deterministic");
    }
}

/// Every row can be had alone, and alone it is the same row, but for a time that its neighbours decided.
fn extracted(format: &Format, decoder: &dyn Decoder, bytes: &[u8], meta: RecordMeta, decoded: &Decoded<'_>) {
    let rows: Vec<u32> = decoded.rows.iter().map(|r| r.index).take(ROWS_CHECKED_MAX).collect();
    let mut found = 0;
    decoder.extract(bytes, &rows, &mut |index, alone| {
        assert_eq!(rows.get(found), Some(&index), "rows are extracted in order");
        let arena = Bump::new();
        let mut out = Decoded::default();
        assert_eq!((format.decoder)().decode(&alone, meta, &arena, &mut out), Ok(()), "an extracted row is no record");
        assert!(out.bad.is_empty());
        let whole = &decoded.rows[found];
        // A result and its look-up are one record.
        let row = out.rows.iter().find(|r| r.row.kind() == whole.row.kind()).expect("an extracted row is a row");
        assert_eq!((row.tenant, row.agent), (whole.tenant, whole.agent));
        let mut row = row.row;
        match (&mut row, &whole.row) {
            (Row::Edge(row), Row::Edge(whole)) => row.event_time = whole.event_time,
            (Row::Tls(row), Row::Tls(whole)) => row.event_time = whole.event_time,
            (Row::Http(row), Row::Http(whole)) => row.event_time = whole.event_time,
            _ => {}
        }
        assert!(row.compare_content(&whole.row).is_eq(), "{row:?} was {:?}", whole.row);
        found += 1;
    });
    assert_eq!(found, rows.len(), "a row cannot be extracted");
}

/// Rows survive the way through packed rows, and through columns and Arrow IPC.
fn columns(decoded: &Decoded<'_>) {
    let mut packers = Packers::default();
    decoded.rows.iter().for_each(|r| packers.push(&r.row));
    for (kind, bytes) in packers.finish() {
        let back = observation::decode(kind, &bytes).expect("what was written can be read");
        let rows = decoded.rows.iter().map(|r| r.row).filter(|r| r.kind() == kind);
        assert_eq!(back.len(), rows.clone().count());
        rows.enumerate().for_each(|(i, row)| assert!(back.row(i).compare_content(&row).is_eq()));
    }
    let mut columns = Columns::default();
    for row in decoded.rows.iter().map(|r| r.row) {
        match &row {
            Row::Flow(r) => columns.flow.push(r),
            Row::Dns(r) => columns.dns.push(r),
            Row::Tls(r) => columns.tls.push(r),
            Row::Http(r) => columns.http.push(r),
            Row::Edge(r) => columns.edge.push(r),
            Row::Result(r) => columns.result.push(r),
        }
    }
    for (kind, batch) in columns.finish() {
        let back = observation::decode(kind, &observation::encode(&batch)).expect("what was written can be read");
        let rows: Vec<Row<'_>> = decoded.rows.iter().map(|r| r.row).filter(|r| r.kind() == kind).collect();
        assert_eq!(back.len(), rows.len());
        for (i, row) in rows.iter().enumerate() {
            // Doubles compare by bits, so that a NaN equals itself.
            assert!(back.row(i).compare_content(row).is_eq());
            let _ = observation::describe(row);
        }
    }
}

/// Bytes as a batch of every kind; and once more with the checksum that packed rows would have, which hides the rest else.
pub(crate) fn batch(bytes: &[u8]) {
    opened(bytes);
    if packed::Packed::is(bytes) {
        let mut sealed = bytes.to_vec();
        packed::seal(&mut sealed);
        opened(&sealed);
    }
}

fn opened(bytes: &[u8]) {
    for &kind in Kind::ALL {
        match observation::decode(kind, bytes) {
            Ok(batch) => {
                for i in 0..batch.len() {
                    let _ = (batch.routing(i), batch.position(i), batch.row(i).compare_content(&batch.row(0)));
                }
            }
            Err(BatchError::Ipc { reason }) => assert_ne!(reason, observation::ARROW_PANICKED, "the guard has a gap"),
            Err(_) => {}
        }
    }
}
