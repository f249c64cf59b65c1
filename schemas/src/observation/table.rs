//! One macro: a table is a list of columns, each written once with its type, unit, upstream field and meaning. The row,
//! the builder, the reader, the Arrow schema and the documentation follow from it.

use arrow_schema::DataType;

/// What the documents say of one column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Name, in the field's words.
    pub name: &'static str,
    /// Type's name.
    pub kind: &'static str,
    /// Arrow type.
    pub data_type: DataType,
    /// May be absent ("not known" is absent, never 0).
    pub nullable: bool,
    /// Unit, or `-`.
    pub unit: &'static str,
    /// Where the value comes from upstream.
    pub upstream: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// Defines one observation table. The first columns, common to all tables, are prepended:
/// see [`crate::observation`].
macro_rules! table {
    ($(#[$doc:meta])* $name:literal version $version:literal, $row:ident, $builder:ident, $batch:ident;
     $($col:ident : $ty:ident $(<$inner:ident>)?, $unit:literal, $upstream:literal, $meaning:literal;)*) => {
        $crate::observation::table::table_with_common! {
            $(#[$doc])* $name version $version, $row, $builder, $batch;
            [
                tenant: Dict, "-", "verified tenant", "owner of the row";
                key: U64, "-", "XXH3 of tenant and host", "routing key; its key group decides the partition";
                host_address: Opt<Addr>, "-", "internal end", "address of the host that the row is filed under";
                host_name: Opt<Dict>, "-", "internal end", "name of that host where no address is known";
                primary: Flag, "-", "computed", "false on the copy filed under the second internal host";
                event_time: Time, "ns", "see each format", "the moment the record could first be known";
                format: Dict, "-", "input", "input format that the row was decoded from";
                observer: Opt<Dict>, "-", "agent, exporter, sensor", "who saw it";
            ]
            [ $($col : $ty $(<$inner>)?, $unit, $upstream, $meaning;)* ]
            [
                offset: I64, "-", "log", "offset of the input record";
                row: U32, "-", "decoder", "index of the row inside its record";
            ]
        }
    };
}

macro_rules! table_with_common {
    ($(#[$doc:meta])* $name:literal version $version:literal, $row:ident, $builder:ident, $batch:ident;
     [$($c:ident : $cty:ident $(<$cin:ident>)?, $cu:literal, $cup:literal, $cm:literal;)*]
     [$($o:ident : $oty:ident $(<$oin:ident>)?, $ou:literal, $oup:literal, $om:literal;)*]
     [$($p:ident : $pty:ident $(<$pin:ident>)?, $pu:literal, $pup:literal, $pm:literal;)*]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub struct $row<'a> {
            $(#[doc = $cm] pub $c: $crate::observation::table::value!('a, $cty $(<$cin>)?),)*
            $(#[doc = $om] pub $o: $crate::observation::table::value!('a, $oty $(<$oin>)?),)*
            $(#[doc = $pm] pub $p: $crate::observation::table::value!('a, $pty $(<$pin>)?),)*
        }

        impl $row<'_> {
            /// Orders rows by content alone: every column but the position in the input.
            pub fn compare_content(&self, other: &$row<'_>) -> std::cmp::Ordering {
                std::cmp::Ordering::Equal
                    $(.then_with(|| <$crate::observation::table::cell!($cty $(<$cin>)?) as $crate::observation::cell::Cell>::compare(self.$c, other.$c)))*
                    $(.then_with(|| <$crate::observation::table::cell!($oty $(<$oin>)?) as $crate::observation::cell::Cell>::compare(self.$o, other.$o)))*
            }

            /// Columns.
            pub(crate) const WIDTH: usize = [$(stringify!($c),)* $(stringify!($o),)* $(stringify!($p),)*].len();

            /// Writes the row, column by column.
            #[inline(always)]
            pub(crate) fn pack(&self, to: &mut $crate::observation::packed::RowWriter<'_>) {
                $(<$crate::observation::table::cell!($cty $(<$cin>)?) as $crate::observation::cell::Cell>::pack(to, self.$c);)*
                $(<$crate::observation::table::cell!($oty $(<$oin>)?) as $crate::observation::cell::Cell>::pack(to, self.$o);)*
                $(<$crate::observation::table::cell!($pty $(<$pin>)?) as $crate::observation::cell::Cell>::pack(to, self.$p);)*
            }

            /// Column names and values as JSON, absent ones left out; see [`crate::observation::describe()`].
            pub fn describe(&self) -> serde_json::Map<String, serde_json::Value> {
                let mut out = serde_json::Map::new();
                let mut put = |name: &str, value: Option<serde_json::Value>| {
                    if let Some(value) = value {
                        out.insert(name.to_owned(), value);
                    }
                };
                $(put(stringify!($c), <$crate::observation::table::cell!($cty $(<$cin>)?) as $crate::observation::describe::Describe>::describe(self.$c));)*
                $(put(stringify!($o), <$crate::observation::table::cell!($oty $(<$oin>)?) as $crate::observation::describe::Describe>::describe(self.$o));)*
                $(put(stringify!($p), <$crate::observation::table::cell!($pty $(<$pin>)?) as $crate::observation::describe::Describe>::describe(self.$p));)*
                // Whatever features of serde_json the build has.
                out.sort_keys();
                out
            }
        }

        impl<'a> $row<'a> {
            /// Reads what [`Self::pack`] wrote.
            #[inline(always)]
            pub(crate) fn unpack(from: &mut $crate::observation::packed::RowReader<'a>) -> Self {
                // Fields are read in the order in which they stand here.
                Self {
                    $($c: <$crate::observation::table::cell!($cty $(<$cin>)?) as $crate::observation::cell::Cell>::unpack(from),)*
                    $($o: <$crate::observation::table::cell!($oty $(<$oin>)?) as $crate::observation::cell::Cell>::unpack(from),)*
                    $($p: <$crate::observation::table::cell!($pty $(<$pin>)?) as $crate::observation::cell::Cell>::unpack(from),)*
                }
            }

            /// Reads the columns that all tables begin with, and passes over the others.
            #[inline(always)]
            pub(crate) fn pass(from: &mut $crate::observation::packed::RowReader<'a>) -> (u64, $crate::time::EventTime) {
                let row = Self {
                    $($c: <$crate::observation::table::cell!($cty $(<$cin>)?) as $crate::observation::cell::Cell>::unpack(from),)*
                    ..Self::default()
                };
                $(<$crate::observation::table::cell!($oty $(<$oin>)?) as $crate::observation::cell::Cell>::pass(from);)*
                $(<$crate::observation::table::cell!($pty $(<$pin>)?) as $crate::observation::cell::Cell>::pass(from);)*
                (row.key, row.event_time)
            }
        }

        #[doc = concat!("Builds a batch of ", $name, " rows, one push a row, no allocation per row.")]
        pub struct $builder {
            rows: usize,
            $($c: <$crate::observation::table::cell!($cty $(<$cin>)?) as $crate::observation::cell::Cell>::Builder,)*
            $($o: <$crate::observation::table::cell!($oty $(<$oin>)?) as $crate::observation::cell::Cell>::Builder,)*
            $($p: <$crate::observation::table::cell!($pty $(<$pin>)?) as $crate::observation::cell::Cell>::Builder,)*
        }

        impl Default for $builder {
            fn default() -> Self {
                Self {
                    rows: 0,
                    $($c: <$crate::observation::table::cell!($cty $(<$cin>)?) as $crate::observation::cell::Cell>::builder(),)*
                    $($o: <$crate::observation::table::cell!($oty $(<$oin>)?) as $crate::observation::cell::Cell>::builder(),)*
                    $($p: <$crate::observation::table::cell!($pty $(<$pin>)?) as $crate::observation::cell::Cell>::builder(),)*
                }
            }
        }

        impl std::fmt::Debug for $builder {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($builder)).field("rows", &self.rows).finish_non_exhaustive()
            }
        }

        impl $builder {
            /// Appends a row.
            pub fn push(&mut self, row: &$row<'_>) {
                $(<$crate::observation::table::cell!($cty $(<$cin>)?) as $crate::observation::cell::Cell>::push(&mut self.$c, row.$c);)*
                $(<$crate::observation::table::cell!($oty $(<$oin>)?) as $crate::observation::cell::Cell>::push(&mut self.$o, row.$o);)*
                $(<$crate::observation::table::cell!($pty $(<$pin>)?) as $crate::observation::cell::Cell>::push(&mut self.$p, row.$p);)*
                self.rows += 1;
            }

            /// Rows so far.
            pub fn len(&self) -> usize {
                self.rows
            }

            /// No row yet.
            pub fn is_empty(&self) -> bool {
                self.rows == 0
            }

            /// Ends the batch; the builder starts anew.
            pub fn finish(&mut self) -> arrow_array::RecordBatch {
                self.rows = 0;
                let columns: Vec<arrow_array::ArrayRef> = vec![
                    $(<$crate::observation::table::cell!($cty $(<$cin>)?) as $crate::observation::cell::Cell>::finish(&mut self.$c),)*
                    $(<$crate::observation::table::cell!($oty $(<$oin>)?) as $crate::observation::cell::Cell>::finish(&mut self.$o),)*
                    $(<$crate::observation::table::cell!($pty $(<$pin>)?) as $crate::observation::cell::Cell>::finish(&mut self.$p),)*
                ];
                arrow_array::RecordBatch::try_new($batch::schema(), columns)
                    .expect("columns and schema come from the same table")
            }
        }

        #[doc = concat!("A batch of ", $name, " rows opened for reading.")]
        #[derive(Clone, Debug)]
        pub struct $batch {
            rows: usize,
            source: arrow_array::RecordBatch,
            $($c: <$crate::observation::table::cell!($cty $(<$cin>)?) as $crate::observation::cell::Cell>::Array,)*
            $($o: <$crate::observation::table::cell!($oty $(<$oin>)?) as $crate::observation::cell::Cell>::Array,)*
            $($p: <$crate::observation::table::cell!($pty $(<$pin>)?) as $crate::observation::cell::Cell>::Array,)*
        }

        impl $batch {
            /// Name of the table.
            pub const NAME: &'static str = $name;
            /// Version of the table's layout.
            pub const VERSION: u16 = $version;

            /// Every column with its documentation, in order.
            pub fn columns() -> Vec<$crate::observation::table::Column> {
                vec![
                    $($crate::observation::table::column::<$crate::observation::table::cell!($cty $(<$cin>)?)>(stringify!($c), $cu, $cup, $cm),)*
                    $($crate::observation::table::column::<$crate::observation::table::cell!($oty $(<$oin>)?)>(stringify!($o), $ou, $oup, $om),)*
                    $($crate::observation::table::column::<$crate::observation::table::cell!($pty $(<$pin>)?)>(stringify!($p), $pu, $pup, $pm),)*
                ]
            }

            /// The Arrow schema.
            pub fn schema() -> arrow_schema::SchemaRef {
                static SCHEMA: std::sync::OnceLock<arrow_schema::SchemaRef> = std::sync::OnceLock::new();
                SCHEMA.get_or_init(|| $crate::observation::table::schema(&Self::columns())).clone()
            }

            /// Opens a batch; `None` when its columns are not this table's.
            pub fn open(batch: &arrow_array::RecordBatch) -> Option<Self> {
                Some(Self {
                    rows: batch.num_rows(),
                    source: batch.clone(),
                    $($c: <$crate::observation::table::cell!($cty $(<$cin>)?) as $crate::observation::cell::Cell>::downcast(batch.column_by_name(stringify!($c))?)?,)*
                    $($o: <$crate::observation::table::cell!($oty $(<$oin>)?) as $crate::observation::cell::Cell>::downcast(batch.column_by_name(stringify!($o))?)?,)*
                    $($p: <$crate::observation::table::cell!($pty $(<$pin>)?) as $crate::observation::cell::Cell>::downcast(batch.column_by_name(stringify!($p))?)?,)*
                })
            }

            /// The Arrow batch that it was opened from.
            pub fn source(&self) -> &arrow_array::RecordBatch {
                &self.source
            }

            /// Rows.
            pub fn len(&self) -> usize {
                self.rows
            }

            /// No rows.
            pub fn is_empty(&self) -> bool {
                self.rows == 0
            }

            /// Row `i`, borrowed from the columns; `i` is below [`Self::len`].
            pub fn row(&self, i: usize) -> $row<'_> {
                $row {
                    $($c: <$crate::observation::table::cell!($cty $(<$cin>)?) as $crate::observation::cell::Cell>::get(&self.$c, i),)*
                    $($o: <$crate::observation::table::cell!($oty $(<$oin>)?) as $crate::observation::cell::Cell>::get(&self.$o, i),)*
                    $($p: <$crate::observation::table::cell!($pty $(<$pin>)?) as $crate::observation::cell::Cell>::get(&self.$p, i),)*
                }
            }

            /// The routing columns of row `i`: (key, tenant, host address, host name, event time).
            pub fn routing(&self, i: usize) -> $crate::observation::Routing<'_> {
                $crate::observation::Routing {
                    key: <$crate::observation::cell::U64 as $crate::observation::cell::Cell>::get(&self.key, i),
                    tenant: <$crate::observation::cell::Dict as $crate::observation::cell::Cell>::get(&self.tenant, i),
                    host_address: <$crate::observation::cell::Opt<$crate::observation::cell::Addr> as $crate::observation::cell::Cell>::get(&self.host_address, i),
                    host_name: <$crate::observation::cell::Opt<$crate::observation::cell::Dict> as $crate::observation::cell::Cell>::get(&self.host_name, i),
                    event_time: <$crate::observation::cell::Time as $crate::observation::cell::Cell>::get(&self.event_time, i),
                    primary: <$crate::observation::cell::Flag as $crate::observation::cell::Cell>::get(&self.primary, i),
                }
            }

            /// Position of row `i` in its input partition: (offset, row in the record).
            pub fn position(&self, i: usize) -> (i64, u32) {
                (
                    <$crate::observation::cell::I64 as $crate::observation::cell::Cell>::get(&self.offset, i),
                    <$crate::observation::cell::U32 as $crate::observation::cell::Cell>::get(&self.row, i),
                )
            }
        }
    };
}

