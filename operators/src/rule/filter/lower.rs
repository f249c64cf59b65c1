//! SQL as parsed to DataFusion's expressions: only what is named here is taken, and each refusal says why. Literals take
//! the type of what they stand beside (`types.rs`).

use std::collections::BTreeSet;

use arrow_schema::DataType;
use datafusion_common::{Column, DFSchema, ScalarValue};
use datafusion_expr::expr::InList;
use datafusion_expr::{Cast, Expr, Like, Operator, TryCast};
use ipnet::IpNet;
use sqlparser::ast::{
    self, BinaryOperator, CastKind, FunctionArg, FunctionArgExpr, FunctionArguments, UnaryOperator, Value, ValueWithSpan,
};
use tidewatch_schemas::document::{did_you_mean, shown};

use super::functions::{FUNCTIONS, Function};
use super::types::{both, named, time};
use super::{WHERE_DEPTH_MAX, Wrong};
use crate::rule::allow::network;

/// Functions whose answer is another each time.
const VOLATILE: &[&str] = &[
    "now",
    "random",
    "uuid",
    "current_timestamp",
    "current_date",
    "current_time",
    "localtime",
    "localtimestamp",
    "clock_timestamp",
    "today",
    "gen_random_uuid",
];

/// Functions over many rows.
const AGGREGATES: &[&str] = &[
    "count",
    "sum",
    "avg",
    "mean",
    "min",
    "max",
    "median",
    "stddev",
    "var",
    "array_agg",
    "string_agg",
    "first_value",
    "last_value",
    "approx_distinct",
    "bool_and",
    "bool_or",
];

/// Lowers one expression. Without a schema it only collects names: what they are is not known yet.
pub(super) struct Lower<'s> {
    pub(super) schema: Option<&'s DFSchema>,
    /// Columns that were named.
    pub(super) names: BTreeSet<String>,
}

pub(super) type Lowered = Result<Expr, Wrong>;

impl<'s> Lower<'s> {
    pub(super) fn untyped() -> Self {
        Self { schema: None, names: BTreeSet::new() }
    }

    pub(super) fn typed(schema: &'s DFSchema) -> Self {
        Self { schema: Some(schema), names: BTreeSet::new() }
    }

