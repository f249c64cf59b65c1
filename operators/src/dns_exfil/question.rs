//! Which look-ups can carry something, and where in the name it would lie. Whatever machines ask in their ordinary work
//! without anybody being able to answer it with a server of his own is left out here. Knows no state.
//!
//! Always holds: no allocation; the parts are pieces of the name that was asked for.

use tidewatch_schemas::observation::DnsRow;

use super::information::{TEXT_BYTES_MAX, bits};
use super::weights::{LONG_BYTES, Light, digest_bytes};
use crate::names::address::behind_an_address;
use crate::names::domain::{LABEL_BYTES_MAX, NAME_BYTES_MAX};
use crate::names::{Unregistered, registered};

/// A look-up that may carry something under a domain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Carrier<'a> {
    /// The registered domain; [`NO_DOMAIN`] for names under no top-level domain at all.
    pub domain: &'a str,
    /// The labels in front of it, without an address at their begin.
    pub front: &'a str,
    /// An address stood in front of them, as in a block list.
    pub addressed: bool,
    /// What the whole of it weighs, 0 to 1.
    pub weight: f64,
    /// What of `front` weighs less.
    pub light: Light,
    /// The answer can carry as much as the name: a type that holds text or names.
    pub wide: bool,
    /// A digest is looked up, as far as the row tells.
    pub digest: bool,
    /// Text of the answer, when it can carry something.
    pub answer: Option<&'a str>,
    /// Octets of the answer that its frame does not explain, when its text was not seen.
    pub answer_bytes: u32,
}

/// Bits that a name of a wide type counts on top: hardly anything else asks for many names of these, and where a tunnel
/// only polls, the name holds little but must be new each time.
const WIDE_BITS: f64 = 128.0;

/// Bits more over the shortest horizon, where nothing else weakens the name: a tunnel that waits for orders asks for a new
/// name of such a type every second, and ten of them within ten seconds under one domain is what no machine's work needs.
const BURST_BITS: f64 = 320.0;

impl<'a> Carrier<'a> {
    /// The labels from the domain on, and what each weighs.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&'a str, f64)> {
        let mut end = self.front.len();
        let (light, weight) = (self.light, self.weight);
        self.front.rsplit('.').map(move |label| {
            let at = end - label.len();
            end = at.saturating_sub(1);
            (label, light.weight(at).min(weight))
        })
    }

    /// What the type and the answer weigh when so many new letters of the name weigh their whole: few are a service's or a
    /// list's own, and the name is what is lightest in it; behind an address nothing, because mail is asked about by text.
    fn kind_weight(&self, whole: usize) -> f64 {
        match self.addressed {
            _ if whole >= LONG_BYTES => self.weight,
            true => 0.0,
            false => self.weight.min(self.light.least),
        }
    }

    /// Bits on top for the type.
    pub(super) fn bonus_bits(&self, whole: usize) -> f64 {
        if self.wide { WIDE_BITS * self.kind_weight(whole) } else { 0.0 }
    }

    /// Bits more over the shortest horizon.
    pub(super) fn burst_bits(&self, whole: usize) -> f64 {
        if self.wide && self.kind_weight(whole) >= 1.0 { BURST_BITS } else { 0.0 }
    }

    /// Bits of the answer.
    pub(super) fn answer_bits(&self, whole: usize) -> f64 {
        let bits = match self.answer {
            Some(text) => bits(text.as_bytes()),
            None => 8.0 * f64::from(self.answer_bytes),
        };
        bits.min(8.0 * TEXT_BYTES_MAX as f64) * self.kind_weight(whole)
    }
}

/// The domain of names under no top-level domain: tools that send straight to their own server need none.
pub(super) const NO_DOMAIN: &str = ".";

/// Multicast and broadcast name services.
const LOCAL_PORTS: &[u16] = &[5353, 5355, 137];

/// Top-level labels of local networks, sorted: nobody outside answers for them.
const LOCAL_ZONES: &[&str] =
    &["corp", "domain", "home", "internal", "intranet", "lan", "local", "localdomain", "localhost", "private", "workgroup"];

/// Types whose answers hold names, texts or anything, and that browsers do not ask for: CNAME, NULL, HINFO, MX, TXT, KEY,
/// SRV, NAPTR; and every type in the range for private use.
const WIDE: &[u16] = &[5, 10, 13, 15, 16, 25, 33, 35];
const PRIVATE_USE: u16 = 65_280;

/// Names answered with 127.x.x.x: a block list's or reputation service's way to say yes. The whole name earns it.
const LISTED_WEIGHT: f64 = 0.25;
/// Octets of an answer beside the name asked again and what it carries: fixed fields of a record, a pointer.
const FRAME_BYTES: u32 = 24;

/// The domain of a row that may carry something, what stands in front of it, and whether behind an address.
pub(super) fn place<'a>(row: &DnsRow<'a>) -> Option<(&'a str, &'a str, bool)> {
    if row.synthetic || row.server_port.is_some_and(|p| LOCAL_PORTS.contains(&p)) {
        return None;
    }
    let (domain, front) = split(row.query)?;
    let behind = behind_an_address(front);
    let (front, addressed) = (behind.unwrap_or(front), behind.is_some());
    (!front.is_empty()).then_some((domain, front, addressed))
}

