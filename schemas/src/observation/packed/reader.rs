//! Reads rows: see the form in [`super`]. Total: bytes that are no row give some row; [`RowReader::end`] says of what was read
//! whether it was one.

use super::names::Names;
use super::{Base, COLUMNS_MAX, WORDS, length};
use crate::address::Address;
use crate::time::EventTime;

/// Octets of a value by its length; what is no number has none, but for long addresses.
const OCTETS: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 0, 0, 0, 0, 0, 0];

/// Bits of a number by its length.
const MASKS: [u64; 16] = {
    let mut masks = [0; 16];
    let mut octets = 1;
    while octets <= 8 {
        masks[octets] = u64::MAX >> (64 - 8 * octets);
        octets += 1;
    }
    masks
};

/// Rows to be read from.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub(super) body: &'a [u8],
    pub(super) names: &'a Names,
    pub(super) base: Base,
}

/// What is known of a row once it is read.
#[derive(Clone, Copy)]
pub struct End {
    /// Where the next one begins.
    pub(super) at: usize,
    /// Number of its tenant.
    pub(super) tenant: u32,
    /// It was a row.
    pub(super) sound: bool,
}

/// One row being read: columns are taken in the order of their table.
pub struct RowReader<'a> {
    body: &'a [u8],
    names: &'a Names,
    lengths: [u64; WORDS],
    column: usize,
    at: usize,
    time: i64,
    offset: i64,
    first: Option<Address>,
    tenant: u32,
    sound: bool,
}

impl<'a> RowReader<'a> {
    /// A row of so many columns. The number is the compiler's: which bits of which word a column's length is must not be
    /// worked out for every column of every row.
    #[inline(always)]
    pub fn begin<const WIDTH: usize>(rows: Rows<'a>, at: usize) -> Self {
        const { assert!(WIDTH <= COLUMNS_MAX) };
        let Rows { body, names, base: Base { time, offset } } = rows;
        let octets = WIDTH.div_ceil(2);
        let mut lengths = [0; WORDS];
        let mut word = 0;
        while word < octets.div_ceil(8) {
            lengths[word] = word_at(body, at + 8 * word).unwrap_or(0);
            word += 1;
        }
        Self { body, names, lengths, column: 0, at: at + octets, time, offset, first: None, tenant: 0, sound: true }
    }

    /// What is known of the row besides its values.
    #[inline(always)]
    pub fn end(self) -> End {
        let Self { at, tenant, sound, .. } = self;
        End { at, tenant, sound }
    }

    #[inline(always)]
    fn length(&mut self) -> u8 {
        let length = (self.lengths[self.column / 16] >> (self.column % 16 * 4)) as u8 & 15;
        self.column += 1;
        length
    }

    #[inline(always)]
    fn value(&mut self, length: u8) -> u64 {
        let word = word_at(self.body, self.at);
        self.sound &= word.is_some() & (length <= 8);
        self.at += usize::from(OCTETS[usize::from(length & 15)]);
        word.unwrap_or(0) & MASKS[usize::from(length & 15)]
    }

    /// Passes over a value without reading it.
    #[inline(always)]
    pub fn pass(&mut self) {
        let length = self.length();
        self.at += usize::from(OCTETS[usize::from(length)]);
    }

    /// Passes over a text.
    #[inline(always)]
    pub fn pass_text(&mut self) {
        if let Some(len) = self.number() {
            self.at = self.at.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
        }
    }

    /// A number; `None` where it is absent.
    #[inline(always)]
    pub fn number(&mut self) -> Option<u64> {
        let length = self.length();
        if length == length::NONE { None } else { Some(self.value(length)) }
    }

    /// A number that must be there.
    #[inline(always)]
    pub fn there(&mut self) -> u64 {
        let length = self.length();
        self.value(length)
    }

    /// A number of fewer bits.
    #[inline(always)]
    pub fn narrow<T: TryFrom<u64> + Default>(&mut self, value: u64) -> T {
        match T::try_from(value) {
            Ok(value) => value,
            Err(_) => {
                self.sound = false;
                T::default()
            }
        }
    }

    /// A truth value; `None` where it is absent.
    #[inline(always)]
    pub fn flag(&mut self) -> Option<bool> {
        match self.length() {
            0 => Some(false),
            length::YES => Some(true),
            length::NONE => None,
            _ => {
                self.sound = false;
                None
            }
        }
    }

    /// A truth value that must be there.
    #[inline(always)]
    pub fn flag_there(&mut self) -> bool {
        let flag = self.flag();
        self.sound &= flag.is_some();
        flag.unwrap_or(false)
    }

    /// A moment, from its difference.
    #[inline(always)]
    pub fn time(&mut self, value: u64) -> EventTime {
        self.time = self.time.wrapping_add(signed(value));
        EventTime(self.time)
    }

    /// An offset, from its difference.
    #[inline(always)]
    pub fn offset(&self, value: u64) -> i64 {
        self.offset.wrapping_add(signed(value))
    }

    /// An address; `None` where it is absent.
    #[inline(always)]
    pub fn address(&mut self) -> Option<Address> {
        let length = self.length();
        let address = match length {
            4 => {
                let [a, b, c, d, ..] = self.value(4).to_le_bytes();
                Address::v4([a, b, c, d])
            }
            length::AGAIN => {
                self.sound &= self.first.is_some();
                return self.first;
            }
            length::LONG => {
                let octets = self.body.get(self.at..).and_then(|rest| rest.first_chunk::<16>());
                self.at += 16;
                self.sound &= octets.is_some();
                Address(octets.copied().unwrap_or_default())
            }
            length => {
                self.sound &= length == length::NONE;
                return None;
            }
        };
        self.first = self.first.or(Some(address));
        Some(address)
    }

    /// A text that repeats, by its number.
    #[inline(always)]
    pub fn name(&mut self, value: u64) -> &'a str {
        self.sound &= value < self.names.len() as u64;
        let number = value as u32;
        if self.column == 1 {
            self.tenant = number;
        }
        self.names.get(number)
    }

    /// A text of so many octets.
    #[inline(always)]
    pub fn text(&mut self, len: u64) -> &'a str {
        let text = usize::try_from(len).ok().and_then(|len| self.body.get(self.at..)?.get(..len));
        let text = text.and_then(|octets| std::str::from_utf8(octets).ok());
        self.sound &= text.is_some();
        let text = text.unwrap_or("");
        self.at += text.len();
        text
    }
}

#[inline(always)]
fn word_at(body: &[u8], at: usize) -> Option<u64> {
    body.get(at..at.wrapping_add(8)).and_then(|octets| octets.try_into().ok()).map(u64::from_le_bytes)
}

#[inline(always)]
fn signed(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
