//! Promise P7: a delivery that fails delays, it does not lose and does not block the others. Real sockets, real files,
//! the memory log.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use bytes::Bytes;
use tidewatch::deliver::http::HttpConfig;
use tidewatch::deliver::ndjson::NdjsonConfig;
use tidewatch::deliver::secret::SecretSource;
use tidewatch::deliver::splunk_hec::SplunkHecConfig;
use tidewatch::deliver::undelivered::{CODE, DESTINATION, ORIGIN, REASON};
use tidewatch::deliver::webhook::WebhookConfig;
use tidewatch::deliver::{
    BatchLimits, Deliver, DeliverConfig, DeliverHandle, Destination, DestinationConfig, DestinationStats, Event, KnownTopic,
    Opener, Outcome, RetryPolicy, Start, Status,
};
use tidewatch::log::memory::MemoryLog;
use tidewatch::log::{Append, Log, Member, PollLimit, Record, TopicPartition, TopicSpec};
use tidewatch_schemas::header::RUN_ID;
use tidewatch_schemas::signal::{Entity, Evidence, RuleRef, Severity, Signal, from_json, to_json};
use tidewatch_schemas::time::EventTime;
use tidewatch_tests::http_server::{Answer, HttpServer, Request, answer};

const SIGNALS: &str = "t.tidewatch.signals";
const UNDELIVERED: &str = "t.tidewatch.undelivered";
const PARTITIONS: u32 = 3;
const SOON: Duration = Duration::from_secs(10);

/// A log with gaps in its offsets, as Kafka's are.
fn log() -> Arc<dyn Log> {
    let log = MemoryLog::with_gaps(3);
    log.create_topic(&TopicSpec::new(SIGNALS, PARTITIONS)).unwrap();
    log.create_topic(&TopicSpec { record_bytes_max: (1 << 20) + (64 << 10), ..TopicSpec::new(UNDELIVERED, 2) }).unwrap();
    Arc::new(log)
}

fn signal(tenant: &str, id: &str) -> Signal {
    let at = EventTime::from_secs(1_767_247_202);
    Signal {
        id: id.into(),
        tenant: tenant.into(),
        plane: "threat".into(),
        kind: "ndr.beaconing".into(),
        title: "Beaconing".into(),
        why: "every 60 s".into(),
        severity: Severity::High,
        confidence: 80,
        rule: RuleRef { id: "r".into(), version: 1 },
        entity: Entity { kind: "host".into(), id: "10.0.0.5".into() },
        source: None,
        destination: None,
        first_seen: at,
        last_seen: at,
        decided_at: at,
        detected_at: at,
        evidence: Evidence::new(),
        attack: vec![],
        raw: vec![],
    }
}

fn record(tenant: &str, value: impl Into<Bytes>) -> Append {
    Append {
        topic: SIGNALS.into(),
        partition: u32::from(tenant.as_bytes()[0]) % PARTITIONS,
        timestamp: None,
        key: Some(Bytes::copy_from_slice(tenant.as_bytes())),
        value: Some(value.into()),
        headers: vec![],
    }
}

fn write(log: &Arc<dyn Log>, records: &[Append]) {
    log.writer("publisher").unwrap().commit(records, &[]).unwrap();
}

fn publish(log: &Arc<dyn Log>, tenant: &str, ids: impl IntoIterator<Item = String>) {
    let records: Vec<_> = ids.into_iter().map(|id| record(tenant, to_json(&signal(tenant, &id)))).collect();
    write(log, &records);
}

fn ids(prefix: &str, range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|i| format!("{prefix}{i}")).collect()
}

fn destination(name: &str, open: Opener) -> DestinationConfig {
    DestinationConfig {
        start: Start::Beginning,
        batch: BatchLimits { records: 7, bytes: 100_000, wait: Duration::from_millis(1) },
        retry: RetryPolicy { first: Duration::from_millis(5), cap: Duration::from_millis(20) },
        ..DestinationConfig::new(name, open)
    }
}

fn start(log: &Arc<dyn Log>, destinations: Vec<DestinationConfig>) -> DeliverHandle {
    let config = DeliverConfig {
        signals_topic: SIGNALS.into(),
        topic: KnownTopic::default(),
        group_prefix: "tidewatch-t-deliver-".into(),
        undelivered_topic: UNDELIVERED.into(),
        member: Member { id: "deliver-0".into(), index: 0, of: 1 },
        destinations,
    };
    Deliver::start(Arc::clone(log), config).unwrap()
}

fn ndjson(path: &Path) -> Opener {
    NdjsonConfig { path: path.to_owned() }.opener()
}

