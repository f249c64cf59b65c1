//! Tests of topologies, against formats that exist only here.
#![allow(clippy::unwrap_used, clippy::panic)]

use bumpalo::Bump;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use tidewatch_schemas::wire::{Decoded, Decoder, Fault, Format, RecordMeta};

use super::*;

struct Nothing;

impl Decoder for Nothing {
    fn decode<'a>(&mut self, _: &'a [u8], _: RecordMeta, _: &'a Bump, _: &mut Decoded<'a>) -> Result<(), Fault> {
        Ok(())
    }
}

const fn format(name: &'static str, has_tenant: bool) -> Format {
    Format { name, about: "", lateness_s: 60, has_tenant, decoder: || Box::new(Nothing) }
}

pub(crate) const FORMATS: &[Format] = &[format("probectl.flow", true), format("zeek.conn", false)];

fn parse(text: &str) -> Result<Topology, String> {
    Topology::parse_with("t.yaml", text, FORMATS).map_err(|m| m.to_string())
}

fn refused(text: &str, expected: Expect) {
    expected.assert_eq(&parse(text).unwrap_err());
}

const SMALL: &str = "log: {embedded: {}}\ninputs: [{topic: conn, format: zeek.conn, tenant: {static: t1}}]\n";

#[test]
fn what_is_not_said_is_the_default() {
    let topology = parse(SMALL).unwrap();
    let defaults = Topology::of(topology.log.clone(), topology.inputs.clone());
    assert_eq!(topology, defaults);
    assert_eq!(topology.inputs[0].lateness, Duration::from_secs(60));
    assert_eq!(topology.time.slice, Duration::from_secs(10));
}

