//! Beaconing: a host that calls the same peer again and again, on its own.
//!
//! # What it finds
//! Contacts of one host with one peer whose gaps are sleeps of one length, give or take: from a clock to
//! `period * (1 - 0.9 * random)`, 5 s to 25 h, with some contacts lost and some that belong to something else.
//!
//! # Why it matters
//! An implant has to ask for orders. Sleeping between questions is what keeps it quiet, and what gives it away: people
//! and memoryless software do not leave gaps of one length. It is often the only trace before anything happens.
//!
//! # Rows and key
//! Flows that open a connection and were begun by the host; the contact time is the connection's start. Handshakes (SNI) and
//! HTTP requests (Host, CONNECT) give the name; where they are silent, addresses that the host was told for a name within
//! the hour give a pair of that name beside that of the address, which is looked at once it was reached at two addresses. A
//! pair is host and name with port where a name explains the connection, else host and address with port and transport. A
//! proxy inside is never a peer: what is asked of it is. One outside is a peer as well, as anything can be asked like a
//! proxy. Connections within 2 s of each other are one contact. Failed connections count: an implant whose server is gone
//! still calls. A TCP record that shows flags but no SYN, unsampled, is a piece of an older connection and no contact.
//!
//! # State
//! Per host at most 4,096 pairs (about 100 bytes for a pair seen once, 3.0 KB with 96 contacts, the most that are kept),
//! 1,024 names waiting for their flow, 1,024 services and 512 looked up. A full host holds 0.4 MB after a scan, 12 MB when
//! every pair is busy. At the limit a quarter goes at once, pairs of fewer than three contacts first, least recently touched
//! first. A pair without contact for four days is forgotten.
//!
//! # Thresholds
//! Evidence is a log e-value: the likelihood of the gaps under sleeps (fourteen shapes, two rates of loss, two of foreign
//! contacts, any period) over their best likelihood under memoryless, clustered and heavy-tailed gaps. It must reach 9, but
//! 5 where every contact sends about as many octets as the others (an evenness of 0.4; in between in proportion), and 14 at
//! eight gaps in any case, growing less up to 16. A memoryless pair is meant to reach 9 once in 8,000 lives and 5 once in
//! 150, however often one looks (measured: none of 6,000). A clock is found at its ninth contact (`min_samples` 8), half
//! jitter one-sided after 14 to 17, half jitter both ways after 16, with a fifth of the contacts lost after 26; 90 % both
//! ways after some 40, because the evidence grows with contacts, not with a window: the newest 95, 32 and 16 gaps are looked
//! at, so that a beacon that begins in an old pair is found by its own length. `max_jitter` 0.55 is the spread of one sleep
//! over its mean, lost contacts taken out, so 0.19 for half jitter one-sided. A beacon lasts at least 180 s.
//!
//! # False positives
//! Software on a timer: updates, telemetry, push. Told apart by what they do, not by whose they are: connections held open
//! for re-use on a timer, timers that poll a name served from five addresses or more, reconnections, peers inside and listed
//! names are found with low severity and 20 less confidence. Contacts that send 512 KiB or more are transfers, not
//! questions. In a tenant of ten hosts or more, peers that two in five hosts know are dropped, and new peers wait until it
//! is known how many will: up to three hosts, or one in twenty, until no other has joined for ten minutes; more for an hour
//! after the first of them. A lone host and one that mostly fails do not wait. Targets that results of our own probes name
//! are found with low severity, whoever calls them.
//! NTP, DNS, DHCP, NetBIOS, SSDP, STUN, mDNS and LLMNR over UDP are never pairs (`quiet_ports`).
//!
//! # Blind spots
//! Sleeps of more than 25 h; ICMP; a channel inside one long connection (see long connections); an implant that imitates
//! people or changes peer at every call without a common name; one that holds its connections open on an exact timer, or
//! polls a farm of addresses on one, is only found with low severity; orders over DNS or NTP; a name forged to be one of the
//! listed ones (low severity); questions that carry 512 KiB; the first hour of a peer that more than three hosts, and more
//! than one in twenty, call from the same hour on; a server that our own probes measure (low severity).
//!
//! # ATT&CK
//! T1071 Application Layer Protocol; as the rows of the deciding contact tell: T1573 Encrypted Channel (a TLS handshake, or a flow whose
//! source names TLS or QUIC), T1071.001 Web Protocols (an HTTP request, or such a flow), T1571 Non-Standard Port (TLS or HTTP at
//! a port that is not theirs; where no protocol is known, a port of 1024 and more of no usual service; outside alone).
//!
//! # Sources
//! RITA's split of pairs into names and addresses (activecm/rita). Ville 1939 and Ramdas et al. 2023, "Game-theoretic
//! statistics and safe anytime-valid inference", for e-values. Sleep and jitter as MITRE ATT&CK S0154 documents them.

