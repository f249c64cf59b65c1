//! Columns of text: free, and such that repeat.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow_array::builder::{StringBuilder, StringDictionaryBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt16Type;
use arrow_array::{Array, ArrayRef, DictionaryArray, PrimitiveArray, StringArray};
use arrow_schema::DataType;

use super::{Cell, Opt};
use crate::observation::packed::{RowReader, RowWriter};

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
    #[inline(always)]
    fn pack(to: &mut RowWriter<'_>, value: &str) {
        to.text(value);
    }
    #[inline(always)]
    fn unpack<'a>(from: &mut RowReader<'a>) -> &'a str {
        let number = from.there();
        from.text(number)
    }
    #[inline(always)]
    fn pass(from: &mut RowReader<'_>) {
        from.pass_text();
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
    #[inline(always)]
    fn pack(to: &mut RowWriter<'_>, value: Option<&str>) {
        match value {
            Some(value) => to.text(value),
            None => to.none(),
        }
    }
    #[inline(always)]
    fn unpack<'a>(from: &mut RowReader<'a>) -> Option<&'a str> {
        from.number().map(|number| from.text(number))
    }
    #[inline(always)]
    fn pass(from: &mut RowReader<'_>) {
        from.pass_text();
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
    #[inline(always)]
    fn pack(to: &mut RowWriter<'_>, value: &str) {
        to.name(value);
    }
    #[inline(always)]
    fn unpack<'a>(from: &mut RowReader<'a>) -> &'a str {
        let number = from.there();
        from.name(number)
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
    #[inline(always)]
    fn pack(to: &mut RowWriter<'_>, value: Option<&str>) {
        match value {
            Some(value) => to.name(value),
            None => to.none(),
        }
    }
    #[inline(always)]
    fn unpack<'a>(from: &mut RowReader<'a>) -> Option<&'a str> {
        from.number().map(|number| from.name(number))
    }
}
