//! A rule set: defaults with overlays laid over them by id, for everybody and for single tenants, and the name of that
//! content.

use std::collections::BTreeMap;

use tidewatch_schemas::document::{Document, Mistake, Mistakes, Node, did_you_mean, shown};

use super::example::Example;
use super::filter::{Filters, ROW_FILTERS_MAX};
use super::parse::Shared;
use super::{ALLOW_ENTRIES_MAX, Parsed, Rule, parse};
use crate::operator::Detector;

/// Tenants with an overlay of their own, at most.
pub const TENANTS_MAX: usize = 1_000;

/// A text and the file it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// File as the user knows it.
    pub label: String,
    /// Content.
    pub text: String,
}

/// Where something stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// File as the user knows it.
    pub file: String,
    /// Line from 1.
    pub line: u32,
    /// Column from 1.
    pub column: u32,
}

impl Place {
    /// Of a node.
    pub fn of(node: Node<'_>) -> Self {
        let Mistake { file, line, column, .. } = node.mistake("");
        Self { file, line, column }
    }

    /// Something to say about it.
    pub fn remark(&self, what: impl Into<String>) -> Mistake {
        Mistake { file: self.file.clone(), line: self.line, column: self.column, what: what.into(), suggestion: None }
    }
}

/// What stands in a rule for people and for its tests. It decides nothing and is no part of the recorded version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    /// Where the rule stands.
    pub place: Place,
    /// Where its exceptions stand, in their order.
    pub allow_places: Vec<Place>,
    /// Rows in, signals out.
    pub examples: Vec<Example>,
    /// What else looks like this.
    pub false_positives: Vec<String>,
    /// Where it is described.
    pub references: Vec<String>,
    /// The rule of the same id that it replaces, and where that stands.
    pub replaces: Option<(Box<Rule>, Place)>,
}

/// A rule by id and, where it is one tenant's, that tenant.
pub type RuleKey = (String, Option<String>);

/// What lies over what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layers<'a> {
    /// The built-in rules.
    pub defaults: &'a [Source],
    /// Laid over them for everybody.
    pub overlay: &'a [Source],
    /// Laid over both for one tenant.
    pub tenants: &'a [(String, Vec<Source>)],
}

/// The rules that act, and those switched off.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleSet {
    /// Rules that act, by id and tenant. A tenant's rule that is switched off is among them: it switches off, for that
    /// tenant, the rule of the same id.
    pub rules: Vec<Rule>,
    /// Rules with `enabled: false`, by id: they act on nothing and take no part in the hash.
    pub off: Vec<Rule>,
    /// BLAKE3 of a canonical form of the rules that act, hex: equal content, equal version, however it was written.
    pub version_hash: String,
    /// What else stands in the rules' documents.
    pub notes: BTreeMap<RuleKey, Notes>,
}

impl RuleSet {
    /// Lays the overlay over the defaults: a rule of the same id replaces the whole rule, a new id adds one. All
    /// mistakes of all texts come at once; a set with a mistake is no set.
    pub fn load(defaults: &[Source], overlay: &[Source], detectors: &[&Detector]) -> Result<Self, Mistakes> {
        Self::load_layers(&Layers { defaults, overlay, tenants: &[] }, detectors)
    }

