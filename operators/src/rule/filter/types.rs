//! Types of expressions: literals take the type of what they stand beside, and what is compared or calculated with is made
//! of one type, by rules of few words: whole numbers are 64 bit with a sign; beside a fraction they are one.

use arrow_schema::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::{BinaryExpr, Case, Cast, Expr, ExprSchemable, Operator};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::document::shown;
use tidewatch_schemas::time::EventTime;

use super::Wrong;
use super::columns::{ADDRESS, moment};
use super::lower::{Lower, Lowered};
use crate::rule::allow::network;

impl Lower<'_> {
    pub(super) fn type_of(&self, expr: &Expr) -> Option<DataType> {
        expr.get_type(self.schema?).ok()
    }

    /// Two values of one type.
    pub(super) fn even(&self, l: Expr, r: Expr) -> Result<(Expr, Expr), Wrong> {
        let (Some(lt), Some(rt)) = (self.type_of(&l), self.type_of(&r)) else { return Ok((l, r)) };
        let (lt, rt) = (plain(lt), plain(rt));
        if lt == rt {
            return Ok((l, r));
        }
        let is_number = |ty: &DataType| ty.is_integer() || *ty == DataType::Float64;
        match (&lt, &rt) {
            (DataType::Null, _) | (_, DataType::Null) => {
                Err(Wrong::new("compares with NULL, which is never true; there are IS NULL and IS NOT NULL"))
            }
            (lt, rt) if lt.is_integer() && rt.is_integer() => Ok(match (as_whole(&l, rt), as_whole(&r, lt)) {
                (Some(l), _) => (l, r),
                (_, Some(r)) => (l, r),
                _ => (cast(l, DataType::Int64), cast(r, DataType::Int64)),
            }),
            (lt, rt) if is_number(lt) && is_number(rt) => Ok((cast(l, DataType::Float64), cast(r, DataType::Float64))),
            (lt, rt) => Err(Wrong::new(format!("compares {} with {}", named(lt), named(rt)))),
        }
    }

    /// A literal of an `IN`, of the type of what is looked for.
    pub(super) fn member(&self, of: &Expr, literal: Expr) -> Lowered {
        let literal = self.beside(of, literal)?;
        let (Some(wanted), Some(got)) = (self.type_of(of).map(plain), self.type_of(&literal)) else { return Ok(literal) };
        match &literal {
            _ if wanted == got => Ok(literal),
            Expr::Literal(value, _) if wanted == DataType::Float64 && got.is_integer() => {
                Ok(Expr::Literal(value.cast_to(&wanted)?, None))
            }
            _ => as_whole(&literal, &wanted)
                .ok_or_else(|| Wrong::new(format!("looks for {} among {}", named(&wanted), value_of(&literal)))),
        }
    }

    /// The results of a `CASE`, of one type.
    pub(super) fn cases(&self, cases: Vec<(Expr, Expr)>, otherwise: Option<Expr>) -> Lowered {
        let results = cases.iter().map(|(_, then)| then).chain(&otherwise);
        let types: Vec<DataType> = results.filter_map(|e| self.type_of(e)).map(plain).filter(|t| *t != DataType::Null).collect();
        let one = match types.split_first() {
            None => None,
            Some((first, rest)) if rest.iter().all(|ty| ty == first) => Some(first.clone()),
            _ if types.iter().all(DataType::is_integer) => Some(DataType::Int64),
            _ if types.iter().all(|t| t.is_integer() || *t == DataType::Float64) => Some(DataType::Float64),
            Some(_) => {
                let names: Vec<&str> = types.iter().map(named).collect();
                return Err(Wrong::new(format!("has results of several kinds: {}", names.join(", "))));
            }
        };
        let made = |e: Expr| match &one {
            Some(ty) if self.type_of(&e).as_ref() != Some(ty) => cast(e, ty.clone()),
            _ => e,
        };
        let cases = cases.into_iter().map(|(when, then)| (Box::new(when), Box::new(made(then)))).collect();
        Ok(Expr::Case(Case::new(None, cases, otherwise.map(made).map(Box::new))))
    }

    /// A literal text beside an address or a moment is one.
    pub(super) fn beside(&self, other: &Expr, expr: Expr) -> Lowered {
        let Some(wanted) = self.type_of(other) else { return Ok(expr) };
        match &expr {
            Expr::Literal(ScalarValue::Utf8(Some(written)), _) if wanted == ADDRESS => address(written),
            Expr::Literal(ScalarValue::Utf8(Some(written)), _) if wanted == moment() => time(written),
            Expr::Literal(value, _) if wanted == ADDRESS && value.data_type() != ADDRESS && !value.is_null() => {
                Err(Wrong::new(format!("compares an address with {value}; addresses stand in single quotes")))
            }
            _ => Ok(expr),
        }
    }

    /// A number to calculate with: whole ones are 64 bit and have a sign.
    pub(super) fn number(&self, expr: Expr, sign: &str) -> Lowered {
        let Some(ty) = self.type_of(&expr) else { return Ok(expr) };
        match ty {
            DataType::Int64 | DataType::Float64 | DataType::Null => Ok(expr),
            ty if ty.is_integer() => Ok(cast(expr, DataType::Int64)),
            ty if ty == moment() => Err(Wrong::new(format!("{sign} is of numbers; seconds() makes one of a time"))),
            ty if ty == ADDRESS => Err(Wrong::new(format!("{sign} is of numbers, not of addresses"))),
            ty => Err(Wrong::new(format!("{sign} is of numbers, got {}", named(&ty)))),
        }
    }

    /// A text to compare with patterns.
    pub(super) fn text(&self, expr: Expr, what: &str) -> Lowered {
        match self.type_of(&expr) {
            None | Some(DataType::Utf8 | DataType::Null) => Ok(expr),
            Some(DataType::Dictionary(_, of)) if *of == DataType::Utf8 => Ok(cast(expr, DataType::Utf8)),
            Some(ty) if ty == ADDRESS => {
                Err(Wrong::new(format!("{what} is of texts, not of addresses; there is in_network(address, '10.0.0.0/8')")))
            }
            Some(ty) => Err(Wrong::new(format!("{what} is of texts, got {}", named(&ty)))),
        }
    }
}

