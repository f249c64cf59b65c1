//! Where traces of the pipeline itself go. Nothing here connects.

use tidewatch_schemas::document::{Map, Mistakes};

use super::destination::{Secret, Server, secret, server};
use super::section::Section;

/// Header that carries the secret, when the topology names none.
pub const TELEMETRY_HEADER_DEFAULT: &str = "authorization";

/// A collector of OpenTelemetry, OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Where (`url`, `ca_file`); without a path, `/v1/traces`.
    pub server: Server,
    /// Name of a header (`header`) and where its value is (`header_file`, `header_env`).
    pub header: Option<(String, Secret)>,
    /// Epochs of which a span is sent, of a hundred (`sample_percent`).
    pub sample_percent: u32,
}

/// Reads `telemetry`; `None` = it is not there, and nothing is sent.
pub(super) fn read(map: &Map<'_>, mistakes: &mut Mistakes) -> Option<Telemetry> {
    map.get("telemetry")?;
    let known = &["url", "ca_file", "header", "header_file", "header_env", "sample_percent"];
    let mut s = Section::of(map, "telemetry", known, mistakes);
    let server = server(&mut s);
    let name = s.text("header");
    let value = secret(&mut s, "header");
    if name.is_some() && value.is_none() {
        s.mistake("header", "a header needs a value: header_file or header_env".into());
    }
    let header = value.map(|value| (name.unwrap_or(TELEMETRY_HEADER_DEFAULT).to_owned(), value));
    let sample_percent = s.count("sample_percent", 100, 100);
    Some(Telemetry { server: server?, header, sample_percent })
}
