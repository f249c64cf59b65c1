//! The expressions of the rules that act. Those over rows are numbered, so that one look at a batch answers for all rules
//! at once; equal expressions of rules of one kind are one. An expression that stays from one version of the rules to the
//! next stays as it is, with its counter.

use std::sync::Arc;

use tidewatch_schemas::observation::Batch;

use super::{Filter, Scope};
use crate::operator::Detector;
use crate::rule::Rule;

/// Different expressions over rows in one rule set, at most: each is one bit beside a row.
pub const ROW_FILTERS_MAX: usize = 64;

/// A rule's expression.
#[derive(Clone, Debug)]
pub struct Numbered {
    /// The expression.
    pub filter: Arc<Filter>,
    /// Its bit, where it is about rows.
    pub bit: Option<u8>,
}

/// All of a rule set.
#[derive(Debug, Default)]
pub struct Filters {
    over_rows: Vec<Arc<Filter>>,
    over_findings: Vec<Arc<Filter>>,
    former: Vec<Arc<Filter>>,
    generation: u64,
}

impl Filters {
    /// None yet, after those of the version before.
    pub fn after(before: &Self) -> Self {
        let former = before.over_rows.iter().chain(&before.over_findings).cloned().collect();
        Self { former, generation: before.generation + 1, ..Self::default() }
    }

    /// Takes up a rule's. `Ok(None)` = it has none; an error = it cannot be read, which parsing excludes, or it is one too
    /// many, which [`crate::rule::RuleSet`] excludes.
    pub fn take(&mut self, rule: &Rule, detector: &Detector) -> Result<Option<Numbered>, Unreadable> {
        let Some(text) = rule.filter() else { return Ok(None) };
        let is = |f: &&Arc<Filter>| f.text == text && f.rule_kind == detector.rule_kind;
        if let Some(at) = self.over_rows.iter().position(|f| is(&f)) {
            return Ok(Some(Numbered { filter: self.over_rows[at].clone(), bit: Some(at as u8) }));
        }
        let known = self.over_findings.iter().chain(&self.former).find(is).cloned();
        let filter = match known {
            Some(filter) => filter,
            None => Arc::new(Filter::compile(text, detector).map_err(|_| Unreadable)?),
        };
        let bit = match filter.scope() {
            Scope::Rows(_) if self.over_rows.len() >= ROW_FILTERS_MAX => return Err(Unreadable),
            Scope::Rows(_) => {
                self.over_rows.push(filter.clone());
                Some((self.over_rows.len() - 1) as u8)
            }
            Scope::Findings => {
                if !self.over_findings.iter().any(|f| Arc::ptr_eq(f, &filter)) {
                    self.over_findings.push(filter.clone());
                }
                None
            }
        };
        Ok(Some(Numbered { filter, bit }))
    }

    /// All are taken: what nobody took up again goes.
    pub fn complete(&mut self) {
        self.former.clear();
    }

    /// Differs from that of any other version that this task has had.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether some are about rows.
    pub fn over_rows(&self) -> bool {
        !self.over_rows.is_empty()
    }

    /// For each row of a batch the bits of the expressions that let it through; `None` = all let all through.
    pub fn select(&self, batch: &Batch) -> Option<Vec<u64>> {
        let mut passes: Option<Vec<u64>> = None;
        for (bit, filter) in self.over_rows.iter().enumerate() {
            let Some(answers) = filter.rows(batch) else { continue };
            let passes = passes.get_or_insert_with(|| vec![u64::MAX; batch.len()]);
            for (pass, yes) in passes.iter_mut().zip(answers) {
                *pass &= !(u64::from(!yes) << bit);
            }
        }
        passes
    }
}

/// A rule whose expression cannot be read: it says nothing.
#[derive(Debug)]
pub struct Unreadable;
