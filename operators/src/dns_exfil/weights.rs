//! What the labels of a name weigh: those that machines ask for by design (digests, other names, selectors) count less, each
//! for itself; what stands beside them counts whole.
//!
//! Always holds: no allocation; at most [`LIGHT_MAX`] pieces of a name count less, whatever it is made of.

use crate::names::{registered, score_by_chance};

/// Labels right in front of a known service: selectors of keys, sites, domain controllers.
pub(super) const SERVICE_WEIGHT: f64 = 0.25;
/// Names that stand in front of another one: block lists of domains, search suffixes.
pub(super) const NAME_WEIGHT: f64 = 0.125;
/// Digests that do not exist, or are listed: reputation of files.
pub(super) const DIGEST_WEIGHT: f64 = 0.125;

/// New letters of whole weight from which on a name is long: then its type and its answer count whole, whatever else is in it.
/// So many letters in front of another name are too many for a host of that name's owner.
pub(super) const LONG_BYTES: usize = 20;

/// Pieces of a name that count less; further ones count whole.
const LIGHT_MAX: usize = 4;

/// Labels of a front that may hold a name; data cut into short labels has more.
const NAME_LABELS_MAX: usize = 6;
/// Longest registered label of a name in front of another.
const NAME_LABEL_BYTES_MAX: usize = 24;
/// Score from which a registered label looks made up: then it is payload with a label like `eu` behind it.
const NAME_SCORE_MAX: f32 = 0.5;
/// Labels of a list behind a name, and of a policy of mail that asks for an address and the sender's name.
const LIST_LABELS: usize = 1;
const POLICY_LABELS: usize = 2;

/// Services that are asked with something of their own in front, sorted.
const SERVICES: &[&str] =
    &["_dmarc", "_domainkey", "_ehlo", "_ip", "_msdcs", "_report", "_sites", "_spf", "_tcp", "_tls", "_udp"];
/// Most bytes in front of services, all together: an id of a domain controller has 36, with the label behind it 44.
const SELECTOR_BYTES_MAX: usize = 48;

/// Lengths of a label that is a digest: MD5 and SHA-1 in hexadecimal; MD5, SHA-1, SHA-256 in base 32.
const DIGEST_HEX_BYTES: [usize; 2] = [32, 40];
const DIGEST_BASE32_BYTES: [usize; 3] = [26, 32, 52];
/// SHA-256 in hexadecimal takes two labels.
const HALF_DIGEST_BYTES: usize = 32;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Piece {
    from: usize,
    to: usize,
    weight: f64,
}

/// The pieces of a front that count less.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Light {
    pieces: [Piece; LIGHT_MAX],
    count: usize,
    /// The least that anything in the front counts; 1 = nothing counts less.
    pub least: f64,
    /// Bytes in front of other names, and in front of services.
    before_names: usize,
    selectors: usize,
}

impl Light {
    /// Of the labels in front of a domain: behind an address or not, with a digest of so many bytes at their begin.
    pub(super) fn of(front: &str, addressed: bool, digest_bytes: usize) -> Self {
        let mut light = Self { pieces: Default::default(), count: 0, least: 1.0, before_names: 0, selectors: 0 };
        if digest_bytes > 0 {
            light.add(0, digest_bytes, DIGEST_WEIGHT);
        }
        let behind = if addressed { POLICY_LABELS } else { LIST_LABELS };
        let (mut from, mut at) = (0, 0);
        for label in front.split('.') {
            if label.starts_with('_') {
                light.least = light.least.min(SERVICE_WEIGHT);
                light.weigh(front, from, at.max(1) - 1, behind, Some(label));
                from = at + label.len() + 1;
            }
            at += label.len() + 1;
        }
        light.weigh(front, from, front.len(), behind, None);
        light
    }

    /// What the label weighs that begins at a place of the front.
    pub(super) fn weight(&self, at: usize) -> f64 {
        let pieces = self.pieces[..self.count].iter();
        pieces.filter(|piece| (piece.from..piece.to).contains(&at)).fold(1.0, |least, piece| least.min(piece.weight))
    }

    /// Labels between services: a name, or what is asked of the service behind them.
    fn weigh(&mut self, front: &str, from: usize, to: usize, behind: usize, service: Option<&str>) {
        let Some(labels) = front.get(from..to).filter(|labels| !labels.is_empty() && self.count < LIGHT_MAX) else { return };
        if let Some((name, before)) = name_in(labels, behind)
            && self.before_names + before < LONG_BYTES
        {
            self.before_names += before;
            self.add(from, from + name, NAME_WEIGHT);
        } else if service.is_some_and(|service| SERVICES.binary_search(&service).is_ok())
            && self.selectors + labels.len() <= SELECTOR_BYTES_MAX
        {
            self.selectors += labels.len();
            self.add(from, to, SERVICE_WEIGHT);
        }
    }