/// The cell type of a column.
macro_rules! cell {
    ($cell:ident) => { $crate::observation::cell::$cell };
    ($cell:ident<$inner:ident>) => { $crate::observation::cell::$cell<$crate::observation::cell::$inner> };
}

/// What a row holds of a column: the same as [`crate::observation::cell::Cell::Value`], but written out, so that a row may be
/// lent for less long than what it borrows from.
macro_rules! value {
    ($a:lifetime, Opt<$inner:ident>) => { Option<$crate::observation::table::value!($a, $inner)> };
    ($a:lifetime, U8) => { u8 };
    ($a:lifetime, U16) => { u16 };
    ($a:lifetime, U32) => { u32 };
    ($a:lifetime, U64) => { u64 };
    ($a:lifetime, I64) => { i64 };
    ($a:lifetime, F64) => { f64 };
    ($a:lifetime, Flag) => { bool };
    ($a:lifetime, Time) => { $crate::time::EventTime };
    ($a:lifetime, Addr) => { $crate::address::Address };
    ($a:lifetime, Text) => { &$a str };
    ($a:lifetime, Dict) => { &$a str };
}

pub(crate) use {cell, table, table_with_common, value};

/// One line of a table.
pub fn column<C: super::cell::Cell>(
    name: &'static str,
    unit: &'static str,
    upstream: &'static str,
    meaning: &'static str,
) -> Column {
    Column { name, kind: C::NAME, data_type: C::data_type(), nullable: C::NULLABLE, unit, upstream, meaning }
}

/// The Arrow schema of a list of columns.
pub fn schema(columns: &[Column]) -> arrow_schema::SchemaRef {
    let fields: Vec<arrow_schema::Field> = columns
        .iter()
        .map(|c| {
            let dictionary = matches!(c.data_type, DataType::Dictionary(..));
            arrow_schema::Field::new(c.name, c.data_type.clone(), c.nullable || dictionary)
        })
        .collect();
    arrow_schema::SchemaRef::new(arrow_schema::Schema::new(fields))
}
