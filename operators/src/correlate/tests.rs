//! Scenarios of the tenant's view.

use tidewatch_schemas::signal::{Entity, Evidence, RuleRef, Severity};

use super::*;

fn contacts(of: &[(&str, &str)]) -> Contacts {
    let mut c = Contacts::default();
    for (host, destination) in of {
        c.push("t1", host, *destination, EventTime::from_secs(10));
    }
    c
}

#[test]
fn prevalence_counts_hosts_not_contacts() {
    let mut state = TenantState::default();
    state.count("t1", &contacts(&[("a", "x"), ("a", "x"), ("b", "x"), ("c", "")]));
    let now = EventTime::from_secs(20);
    let facts = state.facts(Some("x"), state.hosts_within(now), now);
    assert_eq!((facts.hosts, facts.knowing), (3, 2));
}

/// A finding about one subject of host `h`, `at_s` seconds in, silent for half an hour.
fn finding(at_s: i64, severity: Severity) -> Finding {
    Finding {
        kind: "ndr.egress_volume".into(),
        rule: RuleRef { id: "r".into(), version: 1 },
        tenant: "t1".into(),
        entity: Entity { kind: "host".into(), id: "h".into() },
        subject: "egress".into(),
        plane: "ndr".into(),
        title: String::new(),
        why: String::new(),
        severity,
        confidence: 50,
        source: None,
        destination: None,
        first_seen: EventTime::from_secs(at_s),
        last_seen: EventTime::from_secs(at_s),
        decided_at: EventTime::from_secs(at_s),
        slice_start: EventTime::from_secs(at_s - at_s % 60),
        slice_end: EventTime::from_secs(at_s - at_s % 60 + 60),
        evidence: Evidence::new(),
        attack: Vec::new(),
        raw: Vec::new(),
        contact: None,
        suppress_ns: 1800 * SECOND_NS,
        held_up_to: None,
        shadow: false,
    }
}

/// Severities that become signals, minute by minute.
fn told(correlation: &mut Correlation, minute: i64, findings: Vec<Finding>) -> Vec<(Severity, i64)> {
    let start = EventTime::from_secs(minute * 60);
    let slice = Slice { start, end: start.plus(60 * SECOND_NS) };
    let signals = correlation.slice("t1", slice, Contacts::default(), findings);
    signals.iter().map(|f| (f.severity, f.decided_at.0 / SECOND_NS)).collect()
}

#[test]
fn what_becomes_graver_is_told_at_once_and_once_a_step() {
    use Severity::{Critical, High, Low, Medium};
    let mut correlation = Correlation::default();
    let mut minute = |minute: i64, severity| told(&mut correlation, minute, vec![finding(minute * 60, severity)]);
    assert_eq!(minute(0, Low), [(Low, 0)]);
    assert_eq!(minute(1, Low), []);
    assert_eq!(minute(2, High), [(High, 120)]);
    // Neither the same again nor less, and a fall does not make room for another rise.
    assert_eq!((minute(3, High), minute(4, Low), minute(5, Medium), minute(6, High)), (vec![], vec![], vec![], vec![]));
    assert_eq!(minute(7, Critical), [(Critical, 420)]);
    assert_eq!((7..36).flat_map(|m| minute(m, Critical)).count(), 0);
    // Half an hour after the last signal all begins anew.
    assert_eq!(minute(37, Low), [(Low, 37 * 60)]);
    assert_eq!(minute(38, Medium), [(Medium, 38 * 60)]);
}

#[test]
fn one_slice_tells_of_a_subject_once_of_the_gravest() {
    use Severity::{Low, Medium};
    let mut correlation = Correlation::default();
    let both = vec![finding(5, Low), finding(9, Medium), finding(12, Low)];
    assert_eq!(told(&mut correlation, 0, both), [(Medium, 9)]);
    let Verdicts { evaluated, fired, suppressed, .. } = correlation.verdicts()["r"];
    assert_eq!((evaluated, fired, suppressed), (3, 1, 2));
    assert_eq!(told(&mut correlation, 1, vec![finding(61, Medium)]), []);
}

#[test]
fn an_acknowledged_finding_is_held_when_the_view_leaves_it_no_graver() {
    use Severity::{High, Low, Medium};
    let mut correlation = Correlation::default();
    // What half of the tenant's hosts know is low, whatever the detector said.
    let hosts: Vec<String> = (0..20).map(|n| format!("h{n}")).collect();
    let known = contacts(&hosts.iter().map(|h| (h.as_str(), "cdn.example")).collect::<Vec<_>>());
    let mut told = |at_s: i64, up_to: Severity, contact: Option<&str>| {
        let held = Finding { held_up_to: Some(up_to), contact: contact.map(str::to_owned), ..finding(at_s, High) };
        let start = EventTime::from_secs(at_s - at_s % 60);
        let slice = Slice { start, end: start.plus(60 * SECOND_NS) };
        correlation.slice("t1", slice, known.clone(), vec![held]).iter().map(|f| f.severity).collect::<Vec<_>>()
    };
    assert_eq!(told(0, Low, Some("cdn.example")), []);
    assert_eq!(told(60, Medium, Some("cdn.example")), []);
    // What was held back has armed nothing, and what nobody else knows is as grave as it was.
    assert_eq!(told(120, Medium, None), [High]);
    let Verdicts { evaluated, fired, allowed, suppressed, .. } = correlation.verdicts()["r"];
    assert_eq!((evaluated, fired, allowed, suppressed), (3, 1, 2, 0));
}

