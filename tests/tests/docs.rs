//! The documents that are made from the code, under `docs/`: each must be what the code says now. To write them anew:
//!
//! `UPDATE_DOCS=1 cargo test --release -p tidewatch-tests --test docs`
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use tidewatch::metrics::table as metric;
use tidewatch::metrics::{OTHERS, SERIES_MAX, TENANTS_SHOWN_MAX};
use tidewatch_operators::detectors;
use tidewatch_operators::operator::{Detector, Field, ListEntry};
use tidewatch_operators::rule::example::{
    EXAMPLE_FIELDS, EXAMPLE_ROWS_MAX, EXAMPLES_MAX, EXPECT_FIELDS, PATTERN_FIELDS, ROW_FIELDS,
};
use tidewatch_operators::rule::filter::{FINDING_FIELDS, FUNCTIONS, ROW_FILTERS_MAX, WHERE_BYTES_MAX, WHERE_DEPTH_MAX};
use tidewatch_operators::rule::{
    ALLOW_ENTRIES_MAX, ALLOW_FIELDS, DEFAULTS, FIELDS, RULE_ID_BYTES_MAX, RULES_MAX, TEXT_BYTES_MAX,
};
use tidewatch_schemas::observation::Kind;
use tidewatch_schemas::wire::FORMATS;
use tidewatch_tests::project::{files, root};

const MADE: &str = "<!-- Made by tests/tests/docs.rs from the code; change the code, then run it with UPDATE_DOCS=1. -->";

/// Compares a document with what it should be, or writes it.
#[allow(clippy::disallowed_methods, reason = "a developer asks for the documents to be written")]
fn check(name: &str, wanted: &str) {
    let path = root().join("docs").join(name);
    if std::env::var("UPDATE_DOCS").is_ok() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, wanted).unwrap();
        return;
    }
    let got = fs::read_to_string(&path).unwrap_or_default();
    if let Some(line) = (0..).zip(got.lines().zip(wanted.lines())).find(|(_, (a, b))| a != b).map(|(i, _)| i + 1) {
        panic!("docs/{name} is not what the code says from line {line} on; UPDATE_DOCS=1 writes it anew");
    }
    assert_eq!(got, wanted, "docs/{name} is not what the code says; UPDATE_DOCS=1 writes it anew");
}

/// Text in a cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn table(out: &mut String, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    out.push_str(&line(&head.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()));
    out.push_str(&line(&head.iter().map(|_| "---".to_owned()).collect::<Vec<_>>()));
    for row in rows {
        out.push_str(&line(&row.iter().map(|c| cell(c)).collect::<Vec<_>>()));
    }
}

#[test]
fn detectors_md() {
    let mut out = format!("{MADE}\n\n# Detectors\n\n");
    out.push_str("What each detector finds, what it keeps, what it cannot see. Thresholds and lists are changed in rules: [rules.md](rules.md).\n\n");
    table(
        &mut out,
        &["signal kind", "rule kind", "title", "reads", "ATT&CK"],
        detectors::ALL.iter().map(|d| {
            let reads: Vec<&str> = d.reads.iter().map(|k| k.name()).collect();
            vec![
                format!("`{}`", d.kind),
                format!("[`{0}`](#{0})", d.rule_kind),
                d.title.to_owned(),
                reads.join(", "),
                d.attack.join(", "),
            ]
        }),
    );
    for detector in detectors::ALL {
        page(&mut out, detector);
    }
    check("detectors.md", &out);
}

fn page(out: &mut String, detector: &Detector) {
    write!(out, "\n## {}\n\n", detector.rule_kind).unwrap();
    let lines: Vec<&str> = detector.page.lines().map_while(|l| l.strip_prefix("//!")).collect();
    for line in lines {
        let line = line.strip_prefix(' ').unwrap_or(line);
        match line.strip_prefix("# ") {
            Some(heading) => writeln!(out, "### {heading}: {}\n", detector.rule_kind).unwrap(),
            None => writeln!(out, "{line}").unwrap(),
        }
    }
    write!(out, "\n### Fields: {}\n\n", detector.rule_kind).unwrap();
    table(
        out,
        &["threshold", "default", "from", "to", "meaning"],
        detector.thresholds.iter().map(|t| {
            vec![format!("`{}`", t.name), t.default.to_string(), t.min.to_string(), t.max.to_string(), t.meaning.to_owned()]
        }),
    );
    let fields = detector.evidence.iter().filter(|(_, field)| *field != Field::List);
    let fields: Vec<String> =
        fields.map(|(name, field)| format!("`evidence.{name}` ({})", format!("{field:?}").to_lowercase())).collect();
    writeln!(out, "\nFor [`where`](rules.md#where): {}.", fields.join(", ")).unwrap();
    if !detector.lists.is_empty() {
        out.push('\n');
        table(
            out,
            &["list", "entries", "default", "meaning"],
            detector.lists.iter().map(|l| {
                let entry = match l.entry {
                    ListEntry::Port => "port numbers",
                    ListEntry::WatchedPort => "port numbers, one at least",
                    ListEntry::Text => "texts",
                };
                let default = if l.default.is_empty() { "empty".to_owned() } else { l.default.join(", ") };
                vec![format!("`{}`", l.name), entry.to_owned(), default, l.meaning.to_owned()]
            }),
        );
    }
}