#[test]
fn everything_can_be_said() {
    let text = "
deployment: blue
log:
  kafka:
    brokers: [a:9093, \"[::1]:9093\"]
    tls: {ca_file: ca.pem, cert_file: c.pem, key_file: k.pem}
    sasl: {mechanism: scram-sha-512, user: tidewatch, password_file: /run/secrets/kafka}
    replication: 2
    group_protocol: consumer
    commit_timeout: 2s
    transaction_timeout: 4s
    session_timeout: 6s
time: {slice: 30s, max_future: 10s, max_skew: 10m, idle_after: 1m, hold_at_most: 1h}
internal: [203.0.113.0/24, 10.0.0.0/8]
inputs:
  - {topic: probectl.flow.events, format: probectl.flow, lateness: 90s, tenant: {verified: {registry: agents.yaml, strict: true}}}
  - topic: probectl.flow.events
    format: probectl.flow
    lane: {namespace: acme-prod, tenant: acme}
    tenant: {verified: {open: true}}
    partitions: 16
obs: {partitions: 64, retention: 48h}
findings: {partitions: 2}
signals: {partitions: 3, retention: 720h}
limits: {state_bytes: 1GiB, correlate_bytes: 96MiB, slice_bytes: 128MiB, correlate_slice_bytes: 8MiB, spill_dir: /var/spill, record_bytes: 2MiB}
epoch: 250ms
snapshots: {url: \"s3://bucket/tidewatch\", every: 2m}
workers: {normalize: 2, detect: 4, correlate: 1}
rules: rules.d
destinations:
  - {name: file, kind: ndjson, path: signals.ndjson, from: beginning}
  - {name: hook, kind: webhook, url: \"https://h.example/x\", authorization_env: HOOK_TOKEN, tenants: [b, a]}
  - {name: splunk, kind: splunk_hec, url: \"https://s.example:8088\", token_file: /run/secrets/hec}
control: /run/tidewatch.sock
";
    let topology = parse(text).unwrap();
    let LogChoice::Kafka(kafka) = &topology.log else { panic!("{topology:?}") };
    assert_eq!(kafka.sasl.as_ref().unwrap().password, Secret::File("/run/secrets/kafka".into()));
    assert_eq!([kafka.timeouts.commit, kafka.timeouts.transaction, kafka.timeouts.session].map(|t| t.as_secs()), [2, 4, 6]);
    assert_eq!(topology.inputs[1].topic, "probectl.acme-prod.flow.events");
    assert_eq!(topology.names.group(Stage::Detect), "tidewatch-blue-detect");
    assert_eq!(topology.time.hold_at_most, Some(Duration::from_secs(3600)));
    assert_eq!(topology.destinations[1].tenants, ["a", "b"]);
    assert_eq!(topology.destinations[0].from, StartFrom::Beginning);
    let member = crate::log::Member { id: "m".into(), index: 0, of: 1 };
    let deliver = topology.deliver(member, crate::deliver::KnownTopic::default());
    assert_eq!(deliver.group_prefix, "tidewatch-blue-deliver-");
    assert_eq!(deliver.destinations.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["file", "hook", "splunk"]);
    assert_eq!(deliver.destinations[0].start, crate::deliver::Start::Beginning);
    assert_eq!(deliver.destinations[1].tenants.as_ref().unwrap().len(), 2);
    let made: Vec<String> = topology.input_topics().into_iter().map(|t| t.name).collect();
    assert_eq!(made, ["probectl.acme-prod.flow.events"]);
    assert_eq!(topology.internal_topics()[0].name, "blue.tidewatch.obs");
    assert_eq!(topology.internal_topics()[0].partitions, 64);
    let rejected = topology.internal_topics().into_iter().find(|t| t.name == "blue.tidewatch.rejected").unwrap();
    assert_eq!(rejected.record_bytes_max, (2 << 20) + (64 << 10));
}

#[test]
fn unknown_names_come_with_a_suggestion() {
    refused(
        "deploymnet: x\nlog: {embeded: {}}\ntime: {slices: 10s}\ninputs: [{topics: a, format: zeek.con, tenant: {statik: t}}]\n",
        expect![[r#"
            t.yaml:1:1: unknown name deploymnet; did you mean "deployment"?
            t.yaml:2:6: log is exactly one of embedded, kafka, memory
            t.yaml:2:7: unknown name embeded; did you mean "embedded"?
            t.yaml:3:8: unknown name slices; did you mean "slice"?
            t.yaml:4:10: topic is missing
            t.yaml:4:11: unknown name topics; did you mean "topic"?
            t.yaml:4:30: unknown format zeek.con; known are probectl.flow, zeek.conn; did you mean "zeek.conn"?
            t.yaml:4:48: tenant is exactly one of {static: TENANT} and {verified: {registry: FILE}}
            t.yaml:4:49: unknown name statik; did you mean "static"?"#]],
    );
}

#[test]
fn the_order_of_kafkas_timeouts() {
    let text = |timeouts: &str| {
        let kafka = format!("{{kafka: {{brokers: [\"a:1\"], allow_plaintext: true{timeouts}}}}}");
        format!("log: {kafka}\ninputs: [{{topic: conn, format: zeek.conn, tenant: {{static: t1}}}}]\n")
    };
    let timeouts = |topology: &Topology| match &topology.log {
        LogChoice::Kafka(kafka) => kafka.timeouts,
        other => panic!("{other:?}"),
    };
    assert_eq!(timeouts(&parse(&text("")).unwrap()), Timeouts::default());
    refused(
        &text(", session_timeout: 6s"),
        expect!["t.yaml:1:73: transaction_timeout of 10s must be below session_timeout of 6s"],
    );
    refused(
        &text(", commit_timeout: 500ms, transaction_timeout: 30s"),
        expect![[r#"
        t.yaml:1:72: commit_timeout is from 1s to 15m, got 500ms
        t.yaml:1:100: transaction_timeout of 30s must be below session_timeout of 30s"#]],
    );
}

#[test]
fn values_out_of_bounds() {
    refused(
        "deployment: Blue\nlog: {embedded: {limit: 32MiB, retention_age: 1s}}\ntime: {slice: 1500ms, max_skew: 1s, max_future: 2m}\n\
         inputs:\n  - {topic: a b, format: zeek.conn, tenant: {static: t}}\n  - {topic: a, format: zeek.conn, tenant: {static: \"t|b\"}}\n  \
         - {topic: ok, format: zeek.conn, tenant: {static: t}}\n\
         internal: [10.0.0.1/8, ten]\nobs: {partitions: 0, retention: 2m}\nepoch: 6s\nworkers: {detect: many}\nsnapshots: {every: 1s}\n",
        expect![[r#"
            t.yaml:1:13: a deployment is 1 to 32 of a-z, 0-9 and -, not beginning with -, got Blue
            t.yaml:2:25: limit is below retention_bytes: the log would be full before anything is dropped
            t.yaml:2:47: retention_age is from 1m to 87840h, got 1s
            t.yaml:3:15: a slice is a whole number of seconds
            t.yaml:3:33: max_skew is at least one slice (1s500ms)
            t.yaml:5:13: a topic is 1 to 249 letters, digits, dots, _ and -, got a b
            t.yaml:6:52: a tenant is 1 to 128 visible ASCII characters without | and /, got t|b
            t.yaml:8:12: 10.0.0.1/8 names a host inside a network; did you mean "10.0.0.0/8"?
            t.yaml:8:24: expected a network like 10.0.0.0/8, got ten
            t.yaml:9:6: obs is kept 2m; a restart may need 4m2s500ms (two snapshots, a slice, lateness and max_skew)
            t.yaml:9:19: expected a whole number from 1 to 1024, got 0
            t.yaml:10:8: epoch is from 50ms to 5s, got 6s
            t.yaml:11:19: expected a whole number from 1 to 256, got many
            t.yaml:12:20: every is from 5s to 1h, got 1s"#]],
    );
}

#[test]
fn contradictions() {
    refused(
        "log: {kafka: {brokers: [a], sasl: {mechanism: plain, user: u, password_env: P, password_file: f}}}\n\
         inputs:\n  - {topic: a, format: zeek.conn, tenant: {static: t}}\n  - {topic: a, format: zeek.conn, tenant: {static: u}}\n  \
         - {topic: b, format: zeek.conn, tenant: {verified: {open: true}}}\n  \
         - {topic: c, format: zeek.conn, tenant: {verified: {open: true}, static: t}}\n  \
         - {topic: d, format: probectl.flow, lane: {namespace: n, tenant: t}, tenant: {verified: {open: true}}}\n  \
         - {topic: probectl.e, format: probectl.flow, lane: {namespace: n, tenant: t}, tenant: {static: t}}\n  \
         - {topic: tidewatch.obs, format: zeek.conn, tenant: {static: t}}\n\
         obs: {retention: 5m}\n",
        expect![[r#"
            t.yaml:1:14: kafka without tls sends everything readable; give tls (tls: {} uses the system's authorities), or allow_plaintext: true if that is meant
            t.yaml:1:25: expected host:port, got a
            t.yaml:1:35: a password is named by exactly one of password_file and password_env
            t.yaml:1:77: password_file and password_env are given; one is enough
            t.yaml:4:5: topic a stands twice, first at line 3
            t.yaml:5:43: rows of format zeek.conn carry no tenant to verify; name one: {static: TENANT}
            t.yaml:6:43: tenant is exactly one of {static: TENANT} and {verified: {registry: FILE}}
            t.yaml:7:13: only topics that begin with probectl. have lanes, got d
            t.yaml:8:89: on a lane the lane's tenant holds; tenant is {verified: ...} there, for the agents
            t.yaml:9:13: tidewatch.obs is a topic that tidewatch itself writes
            t.yaml:10:6: obs is kept 5m; a restart may need 8m10s (two snapshots, a slice, lateness and max_skew)"#]],
    );
    refused(
        "log: {embedded: {}, memory: {}}\ninputs: []\n",
        expect![[r#"
        t.yaml:1:6: log is exactly one of embedded, kafka, memory
        t.yaml:2:9: inputs is empty: at least one topic must be read"#]],
    );
    refused("", expect!["t.yaml:1:1: expected a map, got nothing"]);
}

#[test]
fn destinations() {
    refused(
        &format!(
            "{SMALL}destinations:\n  - {{name: a, kind: ndjson, url: x}}\n  - {{name: b, kind: webhook, url: \"http://h/\"}}\n  - {{name: local, kind: webhook, url: \"http://[::1]:80/\", ca_file: ca.pem}}\n  \
             - {{name: B!, kind: splunk, token: secret}}\n  - {{name: c, kind: splunk_hec, url: \"https://u:p@h/\"}}\n  \
             - {{name: d, kind: webhook, url: \"https://h\"}}\n  - {{name: d, kind: webhook, url: \"https://h\", tenants: []}}\n"
        ),
        expect![[r#"
            t.yaml:4:5: path is missing
            t.yaml:4:29: unknown name url
            t.yaml:5:35: an http:// URL can be read on its way, and is taken only towards this machine; use https://
            t.yaml:7:12: a destination's name is 1 to 63 of a-z, 0-9, - and _, got B!
            t.yaml:7:22: expected one of ndjson, webhook, splunk_hec, got splunk; did you mean "splunk_hec"?
            t.yaml:7:30: unknown name token; did you mean "token_env"?
            t.yaml:8:5: splunk_hec needs a token: token_file or token_env
            t.yaml:8:38: a URL holds no user or password; name a file or an environment variable that does
            t.yaml:10:5: destination d stands twice
            t.yaml:10:57: tenants names 1 to 10000; leave it out for all"#]],
    );
}

#[test]
fn telemetry() {
    let full = "telemetry: {url: \"https://collector.example:4318\", ca_file: ca.pem, header: x-key, header_env: KEY, sample_percent: 5}\n";
    let telemetry = parse(&format!("{SMALL}{full}")).unwrap().telemetry.unwrap();
    assert_eq!(telemetry.header, Some(("x-key".to_owned(), Secret::Env("KEY".to_owned()))));
    assert_eq!((telemetry.server.url.as_str(), telemetry.sample_percent), ("https://collector.example:4318", 5));
    let least = parse(&format!("{SMALL}telemetry: {{url: \"http://127.0.0.1:4318\"}}\n")).unwrap().telemetry.unwrap();
    assert_eq!((least.header, least.sample_percent), (None, 100));
    let wrong = "telemetry: {url: \"http://collector:4318\", header: x, sample_percent: 0, token: abc}\n";
    let mistakes = parse(&format!("{SMALL}{wrong}")).unwrap_err();
    for words in ["only towards this machine", "header_file or header_env", "t.yaml:3:70: ", "unknown name token"] {
        assert!(mistakes.contains(words), "{words}: {mistakes}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Cuts and splices of a good topology: a mistake or a topology, never a panic.
    #[test]
    fn damaged_topologies_do_not_panic(cut in 0usize..SMALL.len(), with in "[ -~\n]{0,20}", skip in 0usize..30) {
        let text = format!("{}{with}{}", &SMALL[..cut], SMALL.get(cut + skip..).unwrap_or(""));
        let _ = parse(&text);
    }
}
