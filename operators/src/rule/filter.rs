//! `where` of a rule: one SQL expression, compiled once with DataFusion and evaluated over whole batches. Over
//! columns of the observations it decides which rows the rule's detector sees; over fields of the finding, which of its
//! findings go on to become signals. Which of the two it is follows from the names in it.
//!
//! What always holds: a row's answer depends on that row alone, whatever batch it comes in, on whatever machine and at
//! whatever time. So nothing volatile, no aggregate, no window and no subquery is taken, and of functions only those of
//! `functions.rs`. An error in a row (a division by zero, an overflow, a cast of a text that is no number) makes that row
//! not match, and is counted.

mod columns;
mod functions;
mod held;
mod lower;
mod types;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow_schema::{DataType, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, DataFusionError};
use datafusion_expr::ExprSchemable;
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_physical_expr::expressions::BinaryExpr;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use sqlparser::ast;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;
use tidewatch_schemas::document::{did_you_mean, shown};
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::{Batch, Kind};

pub use self::columns::{FINDING_FIELDS, finding_fields, row_columns};
pub use self::functions::FUNCTIONS;
pub use self::held::{Filters, Numbered, ROW_FILTERS_MAX};
use self::lower::Lower;
use crate::operator::Detector;

/// Longest expression, bytes.
pub const WHERE_BYTES_MAX: usize = 4_096;

/// Deepest expression, operators inside operators; a chain of `AND` is as deep as it is long. More is refused: lists are
/// what `IN` is for.
pub const WHERE_DEPTH_MAX: usize = 64;

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// In words.
    pub what: String,
    /// What was perhaps meant.
    pub suggestion: Option<String>,
}

impl Wrong {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), suggestion: None }
    }
}

impl From<DataFusionError> for Wrong {
    fn from(e: DataFusionError) -> Self {
        let text = e.strip_backtrace();
        Self::new(shown(text.lines().next().unwrap_or_default()))
    }
}

/// What an expression decides on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Which rows of these kinds the detector sees; of other kinds it sees all.
    Rows(Vec<Kind>),
    /// Which findings become candidates.
    Findings,
}

impl Scope {
    /// For people.
    pub fn words(&self) -> String {
        match self {
            Self::Rows(kinds) => {
                format!("which {} rows are seen", kinds.iter().map(|k| k.name()).collect::<Vec<_>>().join(", "))
            }
            Self::Findings => "which findings go on".to_owned(),
        }
    }
}

/// A compiled expression.
#[derive(Debug)]
pub struct Filter {
    text: String,
    rule_kind: &'static str,
    of: Of,
    errors: AtomicU64,
}

#[derive(Debug)]
enum Of {
    Rows(Vec<(Kind, Compiled)>),
    Findings(Compiled),
}

impl Filter {
    /// Compiles an expression for rules of a detector; everything that is wrong with its names comes at once.
    pub fn compile(text: &str, detector: &Detector) -> Result<Self, Vec<Wrong>> {
        let ast = parse(text).map_err(|wrong| vec![wrong])?;
        let mut first = Lower::untyped();
        first.expr(&ast, 0).map_err(|wrong| vec![wrong])?;
        let names = first.names;
        let one = |wrong: Wrong| vec![wrong];
        let of = match scope(&names, text, detector)? {
            Scope::Rows(kinds) => {
                let compiled = kinds.into_iter().map(|kind| {
                    let fields = row_columns(kind).into_iter().filter(|c| names.contains(c.name));
                    Ok((kind, Compiled::new(&ast, fields.map(|c| (c.name.to_owned(), c.data_type)))?))
                });
                Of::Rows(compiled.collect::<Result<_, Wrong>>().map_err(one)?)
            }
            Scope::Findings => {
                let fields = finding_fields(detector).into_iter().filter(|(name, _)| names.contains(name));
                Of::Findings(Compiled::new(&ast, fields).map_err(one)?)
            }
        };
        Ok(Self { text: text.to_owned(), rule_kind: detector.rule_kind, of, errors: AtomicU64::new(0) })
    }

    /// What it decides on.
    pub fn scope(&self) -> Scope {
        match &self.of {
            Of::Rows(of) => Scope::Rows(of.iter().map(|(kind, _)| *kind).collect()),
            Of::Findings(_) => Scope::Findings,
        }
    }