fn http(url: String) -> HttpConfig {
    HttpConfig { url, timeout: Duration::from_secs(5), ca_file: None, private_allowed: true }
}

fn webhook(server: &str) -> Opener {
    WebhookConfig { http: http(format!("http://{server}/hook")), signing: None, bearer: None, headers: vec![] }.opener()
}

fn stats(handle: &DeliverHandle, name: &str) -> DestinationStats {
    handle.stats().into_iter().find(|s| s.name == name).unwrap()
}

/// Waits for what must come; the bound only ends a broken test.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn lines(path: &Path) -> Vec<Signal> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "torn line");
    text.lines().map(|line| from_json(line).unwrap()).collect()
}

fn ids_of(signals: &[Signal], tenant: &str) -> Vec<String> {
    signals.iter().filter(|s| s.tenant == tenant).map(|s| s.id.clone()).collect()
}

fn undelivered(log: &Arc<dyn Log>) -> Vec<Record> {
    (0..2)
        .flat_map(|p| {
            let at = TopicPartition::new(UNDELIVERED, p);
            log.reader(&at, 0).unwrap().poll(PollLimit::default(), Duration::ZERO).unwrap()
        })
        .collect()
}

fn text(record: &Record, header: &str) -> String {
    String::from_utf8(record.header(header).unwrap().to_vec()).unwrap()
}

fn received(server: &HttpServer) -> Vec<String> {
    server.seen().iter().map(|r| from_json(std::str::from_utf8(&r.body).unwrap()).unwrap().id).collect()
}

#[test]
fn everything_arrives_in_each_tenants_order() {
    let (log, dir) = (log(), tempfile::tempdir().unwrap());
    let path = dir.path().join("signals.ndjson");
    for round in 0..10 {
        for tenant in ["acme", "beta", "core"] {
            publish(&log, tenant, ids(tenant, round * 10..round * 10 + 10));
        }
    }
    let handle = start(&log, vec![destination("file", ndjson(&path))]);
    assert!(handle.wait_idle(SOON));
    publish(&log, "acme", ids("acme", 100..101));
    assert!(handle.wait_idle(SOON));
    let got = lines(&path);
    assert_eq!(got.len(), 301);
    assert_eq!(ids_of(&got, "acme"), ids("acme", 0..101));
    assert_eq!(ids_of(&got, "beta"), ids("beta", 0..100));
    assert_eq!(ids_of(&got, "core"), ids("core", 0..100));
    let figures = stats(&handle, "file");
    assert_eq!((figures.delivered, figures.backlog, figures.status), (301, 0, Status::Running));
}