    fn add(&mut self, from: usize, to: usize, weight: f64) {
        if let Some(piece) = self.pieces.get_mut(self.count) {
            *piece = Piece { from, to, weight };
            self.count += 1;
            self.least = self.least.min(weight);
        }
    }
}

/// A whole name at the begin of labels, with so many labels behind it at most: its bytes, and how many of these stand in
/// front of what was registered.
fn name_in(labels: &str, behind: usize) -> Option<(usize, usize)> {
    if !labels.contains('.') || labels.split('.').count() > NAME_LABELS_MAX {
        return None;
    }
    let mut name = labels;
    for _ in 0..=behind {
        if let Ok(of) = registered(name)
            && of.label.len() <= NAME_LABEL_BYTES_MAX
            && score_by_chance(of.label) < NAME_SCORE_MAX
        {
            return Some((name.len(), of.front.len()));
        }
        name = name.rsplit_once('.')?.0;
    }
    None
}

/// Bytes of the digest that a front begins with; 0 = none.
pub(super) fn digest_bytes(front: &str) -> usize {
    let mut labels = front.split('.');
    let first = labels.next().unwrap_or("");
    let hex = |label: &str| label.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let half = |label: &str| label.len() == HALF_DIGEST_BYTES && hex(label);
    let by_hex = DIGEST_HEX_BYTES.contains(&first.len()) && hex(first);
    let by_base32 = || {
        DIGEST_BASE32_BYTES.contains(&first.len())
            && first.bytes().any(|b| b.is_ascii_digit())
            && first.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    match labels.next() {
        Some(second) if half(first) && half(second) => first.len() + 1 + second.len(),
        _ if by_hex || by_base32() => first.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights of the labels, eighths.
    fn eighths(front: &str, addressed: bool, digest_bytes: usize) -> Vec<u32> {
        let light = Light::of(front, addressed, digest_bytes);
        let mut at = 0;
        let weights = front.split('.').map(|label| {
            let weight = light.weight(at);
            at += label.len() + 1;
            (weight * 8.0) as u32
        });
        weights.collect()
    }

    #[test]
    fn a_weight_is_of_the_label_that_earned_it() {
        for (front, expected) in [
            ("www", vec![8]),
            ("www.partner.example.multi", vec![1, 1, 1, 8]),
            ("payload0payload1payload2.partner.example", vec![8, 8, 8]),
            ("partner.example.payload", vec![1, 1, 8]),
            ("_a.payload", vec![8, 8]),
            ("payload._a", vec![8, 8]),
            ("key1._domainkey", vec![2, 8]),
            ("key1._domainkey.payload", vec![2, 8, 8]),
            ("sender.example._report._dmarc.reports", vec![1, 1, 8, 8, 8]),
            ("3f2504e0-4f89-11d3-9a0c-0305e82c3301.domains._msdcs", vec![2, 2, 8]),
            ("_ip.mx1.sender.example._ehlo.sender.example._spf", vec![8, 1, 1, 1, 8, 1, 1, 8]),
        ] {
            assert_eq!(eighths(front, false, 0), expected, "{front}");
        }
        let long = format!("{}.{}._domainkey", "a".repeat(40), "b".repeat(40));
        assert_eq!(eighths(&long, false, 0), [8, 8, 8]);
        let digest = "5d41402abc4b2a76b9719d911017c592.payload";
        assert_eq!(eighths(digest, false, digest_bytes(digest)), [1, 8]);
        // A policy of mail has a label more behind the sender's name than a list.
        assert_eq!(eighths("sender.example.spf.has", true, 0), [1, 1, 8, 8]);
        assert_eq!(eighths("sender.example.spf.has", false, 0), [8, 8, 8, 8]);
    }

    #[test]
    fn many_light_pieces_are_not_light() {
        let many = ["payload0payload1.partner.example"; 6].join("._x.");
        let light = eighths(&many, false, 0).iter().filter(|w| **w < 8).count();
        assert!(light <= 3, "{light}");
        let selectors = ["payload0payload1payload2"; 6].join("._tcp.");
        let light = eighths(&selectors, false, 0).iter().filter(|w| **w < 8).count();
        assert!(light <= 2, "{light}");
        assert_eq!(eighths("", false, 0), [8]);
    }

    #[test]
    fn a_digest_has_the_length_of_one() {
        let (hex, base32) = ("5d41402abc4b2a76b9719d911017c592", "abcdefghijklmnopqrstuvwxy7");
        for (front, bytes) in [
            (hex.to_owned(), 32),
            (format!("{hex}.files"), 32),
            (format!("{hex}.{hex}.files"), 65),
            (format!("{hex}{}", &hex[..8]), 40),
            (format!("{base32}.avqs"), 26),
            (format!("files.{hex}"), 0),
            (hex[..31].to_owned(), 0),
            (base32.replace('7', "z"), 0),
        ] {
            assert_eq!(digest_bytes(&front), bytes, "{front}");
        }
    }

    #[test]
    fn services_are_sorted_for_binary_search() {
        assert!(SERVICES.is_sorted());
    }
}
