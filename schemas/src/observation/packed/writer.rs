//! Writes rows: see the form in [`super`]. No allocation per row.

use super::names::Naming;
use super::{Base, COLUMNS_MAX, HEAD, MAGIC, TAIL, WORDS, length};
use crate::address::Address;
use crate::observation::{Kind, Row};
use crate::time::EventTime;

/// One row being written: columns are put in the order of their table.
pub struct RowWriter<'w> {
    body: &'w mut Vec<u8>,
    /// Octets written; what lies behind is room.
    end: &'w mut usize,
    naming: &'w mut Naming,
    /// Where the row begins, and where the next value goes.
    start: usize,
    at: usize,
    lengths: [u64; WORDS],
    column: usize,
    /// The time before, as a difference to which the next one is written.
    time: i64,
    offset: i64,
    /// The first address of the row.
    first: Option<Address>,
}

/// What rows are written into.
#[derive(Debug, Default)]
pub struct Writing {
    /// Rows, and behind them room in which the next one is written without asking for every value.
    body: Vec<u8>,
    end: usize,
    naming: Naming,
    base: Base,
}

impl<'w> RowWriter<'w> {
    /// A row of so many columns; as for reading, the number is the compiler's.
    #[inline(always)]
    pub fn begin<const WIDTH: usize>(to: &'w mut Writing) -> Self {
        const { assert!(WIDTH <= COLUMNS_MAX) };
        let Writing { body, end, naming, base: Base { time, offset } } = to;
        let start = *end;
        make_room(body, start + ROOM);
        let at = start + WIDTH.div_ceil(2);
        Self { body, end, naming, start, at, lengths: [0; WORDS], column: 0, time: *time, offset: *offset, first: None }
    }

    /// The row is whole.
    #[inline(always)]
    pub fn end<const WIDTH: usize>(self) {
        let Self { body, end, start, at, lengths, .. } = self;
        let mut octets = [0; COLUMNS_MAX / 2];
        octets.as_chunks_mut::<8>().0.iter_mut().zip(lengths).for_each(|(to, word)| *to = word.to_le_bytes());
        body[start..start + WIDTH.div_ceil(2)].copy_from_slice(&octets[..WIDTH.div_ceil(2)]);
        *end = at;
    }

    #[inline(always)]
    fn length(&mut self, length: u8) {
        self.lengths[self.column / 16] |= u64::from(length) << (self.column % 16 * 4);
        self.column += 1;
    }

    /// A number.
    #[inline(always)]
    pub fn number(&mut self, value: u64) {
        let octets = (71 - value.leading_zeros()) as usize / 8;
        self.length(octets as u8);
        // Eight octets are one store; the next value goes over what is too much.
        self.body[self.at..self.at + 8].copy_from_slice(&value.to_le_bytes());
        self.at += octets;
    }

    /// Nothing.
    #[inline(always)]
    pub fn none(&mut self) {
        self.length(length::NONE);
    }

    /// A truth value.
    #[inline(always)]
    pub fn flag(&mut self, value: bool) {
        self.length(if value { length::YES } else { 0 });
    }

    /// A number with a sign.
    #[inline(always)]
    fn signed(&mut self, value: i64) {
        self.number(((value << 1) ^ (value >> 63)) as u64);
    }

    /// A moment.
    #[inline(always)]
    pub fn time(&mut self, value: EventTime) {
        self.signed(value.0.wrapping_sub(self.time));
        self.time = value.0;
    }

    /// An offset.
    #[inline(always)]
    pub fn offset(&mut self, value: i64) {
        self.signed(value.wrapping_sub(self.offset));
    }

    /// An address.
    #[inline(always)]
    pub fn address(&mut self, value: Address) {
        if self.first == Some(value) {
            self.length(length::AGAIN);
            return;
        }
        self.first = self.first.or(Some(value));
        match value.to_v4() {
            Some(octets) => {
                self.length(4);
                self.put(&octets);
            }
            None => {
                self.length(length::LONG);
                self.put(&value.0);
            }
        }
    }

