//! Open slices: rows that wait until their slice is complete. Batches are kept whole and shared; a slice holds indices
//! into them. Beyond a byte limit batches spill to a local file, counted, never dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tidewatch_operators::detection::{HOSTS_AHEAD, HostRows, SliceRow};
use tidewatch_operators::key::HostKey;
use tidewatch_operators::operator::Position;
use tidewatch_operators::rule::filter::Filters;
use tidewatch_schemas::observation::{self, Batch, Filed, Kind, Row};
use tidewatch_schemas::time::EventTime;

use crate::spill::{Piece, Spill};
use crate::time::closing::Scope;

/// Limits of a task's open slices.
#[derive(Clone, Debug)]
pub struct SliceLimits {
    /// Bytes of batches kept in memory (of packed rows as they lie there, of an Arrow stream as on the topic times
    /// [`UNPACKED`]); beyond it they spill.
    pub bytes_max: usize,
    /// Where spilled ones go.
    pub spill_dir: PathBuf,
}

/// An Arrow batch in memory against its lz4 form on the topic: measured 5 to 9 on generated flows; the pessimistic end.
pub const UNPACKED: usize = 9;

/// Tenants whose text is shared between slices; beyond it sharing begins anew, which only costs memory.
const TENANTS_SHARED_MAX: usize = 4096;

enum Rows {
    Memory(Arc<Batch>),
    Spilled(Piece),
}

struct Held {
    rows: Rows,
    kind: Kind,
    input: u16,
    offset: i64,
    bytes: usize,
    users: usize,
    /// Which expressions let its rows through, and of which generation of them: a batch of many slices is judged once.
    passes: Option<(u64, Arc<Vec<u64>>)>,
}

impl Held {
    fn passes(&mut self, batch: &Batch, filters: &Filters) -> Option<Arc<Vec<u64>>> {
        if let Some((_, passes)) = self.passes.as_ref().filter(|(generation, _)| *generation == filters.generation()) {
            return Some(passes.clone());
        }
        let passes = Arc::new(filters.select(batch)?);
        self.passes = Some((filters.generation(), passes.clone()));
        Some(passes)
    }
}

/// A batch of the slice that closes: its rows, its input, which expressions let them through (`None` = all).
struct Closing {
    batch: Arc<Batch>,
    input: u16,
    passes: Option<Arc<Vec<u64>>>,
}

#[derive(Default)]
struct OpenSlice {
    /// Batch id to the rows of it that lie in this slice.
    rows: BTreeMap<u64, Vec<u32>>,
}

/// The open slices of a task.
pub struct OpenSlices {
    limits: SliceLimits,
    slices: BTreeMap<(Scope, i64), OpenSlice>,
    batches: BTreeMap<u64, Held>,
    next_id: u64,
    memory_bytes: usize,
    spill: Spill,
    /// Tenants met, so that equal ones are one text in all keys: comparing them costs nothing then.
    tenants: BTreeSet<Arc<str>>,
    /// Rows spilled so far.
    pub spilled_rows: u64,
}

impl std::fmt::Debug for OpenSlices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenSlices").field("slices", &self.slices.len()).finish_non_exhaustive()
    }
}

/// What comes with a batch.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Index of the input partition.
    pub input: u16,
    /// Offset of the obs record.
    pub offset: i64,
}

impl OpenSlices {
    /// None open.
    pub fn new(limits: SliceLimits) -> Self {
        Self {
            spill: Spill::new(limits.spill_dir.clone()),
            limits,
            slices: BTreeMap::new(),
            batches: BTreeMap::new(),
            next_id: 0,
            memory_bytes: 0,
            tenants: BTreeSet::new(),
            spilled_rows: 0,
        }
    }

