//! Patterns of rows: one row's fields with what varies from row to row, and how often it comes.

use tidewatch_schemas::address::Address;
use tidewatch_schemas::document::{Map, Mistakes, Node, parse_bytes, shown};
use tidewatch_schemas::time::SECOND_NS;

/// Longest span of a test, nanoseconds: 60 days.
const SPAN_NS_MAX: u64 = 60 * 86_400 * SECOND_NS as u64;

/// Characters of one drawn piece of text, at most.
const DRAWN_CHARS_MAX: u32 = 200;

/// Names a pattern may have and what they mean; besides them it has one of the kinds of rows.
pub const PATTERN_FIELDS: &[(&str, &str)] = &[
    ("at", "when the first row comes, counted from the test's start: `26h30m`; 0 when left out"),
    ("count", "how many rows; 1 when left out"),
    ("every", "time from one row to the next"),
    (
        "jitter",
        "part of `every` by which a gap is longer or shorter at most, 0 to 1; or `memoryless`: gaps as of a Poisson process",
    ),
    ("lost", "part of the rows that are left out, 0 to 1"),
];

/// Fields of each kind of row: name, whether it must be there, meaning.
#[allow(clippy::type_complexity, reason = "a table as it is printed: kind; field, required, meaning")]
pub const ROW_FIELDS: &[(&str, &[(&str, bool, &str)])] = &[
    (
        "flow",
        &[
            ("from", true, "who opened the connection: address or workload name"),
            ("to", true, "the other end"),
            ("port", true, "its port"),
            ("out", false, "octets sent, as `900`, `200-4000`, `1MiB`; 1000 when left out"),
            ("in", false, "octets received; 1000 when left out"),
            ("lasts", false, "length of the connection; 0 when left out"),
            ("state", false, "Zeek's letters; SF (answered and closed) when left out, S0 is never answered"),
            ("transport", false, "`tcp`, `udp`, `icmp`"),
            ("asn", false, "AS number of the other end"),
        ],
    ),
    (
        "dns",
        &[
            ("from", true, "who asks"),
            ("query", true, "the name"),
            ("type", false, "`A`, `AAAA`, `TXT`, ... or a number; A when left out"),
            ("code", false, "`NOERROR`, `NXDOMAIN`, `SERVFAIL`, `REFUSED`, or `unanswered`; NOERROR when left out"),
            ("answers", false, "answers, joined by commas"),
            ("request", false, "octets of the question"),
            ("response", false, "octets of the answer"),
            ("server", false, "address of who is asked"),
        ],
    ),
    (
        "tls",
        &[
            ("from", true, "client"),
            ("to", true, "server"),
            ("port", false, "443 when left out"),
            ("name", false, "server name asked for"),
        ],
    ),
    (
        "http",
        &[
            ("from", true, "client"),
            ("to", true, "server or proxy"),
            ("port", false, "80 when left out"),
            ("host", true, "name asked for"),
            ("method", false, "GET when left out"),
        ],
    ),
];

/// Text in which pieces vary: `<n>` the row's number from 1, `<letters 14>`, `<hex 32>`, `<number 1-200>`, `<one of|these>`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Text(pub Vec<Piece>);

/// A piece of a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Fixed(String),
    Number,
    Letters(u32, u32),
    Hex(u32, u32),
    Between(u32, u32),
    OneOf(Vec<String>),
}

/// A whole number between two bounds, both included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range(pub u64, pub u64);

/// When rows come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Gaps {
    Jitter(f64),
    Memoryless,
}

/// One kind of row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    Flow {
        from: Text,
        to: Text,
        port: Range,
        out: Range,
        back: Range,
        lasts_ns: i64,
        state: String,
        transport: u8,
        asn: Option<u32>,
    },
    Dns {
        from: Text,
        query: Text,
        query_type: u16,
        code: Option<u8>,
        answers: Option<Text>,
        request: Option<Range>,
        response: Option<Range>,
        server: Option<Text>,
    },
    Tls {
        from: Text,
        to: Text,
        port: Range,
        name: Option<Text>,
    },
    Http {
        from: Text,
        to: Text,
        port: Range,
        host: Text,
        method: String,
    },
}

/// A pattern.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pattern {
    pub shape: Shape,
    pub at_ns: i64,
    pub count: u32,
    pub every_ns: i64,
    pub gaps: Gaps,
    pub lost: f64,
}

