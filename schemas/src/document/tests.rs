//! Tests of documents: types, mistakes, bounds, hostile text.
#![allow(clippy::unwrap_used)]

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn mistakes_of(text: &str, read: impl FnOnce(Node<'_>, &mut Mistakes), expected: Expect) {
    let mut mistakes = Mistakes::default();
    match Document::parse("a.yaml", text) {
        Ok(document) => read(document.root(&mut mistakes), &mut mistakes),
        Err(mistake) => mistakes.push(mistake),
    }
    expected.assert_eq(&mistakes.to_string());
}

#[test]
fn values_have_the_type_their_reader_asks_for() {
    let text = "text: hello\nport: \"445\"\nn: 42\nx: -1.5e3\non: true\nlong: 1h30m\nsize: 64MiB\nlist: [a, 2]\nnone:\n";
    let document = Document::parse("a.yaml", text).unwrap();
    let mut m = Mistakes::default();
    let map = document.root(&mut m).map(&mut m).unwrap();
    let get = |name: &str| map.get(name).unwrap();
    assert_eq!(get("text").str(&mut m), Some("hello"));
    assert_eq!(get("port").str(&mut m), Some("445"));
    assert_eq!(get("n").str(&mut m), Some("42"));
    assert_eq!(get("n").u32(&mut m), Some(42));
    assert_eq!(get("x").f64(&mut m), Some(-1500.0));
    assert_eq!(get("on").bool(&mut m), Some(true));
    assert_eq!(get("long").duration(&mut m), Some(Duration::from_secs(5400)));
    assert_eq!(get("size").bytes(&mut m), Some(64 << 20));
    assert_eq!(get("list").list(&mut m).unwrap().len(), 2);
    assert!(map.get("none").is_none());
    assert!(m.is_empty(), "{m}");
}

#[test]
fn all_mistakes_at_once_with_place_and_suggestion() {
    let text = "tresholds: 1\nkind: beaconin\nsuppress: 30\nsize: 64\nn: -1\nx: .nan\nkind: again\non: yes\nlist: {}\n";
    let read = |root: Node<'_>, m: &mut Mistakes| {
        let map = root.map(m).unwrap();
        map.expect_keys(&["thresholds", "kind", "suppress", "size", "n", "x", "on", "list"], m);
        map.get("kind").unwrap().one_of(&["beaconing", "lateral"], m);
        map.get("suppress").unwrap().duration(m);
        map.get("size").unwrap().bytes(m);
        map.get("n").unwrap().u32(m);
        map.get("x").unwrap().f64(m);
        map.get("on").unwrap().bool(m);
        map.get("list").unwrap().list(m);
        map.require("id", m);
    };
    mistakes_of(
        text,
        read,
        expect![[r#"
            a.yaml:1:1: id is missing
            a.yaml:1:1: unknown name tresholds; did you mean "thresholds"?
            a.yaml:2:7: expected one of beaconing, lateral, got beaconin; did you mean "beaconing"?
            a.yaml:3:11: expected a duration like 10s, 5m or 1h30m, got 30; it has no unit; did you mean "30s"?
            a.yaml:4:7: expected a size like 512KiB or 64MiB, got 64; it has no unit
            a.yaml:5:4: expected a whole number, got -1
            a.yaml:6:4: expected a number, got .nan
            a.yaml:7:1: kind stands twice
            a.yaml:8:5: expected true or false, got yes
            a.yaml:9:7: expected a list, got a map"#]],
    );
}

#[test]
fn broken_yaml_is_one_mistake_with_its_place() {
    mistakes_of("a: [1, 2\nb: 3\n", |_, _| (), expect!["a.yaml:2:2: not YAML: illegal placement of ':' indicator"]);
    mistakes_of("a: b: c\n", |_, _| (), expect!["a.yaml:1:5: not YAML: mapping values are not allowed in this context"]);
    mistakes_of("a: &x [*x]\n", |_, _| (), expect!["a.yaml:1:8: an alias inside what it names"]);
    mistakes_of("a: *nowhere\n", |_, _| (), expect!["a.yaml:1:4: not YAML: while parsing node, found unknown anchor"]);
    mistakes_of("a: 1\n---\nb: 2\n", |_, _| (), expect!["a.yaml:3:1: a second document; one file holds one"]);
    mistakes_of("? [a]\n: 1\n", |_, _| (), expect!["a.yaml:1:3: a name must be text"]);
    mistakes_of("a: !!int 3\n", |_, _| (), expect!["a.yaml:1:4: tags (!name) are not used here"]);
}

#[test]
fn an_anchor_is_used_again() {
    let document = Document::parse("a.yaml", "a: &x {n: 1}\nb: *x\n").unwrap();
    let mut m = Mistakes::default();
    let map = document.root(&mut m).map(&mut m).unwrap();
    let b = map.get("b").unwrap().map(&mut m).unwrap();
    assert_eq!(b.get("n").unwrap().u32(&mut m), Some(1));
}

#[test]
fn empty_text_is_null_and_several_documents_are_read_when_asked() {
    let mut m = Mistakes::default();
    assert!(Document::parse("a.yaml", "# nothing\n").unwrap().root(&mut m).is_null());
    assert!(Document::parse("a.yaml", "").unwrap().root(&mut m).is_null());
    assert_eq!(Document::parse_all("a.yaml", "a: 1\n---\nb: 2\n").unwrap().len(), 2);
}

#[test]
fn size_depth_and_expansion_are_bounded() {
    assert!(Document::parse("a.yaml", &"a".repeat(DOCUMENT_BYTES_MAX + 1)).is_err());
    assert!(Document::parse("a.yaml", &"[".repeat(100_000)).is_err());
    assert!(Document::parse("a.yaml", &"- ".repeat(100_000)).is_err());
    assert!(Document::parse("a.yaml", &"{a: ".repeat(50_000)).is_err());
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..9 {
        let row = vec![format!("*a{}", i - 1); 10].join(", ");
        laughs.push_str(&format!("a{i}: &a{i} [{row}]\n"));
    }
    let mistake = Document::parse("a.yaml", &laughs).unwrap_err();
    assert!(mistake.what.contains("more than"), "{mistake}");
}

#[test]
fn more_mistakes_than_the_limit_are_counted() {
    let mut m = Mistakes::default();
    (0..MISTAKES_MAX + 5).for_each(|i| m.push(Mistake::of_file("a.yaml", format!("{i}"))));
    assert_eq!(m.len(), MISTAKES_MAX + 5);
    assert!(m.to_string().ends_with("\nand 5 more"));
}

/// Reads everything as every type.
fn walk(node: Node<'_>, m: &mut Mistakes) {
    node.str(m);
    node.u32(m);
    node.f64(m);
    node.bool(m);
    node.duration(m);
    node.bytes(m);
    node.list(m).into_iter().flatten().for_each(|n| walk(n, m));
    if let Some(map) = node.map(m) {
        map.expect_keys(&["known"], m);
        map.entries().for_each(|(_, _, value)| walk(value, m));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text_gives_a_tree_or_a_mistake(text in prop_oneof![
        any::<String>(),
        "[-a-c&*!|>'\"%@`:{}\\[\\],#?~ \n\t0-9.<]{0,80}",
        prop::collection::vec(prop_oneof![
            Just("- "), Just("a: "), Just("\n"), Just("  "), Just("["), Just("]"), Just("{"), Just("}"), Just(", "), Just("&a "),
            Just("*a"), Just("? "), Just("|\n"), Just(">-\n"), Just("'"), Just("\""), Just("---\n"), Just("...\n"), Just("!!str "),
            Just("%YAML 1.2\n"), Just("\u{feff}"), Just("é"), Just("\t"), Just("\r"), Just("<<: "), Just("x"),
        ], 0..60).prop_map(|parts| parts.concat()),
    ]) {
        let mut m = Mistakes::default();
        for document in Document::parse_all("a.yaml", &text).unwrap_or_default() {
            walk(document.root(&mut m), &mut m);
        }
        let _ = m.to_string();
    }
}
