//! http.log: a request. A CONNECT or a request with a whole address as its target was sent to a proxy: then the row's host
//! names the real peer and the destination address the proxy. (`proxied` lists headers that servers see too; it proves
//! nothing about the destination.)

use super::super::Fault;
use super::super::value::{Scratch, decimal};
use super::fields::{Field, Fields};
use crate::observation::{HttpRow, Row};
use crate::time::EventTime;

/// Bytes of a user agent that are kept.
const USER_AGENT_BYTES_MAX: usize = 256;

/// A request; `written` turns its start into the event time.
pub(super) fn row<'a>(
    f: &Fields<'a>,
    scratch: &Scratch<'a>,
    written: &mut dyn FnMut(EventTime) -> Result<EventTime, Fault>,
) -> Result<Row<'a>, Fault> {
    let start = f.ts()?;
    let uri = f.text(Field::Uri).unwrap_or("");
    let connect = f.text(Field::Method).is_some_and(|m| m.eq_ignore_ascii_case("CONNECT"));
    let target = if connect { Some(uri).filter(|uri| !uri.is_empty()) } else { authority(uri) };
    let (host, host_port) = split_port(target.or(f.text(Field::Host)).unwrap_or(""));
    let host = match host {
        "" => None,
        host => Some(scratch.dns_name("host", host)?),
    };
    let row = HttpRow {
        observer: f.text(Field::System),
        start_time: Some(start),
        source_address: Some(f.address(Field::OrigH)?),
        source_port: f.port(Field::OrigP)?,
        destination_address: Some(f.address(Field::RespH)?),
        destination_port: f.port(Field::RespP)?,
        method: f.text(Field::Method),
        host,
        host_port,
        via_proxy: connect || target.is_some(),
        status: f.number(Field::StatusCode)?,
        user_agent: f.text(Field::UserAgent).map(|text| &text[..text.floor_char_boundary(USER_AGENT_BYTES_MAX)]),
        request_bytes: f.count(Field::RequestBodyLen)?,
        response_bytes: f.count(Field::ResponseBodyLen)?,
        uid: f.text(Field::Uid),
        ..HttpRow::default()
    };
    // Last, so that a bad line does not move the log's mark.
    Ok(Row::Http(HttpRow { event_time: written(start)?, ..row }))
}

/// `name:port` of an absolute target, without user and password.
fn authority(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("ftp") {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    Some(authority.rsplit_once('@').map_or(authority, |(_, host)| host)).filter(|a| !a.is_empty())
}

/// Takes `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address apart.
fn split_port(text: &str) -> (&str, Option<u16>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|inside| inside.split_once(']')) {
        return (host, rest.strip_prefix(':').and_then(decimal));
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, decimal(port)),
        _ => (text, None),
    }
}
