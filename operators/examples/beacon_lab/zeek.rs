//! A throwaway reader of Zeek's tab-separated logs: just enough for the laboratory.

use std::io::Read;

use tidewatch_schemas::address::Address;

use crate::Record;

/// Connections, handshakes and requests that `host` began. `LAB_NO_NAMES` leaves out all but connections,
/// `LAB_KEEP_MALICIOUS` keeps rows labelled malicious.
pub(crate) fn load(folder: &str, host: &str) -> Vec<Record> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        let mut text = String::new();
        if name.ends_with(".gz") {
            flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        } else {
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
        let kind = name.split('.').next().unwrap();
        if kind != "conn" && std::env::var("LAB_NO_NAMES").is_ok() {
            continue;
        }
        if ["conn", "ssl", "http"].contains(&kind) && text.starts_with('#') {
            parse(kind, &text, host, &mut out);
        }
    }
    out
}

fn parse(kind: &str, text: &str, host: &str, out: &mut Vec<Record>) {
    let mut fields: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some(f) = line.strip_prefix("#fields\t") {
            fields = f.split('\t').collect();
        }
        if line.starts_with('#') {
            continue;
        }
        let cells: Vec<&str> = line.split('\t').collect();
        let get = |name: &str| fields.iter().position(|f| *f == name).and_then(|i| cells.get(i)).copied().filter(|v| *v != "-");
        if get("id.orig_h") != Some(host) || get("label") == Some("Malicious") && !malicious_wanted() {
            continue;
        }
        let (Some(ts), Some(Ok(peer)), Some(port)) = (
            get("ts").and_then(|t| t.parse::<f64>().ok()),
            get("id.resp_h").map(|a| a.parse::<std::net::IpAddr>()),
            get("id.resp_p").and_then(|p| p.parse::<u16>().ok()),
        ) else {
            continue;
        };
        let peer = Address::from(peer);
        match kind {
            "conn" => {
                let transport = match get("proto") {
                    Some("tcp") => 6,
                    Some("udp") => 17,
                    _ => continue,
                };
                let duration = get("duration").and_then(|d| d.parse::<f64>().ok()).unwrap_or(0.0);
                let history = get("history").unwrap_or("");
                let mut flags = u8::from(history.contains(['S', 's', 'h', 'H'])) * 2;
                flags |= u8::from(history.contains(['A', 'a', 'D', 'd', 'h'])) * 16;
                flags |= u8::from(history.contains(['F', 'f'])) | (u8::from(history.contains(['R', 'r'])) * 4);
                out.push(Record::Flow {
                    start: ts,
                    at: ts + duration,
                    peer,
                    port,
                    transport,
                    bytes: get("orig_bytes").and_then(|b| b.parse().ok()).unwrap_or(0),
                    state: get("conn_state").unwrap_or("").into(),
                    flags,
                });
            }
            "ssl" => {
                if let Some(name) = get("server_name") {
                    out.push(Record::Tls { at: ts, peer, port, name: name.to_lowercase() });
                }
            }
            _ => {
                let connect = get("method") == Some("CONNECT");
                let target = if connect { get("uri") } else { get("host") };
                if let Some(target) = target {
                    let (name, name_port) = target
                        .rsplit_once(':')
                        .and_then(|(n, p)| Some((n, p.parse().ok()?)))
                        .map_or((target, None), |(n, p)| (n, Some(p)));
                    let proxy = connect || get("uri").is_some_and(|u| u.starts_with("http://"));
                    out.push(Record::Http { at: ts, peer, port, name: name.to_lowercase(), name_port, proxy });
                }
            }
        }
    }
}

fn malicious_wanted() -> bool {
    std::env::var("LAB_KEEP_MALICIOUS").is_ok()
}