    /// A text that repeats.
    #[inline(always)]
    pub fn name(&mut self, text: &str) {
        let number = self.naming.number(self.column, text);
        self.number(u64::from(number));
    }

    /// A text.
    #[inline(always)]
    pub fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        make_room(self.body, self.at + text.len() + ROOM);
        self.put(text.as_bytes());
    }

    #[inline(always)]
    fn put(&mut self, octets: &[u8]) {
        self.body[self.at..self.at + octets.len()].copy_from_slice(octets);
        self.at += octets.len();
    }
}

/// Octets that a row takes at most, its texts apart: lengths, a long address a column, and what the last store is too wide.
const ROOM: usize = COLUMNS_MAX / 2 + 16 * COLUMNS_MAX + 8;

/// Makes the body as long as that at least.
#[inline(always)]
fn make_room(body: &mut Vec<u8>, len: usize) {
    if body.len() < len {
        body.resize(len.next_power_of_two(), 0);
    }
}

/// Rows of one kind on their way into a batch.
#[derive(Debug)]
pub struct Packer {
    kind: Kind,
    rows: u32,
    to: Writing,
}

impl Packer {
    /// None yet.
    pub fn new(kind: Kind) -> Self {
        Self { kind, rows: 0, to: Writing::default() }
    }

    /// Adds a row, which is of the packer's kind.
    pub fn push(&mut self, row: &Row<'_>) {
        debug_assert_eq!(row.kind(), self.kind);
        if self.rows == 0 {
            self.to.base = Base { time: row.event_time().0, offset: row.position().0 };
        }
        row.pack(&mut self.to);
        self.rows += 1;
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.rows as usize
    }

    /// No row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes that the batch has by now.
    pub fn bytes(&self) -> usize {
        HEAD + self.to.naming.names().bytes() + self.to.end + TAIL
    }

    /// Ends the batch; the packer starts anew, with the room that it has.
    pub fn finish(&mut self) -> Vec<u8> {
        let names = self.to.naming.names();
        let mut out = Vec::with_capacity(self.bytes());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[self.kind as u8, self.kind.width() as u8, 0, 0]);
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&(names.len() as u32).to_le_bytes());
        out.extend_from_slice(&(names.text_bytes() as u32).to_le_bytes());
        out.extend_from_slice(&self.to.base.time.to_le_bytes());
        out.extend_from_slice(&self.to.base.offset.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        names.write(&mut out);
        out.extend_from_slice(&self.to.body[..self.to.end]);
        out.extend_from_slice(&[0; TAIL]);
        super::seal(&mut out);
        self.to.naming.clear();
        self.to.end = 0;
        self.rows = 0;
        out
    }
}

/// A packer per kind.
#[derive(Debug)]
pub struct Packers(Vec<Packer>);

impl Default for Packers {
    fn default() -> Self {
        Self(Kind::ALL.iter().map(|kind| Packer::new(*kind)).collect())
    }
}

impl Packers {
    /// Adds a row to those of its kind.
    pub fn push(&mut self, row: &Row<'_>) {
        self.0[row.kind() as usize].push(row);
    }

    /// Rows of all kinds.
    pub fn len(&self) -> usize {
        self.0.iter().map(Packer::len).sum()
    }

    /// No rows.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Packer::is_empty)
    }

    /// Rows and bytes of that row's kind.
    pub fn waiting(&self, kind: Kind) -> (usize, usize) {
        let packer = &self.0[kind as usize];
        (packer.len(), packer.bytes())
    }

    /// Ends the batch of one kind; `None` where no row waits.
    pub fn finish_kind(&mut self, kind: Kind) -> Option<Vec<u8>> {
        let packer = &mut self.0[kind as usize];
        (!packer.is_empty()).then(|| packer.finish())
    }

    /// Ends every batch that has rows.
    pub fn finish(&mut self) -> Vec<(Kind, Vec<u8>)> {
        Kind::ALL.iter().filter_map(|kind| self.finish_kind(*kind).map(|bytes| (*kind, bytes))).collect()
    }
}
