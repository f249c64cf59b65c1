//! Which look-ups count, and as what: everything that a machine asks in its ordinary work without somebody having chosen
//! the name is left out here. Knows no state.

use tidewatch_schemas::observation::DnsRow;

use super::start::is_plain;
use crate::names::address::behind_an_address;
use crate::names::{self, Registered};

/// How a look-up ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The name does not exist.
    NoName,
    /// The resolver could not tell, or answered with an address that leads nowhere (a filter's way to say no).
    Refused,
    /// It exists.
    Found,
    /// Not seen.
    Unknown,
}

impl Answer {
    /// It does not exist, as far as the host was told.
    pub(super) fn fails(self) -> bool {
        matches!(self, Self::NoName | Self::Refused)
    }
}

/// A look-up that counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Question<'a> {
    pub name: &'a str,
    /// The name without an address at its begin: it counts once, whatever address stands there.
    pub counted: &'a str,
    /// The registered domain; `front` is what stands in front of it without an address.
    pub of: Registered<'a>,
    pub answer: Answer,
    /// How directly the registered domain was asked for: 1 the domain itself or its `www`, 0.5 one label in front, 0 more.
    pub directness: f64,
    /// An address or a service stands in front, as block lists and mail are asked: whoever asks so has a list.
    pub aside: bool,
}

/// What a look-up is to the detector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Sort<'a> {
    /// Counts.
    Counts(Question<'a>),
    /// Where the mail of a domain goes: whoever asks so has the domain from a letter.
    Mail(Registered<'a>),
    /// What a mail server asks beside it, and hardly anybody else: only a host that serves mail has the domain from a letter.
    Policy(Registered<'a>),
    /// One label alone, by whatever name service.
    Alone(&'a str),
    /// Nothing.
    Nothing,
}

/// Multicast and broadcast name services.
const LOCAL_PORTS: &[u16] = &[5353, 5355, 137];

const A: u16 = 1;
const NS: u16 = 2;
const SOA: u16 = 6;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const HTTPS: u16 = 65;
const ANY: u16 = 255;

/// Labels at the front of a reversed IPv6 address.
const NIBBLES: usize = 16;

/// Sorts a row. A service that is looked up without its type is what mail asks.
pub(super) fn sort<'a>(row: &DnsRow<'a>) -> Sort<'a> {
    if !row.query.contains('.') && !row.synthetic && is_plain(row.query) {
        return Sort::Alone(row.query);
    }
    if row.synthetic || row.server_port.is_some_and(|p| LOCAL_PORTS.contains(&p)) {
        return Sort::Nothing;
    }
    // Service discovery has labels that no host name has.
    let service = row.query.starts_with('_') || row.query.contains("._");
    if service && !matches!(row.query_type, A | AAAA | HTTPS | ANY) {
        return Sort::Nothing;
    }
    let Ok(mut of) = names::registered(row.query) else { return Sort::Nothing };
    if of.provided {
        return Sort::Nothing;
    }
    let aside = service || is_reversed_address(of.front);
    match row.query_type {
        MX if !aside => return Sort::Mail(of),
        NS | SOA | TXT if !aside => return Sort::Policy(of),
        0 | A | AAAA | HTTPS | ANY => {}
        _ => return Sort::Nothing,
    }
    of.front = behind_an_address(of.front).unwrap_or(of.front);
    let directness = match of.front {
        _ if aside => 0.0,
        "" | "www" => 1.0,
        one if !one.contains('.') => 0.5,
        _ => 0.0,
    };
    let front_bytes = of.front.len() + usize::from(!of.front.is_empty());
    let counted = row.query.get(row.query.len() - of.domain.len() - front_bytes..).unwrap_or(row.query);
    Sort::Counts(Question { name: row.query, counted, of, answer: answer(row), directness, aside })
}

fn answer(row: &DnsRow<'_>) -> Answer {
    match row.response_code {
        Some(3) => Answer::NoName,
        Some(0) if leads_nowhere(row.answers.unwrap_or("")) => Answer::Refused,
        // Without an address the name exists all the same.
        Some(0) => Answer::Found,
        Some(2) => Answer::Refused,
        _ => Answer::Unknown,
    }
}

/// All answers are addresses that lead nowhere.
fn leads_nowhere(answers: &str) -> bool {
    !answers.is_empty() && answers.split(',').all(|a| matches!(a, "0.0.0.0" | "::" | "::1") || a.starts_with("127."))
}

/// Block lists are asked with the address in front, reversed.
fn is_reversed_address(front: &str) -> bool {
    let octet = |label: &str| label.len() <= 3 && label.parse::<u8>().is_ok();
    let nibble = |label: &str| label.len() == 1 && label.bytes().all(|b| b.is_ascii_hexdigit());
    (front.split('.').count() >= 4 && front.split('.').take(4).all(octet))
        || (front.split('.').count() >= NIBBLES && front.split('.').take(NIBBLES).all(nibble))
}