    pub(super) fn expr(&mut self, ast: &ast::Expr, depth: usize) -> Lowered {
        if depth >= WHERE_DEPTH_MAX {
            return Err(Wrong::new(format!("is more than {WHERE_DEPTH_MAX} operators deep; lists are what IN is for")));
        }
        let depth = depth + 1;
        let not = |negated: bool, expr: Expr| if negated { Expr::Not(Box::new(expr)) } else { expr };
        Ok(match ast {
            ast::Expr::Nested(inner) => self.expr(inner, depth)?,
            ast::Expr::Identifier(name) => self.column(std::slice::from_ref(name)),
            ast::Expr::CompoundIdentifier(names) => self.column(names),
            ast::Expr::Value(value) => literal(value)?,
            ast::Expr::TypedString(typed) => time(text(&typed.value).unwrap_or_default())?,
            ast::Expr::UnaryOp { op: UnaryOperator::Not, expr } => Expr::Not(Box::new(self.condition(expr, depth)?)),
            ast::Expr::UnaryOp { op: UnaryOperator::Plus, expr } => self.expr(expr, depth)?,
            ast::Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match self.expr(expr, depth)? {
                Expr::Literal(ScalarValue::Int64(Some(n)), m) => Expr::Literal(ScalarValue::Int64(Some(-n)), m),
                Expr::Literal(ScalarValue::Float64(Some(n)), m) => Expr::Literal(ScalarValue::Float64(Some(-n)), m),
                expr => Expr::Negative(Box::new(self.number(expr, "-")?)),
            },
            ast::Expr::BinaryOp { left, op, right } => self.binary(left, op, right, depth)?,
            ast::Expr::IsNull(e) => Expr::IsNull(Box::new(self.expr(e, depth)?)),
            ast::Expr::IsNotNull(e) => Expr::IsNotNull(Box::new(self.expr(e, depth)?)),
            ast::Expr::IsTrue(e) => Expr::IsTrue(Box::new(self.condition(e, depth)?)),
            ast::Expr::IsNotTrue(e) => Expr::IsNotTrue(Box::new(self.condition(e, depth)?)),
            ast::Expr::IsFalse(e) => Expr::IsFalse(Box::new(self.condition(e, depth)?)),
            ast::Expr::IsNotFalse(e) => Expr::IsNotFalse(Box::new(self.condition(e, depth)?)),
            ast::Expr::IsUnknown(e) => Expr::IsUnknown(Box::new(self.condition(e, depth)?)),
            ast::Expr::IsNotUnknown(e) => Expr::IsNotUnknown(Box::new(self.condition(e, depth)?)),
            ast::Expr::IsDistinctFrom(l, r) => self.compare(l, Operator::IsDistinctFrom, r, depth)?,
            ast::Expr::IsNotDistinctFrom(l, r) => self.compare(l, Operator::IsNotDistinctFrom, r, depth)?,
            ast::Expr::InList { expr, list, negated } => {
                let expr = self.expr(expr, depth)?;
                let list: Result<Vec<Expr>, Wrong> = list
                    .iter()
                    .map(|one| match self.expr(one, depth)? {
                        one @ Expr::Literal(..) => self.member(&expr, one),
                        _ => Err(Wrong::new(format!("takes literals alone in IN, got {}", said(one)))),
                    })
                    .collect();
                Expr::InList(InList::new(Box::new(expr), list?, *negated))
            }
            ast::Expr::Between { expr, negated, low, high } => {
                let least = self.compare(expr, Operator::GtEq, low, depth)?;
                let most = self.compare(expr, Operator::LtEq, high, depth)?;
                not(*negated, both(least, Operator::And, most))
            }
            ast::Expr::Like { negated, any: false, expr, pattern, escape_char } => {
                self.like(*negated, expr, pattern, escape_char.as_ref(), false, depth)?
            }
            ast::Expr::ILike { negated, any: false, expr, pattern, escape_char } => {
                self.like(*negated, expr, pattern, escape_char.as_ref(), true, depth)?
            }
            ast::Expr::Case { operand, conditions, else_result, .. } => {
                let mut cases = Vec::new();
                for case in conditions {
                    let when = match operand {
                        Some(operand) => self.compare(operand, Operator::Eq, &case.condition, depth)?,
                        None => self.condition(&case.condition, depth)?,
                    };
                    cases.push((when, self.expr(&case.result, depth)?));
                }
                let otherwise = else_result.as_deref().map(|e| self.expr(e, depth)).transpose()?;
                self.cases(cases, otherwise)?
            }
            ast::Expr::Cast { kind, expr, data_type, .. } => {
                let (expr, to) = (Box::new(self.expr(expr, depth)?), cast_to(data_type)?);
                match kind {
                    CastKind::Cast | CastKind::DoubleColon => Expr::Cast(Cast::new(expr, to)),
                    CastKind::TryCast | CastKind::SafeCast => Expr::TryCast(TryCast::new(expr, to)),
                }
            }
            ast::Expr::Function(function) => self.function(function, depth)?,
            ast::Expr::RLike { negated, expr, pattern, .. } => {
                let matched = self.pattern(expr, Operator::RegexMatch, pattern, depth)?;
                not(*negated, matched)
            }
            ast::Expr::Subquery(_) | ast::Expr::InSubquery { .. } | ast::Expr::Exists { .. } => {
                return Err(Wrong::new(format!("takes no subquery: a row is judged by itself, got {}", said(ast))));
            }
            _ => return Err(Wrong::new(format!("does not know {}", said(ast)))),
        })
    }

    fn column(&mut self, parts: &[ast::Ident]) -> Expr {
        let part = |i: &ast::Ident| if i.quote_style.is_some() { i.value.clone() } else { i.value.to_lowercase() };
        let name = parts.iter().map(part).collect::<Vec<_>>().join(".");
        self.names.insert(name.clone());
        Expr::Column(Column::new_unqualified(name))
    }