    /// Rows and findings that did not match because of an error in them, so far.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Which rows of a batch match; `None` = it says nothing about rows of this kind.
    pub fn rows(&self, batch: &Batch) -> Option<Vec<bool>> {
        let Of::Rows(of) = &self.of else { return None };
        let (_, compiled) = of.iter().find(|(kind, _)| *kind == batch.kind())?;
        let mut out = Vec::with_capacity(batch.len());
        let source = batch.source();
        let columns: Option<Vec<ArrayRef>> =
            compiled.schema.fields().iter().map(|f| source.column_by_name(f.name()).cloned()).collect();
        match columns.and_then(|columns| RecordBatch::try_new(compiled.schema.clone(), columns).ok()) {
            Some(narrow) => self.count(compiled.evaluate(&narrow, &mut out)),
            // An opened batch has its table's columns.
            None => out.resize(batch.len(), false),
        }
        Some(out)
    }

    /// Which findings match; all, where it is about rows.
    pub fn findings(&self, findings: &[Finding]) -> Vec<bool> {
        let Of::Findings(compiled) = &self.of else { return vec![true; findings.len()] };
        let mut out = Vec::with_capacity(findings.len());
        match columns::batch(&compiled.schema, findings) {
            Some(batch) => self.count(compiled.evaluate(&batch, &mut out)),
            None => out.resize(findings.len(), false),
        }
        out
    }

    fn count(&self, errors: u64) {
        self.errors.fetch_add(errors, Ordering::Relaxed);
    }
}

fn parse(text: &str) -> Result<ast::Expr, Wrong> {
    if text.len() > WHERE_BYTES_MAX {
        return Err(Wrong::new(format!("{} bytes; at most {WHERE_BYTES_MAX}", text.len())));
    }
    let wrong = |e: sqlparser::parser::ParserError| Wrong::new(format!("is no SQL expression: {}", shown(&e.to_string())));
    let mut parser = Parser::new(&PostgreSqlDialect {}).try_with_sql(text).map_err(wrong)?;
    let ast = parser.parse_expr().map_err(wrong)?;
    match &parser.peek_token_ref().token {
        Token::EOF => Ok(ast),
        token => Err(Wrong::new(format!("is one SQL expression; after it comes {}", shown(&token.to_string())))),
    }
}

/// What the names are of.
fn scope(names: &BTreeSet<String>, text: &str, detector: &Detector) -> Result<Scope, Vec<Wrong>> {
    if names.is_empty() {
        return Err(vec![Wrong::new("names no column: it would say the same of every row")]);
    }
    let of_findings: Vec<String> = finding_fields(detector).into_iter().map(|(name, _)| name).collect();
    let tables: Vec<(Kind, Vec<&str>)> =
        detector.reads.iter().map(|kind| (*kind, row_columns(*kind).into_iter().map(|c| c.name).collect())).collect();
    let is_column = |name: &str| tables.iter().any(|(_, columns)| columns.contains(&name));
    let is_field = |name: &str| of_findings.iter().any(|f| f == name);
    let unknown: Vec<Wrong> = names
        .iter()
        .filter(|name| !is_column(name) && !is_field(name))
        .map(|name| {
            let known = tables.iter().flat_map(|(_, columns)| columns.iter().copied());
            let suggestion = did_you_mean(name, known.chain(of_findings.iter().map(String::as_str)));
            let quoted = text.contains(&format!("\"{name}\""));
            let hint = if quoted { "; a text stands in single quotes" } else { "" };
            let what = format!("unknown column {} of kind {}{hint}", shown(name), detector.rule_kind);
            Wrong { what, suggestion }
        })
        .collect();
    if !unknown.is_empty() {
        return Err(unknown);
    }
    let has_all = |columns: &[&str]| names.iter().all(|name| columns.contains(&name.as_str()));
    let kinds: Vec<Kind> = tables.iter().filter(|(_, columns)| has_all(columns)).map(|(kind, _)| *kind).collect();
    if !kinds.is_empty() {
        return Ok(Scope::Rows(kinds));
    }
    if names.iter().all(|name| is_field(name)) {
        return Ok(Scope::Findings);
    }
    let list = |is: &dyn Fn(&str) -> bool| names.iter().filter(|n| is(n)).cloned().collect::<Vec<_>>().join(", ");
    let only_fields = list(&|n| !is_column(n));
    let what = if only_fields.is_empty() {
        format!("no one table that {} reads has all of {}", detector.rule_kind, list(&|_| true))
    } else {
        format!("mixes columns of rows ({}) with fields of findings ({only_fields})", list(&is_column))
    };
    Err(vec![Wrong::new(what)])
}