/// A slice of contacts: destinations `from..to` of one tenant.
fn met(correlation: &mut Correlation, tenant: &str, at_s: i64, destinations: std::ops::Range<u32>) {
    let mut contacts = Contacts::default();
    for n in destinations {
        let (host, peer) = (format!("10.0.0.{}", n % 200), format!("peer-{n:06}.example"));
        contacts.push(tenant, &host, &peer, EventTime::from_secs(at_s));
    }
    let slice = Slice { start: EventTime::from_secs(at_s), end: EventTime::from_secs(at_s + 10) };
    correlation.slice(tenant, slice, contacts, Vec::new());
}

fn destinations(correlation: &Correlation, tenant: &str) -> Vec<String> {
    let key = HostKey { tenant: Arc::from(tenant), host: Host::Name(Arc::from("")) };
    let state = correlation.states.peek(&key).expect("it was touched");
    state.destinations.records().iter().map(|d| d.name.to_string()).collect()
}

#[test]
fn at_the_limit_of_bytes_those_who_hold_most_forget_what_was_silent_longest() {
    let mut correlation = Correlation::default();
    correlation.limit_bytes(1 << 20);
    met(&mut correlation, "small", 0, 0..200);
    let before = destinations(&correlation, "small");
    let mut most = 0;
    for slice in 0..40 {
        met(&mut correlation, "large", slice * 10, slice as u32 * 500..(slice as u32 + 1) * 500);
        most = most.max(correlation.stats().bytes);
    }
    assert!(most <= 1 << 20, "{most}");
    assert!(correlation.stats().evicted > 5_000, "{:?}", correlation.stats());
    assert_eq!(correlation.stats().keys, 2, "no tenant is dropped whole");
    assert_eq!(destinations(&correlation, "small"), before);
    let large = destinations(&correlation, "large");
    assert!(large.contains(&"peer-019999.example".to_owned()) && !large.contains(&"peer-000000.example".to_owned()));

    // What was written and read back weighs the same and goes on the same way.
    let mut again = Correlation::default();
    again.limit_bytes(1 << 20);
    for group in correlation.groups(false) {
        again.unpack(group, &correlation.pack(group)).expect("its own bytes");
    }
    assert_eq!(again.stats().bytes, correlation.stats().bytes);
    for slice in 40..60 {
        for one in [&mut correlation, &mut again] {
            met(one, "large", slice * 10, slice as u32 * 500..(slice as u32 + 1) * 500);
        }
    }
    for group in correlation.groups(false) {
        assert_eq!(correlation.pack(group), again.pack(group));
    }
}

#[test]
fn another_tenants_contacts_do_not_count() {
    let mut state = TenantState::default();
    state.count("t2", &contacts(&[("a", "x")]));
    let now = EventTime::from_secs(20);
    assert_eq!(state.facts(Some("x"), state.hosts_within(now), now).knowing, 0);
}

#[test]
fn addresses_given_out_anew_do_not_make_an_old_destination_everybodys() {
    let mut state = TenantState::default();
    let day_ns = 86_400 * SECOND_NS;
    for day in 0..70 {
        let at = EventTime(20_000 * day_ns + day * day_ns + day_ns / 2);
        // Thirty hosts, all with new addresses every week; one a day calls the destination.
        let mut contacts = Contacts::default();
        (0..30).for_each(|n| contacts.push("t1", &format!("{}.{n}", day / 7), "", at));
        contacts.push("t1", &format!("{}.{}", day / 7, day % 7), "x", at);
        contacts.push("t1", &format!("{}.0", day / 7), format!("day-{day}"), at);
        state.count("t1", &contacts);
        let facts = state.facts(Some("x"), state.hosts_within(at), at);
        assert!(facts.knowing as f64 <= 0.3 * facts.hosts as f64, "day {day}: {} of {}", facts.knowing, facts.hosts);
        assert_eq!(facts.known_since, Some(EventTime(20_000 * day_ns + day_ns / 2)));
        let counted: usize = state.destinations.records().iter().map(Destination::heap_bytes).sum();
        assert_eq!(state.destination_bytes, counted);
    }
    // What was met once is as new as ever, eight days later.
    let at = EventTime(20_000 * day_ns + 69 * day_ns + day_ns / 2);
    let knowing = |day: i64| state.facts(Some(&format!("day-{day}")), 30, at).knowing;
    assert_eq!((knowing(69), knowing(64), knowing(61), knowing(0)), (1, 1, 0, 0));
}

#[test]
fn what_is_told_in_shadow_has_suppression_of_its_own() {
    use Severity::Medium;
    let mut correlation = Correlation::default();
    let in_shadow = |at_s| Finding { shadow: true, ..finding(at_s, Medium) };
    let mut slice = |minute: i64, finding: Finding| {
        let start = EventTime::from_secs(minute * 60);
        let slice = Slice { start, end: start.plus(60 * SECOND_NS) };
        let signals = correlation.slice("t1", slice, Contacts::default(), vec![finding]);
        signals.iter().map(|f| f.shadow).collect::<Vec<_>>()
    };
    assert_eq!(slice(0, in_shadow(0)), [true]);
    assert_eq!(slice(1, in_shadow(60)), [false; 0], "suppressed as a live one would be");
    assert_eq!(slice(2, finding(120, Medium)), [false], "nobody was told of it yet");
    assert_eq!(slice(3, finding(180, Medium)), [false; 0]);
    assert_eq!(slice(4, in_shadow(240)), [false; 0], "the shadow's own suppression lasts");
    assert_eq!(slice(31, in_shadow(1860)), [true]);
    let Verdicts { evaluated, fired, shadow, suppressed, .. } = correlation.verdicts()["r"];
    assert_eq!((evaluated, fired, shadow, suppressed), (6, 1, 2, 3));
}