    fn binary(&mut self, left: &ast::Expr, op: &BinaryOperator, right: &ast::Expr, depth: usize) -> Lowered {
        use BinaryOperator as B;
        match op {
            B::And | B::Or => {
                let op = if *op == B::And { Operator::And } else { Operator::Or };
                Ok(both(self.condition(left, depth)?, op, self.condition(right, depth)?))
            }
            B::Eq => self.compare(left, Operator::Eq, right, depth),
            B::NotEq => self.compare(left, Operator::NotEq, right, depth),
            B::Lt => self.compare(left, Operator::Lt, right, depth),
            B::LtEq => self.compare(left, Operator::LtEq, right, depth),
            B::Gt => self.compare(left, Operator::Gt, right, depth),
            B::GtEq => self.compare(left, Operator::GtEq, right, depth),
            B::Plus | B::Minus | B::Multiply | B::Divide | B::Modulo => {
                let (l, r) = (self.expr(left, depth)?, self.expr(right, depth)?);
                let sign = op.to_string();
                let op = match op {
                    B::Plus => Operator::Plus,
                    B::Minus => Operator::Minus,
                    B::Multiply => Operator::Multiply,
                    B::Divide => Operator::Divide,
                    _ => Operator::Modulo,
                };
                let (l, r) = self.even(self.number(l, &sign)?, self.number(r, &sign)?)?;
                Ok(both(l, op, r))
            }
            B::BitwiseAnd | B::BitwiseOr => {
                let (l, r) = (self.expr(left, depth)?, self.expr(right, depth)?);
                let (sign, op) = match op {
                    B::BitwiseAnd => ("&", Operator::BitwiseAnd),
                    _ => ("|", Operator::BitwiseOr),
                };
                let (l, r) = (self.number(l, sign)?, self.number(r, sign)?);
                if [&l, &r].into_iter().any(|e| self.type_of(e) == Some(DataType::Float64)) {
                    return Err(Wrong::new(format!("{sign} is of whole numbers")));
                }
                Ok(both(l, op, r))
            }
            B::StringConcat => {
                let (l, r) = (self.expr(left, depth)?, self.expr(right, depth)?);
                Ok(both(self.text(l, "||")?, Operator::StringConcat, self.text(r, "||")?))
            }
            B::PGRegexMatch => self.pattern(left, Operator::RegexMatch, right, depth),
            B::PGRegexIMatch => self.pattern(left, Operator::RegexIMatch, right, depth),
            B::PGRegexNotMatch => self.pattern(left, Operator::RegexNotMatch, right, depth),
            B::PGRegexNotIMatch => self.pattern(left, Operator::RegexNotIMatch, right, depth),
            _ => Err(Wrong::new(format!("does not know the operator {op}"))),
        }
    }

    fn compare(&mut self, left: &ast::Expr, op: Operator, right: &ast::Expr, depth: usize) -> Lowered {
        let (l, r) = (self.expr(left, depth)?, self.expr(right, depth)?);
        let r = self.beside(&l, r)?;
        let l = self.beside(&r, l)?;
        let (l, r) = self.even(l, r)?;
        Ok(both(l, op, r))
    }

    /// Something true or false.
    fn condition(&mut self, ast: &ast::Expr, depth: usize) -> Lowered {
        let expr = self.expr(ast, depth)?;
        match self.type_of(&expr) {
            None | Some(DataType::Boolean) => Ok(expr),
            Some(ty) => Err(Wrong::new(format!("expected a condition, got {} in {}", named(&ty), said(ast)))),
        }
    }

    /// A pattern is a literal: one that comes with the rows would have to be read anew for every row.
    fn pattern(&mut self, expr: &ast::Expr, op: Operator, pattern: &ast::Expr, depth: usize) -> Lowered {
        let expr = self.expr(expr, depth)?;
        let expr = self.text(expr, "a pattern")?;
        let ast::Expr::Value(value) = pattern else {
            return Err(Wrong::new(format!("takes literal patterns alone, got {}", said(pattern))));
        };
        Ok(both(expr, op, pattern_of(value)?))
    }

    fn like(
        &mut self,
        negated: bool,
        expr: &ast::Expr,
        pattern: &ast::Expr,
        escape: Option<&ValueWithSpan>,
        any_case: bool,
        depth: usize,
    ) -> Lowered {
        let expr = self.expr(expr, depth)?;
        let expr = self.text(expr, "LIKE")?;
        let ast::Expr::Value(value) = pattern else {
            return Err(Wrong::new(format!("takes literal patterns alone, got {}", said(pattern))));
        };
        if escape.is_some() {
            return Err(Wrong::new("has no ESCAPE; a % or _ that means itself is written \\% or \\_"));
        }
        Ok(Expr::Like(Like::new(negated, Box::new(expr), Box::new(pattern_of(value)?), None, any_case)))
    }