impl Pattern {
    /// Reads one. `None` = a mistake.
    pub fn read(node: Node<'_>, mistakes: &mut Mistakes) -> Option<Self> {
        let map = node.map(mistakes)?;
        let kinds: Vec<&str> = ROW_FIELDS.iter().map(|(kind, _)| *kind).collect();
        let known: Vec<&str> = kinds.iter().copied().chain(PATTERN_FIELDS.iter().map(|(name, _)| *name)).collect();
        map.expect_keys(&known, mistakes);
        let ns = |name: &str, mistakes: &mut Mistakes| {
            let Some(node) = map.get(name) else { return Some(0) };
            match u64::try_from(node.duration(mistakes)?.as_nanos()) {
                Ok(ns) if ns <= SPAN_NS_MAX => Some(ns as i64),
                _ => {
                    mistakes.push(node.mistake("a test lasts 1440h at most"));
                    None
                }
            }
        };
        let at = ns("at", mistakes);
        let every = ns("every", mistakes);
        let count = map.get("count").map_or(Some(1), |n| n.u32_in(1, super::EXAMPLE_ROWS_MAX as u32, mistakes));
        let gaps = map.get("jitter").map_or(Some(Gaps::Jitter(0.0)), |n| match n.str(mistakes)? {
            "memoryless" => Some(Gaps::Memoryless),
            _ => part(n, mistakes).map(Gaps::Jitter),
        });
        let lost = map.get("lost").map_or(Some(0.0), |n| part(n, mistakes));
        let mut shapes = kinds.iter().filter_map(|kind| Some((*kind, map.get(kind)?)));
        let (first, second) = (shapes.next(), shapes.next());
        let Some((kind, fields)) = first.filter(|_| second.is_none()) else {
            mistakes.push(node.mistake(format!("a pattern has one of {}", kinds.join(", "))));
            return None;
        };
        let shape = Shape::read(kind, &fields.map(mistakes)?, mistakes);
        let (every_ns, count) = (every?, count?);
        if count > 1 && map.get("every").is_none() {
            mistakes.push(node.mistake("count without every: say how far apart the rows are"));
            return None;
        }
        if (every_ns as u64).saturating_mul(u64::from(count)) > SPAN_NS_MAX {
            mistakes.push(node.mistake("a test lasts 1440h at most"));
            return None;
        }
        Some(Self { shape: shape?, at_ns: at?, count, every_ns, gaps: gaps?, lost: lost? })
    }
}

impl Shape {
    fn read(kind: &str, map: &Map<'_>, mistakes: &mut Mistakes) -> Option<Self> {
        let fields = ROW_FIELDS.iter().find(|(k, _)| *k == kind).map_or(&[][..], |(_, fields)| fields);
        let names: Vec<&str> = fields.iter().map(|(name, ..)| *name).collect();
        map.expect_keys(&names, mistakes);
        let mut good = true;
        for (name, required, _) in fields {
            good &= !required || map.require(name, mistakes).is_some();
        }
        let mut text = |name: &str, default: &str| match map.get(name) {
            Some(node) => Text::read(node, mistakes),
            None => Some(Text(vec![Piece::Fixed(default.to_owned())])),
        };
        let (from, to, query, host, name) =
            (text("from", ""), text("to", ""), text("query", ""), text("host", ""), text("name", ""));
        let (answers, server) = (text("answers", ""), text("server", ""));
        let mut number =
            |name: &str, default: u64| map.get(name).map_or(Some(Range(default, default)), |n| Range::read(n, mistakes));
        let (out, back) = (number("out", 1000), number("in", 1000));
        let (request, response) = (number("request", 0), number("response", 0));
        let port = number("port", if kind == "http" { 80 } else { 443 });
        if let (Some(port), Some(node)) = (port, map.get("port"))
            && port.1 > 65_535
        {
            mistakes.push(node.mistake("a port is at most 65535"));
            good = false;
        }
        let one_of =
            |name: &str, words: &[&str], mistakes: &mut Mistakes| map.get(name).map_or(Some(0), |n| n.one_of(words, mistakes));
        let given = |name: &str| map.get(name).is_some();
        match kind {
            "flow" => {
                let transport = one_of("transport", &["tcp", "udp", "icmp"], mistakes);
                let lasts = map
                    .get("lasts")
                    .map_or(Some(0), |n| n.duration(mistakes).map(|d| d.as_nanos().min(SPAN_NS_MAX.into()) as i64));
                let state = map.get("state").map_or(Some("SF"), |n| n.str(mistakes));
                let asn = map.get("asn").map_or(Some(None), |n| n.u32_in(1, u32::MAX, mistakes).map(Some));
                let transport = [6, 17, 1][transport?];
                let (lasts_ns, state, asn) = (lasts?, state?.to_owned(), asn?);
                good.then_some(())?;
                Some(Self::Flow { from: from?, to: to?, port: port?, out: out?, back: back?, lasts_ns, state, transport, asn })
            }
            "dns" => {
                let types = ["A", "AAAA", "TXT", "CNAME", "MX", "NS", "PTR", "NULL", "SRV", "HTTPS"];
                let numbers = [1, 28, 16, 5, 15, 2, 12, 10, 33, 65];
                let query_type = one_of("type", &types, mistakes).map(|i| numbers[i]);
                let codes = ["NOERROR", "SERVFAIL", "NXDOMAIN", "REFUSED", "unanswered"];
                let code = one_of("code", &codes, mistakes).map(|i| [Some(0), Some(2), Some(3), Some(5), None][i]);
                good.then_some(())?;
                Some(Self::Dns {
                    from: from?,
                    query: query?,
                    query_type: query_type?,
                    code: code?,
                    answers: answers.filter(|_| given("answers")),
                    request: request.filter(|_| given("request")),
                    response: response.filter(|_| given("response")),
                    server: server.filter(|_| given("server")),
                })
            }
            "tls" => {
                good.then_some(())?;
                Some(Self::Tls { from: from?, to: to?, port: port?, name: name.filter(|_| given("name")) })
            }
            _ => {
                let method = map.get("method").map_or(Some("GET"), |n| n.str(mistakes))?.to_owned();
                good.then_some(())?;
                Some(Self::Http { from: from?, to: to?, port: port?, host: host?, method })
            }
        }
    }
}