    /// Files a batch: `place` says for each row which scope and slice it belongs to, or `None` when that is closed.
    /// Returns the rows that were not taken.
    pub fn add(
        &mut self,
        batch: Batch,
        encoded: &Bytes,
        origin: Origin,
        mut place: impl FnMut(&Filed<'_>) -> Option<(Scope, i64)>,
    ) -> io::Result<Vec<u32>> {
        let id = self.next_id;
        self.next_id += 1;
        let mut refused = Vec::new();
        let mut users = 0;
        let mut last: Option<(Scope, i64)> = None;
        let mut run: Vec<u32> = Vec::new();
        let mut flush = |slices: &mut BTreeMap<(Scope, i64), OpenSlice>, to: &Option<(Scope, i64)>, run: &mut Vec<u32>| {
            if let Some(to) = to
                && !run.is_empty()
            {
                let rows = slices.entry(to.clone()).or_default().rows.entry(id).or_insert_with(|| {
                    users += 1;
                    Vec::new()
                });
                rows.append(run);
            }
        };
        for i in 0..batch.len() {
            let to = place(&batch.filed(i));
            if to.is_none() {
                refused.push(i as u32);
            }
            if to != last {
                flush(&mut self.slices, &last, &mut run);
                last = to;
            }
            if last.is_some() {
                run.push(i as u32);
            }
        }
        flush(&mut self.slices, &last, &mut run);
        if users == 0 {
            return Ok(refused);
        }
        let bytes = batch.bytes().unwrap_or(encoded.len() * UNPACKED);
        let (kind, rows_len) = (batch.kind(), batch.len());
        let rows = if self.memory_bytes + bytes > self.limits.bytes_max {
            self.spilled_rows += rows_len as u64;
            Rows::Spilled(self.spill.write(encoded)?)
        } else {
            self.memory_bytes += bytes;
            Rows::Memory(Arc::new(batch))
        };
        let Origin { input, offset } = origin;
        self.batches.insert(id, Held { rows, kind, input, offset, bytes, users, passes: None });
        Ok(refused)
    }

    /// The scope's first open slice.
    pub fn first(&self, scope: &Scope) -> Option<i64> {
        self.slices.range((scope.clone(), i64::MIN)..=(scope.clone(), i64::MAX)).next().map(|((_, index), _)| *index)
    }

    /// The lowest obs offset that holds a row of an open slice.
    pub fn replay_offset(&self) -> Option<i64> {
        self.batches.values().map(|b| b.offset).min()
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Slices with rows.
    pub fn slices(&self) -> usize {
        self.slices.len()
    }

    /// Rows waiting.
    pub fn rows(&self) -> usize {
        self.slices.values().flat_map(|s| s.rows.values()).map(Vec::len).sum()
    }

    /// Takes a slice out and hands its hosts to `hosts`, some at a time, each with its rows in the one order of the slice.
    pub fn close(
        &mut self,
        scope: &Scope,
        index: i64,
        ranks: &[u16],
        filters: &Filters,
        mut hosts: impl FnMut(&[HostRows<'_>]),
    ) -> io::Result<()> {
        let Some(slice) = self.slices.remove(&(scope.clone(), index)) else { return Ok(()) };
        let mut batches: Vec<Closing> = Vec::with_capacity(slice.rows.len());
        let mut rows: Vec<Place> = Vec::with_capacity(slice.rows.values().map(Vec::len).sum());
        for (id, indices) in &slice.rows {
            let held = &self.batches[id];
            let batch = match &held.rows {
                Rows::Memory(batch) => batch.clone(),
                Rows::Spilled(piece) => Arc::new(self.read_back(held.kind, *piece)?),
            };
            let at = batches.len() as u32;
            for &row in indices {
                let filed = batch.filed(row as usize);
                rows.push(Place { key: filed.key, time: filed.event_time, batch: at, row });
            }
            let input = held.input;
            let held = self.batches.get_mut(id).filter(|_| filters.over_rows());
            let passes = held.and_then(|held| held.passes(&batch, filters));
            batches.push(Closing { batch, input, passes });
        }
        let rows = sorted(rows);

        if self.tenants.len() > TENANTS_SHARED_MAX {
            self.tenants.clear();
        }
        let room = Vec::with_capacity(rows.len().min(GROUP_ROWS + GROUP_ROWS / 2));
        let mut group = Group { batches: &batches, ranks, tenants: &mut self.tenants, rows: room, hosts: Vec::new() };
        let mut rest = &rows[..];
        for places in rows.chunk_by(|a, b| a.key == b.key) {
            if group.hosts.is_empty() {
                // All rows of the group lie somewhere else: one look each before the first is read.
                let seen = rest
                    .iter()
                    .take(GROUP_ROWS_AHEAD)
                    .fold(0, |seen, p| seen ^ batches[p.batch as usize].batch.glance(p.row as usize));
                std::hint::black_box(seen);
            }
            group.add(places);
            rest = &rest[places.len()..];
            if group.is_full() || rest.is_empty() {
                group.hand_over(&mut hosts);
            }
        }
        drop(group);
        self.release(slice.rows.keys());
        Ok(())
    }

    fn release<'a>(&mut self, ids: impl Iterator<Item = &'a u64>) {
        for id in ids {
            let Some(held) = self.batches.get_mut(id) else { continue };
            held.users -= 1;
            if held.users == 0 {
                match held.rows {
                    Rows::Memory(_) => self.memory_bytes -= held.bytes,
                    Rows::Spilled(piece) => self.spill.free(piece),
                }
                self.batches.remove(id);
            }
        }
    }

    fn read_back(&self, kind: Kind, piece: Piece) -> io::Result<Batch> {
        let bytes = self.spill.read(piece)?;
        observation::decode(kind, &bytes).map_err(|e| io::Error::other(format!("spilled batch: {e}")))
    }
}

#[derive(Clone, Copy, Default)]
struct Place {
    key: u64,
    time: EventTime,
    batch: u32,
    row: u32,
}

/// Rows by (key, time, batch, row). Keys are hashes, so their first bits part them into runs of a few rows each: two passes
/// over the rows, and next to nothing is left to be compared.
fn sorted(rows: Vec<Place>) -> Vec<Place> {
    let bits = rows.len().next_power_of_two().trailing_zeros().saturating_sub(1).clamp(1, SORT_BITS_MAX);
    let part = |place: &Place| (place.key >> (64 - bits)) as usize;
    let mut ends = vec![0_u32; 1 << bits];
    rows.iter().for_each(|place| ends[part(place)] += 1);
    let mut end = 0;
    for n in &mut ends {
        // Where the part begins, then moved on with each row that it gets: to its end.
        end += std::mem::replace(n, end);
    }
    let mut out = vec![Place::default(); rows.len()];
    for place in rows {
        let at = &mut ends[part(&place)];
        out[*at as usize] = place;
        *at += 1;
    }
    let mut begin = 0;
    for end in ends {
        out[begin..end as usize].sort_unstable_by_key(|r| (r.key, r.time, r.batch, r.row));
        begin = end as usize;
    }
    out
}

/// Bits by which [`sorted`] parts rows, at most: what is counted stays in the cache.
const SORT_BITS_MAX: u32 = 16;

/// Rows from which a group is handed over, however few hosts they are of.
const GROUP_ROWS: usize = 256;

/// Rows that are looked at ahead of a group.
const GROUP_ROWS_AHEAD: usize = 32;

/// Rows of a few hosts, read, sorted, and about to be handed over.
struct Group<'b, 't> {
    batches: &'b [Closing],
    ranks: &'t [u16],
    tenants: &'t mut BTreeSet<Arc<str>>,
    rows: Vec<SliceRow<'b>>,
    /// Hosts, and where the rows of each end.
    hosts: Vec<(HostKey, u64, usize)>,
}

impl<'b> Group<'b, '_> {
    fn is_full(&self) -> bool {
        self.hosts.len() >= HOSTS_AHEAD || self.rows.len() >= GROUP_ROWS
    }

    /// Adds the rows of one routing key: almost always one host; hosts whose hashes collide are told apart here.
    fn add(&mut self, places: &[Place]) {
        let begin = self.rows.len();
        for place in places {
            let Closing { batch, input, passes } = &self.batches[place.batch as usize];
            let row = batch.row(place.row as usize);
            let (offset, index) = row.position();
            let position = Position { input: *input, offset, row: index };
            let passes = passes.as_ref().and_then(|p| p.get(place.row as usize)).copied().unwrap_or(u64::MAX);
            self.rows.push(SliceRow { at: place.time, row, position, primary: row.primary(), passes });
        }
        let key = places[0].key;
        let first = self.rows[begin].row.routing();
        let same = |row: &Row<'_>| {
            let here = row.routing();
            here.host_address == first.host_address && here.tenant == first.tenant && here.host_name == first.host_name
        };
        if self.rows[begin + 1..].iter().all(|row| same(&row.row)) {
            order(&mut self.rows[begin..], self.ranks);
            self.hosts.push((HostKey::from_routing_shared(&first, self.tenants), key, self.rows.len()));
            return;
        }
        let mut apart: BTreeMap<HostKey, Vec<SliceRow<'b>>> = BTreeMap::new();
        for row in self.rows.drain(begin..) {
            apart.entry(HostKey::from_routing(&row.row.routing())).or_default().push(row);
        }
        for (host, mut rows) in apart {
            order(&mut rows, self.ranks);
            self.rows.append(&mut rows);
            self.hosts.push((host, key, self.rows.len()));
        }
    }

    fn hand_over(&mut self, hosts: &mut impl FnMut(&[HostRows<'_>])) {
        let mut begin = 0;
        let all = self.hosts.drain(..).map(|(key, route, end)| {
            let rows = &self.rows[std::mem::replace(&mut begin, end)..end];
            HostRows { key, route, rows }
        });
        hosts(&all.collect::<Vec<_>>());
        self.rows.clear();
    }
}

/// Rows come sorted by time; only runs of equal time still need their content compared.
fn order(rows: &mut [SliceRow<'_>], ranks: &[u16]) {
    let mut from = 0;
    while from < rows.len() {
        let to = from + rows[from..].partition_point(|r| r.at == rows[from].at);
        if to - from > 1 {
            rows[from..to].sort_unstable_by(|a, b| a.order(b, ranks));
        }
        from = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_in_one_order_whatever_their_number() {
        for n in [0_u64, 1, 2, 3, 100, 5000] {
            let key = |i: u64| (i / 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) | (i % 2) << 63;
            let place = |i: u64| Place { key: key(i), time: EventTime((i % 4) as i64), batch: (i % 5) as u32, row: i as u32 };
            let rows: Vec<Place> = (0..n).map(place).collect();
            let by = |r: &Place| (r.key, r.time, r.batch, r.row);
            let mut wanted: Vec<_> = rows.iter().map(by).collect();
            wanted.sort_unstable();
            assert_eq!(sorted(rows).iter().map(by).collect::<Vec<_>>(), wanted);
        }
    }
}
