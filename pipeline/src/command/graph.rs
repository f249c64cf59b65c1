//! `tidewatch graph`: a topology as a picture, for a terminal, Mermaid or Graphviz. One model, three writers.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::ValueEnum;
use tidewatch_schemas::document::show_duration;

use super::{Exit, Failure, Output};
use crate::topology::{Stage, StartFrom, Tenancy, Topology};

/// Draw a topology: inputs, stages, topics and destinations
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tidewatch graph topologies/kafka.yaml --format dot | dot -Tsvg > kafka.svg")]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// text, mermaid or dot (Graphviz)
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true)]
    format: Format,
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal.
    Text,
    /// A Mermaid flowchart.
    Mermaid,
    /// Graphviz.
    Dot,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let graph = Graph::of(&Topology::read(&args.topology)?);
    let text = match args.format {
        Format::Text => graph.text(),
        Format::Mermaid => graph.mermaid(),
        Format::Dot => graph.dot(),
    };
    out.bytes(text.as_bytes())?;
    Ok(Exit::Good)
}

/// Something on the way of a record.
struct Node {
    kind: Kind,
    name: String,
    /// What there is to know about it.
    notes: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Topic,
    Stage,
    Destination,
}

/// Nodes in layers, from the inputs to the destinations: every node of a layer feeds every node of the next.
struct Graph {
    layers: Vec<Vec<Node>>,
    /// Topics beside the way.
    beside: Vec<Node>,
}

impl Graph {
    fn of(topology: &Topology) -> Self {
        let names = &topology.names;
        let topic = |name: String, notes: Vec<String>| Node { kind: Kind::Topic, name, notes };
        let stage = |stage: Stage, workers: u32| Node {
            kind: Kind::Stage,
            name: stage.name().to_owned(),
            notes: vec![count(workers, "worker"), format!("group {}", names.group(stage))],
        };
        let inputs = topology.inputs.iter().map(|input| {
            let tenant = match (&input.lane, &input.tenancy) {
                (Some(lane), _) => format!("lane of {}", lane.tenant),
                (None, Tenancy::Static(tenant)) => format!("tenant {tenant}"),
                (None, Tenancy::Verified { strict, .. }) => {
                    if *strict { "tenants verified, strict" } else { "tenants verified" }.into()
                }
            };
            let mut notes = vec![input.format.name.to_owned(), format!("lateness {}", show_duration(input.lateness)), tenant];
            notes.extend(input.partitions.map(|n| count(n, "partition")));
            topic(input.topic.clone(), notes)
        });
        let internal = |name: String, kept: crate::topology::Kept| {
            topic(name, vec![count(kept.partitions, "partition"), format!("kept {}", show_duration(kept.retention))])
        };
        let destinations = topology.destinations.iter().map(|d| {
            let mut notes = vec![d.kind.name().to_owned()];
            notes.extend((d.from == StartFrom::Beginning).then(|| "from the beginning".to_owned()));
            notes.extend((!d.tenants.is_empty()).then(|| format!("only {}", d.tenants.join(", "))));
            Node { kind: Kind::Destination, name: d.name.clone(), notes }
        });
        let mut layers = vec![
            inputs.collect(),
            vec![stage(Stage::Normalize, topology.workers.normalize)],
            vec![internal(names.obs(), topology.obs)],
            vec![stage(Stage::Detect, topology.workers.detect)],
            vec![internal(names.findings(), topology.findings)],
            vec![stage(Stage::Correlate, topology.workers.correlate)],
            vec![internal(names.signals(), topology.signals)],
        ];
        if !topology.destinations.is_empty() {
            let groups = format!("groups {}*", names.destination_group_prefix());
            layers.push(vec![Node { kind: Kind::Stage, name: Stage::Deliver.name().to_owned(), notes: vec![groups] }]);
            layers.push(destinations.collect());
        }
        let mut beside = vec![
            topic(names.rejected(), vec!["cannot be decoded, or of a wrong tenant".into()]),
            topic(names.late(), vec!["older than its slice".into()]),
            topic(names.shadow(), vec!["said by rules in shadow".into()]),
        ];
        if !topology.destinations.is_empty() {
            beside.push(topic(names.undelivered(), vec!["refused by a destination for good".into()]));
        }
        Self { layers, beside }
    }