fn part(node: Node<'_>, mistakes: &mut Mistakes) -> Option<f64> {
    let value = node.f64(mistakes)?;
    if !(0.0..=1.0).contains(&value) {
        mistakes.push(node.mistake(format!("expected a number from 0 to 1, got {value}")));
        return None;
    }
    Some(value)
}

impl Range {
    /// `900`, `1MiB`, `200-4000`, `1KiB-2KiB`.
    fn read(node: Node<'_>, mistakes: &mut Mistakes) -> Option<Self> {
        let text = node.str(mistakes)?;
        let one = |t: &str| t.parse::<u64>().ok().or_else(|| parse_bytes(t).ok());
        let read = match text.split_once('-') {
            Some((low, high)) => one(low.trim()).zip(one(high.trim())).map(|(low, high)| Self(low, high)),
            None => one(text).map(|n| Self(n, n)),
        };
        if read.is_none_or(|r| r.0 > r.1) {
            mistakes.push(node.mistake(format!("expected a whole number or a range as 200-4000, got {}", shown(text))));
            return None;
        }
        read
    }
}

impl Text {
    fn read(node: Node<'_>, mistakes: &mut Mistakes) -> Option<Self> {
        let text = node.str(mistakes)?;
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('<') {
            let Some((inside, after)) = after.split_once('>') else {
                mistakes.push(node.mistake(format!("{}: < without >", shown(text))));
                return None;
            };
            if !before.is_empty() {
                pieces.push(Piece::Fixed(before.to_owned()));
            }
            let Some(piece) = piece(inside) else {
                let what = "expected <n>, <letters 14>, <letters 8-20>, <hex 32>, <number 1-200> or <one|of|these>";
                mistakes.push(node.mistake(format!("{what}, got <{}>", shown(inside))));
                return None;
            };
            pieces.push(piece);
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Fixed(rest.to_owned()));
        }
        Some(Self(pieces))
    }

    /// The address, where nothing varies.
    pub fn fixed_address(&self) -> Option<Address> {
        match self.0.as_slice() {
            [Piece::Fixed(text)] => Address::parse(text.as_bytes()),
            _ => None,
        }
    }
}

fn piece(inside: &str) -> Option<Piece> {
    if inside == "n" {
        return Some(Piece::Number);
    }
    if inside.contains('|') {
        return Some(Piece::OneOf(inside.split('|').map(str::to_owned).collect()));
    }
    let (word, numbers) = inside.split_once(' ')?;
    let (low, high) = match numbers.split_once('-') {
        Some((low, high)) => (low.parse().ok()?, high.parse().ok()?),
        None => (numbers.parse().ok()?, numbers.parse().ok()?),
    };
    let drawn = low <= high && high <= DRAWN_CHARS_MAX && low > 0;
    match word {
        "letters" if drawn => Some(Piece::Letters(low, high)),
        "hex" if drawn => Some(Piece::Hex(low, high)),
        "number" if low <= high => Some(Piece::Between(low, high)),
        _ => None,
    }
}