#[test]
fn a_permanent_fault_sets_one_signal_aside_and_the_rest_goes_on() {
    let (log, dir) = (log(), tempfile::tempdir().unwrap());
    let key = dir.path().join("key");
    std::fs::write(&key, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let server = HttpServer::start(|r| {
        let bad = r.header("webhook-id") == Some("a3");
        if bad { answer(400, "cannot\nread that") } else { answer(204, "") }
    });
    publish(&log, "acme", ids("a", 0..7));
    let http = http(format!("http://{}/hook", server.address()));
    let hook = WebhookConfig { http, signing: Some(SecretSource::File(key)), bearer: None, headers: vec![] };
    let handle = start(&log, vec![destination("hook", hook.opener())]);
    assert!(handle.wait_idle(SOON));
    assert_eq!(received(&server), ids("a", 0..7));
    for request in server.seen() {
        assert!(request.header("webhook-signature").is_some_and(|s| s.starts_with("v1,") && s.len() == 3 + 44));
        assert!(request.header("webhook-timestamp").is_some_and(|s| s.parse::<u64>().is_ok()));
        assert_eq!(request.header("content-type"), Some("application/json"));
    }
    let letters = undelivered(&log);
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!(from_json(std::str::from_utf8(letter.value.as_ref().unwrap()).unwrap()).unwrap().id, "a3");
    assert_eq!(letter.key.as_deref(), Some(&b"acme"[..]));
    assert_eq!((text(letter, DESTINATION), text(letter, CODE)), ("hook".into(), "400".into()));
    assert_eq!(text(letter, REASON), "http 400: cannot\\nread that");
    assert!(text(letter, ORIGIN).starts_with(SIGNALS));
    let figures = stats(&handle, "hook");
    assert_eq!((figures.delivered, figures.set_aside, figures.retried), (6, 1, 0));
}

#[test]
fn a_destination_that_is_down_loses_nothing_and_delays_no_other() {
    let (log, dir) = (log(), tempfile::tempdir().unwrap());
    let path = dir.path().join("signals.ndjson");
    // A port where nobody listens yet.
    let address = HttpServer::start(|_| answer(200, "")).address();
    let handle = start(&log, vec![destination("hook", webhook(&address)), destination("file", ndjson(&path))]);
    publish(&log, "acme", ids("a", 0..40));
    until("the file has all", || lines(&path).len() == 40);
    until("the webhook is being retried", || matches!(stats(&handle, "hook").status, Status::Retrying { .. }));
    assert_eq!(stats(&handle, "hook").delivered, 0);
    until("the backlog shows", || stats(&handle, "hook").backlog >= 40);

    // It comes back overloaded, then well.
    let left = AtomicU16::new(3);
    let server = HttpServer::start_on(&address, None, move |_| {
        let busy = left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok();
        if busy { (503, vec![("retry-after", "0".to_owned())], "busy".to_owned()) } else { answer(200, "") }
    });
    assert!(handle.wait_idle(SOON));
    let mut got = received(&server);
    got.dedup();
    assert_eq!(got, ids("a", 0..40));
    assert_eq!((stats(&handle, "hook").delivered, stats(&handle, "hook").set_aside), (40, 0));
    assert_eq!(stats(&handle, "hook").status, Status::Running);
}

#[test]
fn a_restart_goes_on_where_it_was_and_repetitions_carry_their_id() {
    let log = log();
    let broken = Arc::new(AtomicBool::new(true));
    let server = HttpServer::start({
        let broken = Arc::clone(&broken);
        // Takes a5, but never says so while it is broken.
        move |r| {
            let lies = broken.load(Ordering::Acquire) && r.header("webhook-id") == Some("a5");
            if lies { answer(500, "") } else { answer(200, "") }
        }
    });
    publish(&log, "acme", ids("a", 0..10));
    let config = || vec![destination("hook", webhook(&server.address()))];
    let handle = start(&log, config());
    until("a5 was tried", || received(&server).contains(&"a5".to_owned()));
    handle.stop();
    broken.store(false, Ordering::Release);
    let before = received(&server).len();

    let handle = start(&log, config());
    assert!(handle.wait_idle(SOON));
    let all = received(&server);
    // Only what was not confirmed came again.
    assert_eq!(all[before..], ids("a", 5..10));
    let once: std::collections::BTreeSet<_> = all.into_iter().collect();
    assert_eq!(once, ids("a", 0..10).into_iter().collect());
    handle.stop();

    let before = received(&server).len();
    let handle = start(&log, config());
    assert!(handle.wait_idle(SOON));
    assert_eq!(received(&server).len(), before);
}

#[test]
fn a_credentials_fault_stops_and_holds_until_resumed() {
    let (log, dir) = (log(), tempfile::tempdir().unwrap());
    let (path, token) = (dir.path().join("signals.ndjson"), dir.path().join("token"));
    std::fs::write(&token, "old-secret\n").unwrap();
    let server = HttpServer::start(|r| match r.header("authorization") {
        Some("Bearer new-secret") => answer(200, ""),
        other => answer(401, format!("who is {}?", other.unwrap_or("that"))),
    });
    let bearer = Some(SecretSource::File(token.clone()));
    let hook = WebhookConfig { http: http(format!("http://{}/", server.address())), signing: None, bearer, headers: vec![] };
    publish(&log, "acme", ids("a", 0..20));
    let handle = start(&log, vec![destination("hook", hook.opener()), destination("file", ndjson(&path))]);
    assert!(handle.wait_idle(SOON));
    assert_eq!(lines(&path).len(), 20);
    let Status::Stopped { reason } = stats(&handle, "hook").status else { panic!("not stopped") };
    assert_eq!(reason, "http 401: who is [redacted]?");
    assert_eq!((server.seen().len(), stats(&handle, "hook").delivered), (1, 0));
    assert!(undelivered(&log).is_empty());

    std::fs::write(&token, "new-secret").unwrap();
    assert!(handle.resume("hook") && !handle.resume("nobody"));
    until("all is delivered", || stats(&handle, "hook").delivered == 20);
    assert_eq!(received(&server)[1..], ids("a", 0..20));
}

/// Splunk's view of a batch: the ids in the request, refusing `a2` by number or without.
fn hec(request: &Request, names_it: bool) -> Answer {
    let got = hec_ids(request);
    match got.iter().position(|id| id == "a2") {
        None => answer(200, r#"{"text":"Success","code":0}"#),
        Some(at) if names_it => answer(400, format!(r#"{{"text":"Invalid data format","code":6,"invalid-event-number":{at}}}"#)),
        Some(_) => answer(400, r#"{"text":"Invalid data format","code":6}"#),
    }
}

fn hec_ids(request: &Request) -> Vec<String> {
    let events = serde_json::Deserializer::from_slice(&request.body).into_iter::<serde_json::Value>();
    events.map(|e| e.unwrap()["fields"]["signal_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn splunk_refuses_one_event_and_gets_the_rest_again() {
    for names_it in [true, false] {
        let (log, dir) = (log(), tempfile::tempdir().unwrap());
        let token = dir.path().join("token");
        std::fs::write(&token, "t0ken").unwrap();
        let server = HttpServer::start(move |r| hec(r, names_it));
        publish(&log, "acme", ids("a", 0..5));
        let mut config = SplunkHecConfig::new(format!("http://{}", server.address()), SecretSource::File(token));
        config.gzip = false;
        let handle = start(&log, vec![destination("splunk", config.opener())]);
        assert!(handle.wait_idle(SOON));
        let seen = server.seen();
        assert_eq!(seen[0].path, "/services/collector/event");
        assert_eq!(seen[0].header("authorization"), Some("Splunk t0ken"));
        assert_eq!(hec_ids(&seen[0]), ids("a", 0..5));
        let after: Vec<_> = seen[1..].iter().map(hec_ids).collect();
        if names_it {
            assert_eq!(after, [["a0", "a1", "a3", "a4"]]);
        } else {
            assert_eq!(after, [["a0"], ["a1"], ["a2"], ["a3"], ["a4"]]);
        }
        let letters = undelivered(&log);
        assert_eq!(letters.len(), 1);
        assert_eq!(text(&letters[0], CODE), "hec-6");
        assert_eq!((stats(&handle, "splunk").delivered, stats(&handle, "splunk").set_aside), (4, 1));
    }
}

#[test]
fn a_new_destination_starts_now_and_remembers_that() {
    let (log, dir) = (log(), tempfile::tempdir().unwrap());
    let path = dir.path().join("signals.ndjson");
    let config = || vec![DestinationConfig { start: Start::Now, ..destination("file", ndjson(&path)) }];
    publish(&log, "acme", ids("old", 0..5));
    let handle = start(&log, config());
    assert!(handle.wait_idle(SOON));
    handle.stop();
    // Nothing was delivered yet; what comes between two runs must not be missed.
    publish(&log, "acme", ids("new", 0..5));
    let handle = start(&log, config());
    assert!(handle.wait_idle(SOON));
    assert_eq!(ids_of(&lines(&path), "acme"), ids("new", 0..5));
}

#[test]
fn an_untrusted_certificate_is_refused() {
    let (log, dir) = (log(), tempfile::tempdir().unwrap());
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let ca_file = dir.path().join("ca.pem");
    let body = base64::engine::general_purpose::STANDARD.encode(made.cert.der());
    std::fs::write(&ca_file, format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let server = HttpServer::start_on("127.0.0.1:0", Some(Arc::new(tls)), |_| answer(200, ""));
    let port = server.address().rsplit_once(':').unwrap().1.to_owned();
    let hook = |host: &str, ca_file: Option<&Path>| {
        let http = HttpConfig { ca_file: ca_file.map(Path::to_owned), ..http(format!("https://{host}:{port}/")) };
        WebhookConfig { http, signing: None, bearer: None, headers: vec![] }.opener()
    };
    publish(&log, "acme", ids("a", 0..3));
    let handle = start(
        &log,
        vec![
            destination("untrusted", hook("localhost", None)),
            destination("wrong-name", hook("127.0.0.1", Some(&ca_file))),
            destination("trusted", hook("localhost", Some(&ca_file))),
        ],
    );
    until("the trusted one has delivered", || stats(&handle, "trusted").delivered == 3);
    for name in ["untrusted", "wrong-name"] {
        until("the others are refused", || stats(&handle, name).retried > 0);
        let Status::Retrying { reason } = stats(&handle, name).status else { panic!("{name} is not retrying") };
        assert!(reason.contains("certificate"), "{reason}");
        assert_eq!(stats(&handle, name).delivered, 0);
    }
    assert_eq!(received(&server), ids("a", 0..3));
}

#[test]
fn replays_other_tenants_and_unreadable_records_go_their_own_ways() {
    let (log, dir) = (log(), tempfile::tempdir().unwrap());
    let mut replay = record("acme", to_json(&signal("acme", "replay")));
    replay.headers.push((RUN_ID.into(), Bytes::from_static(b"run-1")));
    write(&log, &[replay, record("acme", "not a signal"), record("beta", to_json(&signal("acme", "stolen")))]);
    publish(&log, "acme", ids("a", 0..2));
    publish(&log, "beta", ids("b", 0..2));
    let path = |name: &str| dir.path().join(name);
    let handle = start(
        &log,
        vec![
            DestinationConfig { tenants: Some(["beta".to_owned()].into()), ..destination("beta", ndjson(&path("beta"))) },
            DestinationConfig { replays: true, ..destination("all", ndjson(&path("all"))) },
        ],
    );
    assert!(handle.wait_idle(SOON));
    let found: BTreeMap<_, Vec<_>> =
        ["beta", "all"].map(|name| (name, lines(&path(name)).into_iter().map(|s| s.id).collect())).into();
    assert_eq!(found["beta"], ids("b", 0..2));
    let mut all = found["all"].clone();
    all.sort();
    assert_eq!(all, ["a0", "a1", "b0", "b1", "replay"]);
    let mut codes: Vec<_> = undelivered(&log).iter().map(|r| (text(r, DESTINATION), text(r, CODE))).collect();
    codes.sort();
    let pair = |d: &str, c: &str| (d.to_owned(), c.to_owned());
    assert_eq!(codes, [pair("all", "tenant"), pair("all", "unreadable"), pair("beta", "tenant"), pair("beta", "unreadable")]);
    assert_eq!(stats(&handle, "beta").skipped, 3);
}

#[test]
fn what_retention_has_removed_is_named_not_skipped() {
    let (log, dir) = (log(), tempfile::tempdir().unwrap());
    let path = dir.path().join("signals.ndjson");
    let config = || vec![destination("file", ndjson(&path))];
    publish(&log, "acme", ids("a", 0..2));
    let handle = start(&log, config());
    assert!(handle.wait_idle(SOON));
    handle.stop();
    publish(&log, "acme", ids("a", 2..9));
    let at = TopicPartition::new(SIGNALS, u32::from(b'a') % PARTITIONS);
    log.delete_before(&at, log.offsets(&at).unwrap().end - 2).unwrap();
    let handle = start(&log, config());
    until("it stops", || matches!(&stats(&handle, "file").status, Status::Stopped { reason } if reason.contains("gone")));
    assert_eq!(lines(&path).len(), 2);
    handle.resume("file");
    until("it goes on with what is kept", || ids_of(&lines(&path), "acme").last() == Some(&"a8".to_owned()));
    assert!(stats(&handle, "file").lost > 0);
}

struct Fails(u32);

impl Destination for Fails {
    fn send(&mut self, batch: &[Event]) -> Vec<Outcome> {
        self.0 += 1;
        match self.0 {
            // Forgets outcomes, then tries nothing, then falls over.
            1 => vec![Outcome::Delivered],
            2 => vec![Outcome::Untried; batch.len()],
            _ => panic!("as planned"),
        }
    }
}

#[test]
fn a_faulty_destination_harms_only_itself() {
    let (log, dir) = (log(), tempfile::tempdir().unwrap());
    let path = dir.path().join("signals.ndjson");
    publish(&log, "acme", ids("a", 0..7));
    let faulty: Opener = Arc::new(|| Ok(Box::new(Fails(0))));
    let handle = start(&log, vec![destination("faulty", faulty), destination("file", ndjson(&path))]);
    until("it has fallen", || matches!(&stats(&handle, "faulty").status, Status::Stopped { reason } if reason.contains("fault")));
    assert!(handle.wait_idle(SOON));
    assert_eq!(stats(&handle, "faulty").delivered, 1);
    assert_eq!(ids_of(&lines(&path), "acme"), ids("a", 0..7));
}

#[test]
fn two_destinations_of_one_name_and_missing_topics_are_refused() {
    let (log, dir) = (log(), tempfile::tempdir().unwrap());
    let config = |names: &[&str], topic: &str| DeliverConfig {
        signals_topic: topic.into(),
        topic: KnownTopic::default(),
        group_prefix: "g-".into(),
        undelivered_topic: UNDELIVERED.into(),
        member: Member { id: "m".into(), index: 0, of: 1 },
        destinations: names.iter().map(|n| destination(n, ndjson(&dir.path().join("x")))).collect(),
    };
    assert!(Deliver::start(Arc::clone(&log), config(&["a", "a"], SIGNALS)).is_err());
    assert!(Deliver::start(Arc::clone(&log), config(&["a b"], SIGNALS)).is_err());
    assert!(Deliver::start(Arc::clone(&log), config(&["a"], "nothing")).is_err());
}