    fn function(&mut self, function: &ast::Function, depth: usize) -> Lowered {
        let name = function.name.to_string().to_lowercase();
        if VOLATILE.contains(&name.as_str()) {
            let what = format!("{name} is volatile: a backtest would be told otherwise than the live run; rows have event_time");
            return Err(Wrong::new(what));
        }
        if function.over.is_some() || function.filter.is_some() || !function.within_group.is_empty() {
            return Err(Wrong::new(format!("takes no window functions: a row is judged by itself, got {name}")));
        }
        if AGGREGATES.contains(&name.as_str()) {
            return Err(Wrong::new(format!(
                "takes no aggregates: a row is judged by itself, got {name}; counting is the detector's"
            )));
        }
        let Some((_, form, _)) = FUNCTIONS.iter().find(|(known, ..)| *known == name) else {
            let suggestion = did_you_mean(&name, FUNCTIONS.iter().map(|(known, ..)| *known));
            return Err(Wrong { what: format!("unknown function {}", shown(&name)), suggestion });
        };
        let wrong = || Wrong::new(format!("expected {name}({form})"));
        let FunctionArguments::List(list) = &function.args else { return Err(wrong()) };
        if list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
            return Err(wrong());
        }
        let mut args = Vec::new();
        for arg in &list.args {
            let FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)) = arg else { return Err(wrong()) };
            args.push(self.expr(arg, depth)?);
        }
        if name == "coalesce" {
            let last = args.pop().filter(|_| !args.is_empty()).ok_or_else(wrong)?;
            // As CASE, which DataFusion has without its library of functions.
            let cases = args.into_iter().map(|a| (Expr::IsNotNull(Box::new(a.clone())), a)).collect();
            return self.cases(cases, Some(last));
        }
        let mut args = args.into_iter();
        let first = args.next().ok_or_else(wrong)?;
        let mut literals = Vec::new();
        for arg in args {
            let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = arg else { return Err(wrong()) };
            literals.push(text);
        }
        let takes_literals = form.contains('\'');
        if takes_literals == literals.is_empty() {
            return Err(wrong());
        }
        let function = match name.as_str() {
            "in_network" => Function::InNetwork(literals.iter().map(|l| one_network(l)).collect::<Result<_, Wrong>>()?),
            "under" => {
                Function::Under(literals.iter().map(|d| d.trim_start_matches("*.").trim_matches('.').to_lowercase()).collect())
            }
            "starts_with" => Function::StartsWith(literals),
            "ends_with" => Function::EndsWith(literals),
            "contains" => Function::Contains(literals),
            "lower" => Function::Lower,
            "length" => Function::Length,
            "hour" => Function::Hour,
            "weekday" => Function::Weekday,
            _ => Function::Seconds,
        };
        let argument = match function.wants() {
            None => self.text(first, &name)?,
            Some(wanted) => match self.type_of(&first) {
                Some(got) if got != wanted => {
                    return Err(Wrong::new(format!("expected {name}({form}), got {}", named(&got))));
                }
                _ => first,
            },
        };
        Ok(function.call(argument))
    }
}

fn pattern_of(value: &ValueWithSpan) -> Lowered {
    match text(value) {
        Some(text) => Ok(Expr::Literal(ScalarValue::Utf8(Some(text.to_owned())), None)),
        None => Err(Wrong::new(format!("a pattern is a text, got {}", shown(&value.to_string())))),
    }
}

fn one_network(text: &str) -> Result<IpNet, Wrong> {
    network(text).ok_or_else(|| Wrong::new(format!("expected a network as 10.0.0.0/8, got {}", shown(text))))
}

fn literal(value: &ValueWithSpan) -> Lowered {
    let value = match &value.value {
        Value::Number(digits, _) => match digits.parse::<i64>() {
            Ok(n) => ScalarValue::Int64(Some(n)),
            Err(_) => match digits.parse::<f64>() {
                Ok(n) if n.is_finite() => ScalarValue::Float64(Some(n)),
                _ => return Err(Wrong::new(format!("expected a number, got {}", shown(digits)))),
            },
        },
        Value::Boolean(b) => ScalarValue::Boolean(Some(*b)),
        Value::Null => ScalarValue::Null,
        _ => match text(value) {
            Some(text) => ScalarValue::Utf8(Some(text.to_owned())),
            None => return Err(Wrong::new(format!("does not know the literal {}", shown(&value.to_string())))),
        },
    };
    Ok(Expr::Literal(value, None))
}

fn text(value: &ValueWithSpan) -> Option<&str> {
    match &value.value {
        Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Some(text),
        _ => None,
    }
}

fn cast_to(ty: &ast::DataType) -> Result<DataType, Wrong> {
    use ast::DataType as T;
    Ok(match ty {
        T::Int(_) | T::Integer(_) | T::BigInt(_) | T::Int8(_) => DataType::Int64,
        T::Double(_) | T::DoublePrecision | T::Real | T::Float(_) | T::Float8 => DataType::Float64,
        T::Text | T::Varchar(_) | T::String(_) => DataType::Utf8,
        T::Boolean | T::Bool => DataType::Boolean,
        other => {
            return Err(Wrong::new(format!("casts to BIGINT, DOUBLE, TEXT and BOOLEAN, got {}", shown(&other.to_string()))));
        }
    })
}

fn said(ast: &ast::Expr) -> String {
    shown(&ast.to_string())
}