pub(super) fn both(l: Expr, op: Operator, r: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(l), op, Box::new(r)))
}

pub(super) fn cast(expr: Expr, to: DataType) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr), to))
}

/// A text by whatever means it is kept.
pub(super) fn plain(ty: DataType) -> DataType {
    match ty {
        DataType::Dictionary(_, of) => *of,
        ty => ty,
    }
}

/// A type for people.
pub(super) fn named(ty: &DataType) -> &'static str {
    match ty {
        DataType::Boolean => "a condition",
        DataType::Utf8 | DataType::Dictionary(..) => "a text",
        DataType::Float64 => "a number",
        DataType::Timestamp(..) => "a time",
        DataType::Null => "NULL",
        ty if *ty == ADDRESS => "an address",
        ty if ty.is_integer() => "a whole number",
        _ => "something else",
    }
}

/// A whole literal as a narrower whole number; `None` = it is none, or does not fit.
pub(super) fn as_whole(literal: &Expr, ty: &DataType) -> Option<Expr> {
    let Expr::Literal(value @ ScalarValue::Int64(Some(_)), _) = literal else { return None };
    let value = value.cast_to(ty).ok().filter(|v| ty.is_integer() && !v.is_null())?;
    Some(Expr::Literal(value, None))
}

pub(super) fn address(written: &str) -> Lowered {
    match Address::parse(written.as_bytes()) {
        Some(address) => Ok(Expr::Literal(ScalarValue::FixedSizeBinary(16, Some(address.0.to_vec())), None)),
        None if network(written).is_some() => {
            Err(Wrong::new(format!("expected an address, got the network {written}; there is in_network(address, '{written}')")))
        }
        None => Err(Wrong::new(format!("expected an address, got {}", shown(written)))),
    }
}

pub(super) fn time(written: &str) -> Lowered {
    let at = if written.len() == 10 {
        EventTime::parse_rfc3339(&format!("{written}T00:00:00Z"))
    } else {
        EventTime::parse_rfc3339(written)
    };
    let at = at.ok_or_else(|| Wrong::new(format!("expected a moment as 2026-06-01T12:00:00Z, got {}", shown(written))))?;
    Ok(Expr::Literal(ScalarValue::TimestampNanosecond(Some(at.0), Some("UTC".into())), None))
}

/// A literal for people.
fn value_of(literal: &Expr) -> String {
    match literal {
        Expr::Literal(value, _) => shown(&value.to_string()),
        other => shown(&other.to_string()),
    }
}