#[test]
fn observations_md() {
    let mut out = format!("{MADE}\n\n# Observations\n\n");
    out.push_str(
        "What every input is turned into: rows of one table per kind, on the topic `tidewatch.obs`. A value that is not known \
         is absent, never 0. `optional` columns may be absent. The first eight and the last two columns are those of every table.\n",
    );
    for kind in Kind::ALL {
        write!(out, "\n## {}\n\nVersion {}.\n\n", kind.name(), kind.version()).unwrap();
        table(
            &mut out,
            &["column", "type", "unit", "from", "meaning"],
            kind.columns().into_iter().map(|c| {
                let optional = if c.nullable { ", optional" } else { "" };
                vec![
                    format!("`{}`", c.name),
                    format!("{}{optional}", c.kind),
                    c.unit.to_owned(),
                    c.upstream.to_owned(),
                    c.meaning.to_owned(),
                ]
            }),
        );
    }
    check("observations.md", &out);
}

#[test]
fn formats_md() {
    let mut out = format!("{MADE}\n\n# Input formats\n\n");
    out.push_str(
        "Named in topologies (`format:`) and on the command line (`--input FORMAT:PATH`). Lateness is how long after a row's event \
         time older rows are still waited for, unless the topology says otherwise. A format whose rows name no tenant gets one \
         from the topology (`tenant: {static: ...}`) or from `--tenant`. Rows that are equal in everything are one event told \
         twice and count once; only sampled packets (`flow_protocol` `sflow5` of probectl) are each an event of its own.\n\n",
    );
    table(
        &mut out,
        &["format", "what", "lateness", "rows name their tenant"],
        FORMATS.iter().map(|f| {
            vec![
                format!("`{}`", f.name),
                f.about.to_owned(),
                format!("{} s", f.lateness_s),
                if f.has_tenant { "yes" } else { "no" }.to_owned(),
            ]
        }),
    );
    check("formats.md", &out);
}

