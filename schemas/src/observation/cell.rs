//! Column types of the observation tables: how one cell is built, read, compared and named. Each is a marker type; a
//! table lists them ([`super::table`]) and everything else follows.

mod text;

use std::cmp::Ordering;
use std::sync::Arc;

use arrow_array::builder::{ArrayBuilder, BooleanBuilder, FixedSizeBinaryBuilder, PrimitiveBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float64Type, Int64Type, TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, BooleanArray, FixedSizeBinaryArray, PrimitiveArray};
use arrow_schema::{DataType, TimeUnit};

pub use self::text::{DICT_VALUES_MAX, Dict, DictArray, DictBuilder, Text};
use super::packed::{RowReader, RowWriter};
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
    /// Writes one value of a packed row.
    fn pack(to: &mut RowWriter<'_>, value: Self::Value<'_>);
    /// Reads one value of a packed row.
    fn unpack<'a>(from: &mut RowReader<'a>) -> Self::Value<'a>;
    /// Passes over one value of a packed row.
    #[inline(always)]
    fn pass(from: &mut RowReader<'_>) {
        from.pass();
    }
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
    /// Writes one value of a packed row.
    fn put(to: &mut RowWriter<'_>, value: Self::Rust);
    /// Reads one value of a packed row from its number.
    fn take(from: &mut RowReader<'_>, number: u64) -> Self::Rust;
    /// Arrow type with its parameters.
    fn data_type() -> DataType {
        Self::Arrow::DATA_TYPE
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $marker:ident, $arrow:ty, $rust:ty, $name:literal, $cmp:expr, $put:expr, $take:expr) => {
        $(#[$doc])*
        pub struct $marker;
        impl Number for $marker {
            type Arrow = $arrow;
            type Rust = $rust;
            const NAME: &'static str = $name;
            fn native(value: $rust) -> $rust { value }
            fn rust(native: $rust) -> $rust { native }
            fn compare(a: $rust, b: $rust) -> Ordering { $cmp(&a, &b) }
            #[inline(always)]
            fn put(to: &mut RowWriter<'_>, value: $rust) { $put(to, value) }
            #[inline(always)]
            fn take(from: &mut RowReader<'_>, number: u64) -> $rust { $take(from, number) }
        }
    };
}
number!(/// Unsigned 8 bit.
    U8, UInt8Type, u8, "u8", u8::cmp,
    |to: &mut RowWriter<'_>, value| to.number(u64::from(value)), RowReader::narrow);
number!(/// Unsigned 16 bit.
    U16, UInt16Type, u16, "u16", u16::cmp,
    |to: &mut RowWriter<'_>, value| to.number(u64::from(value)), RowReader::narrow);
number!(/// Unsigned 32 bit.
    U32, UInt32Type, u32, "u32", u32::cmp,
    |to: &mut RowWriter<'_>, value| to.number(u64::from(value)), RowReader::narrow);
number!(/// Unsigned 64 bit.
    U64, UInt64Type, u64, "u64", u64::cmp, RowWriter::number, |_: &mut RowReader<'_>, number| number);
number!(/// Signed 64 bit: an offset, packed as its difference to the batch's first.
    I64, Int64Type, i64, "i64", i64::cmp, RowWriter::offset, |from: &mut RowReader<'_>, number| from.offset(number));
number!(/// Double.
    F64, Float64Type, f64, "f64", f64::total_cmp,
    |to: &mut RowWriter<'_>, value: f64| to.number(value.to_bits()), |_: &mut RowReader<'_>, number| f64::from_bits(number));

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
    #[inline(always)]
    fn put(to: &mut RowWriter<'_>, value: EventTime) {
        to.time(value);
    }
    #[inline(always)]
    fn take(from: &mut RowReader<'_>, number: u64) -> EventTime {
        from.time(number)
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
    #[inline(always)]
    fn pack(to: &mut RowWriter<'_>, value: N::Rust) {
        N::put(to, value);
    }
    #[inline(always)]
    fn unpack<'a>(from: &mut RowReader<'a>) -> N::Rust {
        let number = from.there();
        N::take(from, number)
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
    #[inline(always)]
    fn pack(to: &mut RowWriter<'_>, value: Option<N::Rust>) {
        match value {
            Some(value) => N::put(to, value),
            None => to.none(),
        }
    }
    #[inline(always)]
    fn unpack<'a>(from: &mut RowReader<'a>) -> Option<N::Rust> {
        from.number().map(|number| N::take(from, number))
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
    #[inline(always)]
    fn pack(to: &mut RowWriter<'_>, value: bool) {
        to.flag(value);
    }
    #[inline(always)]
    fn unpack<'a>(from: &mut RowReader<'a>) -> bool {
        from.flag_there()
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
    fn pack(to: &mut RowWriter<'_>, value: Option<bool>) {
        match value {
            Some(value) => to.flag(value),
            None => to.none(),
        }
    }
    fn unpack<'a>(from: &mut RowReader<'a>) -> Option<bool> {
        from.flag()
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
    #[inline(always)]
    fn pack(to: &mut RowWriter<'_>, value: Option<Address>) {
        match value {
            Some(value) => to.address(value),
            None => to.none(),
        }
    }
    #[inline(always)]
    fn unpack<'a>(from: &mut RowReader<'a>) -> Option<Address> {
        from.address()
    }
}

/// Rows in a builder.
pub fn rows<B: ArrayBuilder>(builder: &B) -> usize {
    builder.len()
}