mod arena;
mod attack;
mod evidence;
mod form;
mod judge;
mod key;
mod pair;
mod resolved;
mod state;
mod verdict;

use libm::round;
use tidewatch_schemas::address::AddressClass;
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::{Kind, Row};
use tidewatch_schemas::signal::{Endpoint, Evidence, Severity, Value};
use tidewatch_schemas::time::EventTime;

use self::key::{PeerKey, Place, TCP, UDP, place};
use self::pair::{Contact, PairView};
use self::resolved::Resolved;
pub use self::state::HostState;
use self::state::{Asked, LIFETIME_NS, Noted, Role};
use self::verdict::{Limits, Verdict, verdict};
use crate::ahead::Round;
use crate::detection::{HostRows, ROWS_AHEAD};
use crate::ends::raw_ends;
use crate::key::HostKey;
use crate::operator::{
    Context, Detector, Draft, Field, Flow, Initiator, ListEntry, ListField, Observation, Operator, Seen, Slice, Threshold,
};
use crate::rule::Rule;
use crate::runtime::Store;
use crate::why::{About, CASES_MAX, Case, Condition};

/// The detector.
pub static DETECTOR: Detector = Detector {
    kind: "ndr.beaconing",
    rule_kind: "beaconing",
    title: "Beaconing",
    page: include_str!("beaconing.rs"),
    reads: &[Kind::Flow, Kind::Dns, Kind::Tls, Kind::Http],
    attack: &["T1071"],
    thresholds: &[
        Threshold {
            name: "min_samples",
            default: 8.0,
            min: 3.0,
            max: 90.0,
            meaning: "gaps that fit the period; fewer than 8 cannot tell sleeps from chance",
        },
        Threshold {
            name: "max_jitter",
            default: 0.55,
            min: 0.0,
            max: 1.0,
            meaning: "standard deviation of one sleep over its mean, lost contacts taken out; 0.47 is 90 % jitter one-sided, 0.52 both ways",
        },
        Threshold {
            name: "min_interval_s",
            default: 5.0,
            min: 1.0,
            max: 86_400.0,
            meaning: "shortest period; contacts within 2 s are one",
        },
        Threshold {
            name: "max_interval_s",
            default: 90_000.0,
            min: 5.0,
            max: 172_800.0,
            meaning: "longest period; 25 h, so that once a day is inside",
        },
    ],
    lists: &[
        ListField {
            name: "quiet_ports",
            default: &["53", "67", "68", "123", "137", "138", "546", "547", "1900", "3478", "3702", "5353", "5355"],
            entry: ListEntry::Port,
            meaning: "UDP services that repeat by design; 53 over TCP as well",
        },
        ListField {
            name: "quiet_names",
            default: &[
                "data.microsoft.com",
                "dsp.mp.microsoft.com",
                "update.microsoft.com",
                "windowsupdate.com",
                "wns.windows.com",
                "push.apple.com",
                "mesu.apple.com",
                "mtalk.google.com",
                "update.googleapis.com",
                "safebrowsing.googleapis.com",
                "push.services.mozilla.com",
                "detectportal.firefox.com",
                "connectivity-check.ubuntu.com",
            ],
            entry: ListEntry::Text,
            meaning: "update, telemetry and push services, with their subdomains: low severity",
        },
    ],
    evidence: &[
        ("interval_s", Field::Double),
        ("jitter", Field::Double),
        ("samples", Field::Long),
        ("missed", Field::Long),
        ("contacts", Field::Long),
        ("span_s", Field::Double),
        ("failed_ratio", Field::Double),
        ("open_s", Field::Double),
        ("weight", Field::Double),
        ("size_evenness", Field::Double),
        ("key", Field::Text),
        ("bytes_median", Field::Long),
        ("ordinary", Field::Text),
    ],
    limits: &[&state::PAIRS, &state::NAMINGS, &state::SERVICES, &resolved::RESOLVED],
    build: |rule| Store::boxed(&DETECTOR, rule, Beaconing::new),
    judge: judge::judge,
};

/// Contacts between two looks at most: at a pair that may become a beacon, and at a beacon.
const STEPS_MAX: [u32; 2] = [12, 24];

/// The operator of one rule.
#[derive(Clone, Debug)]
pub struct Beaconing {
    limits: Limits,
    quiet_ports: Vec<u16>,
    quiet_names: Vec<String>,
}

