//! Reads the lengths of an Arrow IPC stream before Arrow does. Arrow's reader takes the lengths in a stream at their word:
//! it allocates what they say and panics where they point outside. Here every length is checked against the bytes that
//! are there, and what the buffers unpack to against [`UNPACKED_BYTES_MAX`], without unpacking anything.
//!
//! What always holds of a stream that passes: a schema of the types our tables use and nothing nested, then dictionaries,
//! each once, then one batch; all regions inside their message, in order, disjoint; rows within the table's limit.

use arrow_ipc::{
    CompressionType, Field, Int, Message, MessageHeader, MetadataVersion, Precision, RecordBatch, Schema, TimeUnit, Type,
    root_as_message,
};

use super::ROWS_MAX;
use super::cell::DICT_VALUES_MAX;

/// Bytes that the buffers of one batch may unpack to; 32,768 rows of the widest table with long names stay below.
pub(super) const UNPACKED_BYTES_MAX: usize = 128 << 20;

/// Columns of a table, at most.
const COLUMNS_MAX: usize = 256;

/// Before a message; streams of Arrow before 0.15 have none and are refused.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// How the column's buffers lie: validity first, then these.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// Bytes of one value; 1 where the buffer is bits.
    Values(usize),
    OffsetsAndText,
    Dictionary(i64),
}

impl Layout {
    const fn buffers(self) -> usize {
        match self {
            Self::Values(_) | Self::Dictionary(_) => 2,
            Self::OffsetsAndText => 3,
        }
    }

    /// Bytes of an element of the buffer behind the validity; Arrow panics on half an element.
    const fn width(self) -> usize {
        match self {
            Self::Values(width) => width,
            Self::OffsetsAndText => 4,
            Self::Dictionary(_) => 2,
        }
    }
}

/// Checks a stream of one batch; the reason when Arrow must not see it.
pub(super) fn check(stream: &[u8]) -> Result<(), &'static str> {
    let mut rest = stream;
    let (message, _) = next(&mut rest)?.ok_or("no schema")?;
    let schema = message.header_as_schema().ok_or("the first message is no schema")?;
    if message.bodyLength() != 0 {
        return Err("a schema has no body");
    }
    let columns = columns(&schema)?;
    let mut seen: Vec<i64> = Vec::new();
    let mut unpacked = 0;
    loop {
        let (message, body) = next(&mut rest)?.ok_or("no batch")?;
        if message.version() != MetadataVersion::V5 {
            return Err("not arrow's format version 5");
        }
        if let Some(dictionary) = message.header_as_dictionary_batch() {
            let id = dictionary.id();
            if !columns.contains(&Layout::Dictionary(id)) || dictionary.isDelta() || seen.contains(&id) {
                return Err("a dictionary that no column names, a second one, or a part of one");
            }
            seen.push(id);
            let batch = dictionary.data().ok_or("a dictionary without values")?;
            unpacked = buffers(&batch, body, &[Layout::OffsetsAndText], DICT_VALUES_MAX, unpacked)?;
        } else if let Some(batch) = message.header_as_record_batch() {
            buffers(&batch, body, &columns, ROWS_MAX, unpacked)?;
            return Ok(());
        } else {
            return Err("neither dictionary nor batch");
        }
    }
}

/// The next message and its body; `None` at the end.
fn next<'a>(rest: &mut &'a [u8]) -> Result<Option<(Message<'a>, &'a [u8])>, &'static str> {
    const CUT_OFF: &str = "cut off";
    if rest.is_empty() {
        return Ok(None);
    }
    let (marker, after) = rest.split_first_chunk::<4>().ok_or(CUT_OFF)?;
    let (len, after) = after.split_first_chunk::<4>().ok_or(CUT_OFF)?;
    if *marker != CONTINUATION {
        return Err("no continuation marker");
    }
    let len = usize::try_from(i32::from_le_bytes(*len)).map_err(|_| "a negative length")?;
    if len == 0 {
        return Ok(None);
    }
    let (head, after) = after.split_at_checked(len).ok_or(CUT_OFF)?;
    let message = root_as_message(head).map_err(|_| "not a message")?;
    let body_len = usize::try_from(message.bodyLength()).map_err(|_| "a negative length")?;
    let (body, after) = after.split_at_checked(body_len).ok_or(CUT_OFF)?;
    *rest = after;
    match message.header_type() {
        MessageHeader::Schema | MessageHeader::DictionaryBatch | MessageHeader::RecordBatch => Ok(Some((message, body))),
        _ => Err("a message that is no schema, dictionary or batch"),
    }
}

