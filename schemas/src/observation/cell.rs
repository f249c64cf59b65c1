//! Column types of the observation tables: how one cell is built, read, compared and named. Each is a marker type; a
//! table lists them ([`super::table`]) and everything else follows.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BooleanBuilder, FixedSizeBinaryBuilder, PrimitiveBuilder, StringBuilder, StringDictionaryBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float64Type, Int64Type, TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, BooleanArray, DictionaryArray, FixedSizeBinaryArray, PrimitiveArray, StringArray};
use arrow_schema::{DataType, TimeUnit};

use crate::address::Address;
use crate::time::EventTime;

/// A column type.
pub trait Cell {
    /// Arrow builder.
    type Builder;
    /// Arrow array, cheap to clone.
    type Array: Clone + std::fmt::Debug;
    /// What a row holds.
    type Value<'a>: Copy;
    /// May be absent.
    const NULLABLE: bool;
    /// Name in the documents.
    const NAME: &'static str;

    /// Arrow type.
    fn data_type() -> DataType;
    /// An empty builder.
    fn builder() -> Self::Builder;
    /// Appends one value.
    fn push(builder: &mut Self::Builder, value: Self::Value<'_>);
    /// Ends the column.
    fn finish(builder: &mut Self::Builder) -> ArrayRef;
    /// The typed array; `None` when the column has another type.
    fn downcast(array: &ArrayRef) -> Option<Self::Array>;
    /// Value of row `i`; the caller stays inside the array's length.
    fn get(array: &Self::Array, i: usize) -> Self::Value<'_>;
    /// A total order of values.
    fn compare(a: Self::Value<'_>, b: Self::Value<'_>) -> Ordering;
}

/// A column type that may be absent.
pub struct Opt<C>(std::marker::PhantomData<C>);

/// A number type with its Arrow twin.
pub trait Number {
    /// Arrow type.
    type Arrow: ArrowPrimitiveType;
    /// Rust value in a row.
    type Rust: Copy;
    /// Name in the documents.
    const NAME: &'static str;
    /// To Arrow.
    fn native(value: Self::Rust) -> <Self::Arrow as ArrowPrimitiveType>::Native;
    /// From Arrow.
    fn rust(native: <Self::Arrow as ArrowPrimitiveType>::Native) -> Self::Rust;
    /// A total order.
    fn compare(a: Self::Rust, b: Self::Rust) -> Ordering;
    /// Arrow type with its parameters.
    fn data_type() -> DataType {
        Self::Arrow::DATA_TYPE
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $marker:ident, $arrow:ty, $rust:ty, $name:literal, $cmp:expr) => {
        $(#[$doc])*
        pub struct $marker;
        impl Number for $marker {
            type Arrow = $arrow;
            type Rust = $rust;
            const NAME: &'static str = $name;
            fn native(value: $rust) -> $rust { value }
            fn rust(native: $rust) -> $rust { native }
            fn compare(a: $rust, b: $rust) -> Ordering { $cmp(&a, &b) }
        }
    };
}
number!(/// Unsigned 8 bit.
    U8, UInt8Type, u8, "u8", u8::cmp);
number!(/// Unsigned 16 bit.
    U16, UInt16Type, u16, "u16", u16::cmp);
number!(/// Unsigned 32 bit.
    U32, UInt32Type, u32, "u32", u32::cmp);
number!(/// Unsigned 64 bit.
    U64, UInt64Type, u64, "u64", u64::cmp);
number!(/// Signed 64 bit.
    I64, Int64Type, i64, "i64", i64::cmp);
number!(/// Double.
    F64, Float64Type, f64, "f64", f64::total_cmp);

/// A moment: Arrow timestamp, nanoseconds, UTC.
pub struct Time;
impl Number for Time {
    type Arrow = TimestampNanosecondType;
    type Rust = EventTime;
    const NAME: &'static str = "time";
    fn native(value: EventTime) -> i64 {
        value.0
    }
    fn rust(native: i64) -> EventTime {
        EventTime(native)
    }
    fn compare(a: EventTime, b: EventTime) -> Ordering {
        a.cmp(&b)
    }
    fn data_type() -> DataType {
        DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
    }
}

impl<N: Number> Cell for N {
    type Builder = PrimitiveBuilder<N::Arrow>;
    type Array = PrimitiveArray<N::Arrow>;
    type Value<'a> = N::Rust;
    const NULLABLE: bool = false;
    const NAME: &'static str = N::NAME;
    fn data_type() -> DataType {
        <N as Number>::data_type()
    }
    fn builder() -> Self::Builder {
        PrimitiveBuilder::new().with_data_type(<N as Number>::data_type())
    }
    fn push(builder: &mut Self::Builder, value: N::Rust) {
        builder.append_value(N::native(value));
    }
    fn finish(builder: &mut Self::Builder) -> ArrayRef {
        Arc::new(builder.finish())
    }
    fn downcast(array: &ArrayRef) -> Option<Self::Array> {
        (array.data_type() == &<N as Number>::data_type()).then(|| array.as_primitive_opt::<N::Arrow>().cloned()).flatten()
    }
    fn get(array: &Self::Array, i: usize) -> N::Rust {
        N::rust(array.value(i))
    }
    fn compare(a: N::Rust, b: N::Rust) -> Ordering {
        <N as Number>::compare(a, b)
    }
}

impl<N: Number> Cell for Opt<N> {
    type Builder = PrimitiveBuilder<N::Arrow>;
    type Array = PrimitiveArray<N::Arrow>;
    type Value<'a> = Option<N::Rust>;
    const NULLABLE: bool = true;
    const NAME: &'static str = N::NAME;
    fn data_type() -> DataType {
        <N as Number>::data_type()
    }
    fn builder() -> Self::Builder {
        <N as Cell>::builder()
    }
    fn push(builder: &mut Self::Builder, value: Option<N::Rust>) {
        builder.append_option(value.map(N::native));
    }
    fn finish(builder: &mut Self::Builder) -> ArrayRef {
        Arc::new(builder.finish())
    }
    fn downcast(array: &ArrayRef) -> Option<Self::Array> {
        <N as Cell>::downcast(array)
    }
    fn get(array: &Self::Array, i: usize) -> Option<N::Rust> {
        array.is_valid(i).then(|| N::rust(array.value(i)))
    }
    fn compare(a: Option<N::Rust>, b: Option<N::Rust>) -> Ordering {
        order_options(a, b, <N as Number>::compare)
    }
}

fn order_options<T>(a: Option<T>, b: Option<T>, order: impl Fn(T, T) -> Ordering) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => order(a, b),
    }
}