impl Beaconing {
    /// For a rule whose thresholds and lists are filled in.
    pub fn new(rule: &Rule) -> Self {
        let mut quiet_ports: Vec<u16> = rule.list("quiet_ports").iter().filter_map(|p| p.parse().ok()).collect();
        quiet_ports.sort_unstable();
        Self { limits: Limits::new(rule), quiet_ports, quiet_names: rule.list("quiet_names").to_vec() }
    }

    fn is_quiet_port(&self, port: u16, transport: u8) -> bool {
        (transport == UDP || port == 53) && self.quiet_ports.binary_search(&port).is_ok()
    }

    fn is_listed(&self, key: &PeerKey) -> bool {
        let (PeerKey::Name { name, .. } | PeerKey::Resolved { name, .. }) = key else { return false };
        self.quiet_names.iter().any(|q| name.strip_suffix(q.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
    }

    /// A name that the host asked for; notes its pair when that is a contact of its own. `None` when it counts for nothing.
    fn named(&self, row: &Seen<'_>, state: &mut HostState, noted: &mut Noted) -> Option<()> {
        let (name, start, address, port, named_port, proxy) = match &row.what {
            Observation::Tls(r) => (r.server_name?, r.start_time, r.destination_address?, r.destination_port?, None, false),
            Observation::Http(r) => {
                (r.host?, r.start_time, r.destination_address?, r.destination_port?, r.host_port, r.via_proxy)
            }
            _ => return None,
        };
        let key = PeerKey::named(name, named_port.filter(|_| proxy).unwrap_or(port))?;
        let start = start.unwrap_or(row.at);
        let place = place(address, AddressClass::Unknown);
        if place == Place::Nobody {
            return None;
        }
        let role = match proxy {
            _ if state.is_proxy(address, port) => Role::Proxy,
            true if place == Place::Inside => Role::Proxy,
            true => Role::Relay,
            false => Role::Server,
        };
        // Handshakes inside a proxy's tunnel name the same peer at the proxy's address; they are part of the CONNECT.
        let is_part = role == Role::Proxy || state.is_relayed(address, port, &key);
        if is_part && matches!(row.what, Observation::Tls(_)) {
            return None;
        }
        let direct = role == Role::Server;
        state.name(&key, &Asked { address, port, role }, start, row.at);
        let contact = Contact::new(start, row.position);
        let internal = direct && place == Place::Inside;
        state.contact(&key, contact, row.at, internal, direct.then_some(address), noted);
        Some(())
    }

    /// A connection that the host began; notes its pair when that got a contact of its own. `None` when it counts for
    /// nothing.
    fn opened(&self, flow: &Flow<'_>, row: &Seen<'_>, state: &mut HostState, noted: &mut Noted) -> Option<()> {
        let transport = flow.row.transport;
        let port = flow.peer_port?;
        if !flow.opens || flow.initiator != Initiator::Host || self.is_quiet_port(port, transport) || is_piece(flow) {
            return None;
        }
        let contact = Contact::new(flow.start, row.position).with_flow(flow.bytes_out, row.at.since(flow.start), flow.failed);
        let Some(address) = flow.peer.address else {
            let key = PeerKey::named(flow.peer.name?, port)?;
            state.contact(&key, contact, row.at, true, None, noted);
            return Some(());
        };
        let place = place(address, AddressClass::from_u8(flow.peer.class));
        if place == Place::Nobody {
            return None;
        }
        if transport == TCP {
            if let Some((key, named)) = state.named(address, port, flow.start) {
                state.complete(&key, named, contact);
                return None;
            }
            if state.is_proxy_at(address, port, place) {
                return None;
            }
            if flow.failed
                && let Some(key) = state.usual_name(address, port).cloned()
            {
                state.contact(&key, contact, row.at, place == Place::Inside, Some(address), noted);
                return Some(());
            }
        }
        let key = PeerKey::Address { address, port, transport };
        state.contact(&key, contact, row.at, place == Place::Inside, None, noted);
        if matches!(transport, TCP | UDP)
            && let Some(name) = state.resolved.as_ref().and_then(|resolved| resolved.name(address, flow.start)).cloned()
            && state.usual_name(address, port).is_none()
        {
            let key = PeerKey::Resolved { name, port };
            state.contact(&key, contact, row.at, place == Place::Inside, Some(address), noted);
        }
        Some(())
    }

    /// Whether a pair that got a contact is to be looked at.
    fn is_due(&self, place: u32, state: &HostState) -> bool {
        let pair = &state.pairs.records()[place as usize];
        pair.contacts().len() > self.limits.samples_min && pair.total >= pair.next_look && state.view(place as usize).is_own()
    }

    /// Looks at a pair.
    fn look(&self, place: usize, at: EventTime, rows: &[Seen<'_>], state: &mut HostState, ctx: &mut Context<'_>) {
        let view = state.view(place);
        let (key, total) = (&view.pair.key, view.pair.total);
        let verdict = verdict(view, &self.limits, self.is_listed(key));
        // Every contact at first, then seldom: what looking costs stays in proportion to the contacts. And not before it can
        // have become a beacon. One that is known is looked at by what that adds: confidence grows with the contacts' root.
        let more = match &verdict {
            Ok(_) => (total / 4).min(STEPS_MAX[1]),
            Err(more) => u32::try_from(*more).unwrap_or(u32::MAX).max((total / 8).min(STEPS_MAX[0])),
        };
        if let Some(verdict) = verdict.ok().filter(|_| !state.explained(key)) {
            ctx.emit(draft(view, &verdict, at, rows, ctx));
        }
        state.pairs.records_mut()[place].next_look = total.saturating_add(more.max(1));
    }
}

/// A piece of an older connection: TCP flags are known, none is SYN, and sampling cannot have lost it.
fn is_piece(flow: &Flow<'_>) -> bool {
    let row = &flow.row;
    row.transport == TCP
        && !flow.failed
        && row.sampling_rate <= 1
        && row.tcp_flags.filter(|f| *f != 0).map_or(row.connection_state == Some("OTH"), |f| f & 0x02 == 0)
}

impl Beaconing {
    /// One slice of one host without a runtime, for tests and measurements: the rows in, the candidates out.
    pub fn slice(&self, rule: &Rule, key: &HostKey, slice: Slice, rows: &[Seen<'_>], state: &mut HostState) -> Vec<Finding> {
        let (mut findings, mut wake, mut forget) = (Vec::new(), None, false);
        let mut ctx = Context {
            key,
            slice,
            rule,
            detector: &DETECTOR,
            inputs: &[],
            findings: &mut findings,
            wake: &mut wake,
            forget: &mut forget,
        };
        self.rows(rows, state, &mut ctx);
        findings
    }
}

impl Operator for Beaconing {
    type State = HostState;

    fn ahead(state: &HostState, host: &HostRows<'_>, round: Round) {
        for row in host.rows.iter().take(ROWS_AHEAD) {
            let Row::Flow(flow) = &row.row else { continue };
            let Some((address, _, port)) = raw_ends(&host.key.host, flow) else { continue };
            state.ahead(&PeerKey::Address { address, port, transport: flow.transport }, round);
        }
    }

    fn concerns(&self, _key: &HostKey, rows: &[Seen<'_>]) -> bool {
        rows.iter().any(|row| matches!(row.what, Observation::Flow(_) | Observation::Tls(_) | Observation::Http(_)))
    }

    fn rows(&self, rows: &[Seen<'_>], state: &mut HostState, ctx: &mut Context<'_>) {
        // A host that only looks names up has no peers to name.
        if state.is_bare() && !self.concerns(ctx.key, rows) {
            ctx.forget();
            return;
        }
        let fresh = state.pairs.is_empty();
        let mut noted = Noted::new();
        // Names first: in rows of one time they come after the flow that carried them.
        for row in rows {
            match &row.what {
                Observation::Tls(_) | Observation::Http(_) => {
                    self.named(row, state, &mut noted);
                }
                Observation::Dns(look_up) => Resolved::look_up(&mut state.resolved, look_up, row.at),
                _ => {}
            }
        }
        for row in rows {
            if let Observation::Flow(flow) = &row.what {
                self.opened(flow, row, state, &mut noted);
            }
        }
        noted.retain(|(place, _)| self.is_due(*place, state));
        let records = state.pairs.records();
        let key = |place: u32| &records[place as usize].key;
        noted.sort_unstable_by(|a, b| key(a.0).cmp(key(b.0)).then(a.1.cmp(&b.1)));
        for (i, (place, at)) in noted.iter().enumerate() {
            // The last of a pair has its latest time.
            if noted.get(i + 1).is_none_or(|next| next.0 != *place) {
                self.look(*place as usize, *at, rows, state, ctx);
            }
        }
        if fresh && !state.pairs.is_empty() {
            ctx.wake_at(ctx.slice.end.plus(LIFETIME_NS));
        }
    }

    fn wake(&self, at: EventTime, state: &mut HostState, ctx: &mut Context<'_>) {
        if state.expire(at) {
            ctx.forget();
        } else if let Some(next) = state.next_expiry() {
            // Not more than once an hour, whatever expires.
            ctx.wake_at(next.max(at.plus(3600 * tidewatch_schemas::time::SECOND_NS)));
        }
    }

    fn conditions(&self, state: &HostState, about: &About<'_>) -> Option<Vec<Case>> {
        let records = state.pairs.records();
        let mut places: Vec<usize> = (0..records.len()).filter(|place| about.is(&records[*place].key.to_string())).collect();
        places.sort_by(|a, b| (records[*b].total, &records[*a].key).cmp(&(records[*a].total, &records[*b].key)));
        places.truncate(CASES_MAX);
        let case = |place: usize| {
            let view = state.view(place);
            let mut conditions = verdict::conditions(view, &self.limits);
            conditions.push(Condition::is("explained by a name or a proxy", state.explained(&view.pair.key), false));
            if !view.is_own() {
                conditions.push(Condition::is("looked up, and reached at one address only", true, false));
            }
            Case { subject: view.pair.key.to_string(), way: "rhythm", conditions }
        };
        Some(places.into_iter().map(case).collect())
    }
}

/// What is said of a beacon.
fn draft(view: PairView<'_>, verdict: &Verdict, at: EventTime, rows: &[Seen<'_>], ctx: &Context<'_>) -> Draft {
    let fit = &verdict.fit;
    let (pair, key, contacts) = (view.pair, &view.pair.key, view.collapsed());
    let last = contacts.last().map_or(at, |c| c.start());
    let subject = key.to_string();
    let failed = if verdict.failed_ratio >= 0.5 { ", mostly failing" } else { "" };
    let why = format!(
        "{} called {subject} {} times in {}, every {}, jitter {} %, {} missed{failed}",
        ctx.key.host,
        fit.fitting + 1,
        span(verdict.span_s),
        span(fit.interval_s),
        round(fit.jitter * 100.0),
        fit.missed,
    );
    let (destination, kind) = match key {
        PeerKey::Address { address, port, .. } => {
            (Endpoint { ip: Some(address.to_string()), port: Some(*port), ..Endpoint::default() }, "address")
        }
        PeerKey::Name { name, port } | PeerKey::Resolved { name, port } => {
            // Of several addresses none is "the" one.
            let ip = (view.addresses.len() == 1).then(|| view.addresses[0].to_string());
            (Endpoint { ip, port: Some(*port), domain: Some(name.to_string()), ..Endpoint::default() }, view.named_by())
        }
    };
    let mut evidence = Evidence::new();
    let mut put = |name: &str, value: Value| evidence.insert(name.to_owned(), value);
    put("interval_s", Value::Double(rounded(fit.interval_s, 1000.0)));
    put("jitter", Value::Double(rounded(fit.jitter, 1000.0)));
    put("samples", Value::Long(fit.fitting as i64));
    put("missed", Value::Long(fit.missed as i64));
    put("contacts", Value::Long(i64::from(pair.total)));
    put("span_s", Value::Double(rounded(verdict.span_s, 10.0)));
    put("failed_ratio", Value::Double(rounded(verdict.failed_ratio, 1000.0)));
    put("open_s", Value::Double(verdict.lasting_s));
    put("weight", Value::Double(rounded(fit.weight, 10.0)));
    put("size_evenness", Value::Double(rounded(verdict.size_evenness, 1000.0)));
    put("key", Value::Text(kind.to_owned()));
    if let Some(bytes) = verdict.bytes_median {
        put("bytes_median", Value::Long(bytes as i64));
    }
    if let Some(ordinary) = verdict.ordinary {
        put("ordinary", Value::Text(ordinary.name().to_owned()));
    }
    Draft {
        why,
        confidence: verdict.confidence as u8,
        severity: verdict.ordinary.map(|_| Severity::Low),
        contact: Some(view.contact()),
        subject,
        destination: Some(destination),
        first_seen: pair.first,
        last_seen: last,
        decided_at: at,
        evidence,
        attack: attack::techniques(view, rows),
        raw: view.raw(),
    }
}

fn rounded(value: f64, by: f64) -> f64 {
    round(value * by) / by
}

/// A duration for people.
fn span(seconds: f64) -> String {
    if seconds < 120.0 {
        format!("{} s", round(seconds))
    } else if seconds < 7200.0 {
        format!("{} min", round(seconds / 60.0))
    } else {
        format!("{} h", rounded(seconds / 3600.0, 10.0))
    }
}

#[cfg(test)]
mod tests;