#[test]
fn rules_md() {
    let mut out = format!("{MADE}\n\n# Rules\n\n");
    out.push_str(
        "A rule says with which thresholds a detector speaks, how severe that is, and for how long it is then silent. The default \
         rules are built in; `rules: DIR` in a topology, or `--rules DIR` on the command line, lays your own over them: a rule with \
         the id of a default replaces it, a new id adds one. Several rules of one kind stand side by side without touching each \
         other. `DIR/tenants/TENANT/` holds, for one tenant alone, rules that replace those of everybody by id, or add to them; \
         `enabled: false` there switches a rule off for that tenant.\n\nAll mistakes of all files are told at once, with file, line \
         and column; unknown names are mistakes, and stop a start. Warnings stop nothing: `tidewatch rules lint` tells both. \
         `tidewatch rules new KIND` prints a commented skeleton, `rules list` what would act, `rules explain ID` one rule with its \
         values, exceptions and the detector's page.\n\n## Fields of a rule\n\n",
    );
    let must = |must: bool| if must { "required" } else { "optional" }.to_owned();
    let fields = |out: &mut String, fields: &[(&str, bool, &str)]| {
        table(out, &["field", "", "meaning"], fields.iter().map(|(n, m, t)| vec![format!("`{n}`"), must(*m), (*t).to_owned()]));
    };
    fields(&mut out, FIELDS);
    write!(
        out,
        "\nAt most {RULES_MAX} rules, {RULE_ID_BYTES_MAX} bytes of id, {TEXT_BYTES_MAX} bytes of any other text. Thresholds and lists of \
         each kind: [detectors.md](detectors.md).\n\n"
    )
    .unwrap();
    where_section(&mut out);
    out.push_str(
        "## In shadow\n\n`shadow: true` lets a rule run beside the others to see what it would say. Its detector sees, learns and finds as \
         ever; exceptions, `where` and the tenant's view hold; and what would become a signal becomes one, with the id that it would have \
         live, on the topic `tidewatch.shadow` (`DEPLOYMENT.tidewatch.shadow`) instead of `tidewatch.signals`: keyed and kept like signals, \
         read by `tidewatch tap TOPOLOGY shadow`, given to no destination. It has suppression of its own, so taking `shadow` away tells \
         what goes on at once, as nobody was told of it. The id holds the rule's version: leave `version` as it is when you take `shadow` \
         away, and the ids of both are of one kind. Like the rest of a rule it holds from the event time of its version on. \
         `tidewatch_candidates_total` counts by rule what was said in shadow (`verdict=\"shadow\"`), `tidewatch top` shows it, \
         `rules list` marks the rule, `rules test` judges it as if it were live, and a backtest marks what it says: `in shadow` in its \
         tables, `\"shadow\":true` in its file.\n\n",
    );
    write!(
        out,
        "## Exceptions\n\n\
         An exception under `allow` keeps findings back that meet every field it has, by one of the field's values. It belongs to \
         its rule; under `allow:` beside `rules:` it is for several rules at once, those of the kinds and ids that it names or all, and \
         in a tenant's directory for that tenant's findings alone. It acts from the event time of the version that brought it, ends at \
         `expires` in event time, live as in a backtest, and never hides that it acts: `tidewatch_findings_allowed_total` counts by \
         rule what was kept back. A finding is compared, not rows: what a detector learns, it learns as before. Of a finding with many \
         destinations the one that it names is compared. `asn` is known where a flow of the slice that decided tells it.\n\n"
    )
    .unwrap();
    fields(&mut out, ALLOW_FIELDS);
    write!(
        out,
        "\n```yaml\nallow:\n  - {{kinds: [lateral], source: 10.0.3.7, owner: network team, reason: scanner, expires: 2027-06-30}}\n  \
         - {{domain: updates.example, port: 443, owner: it, reason: own update server, expires: never}}\n```\n\nAt most \
         {ALLOW_ENTRIES_MAX} exceptions a rule, and as many in all as fit the record in which a set travels (1 MB): say networks, not \
         addresses.\n\n## Tests\n\n`tidewatch rules test` runs the tests of every rule, each judged by its rule alone, over the way \
         that all rows take from normalize on, and prints a table. A test has these fields; at most {EXAMPLES_MAX}, of \
         {EXAMPLE_ROWS_MAX} rows each:\n\n"
    )
    .unwrap();
    fields(&mut out, EXAMPLE_FIELDS);
    out.push_str("\nA pattern of rows says when rows come, and has one kind of row with its fields:\n\n");
    let two = |out: &mut String, head: &str, all: &[(&str, &str)]| {
        table(out, &[head, "meaning"], all.iter().map(|(n, t)| vec![format!("`{n}`"), (*t).to_owned()]));
    };
    two(&mut out, "field", PATTERN_FIELDS);
    for (kind, of_kind) in ROW_FIELDS {
        write!(out, "\n`{kind}`:\n\n").unwrap();
        fields(&mut out, of_kind);
    }
    out.push_str(
        "\nText may vary from row to row: `<n>` is the row's number from 1, `<letters 14>` or `<letters 8-20>` and `<hex 32>` are drawn, \
         `<number 1-200>` is a whole number, `<one|of|these>` a choice. Numbers may be ranges. What is drawn follows from `seed` alone. \
         `expect` is `none`, or:\n\n",
    );
    two(&mut out, "field", EXPECT_FIELDS);
    out.push_str(
        "\n## Changes at run time\n\nSIGHUP, or `tidewatch rules reload TOPOLOGY`, lets a running process read its directory again. A \
         sound set is recorded as a version in every partition of `obs` and `findings` and holds from one event time on, for every task \
         of every process; that time lies a slice and `max_future` ahead, so that nobody has closed what it begins with. A set with a \
         mistake changes nothing: every mistake is logged, and told by the command. Keep the directory the same for all processes: \
         whoever starts proposes what it has.\n\n## Silent for a while\n\n`tidewatch rules mute --topology FILE --source 10.0.0.5 --for 8h \
         --owner ann --reason 'ticket 4711'` appends an exception with that end to `muted.yaml` in the rules directory (with `--tenant` in \
         the tenant's), for an analyst who has looked and knows enough, and lets a process that runs there read its rules again. Were the \
         rules wrong with it, nothing is written.\n\n## Seen and known\n\n`tidewatch rules acknowledge SIGNAL --topology FILE --for 30d \
         --owner ann --reason 'partner, ticket 4711'` takes a signal (a file with its JSON, `-` for standard input, or its id) and appends \
         to `acknowledged.yaml` in the directory of its tenant an exception for its rule, host and destination, up to its severity: the \
         same is not said again, what is graver is. How grave something is, the tenant's view has the last word on, so findings above \
         `up_to` go on to it and are held back there if it leaves them no graver; `tidewatch_candidates_total` counts them as \
         `allowed`. It ends by itself and is taken up like a mute.\n\n## Why a rule says nothing\n\n`tidewatch rules why-not HOST --tenant ID --input \
         zeek:/logs/2026-03-11` takes the rows the whole way and tells, for each rule and each peer, domain, port or window of the host, \
         each condition with its value and threshold at the moment when it came nearest; `--from` and `--to` bound the span, `--about` and \
         `--only` what is told, and what exceptions, `where`, suppression or the tenant's view kept back is said with it. `--live` asks the \
         newest snapshots of a deployment instead.\n\n## The default rules\n",
    );
    for default in DEFAULTS {
        write!(out, "\n`{}`\n\n```yaml\n{}```\n", default.file, default.text).unwrap();
    }
    check("rules.md", &out);
}