/// A truth value.
pub struct Flag;
impl Cell for Flag {
    type Builder = BooleanBuilder;
    type Array = BooleanArray;
    type Value<'a> = bool;
    const NULLABLE: bool = false;
    const NAME: &'static str = "bool";
    fn data_type() -> DataType {
        DataType::Boolean
    }
    fn builder() -> BooleanBuilder {
        BooleanBuilder::new()
    }
    fn push(builder: &mut BooleanBuilder, value: bool) {
        builder.append_value(value);
    }
    fn finish(builder: &mut BooleanBuilder) -> ArrayRef {
        Arc::new(builder.finish())
    }
    fn downcast(array: &ArrayRef) -> Option<BooleanArray> {
        array.as_boolean_opt().cloned()
    }
    fn get(array: &BooleanArray, i: usize) -> bool {
        array.value(i)
    }
    fn compare(a: bool, b: bool) -> Ordering {
        a.cmp(&b)
    }
}

impl Cell for Opt<Flag> {
    type Builder = BooleanBuilder;
    type Array = BooleanArray;
    type Value<'a> = Option<bool>;
    const NULLABLE: bool = true;
    const NAME: &'static str = "bool";
    fn data_type() -> DataType {
        DataType::Boolean
    }
    fn builder() -> BooleanBuilder {
        BooleanBuilder::new()
    }
    fn push(builder: &mut BooleanBuilder, value: Option<bool>) {
        builder.append_option(value);
    }
    fn finish(builder: &mut BooleanBuilder) -> ArrayRef {
        Arc::new(builder.finish())
    }
    fn downcast(array: &ArrayRef) -> Option<BooleanArray> {
        array.as_boolean_opt().cloned()
    }
    fn get(array: &BooleanArray, i: usize) -> Option<bool> {
        array.is_valid(i).then(|| array.value(i))
    }
    fn compare(a: Option<bool>, b: Option<bool>) -> Ordering {
        a.cmp(&b)
    }
}

