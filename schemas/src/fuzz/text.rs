//! What addresses, names, times, quantities and YAML documents promise of any bytes.

use crate::address::{Address, Classifier};
use crate::document::{Document, Mistakes, Node, parse_bytes, parse_duration, show_duration};
use crate::header::{RecordType, input_header, parse_input_header};
use crate::time::EventTime;
use crate::topic;

/// Bytes as an address: what is read prints and reads as itself, and is either inside, outside or neither.
pub(super) fn address(bytes: &[u8]) {
    let classifier = Classifier::default();
    if let Some((address, _)) = Address::parse_endpoint(bytes) {
        assert_eq!(Address::parse(address.to_string().as_bytes()), Some(address));
        let class = classifier.classify(address);
        assert!(!(class.is_internal() && class.is_external()));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = classifier.classify_text(text);
        if !text.contains('%') {
            let expected = text.parse::<std::net::IpAddr>().ok().map(Address::from);
            assert_eq!(Address::parse(bytes), expected);
        }
    }
}

/// Bytes as a namespace and a topic, split at the first zero.
pub(super) fn topic(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (namespace, base) = text.split_once('\0').unwrap_or((&text, "probectl.flow.events"));
    if let Ok(lane) = topic::topic_for(namespace, base) {
        assert!(lane.starts_with(topic::PREFIX));
        assert!(namespace.is_empty() || lane.starts_with(&format!("{}{namespace}.", topic::PREFIX)));
    }
    let key = topic::tenant_key(namespace, base);
    assert!(key.len() <= namespace.len() + 3);
}

/// Bytes as the headers of internal records.
pub(super) fn header(bytes: &[u8]) {
    if let Some(record) = RecordType::parse(bytes) {
        assert_eq!(RecordType::parse(record.to_header().as_bytes()), Some(record));
    }
    if let Some((topic, partition)) = parse_input_header(bytes) {
        assert_eq!(parse_input_header(input_header(topic, partition).as_bytes()), Some((topic, partition)));
    }
}

/// Bytes as a time, a duration and a size.
pub(super) fn quantity(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(time) = EventTime::parse_rfc3339(text) {
        assert_eq!(EventTime::parse_rfc3339(&time.to_rfc3339()), Some(time));
    }
    if let Ok(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
    }
    if let Ok(size) = parse_bytes(text) {
        assert_eq!(parse_bytes(&format!("{size}B")), Ok(size));
    }
}

/// Nodes of one document that are asked for their value, at most: aliases can name one a million times.
const NODES_ASKED_MAX: u32 = 2000;

/// Bytes as YAML documents: every node can be asked for every kind of value.
pub(super) fn document(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(documents) = Document::parse_all("fuzz.yaml", &text) else { return };
    for document in documents {
        let mut mistakes = Mistakes::default();
        let mut left = NODES_ASKED_MAX;
        ask(&document.root(&mut mistakes), &mut mistakes, &mut left);
        let _ = (mistakes.sorted().len(), mistakes.to_string());
    }
}

fn ask(node: &Node<'_>, mistakes: &mut Mistakes, left: &mut u32) {
    let Some(rest) = left.checked_sub(1) else { return };
    *left = rest;
    let _ = (node.str(mistakes), node.u32(mistakes), node.f64(mistakes), node.bool(mistakes), node.is_null());
    let _ = (node.duration(mistakes), node.bytes(mistakes), node.one_of(&["debug", "info"], mistakes));
    node.list(mistakes).into_iter().flatten().for_each(|n| ask(&n, mistakes, left));
    if let Some(map) = node.map(mistakes) {
        map.expect_keys(&["deployment", "inputs"], mistakes);
        for (_, key, value) in map.entries() {
            ask(&key, mistakes, left);
            ask(&value, mistakes, left);
        }
    }
}