    /// The same with tenants' own overlays, each laid over both for that tenant alone.
    pub fn load_layers(layers: &Layers<'_>, detectors: &[&Detector]) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let mut read = |sources: &[Source], tenant: Option<&str>| {
            let documents = documents(sources, &mut mistakes);
            let (parsed, found) = parse(&documents, tenant, detectors);
            mistakes.extend(found);
            parsed
        };
        let mut laid = Laid::default();
        let common = [read(layers.defaults, None), read(layers.overlay, None)];
        let own: Vec<(&str, Parsed)> =
            layers.tenants.iter().map(|(tenant, sources)| (tenant.as_str(), read(sources, Some(tenant)))).collect();
        let mut shared = Vec::new();
        for parsed in common {
            laid.rules(parsed.rules, &mut mistakes);
            shared.extend(parsed.allow);
        }
        let mut of_tenants = Vec::new();
        for (tenant, parsed) in own {
            laid.rules(parsed.rules, &mut mistakes);
            of_tenants.push((tenant, parsed.allow));
        }
        laid.allow(None, &shared, &mut mistakes);
        for (tenant, shared) in of_tenants {
            laid.own_copies(tenant, &shared);
            laid.allow(Some(tenant), &shared, &mut mistakes);
        }
        let (rules, notes): (Vec<Rule>, BTreeMap<RuleKey, Notes>) = laid
            .0
            .into_iter()
            .map(|(key, (rule, notes))| (rule, (key, notes)))
            .fold((Vec::new(), BTreeMap::new()), |(mut rules, mut all), (rule, (key, notes))| {
                rules.push(rule);
                all.insert(key, notes);
                (rules, all)
            });
        expressions(&rules, &notes, detectors, &mut mistakes);
        mistakes.or(Self { notes, ..Self::of(rules) })
    }

    /// A set of given rules, which differ in id or tenant.
    pub fn of(rules: impl IntoIterator<Item = Rule>) -> Self {
        let (mut rules, mut off): (Vec<Rule>, Vec<Rule>) = rules.into_iter().partition(|r| r.enabled || r.tenant.is_some());
        let by_key = |a: &Rule, b: &Rule| (&a.id, &a.tenant).cmp(&(&b.id, &b.tenant));
        rules.sort_by(by_key);
        off.sort_by(by_key);
        let version_hash = hash(&rules);
        Self { rules, off, version_hash, notes: BTreeMap::new() }
    }

    /// Every rule with its notes, those switched off included, by id and tenant.
    pub fn all(&self) -> impl Iterator<Item = (&Rule, &Notes)> {
        let mut all: Vec<&Rule> = self.rules.iter().chain(&self.off).collect();
        all.sort_by(|a, b| (&a.id, &a.tenant).cmp(&(&b.id, &b.tenant)));
        all.into_iter().filter_map(|rule| Some((rule, self.notes.get(&(rule.id.clone(), rule.tenant.clone()))?)))
    }
}

/// Each expression over rows is one bit beside every row: there is room for so many different ones.
fn expressions(rules: &[Rule], notes: &BTreeMap<RuleKey, Notes>, detectors: &[&Detector], mistakes: &mut Mistakes) {
    let mut filters = Filters::default();
    for rule in rules.iter().filter(|r| r.enabled) {
        let Some(detector) = detectors.iter().find(|d| d.rule_kind == rule.kind) else { continue };
        if filters.take(rule, detector).is_err()
            && let Some(notes) = notes.get(&(rule.id.clone(), rule.tenant.clone()))
        {
            mistakes.push(
                notes
                    .place
                    .remark(format!("where: more than {ROW_FILTERS_MAX} different expressions over rows in one set of rules")),
            );
        }
    }
}

/// Rules laid over each other so far.
#[derive(Default)]
struct Laid(BTreeMap<RuleKey, (Rule, Notes)>);

impl Laid {
    fn rules(&mut self, rules: Vec<(Rule, Notes)>, mistakes: &mut Mistakes) {
        for (rule, mut notes) in rules {
            let key = (rule.id.clone(), rule.tenant.clone());
            let under = self.0.get(&key).or_else(|| self.0.get(&(rule.id.clone(), None)));
            if let Some((old, place)) = under.map(|(old, notes)| (old, &notes.place)) {
                if old.kind != rule.kind && rule.tenant.is_some() {
                    let what = format!(
                        "a tenant's rule keeps the kind of the rule that it replaces, which is {} at {}:{}; give it another id",
                        old.kind, place.file, place.line
                    );
                    mistakes.push(notes.place.remark(what));
                    continue;
                }
                notes.replaces = Some((Box::new(old.clone()), place.clone()));
            }
            self.0.insert(key, (rule, notes));
        }
    }