/// An address: 16 bytes, IPv4 mapped; absent where none is known.
pub struct Addr;
impl Cell for Opt<Addr> {
    type Builder = FixedSizeBinaryBuilder;
    type Array = FixedSizeBinaryArray;
    type Value<'a> = Option<Address>;
    const NULLABLE: bool = true;
    const NAME: &'static str = "address";
    fn data_type() -> DataType {
        DataType::FixedSizeBinary(16)
    }
    fn builder() -> FixedSizeBinaryBuilder {
        FixedSizeBinaryBuilder::new(16)
    }
    fn push(builder: &mut FixedSizeBinaryBuilder, value: Option<Address>) {
        match value {
            // The builder refuses only values of another width; this one is 16 bytes by type.
            Some(address) => drop(builder.append_value(address.0)),
            None => builder.append_null(),
        }
    }
    fn finish(builder: &mut FixedSizeBinaryBuilder) -> ArrayRef {
        Arc::new(builder.finish())
    }
    fn downcast(array: &ArrayRef) -> Option<FixedSizeBinaryArray> {
        (array.data_type() == &Self::data_type()).then(|| array.as_fixed_size_binary_opt().cloned()).flatten()
    }
    fn get(array: &FixedSizeBinaryArray, i: usize) -> Option<Address> {
        if array.is_null(i) {
            return None;
        }
        array.value(i).try_into().ok().map(Address)
    }
    fn compare(a: Option<Address>, b: Option<Address>) -> Ordering {
        a.cmp(&b)
    }
}

/// Free text.
pub struct Text;
impl Cell for Text {
    type Builder = StringBuilder;
    type Array = StringArray;
    type Value<'a> = &'a str;
    const NULLABLE: bool = false;
    const NAME: &'static str = "text";
    fn data_type() -> DataType {
        DataType::Utf8
    }
    fn builder() -> StringBuilder {
        StringBuilder::new()
    }
    fn push(builder: &mut StringBuilder, value: &str) {
        builder.append_value(value);
    }
    fn finish(builder: &mut StringBuilder) -> ArrayRef {
        Arc::new(builder.finish())
    }
    fn downcast(array: &ArrayRef) -> Option<StringArray> {
        array.as_string_opt().cloned()
    }
    fn get(array: &StringArray, i: usize) -> &str {
        array.value(i)
    }
    fn compare(a: &str, b: &str) -> Ordering {
        a.cmp(b)
    }
}

impl Cell for Opt<Text> {
    type Builder = StringBuilder;
    type Array = StringArray;
    type Value<'a> = Option<&'a str>;
    const NULLABLE: bool = true;
    const NAME: &'static str = "text";
    fn data_type() -> DataType {
        DataType::Utf8
    }
    fn builder() -> StringBuilder {
        StringBuilder::new()
    }
    fn push(builder: &mut StringBuilder, value: Option<&str>) {
        builder.append_option(value);
    }
    fn finish(builder: &mut StringBuilder) -> ArrayRef {
        Arc::new(builder.finish())
    }
    fn downcast(array: &ArrayRef) -> Option<StringArray> {
        array.as_string_opt().cloned()
    }
    fn get(array: &StringArray, i: usize) -> Option<&str> {
        array.is_valid(i).then(|| array.value(i))
    }
    fn compare(a: Option<&str>, b: Option<&str>) -> Ordering {
        a.cmp(&b)
    }
}