/// `where`, and what it costs as measured.
fn where_section(out: &mut String) {
    out.push_str(
        "## `where`\n\nOne SQL expression, compiled once with DataFusion and evaluated over whole batches. Which of two things it decides \
         follows from the names in it:\n\n\
         - Columns of the rows ([observations.md](observations.md)): the detector sees a row only where the expression is true. It is \
         asked of the row as it was exported, by itself. Rows of tables that have not all of the named columns are seen as before \
         (`destination_port <> 8443` says nothing about look-ups). What a detector does not see it does not learn from.\n\
         - Fields of the findings (below): a finding goes on to the tenant's view only where the expression is true. The detector \
         learns and counts as before.\n\nMixing the two, and names that neither has, are mistakes. Like the rest of a rule it holds from \
         the event time of its version on, live as in a backtest. What is true does not depend on the batch, the partitions, the machine \
         or the time: volatile functions (`now()`, `random()`), aggregates, windows and subqueries are refused, and so are the columns \
         that say where a row lies (`offset`, `row`, `key`, `primary`).\n\nA value that is absent makes a comparison neither true nor \
         false, and such a row does not match: write `IS NULL` or `coalesce` where that matters. Whole numbers calculate as 64 bit with a \
         sign. **An error in a row** (division by zero, overflow, a cast of a text that is no number) makes that row or finding not match, \
         nothing else, and is counted in `tidewatch_where_errors_total`; what was left out is counted in `tidewatch_where_rows_total` and \
         `tidewatch_where_findings_total`. A part that does not decide is not evaluated: `bytes_reverse <> 0 AND bytes_forward / \
         bytes_reverse > 3` has no error.\n\n```yaml\nwhere: destination_port IN (80, 8080) AND NOT in_network(destination_address, \
         '198.51.100.0/24')\n# or, of findings:\nwhere: evidence.interval_s < 600 AND hour(decided_at) NOT BETWEEN 6 AND 20\n```\n\nOperators: `= <> < <= > >= \
         IS [NOT] DISTINCT FROM`, `AND OR NOT`, `IS [NOT] NULL`, `IS [NOT] TRUE|FALSE|UNKNOWN`, `[NOT] IN (...)`, `[NOT] BETWEEN`, `[NOT] \
         LIKE`, `ILIKE`, `~ ~* !~ !~*` (regular expressions), `+ - * / %`, `& |`, `||`, `CASE`, `CAST` and `TRY_CAST` to `BIGINT`, `DOUBLE`, \
         `TEXT`, `BOOLEAN`. Addresses and moments beside a column of their kind are texts in single quotes. Functions:\n\n",
    );
    table(
        out,
        &["function", "says"],
        FUNCTIONS.iter().map(|(name, form, says)| vec![format!("`{name}({form})`"), (*says).to_owned()]),
    );
    out.push_str("\nFields of findings, and the fields of each detector's evidence as `evidence.NAME`, lists excepted ([detectors.md](detectors.md)):\n\n");
    table(
        out,
        &["field", "type", "meaning"],
        FINDING_FIELDS.iter().map(|(n, t, m)| vec![format!("`{n}`"), (*t).to_owned(), (*m).to_owned()]),
    );
    write!(
        out,
        "\nAt most {WHERE_BYTES_MAX} bytes, {WHERE_DEPTH_MAX} operators deep, and {ROW_FILTERS_MAX} different expressions over rows in one \
         set of rules.\n\n{WHERE_COST}\n\n"
    )
    .unwrap();
}

