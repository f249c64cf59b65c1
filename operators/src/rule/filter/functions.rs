//! Functions of expressions: few, total, and the same everywhere. Each is DataFusion's kind of function; what DataFusion
//! itself brings (clocks, chance, mathematics of the machine's own library, texts that grow) is not among them.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampNanosecondType;
use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow_schema::DataType;
use datafusion_common::arrow::compute::cast;
use datafusion_common::{Result, exec_err};
use datafusion_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use ipnet::IpNet;
use tidewatch_schemas::address::Address;

use super::columns::{ADDRESS, moment};

/// Functions: name, arguments, what they say.
pub const FUNCTIONS: &[(&str, &str, &str)] = &[
    ("in_network", "address, 'network', ...", "the address lies in one of the networks"),
    ("under", "text, 'domain', ...", "the name is one of the domains or lies below it; whole labels, any case"),
    ("starts_with", "text, 'text', ...", "begins with one of them"),
    ("ends_with", "text, 'text', ...", "ends with one of them"),
    ("contains", "text, 'text', ...", "has one of them in it"),
    ("lower", "text", "in lower case"),
    ("length", "text", "number of characters"),
    ("hour", "time", "hour of the day, 0 to 23, UTC"),
    ("weekday", "time", "day of the week, 1 (Monday) to 7, UTC"),
    ("seconds", "time", "seconds since 1970, so that times can be subtracted"),
    ("coalesce", "value, value, ...", "the first that is not absent"),
];

/// A function with what its literals say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Function {
    InNetwork(Vec<IpNet>),
    Under(Vec<String>),
    StartsWith(Vec<String>),
    EndsWith(Vec<String>),
    Contains(Vec<String>),
    Lower,
    Length,
    Hour,
    Weekday,
    Seconds,
}

impl Function {
    /// Applied to its first argument.
    pub(super) fn call(self, argument: Expr) -> Expr {
        let signature = Signature::any(1, Volatility::Immutable);
        ScalarUDF::new_from_impl(Udf { function: self, signature }).call(vec![argument])
    }

    /// Type of that argument, `None` = text.
    pub(super) fn wants(&self) -> Option<DataType> {
        match self {
            Self::InNetwork(_) => Some(ADDRESS),
            Self::Hour | Self::Weekday | Self::Seconds => Some(moment()),
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::InNetwork(_) => "in_network",
            Self::Under(_) => "under",
            Self::StartsWith(_) => "starts_with",
            Self::EndsWith(_) => "ends_with",
            Self::Contains(_) => "contains",
            Self::Lower => "lower",
            Self::Length => "length",
            Self::Hour => "hour",
            Self::Weekday => "weekday",
            Self::Seconds => "seconds",
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Udf {
    function: Function,
    signature: Signature,
}

impl ScalarUDFImpl for Udf {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.function {
            Function::Lower => DataType::Utf8,
            Function::Length | Function::Hour | Function::Weekday => DataType::Int64,
            Function::Seconds => DataType::Float64,
            _ => DataType::Boolean,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(argument) = args.args.into_iter().next() else { return exec_err!("no argument") };
        let array = argument.into_array(args.number_rows)?;
        Ok(ColumnarValue::Array(apply(&self.function, &array)?))
    }
}

fn apply(function: &Function, array: &ArrayRef) -> Result<ArrayRef> {
    Ok(match function {
        Function::InNetwork(networks) => {
            let Some(addresses) = array.as_fixed_size_binary_opt() else { return exec_err!("in_network is of addresses") };
            let inside = |bytes: &[u8]| {
                let address = Address(bytes.try_into().ok()?).to_ip();
                Some(networks.iter().any(|network| network.contains(&address)))
            };
            Arc::new(addresses.iter().map(|bytes| bytes.and_then(inside)).collect::<BooleanArray>())
        }
        Function::Under(domains) => whether(array, |name| {
            let name = name.trim_end_matches('.');
            domains.iter().any(|domain| {
                let Some(at) = name.len().checked_sub(domain.len()) else { return false };
                let (before, end) = name.as_bytes().split_at(at);
                end.eq_ignore_ascii_case(domain.as_bytes()) && before.last().is_none_or(|b| *b == b'.')
            })
        })?,
        Function::StartsWith(with) => whether(array, |text| with.iter().any(|w| text.starts_with(w)))?,
        Function::EndsWith(with) => whether(array, |text| with.iter().any(|w| text.ends_with(w)))?,
        Function::Contains(with) => whether(array, |text| with.iter().any(|w| text.contains(w)))?,
        Function::Lower => Arc::new(texts(array)?.iter().map(|t| t.map(str::to_lowercase)).collect::<StringArray>()),
        Function::Length => {
            let length = |t: &str| i64::try_from(t.chars().count()).unwrap_or(i64::MAX);
            Arc::new(texts(array)?.iter().map(|t| t.map(length)).collect::<Int64Array>())
        }
        Function::Hour => whole(array, |ns| ns.rem_euclid(86_400_000_000_000) / 3_600_000_000_000)?,
        // The first of January 1970 was a Thursday.
        Function::Weekday => whole(array, |ns| (ns.div_euclid(86_400_000_000_000) + 3).rem_euclid(7) + 1)?,
        Function::Seconds => Arc::new(times(array)?.iter().map(|ns| ns.map(|ns| ns as f64 / 1e9)).collect::<Float64Array>()),
    })
}

fn texts(array: &ArrayRef) -> Result<StringArray> {
    Ok(cast(array, &DataType::Utf8)?.as_string::<i32>().clone())
}

fn whether(array: &ArrayRef, is: impl Fn(&str) -> bool) -> Result<ArrayRef> {
    Ok(Arc::new(texts(array)?.iter().map(|t| t.map(&is)).collect::<BooleanArray>()))
}

fn times(array: &ArrayRef) -> Result<&arrow_array::TimestampNanosecondArray> {
    match array.as_primitive_opt::<TimestampNanosecondType>() {
        Some(times) => Ok(times),
        None => exec_err!("not of times"),
    }
}

fn whole(array: &ArrayRef, of: impl Fn(i64) -> i64) -> Result<ArrayRef> {
    Ok(Arc::new(times(array)?.iter().map(|ns| ns.map(&of)).collect::<Int64Array>()))
}