    fn text(&self) -> String {
        let width = self.layers.iter().flatten().chain(&self.beside).map(|n| n.name.chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        let line = |out: &mut String, mark: &str, node: &Node| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{mark} {:width$}  {}", node.name, node.notes.join(", "));
        };
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                out.push_str("      │\n      ▼\n");
            }
            layer.iter().for_each(|node| line(&mut out, node.kind.mark(), node));
        }
        out.push_str("\nbeside the way\n");
        self.beside.iter().for_each(|node| line(&mut out, node.kind.mark(), node));
        out
    }

    fn mermaid(&self) -> String {
        let mut out = String::from("flowchart LR\n");
        let node = |out: &mut String, id: &str, node: &Node| {
            let (open, close) = match node.kind {
                Kind::Topic => ("[(", ")]"),
                Kind::Stage => ("[[", "]]"),
                Kind::Destination => ("([", "])"),
            };
            let _ = writeln!(out, "  {id}{open}\"{}\"{close}", node.label("<br/>"));
        };
        self.each_node(|id, n| node(&mut out, id, n));
        self.each_edge(|from, to, beside| {
            let arrow = if beside { "-.->" } else { "-->" };
            let _ = writeln!(out, "  {from} {arrow} {to}");
        });
        out
    }

    fn dot(&self) -> String {
        let mut out = String::from("digraph tidewatch {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n");
        self.each_node(|id, node| {
            let shape = match node.kind {
                Kind::Topic => "cylinder",
                Kind::Stage => "box",
                Kind::Destination => "oval",
            };
            let _ = writeln!(out, "  {id} [shape={shape}, label=\"{}\"];", node.label("\\n"));
        });
        self.each_edge(|from, to, beside| {
            let style = if beside { " [style=dashed]" } else { "" };
            let _ = writeln!(out, "  {from} -> {to}{style};");
        });
        out.push_str("}\n");
        out
    }

    fn each_node(&self, mut visit: impl FnMut(&str, &Node)) {
        for (i, layer) in self.layers.iter().enumerate() {
            layer.iter().enumerate().for_each(|(j, node)| visit(&id(i, j), node));
        }
        self.beside.iter().enumerate().for_each(|(j, node)| visit(&format!("b{j}"), node));
    }

    fn each_edge(&self, mut visit: impl FnMut(&str, &str, bool)) {
        for i in 1..self.layers.len() {
            for from in 0..self.layers[i - 1].len() {
                (0..self.layers[i].len()).for_each(|to| visit(&id(i - 1, from), &id(i, to), false));
            }
        }
        // Layer 1 is normalize, layer 3 detect, layer 5 correlate: the first rejects and finds late, the second finds late, the third
        // has rules in shadow.
        visit("n1_0", "b0", true);
        visit("n1_0", "b1", true);
        visit("n3_0", "b1", true);
        visit("n5_0", "b2", true);
        // Layer 7 is deliver, where there is one.
        if self.layers.len() > 7 {
            visit("n7_0", "b3", true);
        }
    }
}

impl Node {
    /// Name and notes for a picture. Names are checked by the topology and hold no quotes; paths never appear.
    fn label(&self, line_break: &str) -> String {
        std::iter::once(&self.name)
            .chain(&self.notes)
            .map(|t| t.replace(['"', '\\', '<', '>'], "'"))
            .collect::<Vec<_>>()
            .join(line_break)
    }
}

impl Kind {
    fn mark(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Stage => "STAGE",
            Self::Destination => "  to ",
        }
    }
}

fn id(layer: usize, index: usize) -> String {
    format!("n{layer}_{index}")
}

