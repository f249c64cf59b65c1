//! The dead letter of a signal that a destination will never take: the record as it was, with where it was to go and why
//! it did not. Written in the same commit as the position that passes it.

use bytes::Bytes;

use crate::log::{Append, Record};

/// Header: the destination's name.
pub const DESTINATION: &str = "tw-destination";
/// Header: short and stable code of the fault.
pub const CODE: &str = "tw-code";
/// Header: the fault in words.
pub const REASON: &str = "tw-reason";
/// Header: where the record lies, `topic/partition/offset`.
pub const ORIGIN: &str = "tw-origin";
/// Header: the value's full length where only its beginning was kept.
pub const CUT_FROM: &str = "tw-cut-from";

/// Bytes of a value that are kept where the whole record is too large for the undelivered topic.
pub const VALUE_KEPT_BYTES: usize = 512 << 10;

/// Characters of a reason, at most.
const REASON_CHARS_MAX: usize = 500;

/// Where dead letters go.
#[derive(Clone, Debug)]
pub(super) struct Undelivered {
    pub(super) destination: String,
    pub(super) signals_topic: String,
    pub(super) topic: String,
    pub(super) partitions: u32,
}

impl Undelivered {
    pub(super) fn letter(&self, partition: u32, record: &Record, code: &str, reason: &str) -> Append {
        let text = |name: &str, value: String| (name.to_owned(), Bytes::from(value));
        let mut headers = record.headers.clone();
        headers.push(text(DESTINATION, self.destination.clone()));
        headers.push(text(CODE, code.to_owned()));
        headers.push(text(REASON, reason.chars().take(REASON_CHARS_MAX).collect()));
        headers.push(text(ORIGIN, format!("{}/{partition}/{}", self.signals_topic, record.offset)));
        Append {
            topic: self.topic.clone(),
            partition: partition % self.partitions.max(1),
            timestamp: None,
            key: record.key.clone(),
            value: record.value.clone(),
            headers,
        }
    }
}

/// Makes letters fit a topic that does not take them whole: first [`VALUE_KEPT_BYTES`] of the value, then none of it.
/// False when nothing is left to cut.
pub(super) fn shorten(letters: &mut [Append]) -> bool {
    let Some(longest) = letters.iter().filter_map(|a| a.value.as_ref().map(Bytes::len)).max() else { return false };
    let keep = if longest > VALUE_KEPT_BYTES { VALUE_KEPT_BYTES } else { 0 };
    if longest == 0 {
        return false;
    }
    for letter in letters {
        let Some(value) = letter.value.as_mut().filter(|v| v.len() > keep) else { continue };
        if !letter.headers.iter().any(|(name, _)| name == CUT_FROM) {
            letter.headers.push((CUT_FROM.to_owned(), Bytes::from(value.len().to_string())));
        }
        value.truncate(keep);
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::deliver::event::tests::record;

    #[test]
    fn letters_are_cut_in_two_steps_and_say_so() {
        let undelivered = Undelivered {
            destination: "siem".into(),
            signals_topic: "signals".into(),
            topic: "undelivered".into(),
            partitions: 2,
        };
        let large = record(Some("acme"), &vec![b'x'; VALUE_KEPT_BYTES + 1]);
        let mut letters =
            vec![undelivered.letter(3, &large, "400", "no"), undelivered.letter(0, &record(None, b"v"), "400", "no")];
        assert_eq!(letters[0].partition, 1);
        assert!(shorten(&mut letters));
        assert_eq!(letters[0].value.as_ref().unwrap().len(), VALUE_KEPT_BYTES);
        assert_eq!(letters[1].value.as_deref(), Some(&b"v"[..]));
        assert!(shorten(&mut letters));
        assert_eq!(letters[0].value.as_ref().unwrap().len(), 0);
        assert!(!shorten(&mut letters));
        let cut: Vec<_> = letters[0].headers.iter().filter(|(n, _)| n == CUT_FROM).collect();
        assert_eq!(cut, [&(CUT_FROM.to_owned(), Bytes::from("524289"))]);
        assert_eq!(letters[0].headers.iter().find(|(n, _)| n == ORIGIN).unwrap().1, "signals/3/7");
    }
}