fn columns(schema: &Schema<'_>) -> Result<Vec<Layout>, &'static str> {
    let fields = schema.fields().ok_or("a schema without columns")?;
    if fields.len() > COLUMNS_MAX {
        return Err("too many columns");
    }
    fields.iter().map(|field| column(&field).ok_or("a column of a type that no table has")).collect()
}

/// The layout of a column; only types of [`super::cell`].
fn column(field: &Field<'_>) -> Option<Layout> {
    if field.children().is_some_and(|children| !children.is_empty()) {
        return None;
    }
    if let Some(dictionary) = field.dictionary() {
        let index: Int<'_> = dictionary.indexType()?;
        let plain = field.type_type() == Type::Utf8 && index.bitWidth() == 16 && !index.is_signed();
        return plain.then_some(Layout::Dictionary(dictionary.id()));
    }
    match field.type_type() {
        Type::Utf8 => Some(Layout::OffsetsAndText),
        Type::Bool => Some(Layout::Values(1)),
        Type::Int => match field.type_as_int()?.bitWidth() {
            bits @ (8 | 16 | 32 | 64) => Some(Layout::Values(bits as usize / 8)),
            _ => None,
        },
        Type::FloatingPoint => (field.type_as_floating_point()?.precision() == Precision::DOUBLE).then_some(Layout::Values(8)),
        Type::FixedSizeBinary => (field.type_as_fixed_size_binary()?.byteWidth() == 16).then_some(Layout::Values(16)),
        Type::Timestamp => (field.type_as_timestamp()?.unit() == TimeUnit::NANOSECOND).then_some(Layout::Values(8)),
        _ => None,
    }
}

/// Checks the nodes and buffers of a batch; gives the bytes unpacked so far.
fn buffers(
    batch: &RecordBatch<'_>,
    body: &[u8],
    columns: &[Layout],
    rows_max: usize,
    mut unpacked: usize,
) -> Result<usize, &'static str> {
    let rows = usize::try_from(batch.length()).ok().filter(|&n| n <= rows_max).ok_or("too many rows")?;
    let packed = match batch.compression() {
        None => false,
        Some(compression) if compression.codec() == CompressionType::LZ4_FRAME => true,
        Some(_) => return Err("compressed with something else than lz4"),
    };
    let nodes = batch.nodes().ok_or("a batch without nodes")?;
    let regions = batch.buffers().ok_or("a batch without buffers")?;
    let expected: usize = columns.iter().map(|c| c.buffers()).sum();
    let variadic = batch.variadicBufferCounts().is_some_and(|counts| !counts.is_empty());
    if nodes.len() != columns.len() || regions.len() != expected || variadic {
        return Err("nodes or buffers are not those of the columns");
    }
    let mut regions = regions.iter();
    let mut end = 0usize;
    for (node, column) in nodes.iter().zip(columns) {
        let nulls = usize::try_from(node.null_count()).map_err(|_| "a negative count")?;
        if usize::try_from(node.length()) != Ok(rows) || nulls > rows {
            return Err("a column of another length than its batch");
        }
        for i in 0..column.buffers() {
            let region = regions.next().ok_or("too few buffers")?;
            let (offset, len) = (usize::try_from(region.offset()), usize::try_from(region.length()));
            let (Ok(offset), Ok(len)) = (offset, len) else { return Err("a negative length") };
            let stop = offset
                .checked_add(len)
                .filter(|&stop| offset >= end && stop <= body.len())
                .ok_or("a buffer outside its message")?;
            end = stop;
            let plain = if packed { unpacked_len(&body[offset..stop])? } else { len };
            unpacked = unpacked.checked_add(plain).filter(|&n| n <= UNPACKED_BYTES_MAX).ok_or("unpacks to too much")?;
            if i == 0 && nulls > 0 && plain < rows.div_ceil(8) {
                return Err("a validity buffer that is too short");
            }
            if i == 1 && plain % column.width() != 0 {
                return Err("half a value at the end of a buffer");
            }
        }
    }
    Ok(unpacked)
}

/// Bytes that a packed buffer becomes: what its prefix says, checked against what its lz4 frame holds.
fn unpacked_len(buffer: &[u8]) -> Result<usize, &'static str> {
    if buffer.is_empty() {
        return Ok(0);
    }
    let (prefix, frame) = buffer.split_first_chunk::<8>().ok_or("a packed buffer without its length")?;
    match i64::from_le_bytes(*prefix) {
        -1 => Ok(frame.len()),
        0 => Ok(0),
        len => {
            let len = usize::try_from(len).map_err(|_| "a negative length")?;
            if lz4_frame_len(frame) == Some(len) { Ok(len) } else { Err("an lz4 frame of another length than its prefix") }
        }
    }
}