fn count(n: u32, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use expect_test::expect;

    use super::*;
    use crate::topology::tests::FORMATS;

    fn graph() -> Graph {
        let text = "
deployment: blue
log: {memory: {}}
inputs:
  - {topic: zeek.conn, format: zeek.conn, tenant: {static: t1}, partitions: 3}
  - {topic: probectl.flow.events, format: probectl.flow, tenant: {verified: {open: true, strict: true}}}
  - {topic: probectl.flow.events, format: probectl.flow, lane: {namespace: acme, tenant: acme}, tenant: {verified: {open: true}}}
workers: {detect: 4}
destinations:
  - {name: file, kind: ndjson, path: out.ndjson, from: beginning}
  - {name: siem, kind: webhook, url: \"https://siem.example/\", tenants: [acme]}
";
        Graph::of(&Topology::parse_with("t.yaml", text, FORMATS).unwrap())
    }

    #[test]
    fn text() {
        expect![[r#"
            topic zeek.conn                   zeek.conn, lateness 1m, tenant t1, 3 partitions
            topic probectl.flow.events        probectl.flow, lateness 1m, tenants verified, strict
            topic probectl.acme.flow.events   probectl.flow, lateness 1m, lane of acme
                  │
                  ▼
            STAGE normalize                   1 worker, group tidewatch-blue-normalize
                  │
                  ▼
            topic blue.tidewatch.obs          8 partitions, kept 24h
                  │
                  ▼
            STAGE detect                      4 workers, group tidewatch-blue-detect
                  │
                  ▼
            topic blue.tidewatch.findings     4 partitions, kept 24h
                  │
                  ▼
            STAGE correlate                   1 worker, group tidewatch-blue-correlate
                  │
                  ▼
            topic blue.tidewatch.signals      4 partitions, kept 168h
                  │
                  ▼
            STAGE deliver                     groups tidewatch-blue-deliver-*
                  │
                  ▼
              to  file                        ndjson, from the beginning
              to  siem                        webhook, only acme

            beside the way
            topic blue.tidewatch.rejected     cannot be decoded, or of a wrong tenant
            topic blue.tidewatch.late         older than its slice
            topic blue.tidewatch.shadow       said by rules in shadow
            topic blue.tidewatch.undelivered  refused by a destination for good
        "#]]
        .assert_eq(&graph().text());
    }

    #[test]
    fn mermaid() {
        expect![[r#"
            flowchart LR
              n0_0[("zeek.conn<br/>zeek.conn<br/>lateness 1m<br/>tenant t1<br/>3 partitions")]
              n0_1[("probectl.flow.events<br/>probectl.flow<br/>lateness 1m<br/>tenants verified, strict")]
              n0_2[("probectl.acme.flow.events<br/>probectl.flow<br/>lateness 1m<br/>lane of acme")]
              n1_0[["normalize<br/>1 worker<br/>group tidewatch-blue-normalize"]]
              n2_0[("blue.tidewatch.obs<br/>8 partitions<br/>kept 24h")]
              n3_0[["detect<br/>4 workers<br/>group tidewatch-blue-detect"]]
              n4_0[("blue.tidewatch.findings<br/>4 partitions<br/>kept 24h")]
              n5_0[["correlate<br/>1 worker<br/>group tidewatch-blue-correlate"]]
              n6_0[("blue.tidewatch.signals<br/>4 partitions<br/>kept 168h")]
              n7_0[["deliver<br/>groups tidewatch-blue-deliver-*"]]
              n8_0(["file<br/>ndjson<br/>from the beginning"])
              n8_1(["siem<br/>webhook<br/>only acme"])
              b0[("blue.tidewatch.rejected<br/>cannot be decoded, or of a wrong tenant")]
              b1[("blue.tidewatch.late<br/>older than its slice")]
              b2[("blue.tidewatch.shadow<br/>said by rules in shadow")]
              b3[("blue.tidewatch.undelivered<br/>refused by a destination for good")]
              n0_0 --> n1_0
              n0_1 --> n1_0
              n0_2 --> n1_0
              n1_0 --> n2_0
              n2_0 --> n3_0
              n3_0 --> n4_0
              n4_0 --> n5_0
              n5_0 --> n6_0
              n6_0 --> n7_0
              n7_0 --> n8_0
              n7_0 --> n8_1
              n1_0 -.-> b0
              n1_0 -.-> b1
              n3_0 -.-> b1
              n5_0 -.-> b2
              n7_0 -.-> b3
        "#]]
        .assert_eq(&graph().mermaid());
    }

    #[test]
    fn dot() {
        expect![[r#"
            digraph tidewatch {
              rankdir=LR;
              node [fontname="sans-serif"];
              n0_0 [shape=cylinder, label="zeek.conn\nzeek.conn\nlateness 1m\ntenant t1\n3 partitions"];
              n0_1 [shape=cylinder, label="probectl.flow.events\nprobectl.flow\nlateness 1m\ntenants verified, strict"];
              n0_2 [shape=cylinder, label="probectl.acme.flow.events\nprobectl.flow\nlateness 1m\nlane of acme"];
              n1_0 [shape=box, label="normalize\n1 worker\ngroup tidewatch-blue-normalize"];
              n2_0 [shape=cylinder, label="blue.tidewatch.obs\n8 partitions\nkept 24h"];
              n3_0 [shape=box, label="detect\n4 workers\ngroup tidewatch-blue-detect"];
              n4_0 [shape=cylinder, label="blue.tidewatch.findings\n4 partitions\nkept 24h"];
              n5_0 [shape=box, label="correlate\n1 worker\ngroup tidewatch-blue-correlate"];
              n6_0 [shape=cylinder, label="blue.tidewatch.signals\n4 partitions\nkept 168h"];
              n7_0 [shape=box, label="deliver\ngroups tidewatch-blue-deliver-*"];
              n8_0 [shape=oval, label="file\nndjson\nfrom the beginning"];
              n8_1 [shape=oval, label="siem\nwebhook\nonly acme"];
              b0 [shape=cylinder, label="blue.tidewatch.rejected\ncannot be decoded, or of a wrong tenant"];
              b1 [shape=cylinder, label="blue.tidewatch.late\nolder than its slice"];
              b2 [shape=cylinder, label="blue.tidewatch.shadow\nsaid by rules in shadow"];
              b3 [shape=cylinder, label="blue.tidewatch.undelivered\nrefused by a destination for good"];
              n0_0 -> n1_0;
              n0_1 -> n1_0;
              n0_2 -> n1_0;
              n1_0 -> n2_0;
              n2_0 -> n3_0;
              n3_0 -> n4_0;
              n4_0 -> n5_0;
              n5_0 -> n6_0;
              n6_0 -> n7_0;
              n7_0 -> n8_0;
              n7_0 -> n8_1;
              n1_0 -> b0 [style=dashed];
              n1_0 -> b1 [style=dashed];
              n3_0 -> b1 [style=dashed];
              n5_0 -> b2 [style=dashed];
              n7_0 -> b3 [style=dashed];
            }
        "#]]
        .assert_eq(&graph().dot());
    }
}