/// Measured; the commands stand in it.
const WHERE_COST: &str = "What an expression costs: `cargo run --release -p tidewatch-operators --example where_cost` (4,096 rows a batch, best \
    of 200, two cores that others used, too): 2.4 ns a row for `destination_port = 443`, 2.9 for an `IN` of five ports, 16 \
    for `in_network` with two networks, 3.7 for a text and a number, 5 for `LIKE '%.example.com'`, 18 for `under` with two \
    domains, 23 for a regular expression, 43 for a division with five errors in the batch. Without `where` nothing is \
    evaluated. Compiling one takes 0.1 to 8 ms, at a start and when a version takes effect. The pieces of DataFusion and \
    of Arrow's kernels are 42 crates and cost a clean build about 470 s of processor time (user and system of each \
    `rustc`, summed by a `RUSTC_WRAPPER` around `cargo build --release`, the machine busy otherwise).";

#[test]
fn limits_md() {
    let mut out = format!("{MADE}\n\n# Limits\n\n");
    out.push_str(
        "Everything that holds something has a limit with a name; beyond it a value is refused, dropped, spilled or waited for as \
         the meaning says, and counted; within what is kept of one host as `tidewatch_state_limit_reached_total`. Limits that a topology may change stand in [topology.md](topology.md).\n",
    );
    for (room, title) in [("schemas", "Rows and records"), ("operators", "Detection"), ("pipeline", "Pipeline")] {
        write!(out, "\n## {title}\n\n").unwrap();
        let mut rows = Vec::new();
        for source in files(".rs").iter().filter(|s| s.path.starts_with(&format!("{room}/src/"))) {
            for limit in source.limits() {
                let file = source.path.trim_start_matches(&format!("{room}/src/")).to_owned();
                // A link of rustdoc leads nowhere here.
                let meaning = limit.meaning.replace("[`", "`").replace("`]", "`");
                rows.push(vec![format!("`{}`", limit.name), format!("`{}`", limit.value), meaning, file]);
            }
        }
        assert!(rows.len() > 10, "limits of {room} were not found");
        table(&mut out, &["limit", "value", "what it limits", "file"], rows);
    }
    check("limits.md", &out);
}

#[test]
fn metrics_md() {
    let mut out = format!("{MADE}\n\n# Metrics\n\n");
    write!(
        out,
        "Served as `/metrics` in Prometheus's text format by every process whose topology has `http`. What to watch and what to do: \
         [operations.md](operations.md). Counters begin at 0 with the process; those of a task or destination go with it. At most \
         {SERIES_MAX} series a metric (more are counted in `{}`); tenants beyond {TENANTS_SHOWN_MAX} share the name `{OTHERS}`.\n\n",
        metric::SERIES_DROPPED.name
    )
    .unwrap();
    let labels = |m: &metric::Metric| m.labels.iter().map(|l| format!("`{l}`")).collect::<Vec<_>>().join(", ");
    table(
        &mut out,
        &["metric", "type", "unit", "labels", "meaning"],
        metric::ALL.iter().map(|m| vec![format!("`{}`", m.name), m.kind.name().into(), m.unit.into(), labels(m), m.help.into()]),
    );
    check("metrics.md", &out);
}

/// Every metric that the operations page names exists.
#[test]
fn operations_md_names_metrics_that_exist() {
    let document = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let words: BTreeSet<&str> = document.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let mut named = 0;
    for word in words.iter().filter(|w| w.starts_with("tidewatch_")) {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|e| word.strip_suffix(e)).unwrap_or(word);
        assert!(
            metric::ALL.iter().any(|m| m.name == *word || m.name == base),
            "docs/operations.md names {word}, which is no metric"
        );
        named += 1;
    }
    assert!(named > 10, "the page's metrics were not found");
}

/// `docs/topology.md` is written by hand; every name that a topology may have must stand in it.
#[test]
fn topology_md_names_every_field() {
    let document = fs::read_to_string(root().join("docs/topology.md")).unwrap();
    let mut names = BTreeSet::new();
    for source in files(".rs").iter().filter(|s| s.path.starts_with("pipeline/src/topology")) {
        let text = source.product();
        // Lists of texts: names of fields, and words that a field may be.
        for list in text.split("&[").skip(1).filter(|l| l.trim_start().starts_with('"')) {
            let list = list.split(']').next().unwrap_or_default();
            names.extend(list.split('"').skip(1).step_by(2).map(str::to_owned));
        }
    }
    assert!(names.len() > 40, "the topology's names were not found: {names:?}");
    let missing: Vec<&String> = names.iter().filter(|n| !document.contains(&format!("`{n}`"))).collect();
    assert!(missing.is_empty(), "docs/topology.md does not name {missing:?}");
}