/// Bytes that one whole lz4 frame unpacks to (LZ4 frame format 1.6.4), from its tokens alone; `None` when it is none.
fn lz4_frame_len(frame: &[u8]) -> Option<usize> {
    let rest = frame.strip_prefix(&[0x04, 0x22, 0x4d, 0x18])?;
    let flags = *rest.first()?;
    // Flags, block size and header checksum.
    let mut at = 3usize;
    // Version 01; dictionaries are not used.
    if flags >> 6 != 1 || flags & 1 != 0 {
        return None;
    }
    if flags & 0x08 != 0 {
        at += 8;
    }
    let block_checksum = if flags & 0x10 != 0 { 4 } else { 0 };
    let content_checksum = if flags & 0x04 != 0 { 4 } else { 0 };
    let mut total = 0usize;
    loop {
        let word = u32::from_le_bytes(*rest.get(at..)?.first_chunk::<4>()?);
        at += 4;
        if word == 0 {
            return (rest.len() == at + content_checksum).then_some(total);
        }
        let len = (word & 0x7fff_ffff) as usize;
        let block = rest.get(at..)?.get(..len)?;
        let plain = if word >> 31 == 1 { len } else { lz4_block_len(block)? };
        total = total.checked_add(plain).filter(|&n| n <= UNPACKED_BYTES_MAX)?;
        at += len + block_checksum;
    }
}

/// Bytes that a block's sequences add up to.
fn lz4_block_len(block: &[u8]) -> Option<usize> {
    let mut at = 0usize;
    let mut total = 0usize;
    let long = |nibble: usize, at: &mut usize| -> Option<usize> {
        let mut len = nibble;
        if nibble == 15 {
            loop {
                let byte = *block.get(*at)?;
                *at += 1;
                len += usize::from(byte);
                if byte != 255 {
                    break;
                }
            }
        }
        Some(len)
    };
    loop {
        let token = usize::from(*block.get(at)?);
        at += 1;
        let literals = long(token >> 4, &mut at)?;
        at += literals;
        total += literals;
        if at >= block.len() {
            // The last sequence is literals alone.
            return (at == block.len()).then_some(total);
        }
        at += 2;
        total += long(token & 15, &mut at)? + 4;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::packed::Packed;
    use super::super::{Columns, DnsRow, FlowRow, Kind, decode, encode};
    use super::*;
    use crate::address::Address;
    use crate::fuzz;

    fn batch(rows: usize) -> Vec<u8> {
        let mut columns = Columns::default();
        for i in 0..rows {
            let name = format!("{i}.example.com");
            columns.dns.push(&DnsRow {
                tenant: "t1",
                query: &name,
                client_address: Some(Address::v4([10, 0, 0, i as u8])),
                ..DnsRow::default()
            });
        }
        encode(&columns.finish()[0].1)
    }

    #[test]
    fn our_own_batches_pass() {
        for rows in [1, 2, 7, 1000, ROWS_MAX] {
            assert_eq!(check(&batch(rows)), Ok(()), "{rows}");
        }
        for seed in fuzz::seeds("batch").iter().filter(|seed| !Packed::is(seed)) {
            assert_eq!(check(seed), Ok(()));
        }
        let mut empty = Columns::default().flow;
        assert_eq!(check(&encode(&empty.finish())), Ok(()));
        let mut big = Columns::default();
        for _ in 0..ROWS_MAX + 1 {
            big.flow.push(&FlowRow::default());
        }
        assert_eq!(check(&encode(&big.finish()[0].1)), Err("too many rows"));
    }

    #[test]
    fn cut_off_everywhere() {
        let whole = batch(3);
        for cut in 0..whole.len() {
            fuzz::batch(&whole[..cut]);
        }
        assert!(check(&whole[..whole.len() / 2]).is_err());
    }

    /// Every byte set to values that make lengths huge, negative or zero.
    #[test]
    fn every_byte_hostile() {
        let whole = batch(3);
        for at in 0..whole.len() {
            for to in [0, 0x7f, 0x80] {
                let mut bytes = whole.clone();
                bytes[at] = to;
                let _ = decode(Kind::Dns, &bytes);
            }
        }
    }

    #[test]
    fn a_bomb_is_seen() {
        // 20 bytes of tokens that claim and give 4 KiB: the length must be known without unpacking.
        let mut block = vec![0x1f, 0, 1, 0];
        block.extend([255; 16]);
        block.extend([0, 0x10, 7]);
        assert_eq!(lz4_block_len(&block), Some(1 + 15 + 255 * 16 + 4 + 1));
        let mut frame = vec![0x04, 0x22, 0x4d, 0x18, 0x40, 0x40, 0];
        frame.extend((block.len() as u32).to_le_bytes());
        frame.extend(&block);
        frame.extend([0; 4]);
        assert_eq!(lz4_frame_len(&frame), Some(4101));
        let mut buffer = 8i64.to_le_bytes().to_vec();
        buffer.extend(&frame);
        assert!(unpacked_len(&buffer).is_err(), "the prefix lies");
    }

    proptest! {
        // Each case reads six batches six times; the smoke test goes on from here.
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn two_bytes_changed(a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(), x: u8, y: u8) {
            for mut seed in fuzz::seeds("batch") {
                let (a, b) = (a.index(seed.len()), b.index(seed.len()));
                (seed[a], seed[b]) = (x, y);
                fuzz::batch(&seed);
            }
        }
    }
}
