//! ssl.log: a TLS handshake.

use super::super::Fault;
use super::super::value::Scratch;
use super::fields::{Field, Fields};
use crate::observation::{Row, TlsRow};
use crate::time::EventTime;

/// Hex digits of a SHA-256.
const SHA256_HEX_LEN: usize = 64;

/// A handshake; `written` turns its start into the event time.
pub(super) fn row<'a>(
    f: &Fields<'a>,
    scratch: &Scratch<'a>,
    written: &mut dyn FnMut(EventTime) -> Result<EventTime, Fault>,
) -> Result<Row<'a>, Fault> {
    let start = f.ts()?;
    let fingerprint =
        f.members(Field::CertChainFps).next().filter(|h| h.len() == SHA256_HEX_LEN && h.bytes().all(|c| c.is_ascii_hexdigit()));
    let row = TlsRow {
        observer: f.text(Field::System),
        start_time: Some(start),
        source_address: Some(f.address(Field::OrigH)?),
        source_port: f.port(Field::OrigP)?,
        destination_address: Some(f.address(Field::RespH)?),
        destination_port: f.port(Field::RespP)?,
        server_name: f.name(Field::ServerName, scratch)?,
        version: f.text(Field::Version).map(version),
        cipher: f.text(Field::Cipher),
        established: f.flag(Field::Established)?,
        ja3: f.text(Field::Ja3).map(|h| scratch.lower(h)).transpose()?,
        ja4: f.text(Field::Ja4),
        certificate_sha256: fingerprint.map(|h| scratch.lower(h)).transpose()?,
        certificate_subject: f.text(Field::Subject),
        certificate_issuer: f.text(Field::Issuer),
        validation: f.text(Field::ValidationStatus),
        uid: f.text(Field::Uid),
        ..TlsRow::default()
    };
    // Last, so that a bad line does not move the log's mark.
    Ok(Row::Tls(TlsRow { event_time: written(start)?, ..row }))
}

/// Zeek's word for a version as a number; older and unknown ones stay as they are.
fn version(word: &str) -> &str {
    match word {
        "TLSv13" => "1.3",
        "TLSv12" => "1.2",
        "TLSv11" => "1.1",
        "TLSv10" => "1.0",
        other => other,
    }
}