/// Text that repeats (tenant, exporter, format): a dictionary of at most 65,536 values per batch.
pub struct Dict;

/// A dictionary column opened for reading.
#[derive(Clone, Debug)]
pub struct DictArray {
    keys: PrimitiveArray<UInt16Type>,
    values: StringArray,
}

impl DictArray {
    fn downcast(array: &ArrayRef) -> Option<Self> {
        let dict: &DictionaryArray<UInt16Type> = array.as_dictionary_opt()?;
        let values = dict.values().as_string_opt::<i32>()?.clone();
        Some(Self { keys: dict.keys().clone(), values })
    }

    fn get(&self, i: usize) -> Option<&str> {
        let key = usize::from(self.keys.is_valid(i).then(|| self.keys.value(i))?);
        (key < self.values.len() && self.values.is_valid(key)).then(|| self.values.value(key))
    }
}

/// A dictionary under construction. Beyond 65,536 distinct values the batch must be ended: [`DICT_VALUES_MAX`].
pub type DictBuilder = StringDictionaryBuilder<UInt16Type>;

/// Distinct values one dictionary column can hold; a batch of at most that many rows never exceeds it.
pub const DICT_VALUES_MAX: usize = 1 << 16;

impl Cell for Dict {
    type Builder = DictBuilder;
    type Array = DictArray;
    type Value<'a> = &'a str;
    const NULLABLE: bool = false;
    const NAME: &'static str = "dictionary";
    fn data_type() -> DataType {
        DataType::Dictionary(Box::new(DataType::UInt16), Box::new(DataType::Utf8))
    }
    fn builder() -> DictBuilder {
        DictBuilder::new()
    }
    fn push(builder: &mut DictBuilder, value: &str) {
        // Refused only past DICT_VALUES_MAX distinct values, which ROWS_MAX rows cannot reach.
        if builder.append(value).is_err() {
            builder.append_null();
        }
    }
    fn finish(builder: &mut DictBuilder) -> ArrayRef {
        Arc::new(builder.finish())
    }
    fn downcast(array: &ArrayRef) -> Option<DictArray> {
        DictArray::downcast(array)
    }
    fn get(array: &DictArray, i: usize) -> &str {
        array.get(i).unwrap_or("")
    }
    fn compare(a: &str, b: &str) -> Ordering {
        a.cmp(b)
    }
}

impl Cell for Opt<Dict> {
    type Builder = DictBuilder;
    type Array = DictArray;
    type Value<'a> = Option<&'a str>;
    const NULLABLE: bool = true;
    const NAME: &'static str = "dictionary";
    fn data_type() -> DataType {
        <Dict as Cell>::data_type()
    }
    fn builder() -> DictBuilder {
        DictBuilder::new()
    }
    fn push(builder: &mut DictBuilder, value: Option<&str>) {
        match value {
            Some(value) => <Dict as Cell>::push(builder, value),
            None => builder.append_null(),
        }
    }
    fn finish(builder: &mut DictBuilder) -> ArrayRef {
        Arc::new(builder.finish())
    }
    fn downcast(array: &ArrayRef) -> Option<DictArray> {
        DictArray::downcast(array)
    }
    fn get(array: &DictArray, i: usize) -> Option<&str> {
        array.get(i)
    }
    fn compare(a: Option<&str>, b: Option<&str>) -> Ordering {
        a.cmp(&b)
    }
}

/// Rows in a builder.
pub fn rows<B: ArrayBuilder>(builder: &B) -> usize {
    builder.len()
}