    /// A tenant's exception for a rule of everybody makes that rule the tenant's own.
    fn own_copies(&mut self, tenant: &str, shared: &[Shared]) {
        let common: Vec<(Rule, Notes)> =
            self.0.values().filter(|(rule, _)| rule.tenant.is_none() && rule.enabled).cloned().collect();
        for (rule, notes) in common {
            let key = (rule.id.clone(), Some(tenant.to_owned()));
            if shared.iter().any(|s| is_for(s, &rule)) && !self.0.contains_key(&key) {
                let replaces = Some((Box::new(rule.clone()), notes.place.clone()));
                self.0.insert(key, (Rule { tenant: Some(tenant.to_owned()), ..rule }, Notes { replaces, ..notes }));
            }
        }
    }

    /// Gives exceptions to the rules that they are for: everybody's to all, a tenant's to that tenant's.
    fn allow(&mut self, tenant: Option<&str>, shared: &[Shared], mistakes: &mut Mistakes) {
        for one in shared {
            for (id, place) in &one.ids {
                if !self.0.keys().any(|(known, _)| known == id) {
                    let mut mistake = place.remark(format!("there is no rule {}", shown(id)));
                    mistake.suggestion = did_you_mean(id, self.0.keys().map(|(known, _)| known.as_str()));
                    mistakes.push(mistake);
                }
            }
            let concerned = self.0.values_mut().filter(|(rule, _)| tenant.is_none() || rule.tenant.as_deref() == tenant);
            for (rule, notes) in concerned.filter(|(rule, _)| is_for(one, rule)) {
                if rule.allow.len() >= ALLOW_ENTRIES_MAX {
                    mistakes.push(
                        one.place.remark(format!("rule {} has {ALLOW_ENTRIES_MAX} exceptions already, the most it may", rule.id)),
                    );
                    continue;
                }
                rule.allow.push(one.allow.clone());
                notes.allow_places.push(one.place.clone());
            }
        }
    }
}

fn is_for(shared: &Shared, rule: &Rule) -> bool {
    (shared.kinds.is_empty() || shared.kinds.contains(&rule.kind))
        && (shared.ids.is_empty() || shared.ids.iter().any(|(id, _)| *id == rule.id))
}

fn documents(sources: &[Source], mistakes: &mut Mistakes) -> Vec<Document> {
    let mut all = Vec::new();
    for source in sources {
        match Document::parse_all(&source.label, &source.text) {
            Ok(documents) => all.extend(documents),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    all
}

/// Every field of every rule, in the order of ids, each preceded by its length: no two sets have one form.
fn hash(rules: &[Rule]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(b"tidewatch rule set 2");
    for rule in rules {
        // Taken apart here, so that a field that is added cannot be forgotten.
        let Rule {
            id,
            version,
            kind,
            name,
            description,
            severity,
            base_confidence,
            suppress_ns,
            enabled,
            thresholds,
            lists,
            tenant,
            allow,
        } = rule;
        field(id.as_bytes());
        field(&version.to_le_bytes());
        field(kind.as_bytes());
        field(name.as_bytes());
        field(description.as_bytes());
        field(&[*severity as u8, *base_confidence, u8::from(*enabled), u8::from(tenant.is_some())]);
        field(tenant.as_deref().unwrap_or_default().as_bytes());
        field(&suppress_ns.to_le_bytes());
        field(&(thresholds.len() as u64).to_le_bytes());
        for (name, value) in thresholds {
            field(name.as_bytes());
            field(&value.to_bits().to_le_bytes());
        }
        field(&(lists.len() as u64).to_le_bytes());
        for (name, list) in lists {
            field(name.as_bytes());
            field(&(list.len() as u64).to_le_bytes());
            list.iter().for_each(|entry| field(entry.as_bytes()));
        }
        // One canonical form, taken whole.
        field(&postcard::to_stdvec(allow).expect("plain data, memory does not fail"));
        // Which of them have one does not show in that form. No id of a rule begins with a zero.
        if allow.iter().any(|of| of.up_to.is_some()) {
            let up_to = allow.iter().map(|of| of.up_to.map_or(0, |severity| 1 + severity as u8));
            field(&[0].into_iter().chain(up_to).collect::<Vec<u8>>());
        }
    }
    hasher.finalize().to_hex().to_string()
}