/// An expression over the columns that it names.
#[derive(Debug)]
struct Compiled {
    schema: SchemaRef,
    expr: Arc<dyn PhysicalExpr>,
}

impl Compiled {
    fn new(ast: &ast::Expr, fields: impl Iterator<Item = (String, DataType)>) -> Result<Self, Wrong> {
        // Everything may be absent: what a value that is absent means is then decided once.
        let fields: Vec<arrow_schema::Field> = fields.map(|(name, ty)| arrow_schema::Field::new(name, ty, true)).collect();
        let schema = SchemaRef::new(Schema::new(fields));
        let names = DFSchema::try_from(schema.clone())?;
        let expr = Lower::typed(&names).expr(ast, 0)?;
        let ty = expr.get_type(&names)?;
        if ty != DataType::Boolean {
            return Err(Wrong::new(format!("is no condition: its value is {}", types::named(&ty))));
        }
        let expr = create_physical_expr(&expr, &names, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
        let expr = checked(expr)?;
        let compiled = Self { schema: schema.clone(), expr };
        // What no row can mend (a pattern that is none) shows on a row of which nothing is known.
        let columns = schema.fields().iter().map(|f| new_null_array(f.data_type(), 1)).collect();
        let nothing = RecordBatch::try_new(schema, columns).map_err(|e| Wrong::new(e.to_string()))?;
        // Of many lines the last says what it is.
        let last = |reason: &str| shown(reason.rsplit("error: ").next().unwrap_or_default().trim());
        compiled.attempt(&nothing).map_err(|reason| Wrong::new(format!("cannot be evaluated: {}", last(&reason))))?;
        Ok(compiled)
    }

    /// Appends an answer per row; how many rows had an error.
    fn evaluate(&self, batch: &RecordBatch, out: &mut Vec<bool>) -> u64 {
        let rows = batch.num_rows();
        if rows == 0 {
            return 0;
        }
        match self.attempt(batch) {
            Ok(answers) => {
                out.extend((0..rows).map(|i| answers.is_valid(i) && answers.value(i)));
                0
            }
            Err(_) if rows == 1 => {
                out.push(false);
                1
            }
            // Some row has an error: by halves down to it, so that its neighbours keep their answers. That is twice the
            // rows in evaluations at most.
            Err(_) => {
                let half = rows / 2;
                self.evaluate(&batch.slice(0, half), out) + self.evaluate(&batch.slice(half, rows - half), out)
            }
        }
    }

    fn attempt(&self, batch: &RecordBatch) -> Result<BooleanArray, String> {
        // The expression is not changed by being evaluated; a panic inside a kernel is an error like any other.
        let value = catch_unwind(AssertUnwindSafe(|| self.expr.evaluate(batch)?.into_array(batch.num_rows())));
        let array = value.map_err(|_| "a kernel panicked".to_owned())?.map_err(|e| e.strip_backtrace())?;
        array.as_boolean_opt().filter(|a| a.len() == batch.num_rows()).cloned().ok_or_else(|| "is no condition".to_owned())
    }
}

/// The same, with arithmetic that fails where it would wrap around.
fn checked(expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    let done = expr.transform_up(|expr| {
        let checked = expr.downcast_ref::<BinaryExpr>().map(|b| b.clone().with_fail_on_overflow(true));
        Ok(match checked {
            Some(checked) => Transformed::yes(Arc::new(checked) as Arc<dyn PhysicalExpr>),
            None => Transformed::no(expr),
        })
    })?;
    Ok(done.data)
}

#[cfg(test)]
pub(crate) mod tests;