/// What a row may carry; `None` when nothing.
pub(super) fn carrier<'a>(row: &DnsRow<'a>) -> Option<Carrier<'a>> {
    let (domain, front, addressed) = place(row)?;
    let wide = WIDE.contains(&row.query_type) || row.query_type >= PRIVATE_USE;
    let listed = is_listed(row.answers.unwrap_or(""));
    let digest = if !wide && (listed || row.response_code == Some(3)) { digest_bytes(front) } else { 0 };
    let light = Light::of(front, addressed, digest);
    let weight = if listed { LISTED_WEIGHT } else { 1.0 };
    let answer = row.answers.filter(|a| wide && !a.is_empty());
    let answer_bytes = match (answer, row.request_bytes, row.response_bytes) {
        (None, Some(asked), Some(answered)) if wide && row.response_code == Some(0) => {
            answered.saturating_sub(asked).saturating_sub(FRAME_BYTES)
        }
        _ => 0,
    };
    Some(Carrier { domain, front, addressed, weight, light, wide, digest: digest > 0, answer, answer_bytes })
}

/// The registered domain of a name and what stands in front of it. Tunnels put into labels what no host name has (raw
/// octets, `+`, `/`), so only the end of a name need be one.
fn split(name: &str) -> Option<(&str, &str)> {
    let (domain, provided) = match registered(name) {
        Ok(of) => (of.domain, of.provided),
        Err(Unregistered::Malformed) => {
            let of = registered(clean_end(name));
            match of {
                Ok(of) => (of.domain, of.provided),
                Err(Unregistered::Internal | Unregistered::Single | Unregistered::Malformed) => (unlisted(name)?, false),
                Err(Unregistered::Suffix | Unregistered::Infrastructure) => return None,
            }
        }
        Err(Unregistered::Internal) => (unlisted(name)?, false),
        Err(_) => return None,
    };
    // Under a provider's domain nobody but the provider can answer.
    if provided {
        return None;
    }
    if domain == NO_DOMAIN {
        return Some((domain, name));
    }
    let front = name.len().checked_sub(domain.len() + 1).map_or("", |end| name.get(..end).unwrap_or(""));
    Some((domain, front))
}

/// The longest end of a name whose labels a host name could have.
fn clean_end(name: &str) -> &str {
    let clean = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_BYTES_MAX
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    let mut start = name.len();
    for label in name.rsplit('.') {
        let begins = start.saturating_sub(label.len() + usize::from(start < name.len()));
        if !clean(label) || name.len() - begins > NAME_BYTES_MAX {
            break;
        }
        start = begins;
    }
    &name[start..]
}

/// The domain of a name under no public suffix.
fn unlisted(name: &str) -> Option<&str> {
    let (before, top) = name.rsplit_once('.')?;
    if top.bytes().all(|b| b.is_ascii_digit()) || LOCAL_ZONES.binary_search(&top).is_ok() {
        return None;
    }
    // No top-level label has digits, but for those of other alphabets.
    if !top.starts_with("xn--") && top.len() >= 8 && top.bytes().any(|b| b.is_ascii_digit()) {
        return Some(NO_DOMAIN);
    }
    let start = before.rfind('.').map_or(0, |dot| dot + 1);
    Some(&name[start..])
}

/// All answers are in 127.0.0.0/8.
fn is_listed(answers: &str) -> bool {
    !answers.is_empty() && answers.split(',').all(|a| a.starts_with("127."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::weights::{DIGEST_WEIGHT, NAME_WEIGHT, SERVICE_WEIGHT};
    use super::*;

    #[test]
    fn the_end_of_a_name_tells_the_domain_whatever_stands_in_front() {
        for (name, expected) in [
            ("abc.evil.example", Some(("evil.example", "abc"))),
            ("a.b.evil.co.uk", Some(("evil.co.uk", "a.b"))),
            ("q+al/oou6.evil.example", Some(("evil.example", "q+al/oou6"))),
            ("ra\\xbc\\xd0.x\\xbe.t.evil.tk", Some(("evil.tk", "ra\\xbc\\xd0.x\\xbe.t"))),
            ("räk.evil.tk", Some(("evil.tk", "räk"))),
            ("abc.mine.ddns.net", Some(("mine.ddns.net", "abc"))),
            ("dnscat.6dde0175375169c68f", Some((NO_DOMAIN, "dnscat.6dde0175375169c68f"))),
            ("abc.evil.tunnel", Some(("evil.tunnel", "abc"))),
            ("d111111abcdef8.cloudfront.net", None),
            ("4.3.2.1.in-addr.arpa", None),
            ("printer.lan", None),
            ("10.0.0.1", None),
            ("single", None),
            ("", None),
            ("..", None),
        ] {
            assert_eq!(split(name), expected, "{name}");
        }
        let long = format!("{}.evil.example", "é".repeat(400));
        assert_eq!(split(&long).unwrap().0, "evil.example");
    }

    #[test]
    fn look_ups_of_services_weigh_less() {
        let of = |query, code, answers| {
            let row = DnsRow { query, query_type: 1, response_code: code, answers, ..DnsRow::default() };
            carrier(&row).map(|c| c.kind_weight(0))
        };
        let digest = "5d41402abc4b2a76b9719d911017c592.hash.example.com";
        assert_eq!(of("4.3.2.1.example.com", Some(3), None), None);
        assert_eq!(of("4.3.2.1.zen.example.com", Some(3), None), Some(0.0));
        assert_eq!(of(digest, Some(3), None), Some(DIGEST_WEIGHT));
        assert_eq!(of(digest, Some(0), Some("198.51.100.1")), Some(1.0));
        assert_eq!(of("mail.example.org.surbl.example.com", Some(3), None), Some(NAME_WEIGHT));
        assert_eq!(of("abc.list.example.com", Some(0), Some("127.0.0.2,127.0.0.4")), Some(LISTED_WEIGHT));
        assert_eq!(of("k1._domainkey.example.com", Some(0), None), Some(SERVICE_WEIGHT));
        assert_eq!(of("a.b.c.d.e.f.g.evil.example", Some(0), None), Some(1.0));
    }

    #[test]
    fn lists_are_sorted_for_binary_search() {
        assert!(LOCAL_ZONES.is_sorted());
    }
}
