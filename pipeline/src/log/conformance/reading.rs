//! Checks of reading: offsets, gaps, times, headers, what is gone.

use std::time::Duration;

use bytes::Bytes;
use tidewatch_schemas::time::EventTime;

use crate::log::{Append, LogError, PollLimit, TopicPartition, TopicSpec};

use super::fixture::{Broken, Fixture, Want, append, append_at, expect, same, text};
use super::{Check, always};

const NOTHING: Want = Want { partition_bytes_max: None, gap_every: None };
const GAPS: Want = Want { partition_bytes_max: None, gap_every: Some(3) };

pub(super) const CHECKS: &[Check] = &[
    Check { name: "keys_headers_and_tombstones_round_trip", want: NOTHING, applies: always, run: contents },
    Check { name: "topics_are_made_once", want: NOTHING, applies: always, run: topics },
    Check { name: "what_is_not_there_is_an_error", want: NOTHING, applies: always, run: unknown },
    Check { name: "a_poll_keeps_its_limits", want: NOTHING, applies: always, run: limits },
    Check { name: "a_waiting_poll_wakes_up", want: NOTHING, applies: always, run: wakes },
    Check { name: "readers_pass_gaps_and_know_the_end", want: GAPS, applies: always, run: gaps },
    Check { name: "offsets_are_found_by_time", want: NOTHING, applies: always, run: by_time },
    Check { name: "an_append_time_topic_is_stamped_by_the_log", want: NOTHING, applies: always, run: append_time },
    Check { name: "reading_below_the_start_is_an_error", want: NOTHING, applies: |c| c.deletes, run: deleted },
    Check { name: "retention_by_size_and_age", want: NOTHING, applies: |c| c.retention_at_once, run: retention },
];

fn contents(f: &Fixture) -> Result<(), Broken> {
    let topic = f.topic("contents", 1)?;
    let binary = Bytes::from((0..=255).collect::<Vec<u8>>());
    let headers = vec![
        ("name".to_owned(), Bytes::from_static(b"one")),
        ("name".to_owned(), Bytes::from_static(b"two")),
        ("binary".to_owned(), binary.clone()),
        ("empty".to_owned(), Bytes::new()),
    ];
    let time = EventTime::from_secs(1_780_000_000);
    let full = Append { key: Some(binary.clone()), headers: headers.clone(), ..append_at(&topic, 0, time, "v") };
    let tombstone = Append { key: Some(Bytes::from_static(b"gone")), value: None, ..append(&topic, 0, "") };
    let empty = Append { key: Some(Bytes::new()), value: Some(Bytes::new()), ..append(&topic, 0, "") };
    f.log.writer(&f.name("contents"))?.commit(&[full, tombstone, empty, append(&topic, 0, "bare")], &[])?;
    let got = f.read(&TopicPartition::new(&topic, 0), 0)?;
    same("records", &got.len(), &4)?;
    same("headers", &got[0].headers, &headers)?;
    same("first header of a name", &got[0].header("name"), &Some(&Bytes::from_static(b"one")))?;
    same("key", &got[0].key, &Some(binary))?;
    same("timestamp", &got[0].timestamp, &time)?;
    same("tombstone", &(got[1].key.clone(), got[1].value.clone()), &(Some(Bytes::from_static(b"gone")), None))?;
    same("empty", &(got[2].key.clone(), got[2].value.clone()), &(Some(Bytes::new()), Some(Bytes::new())))?;
    same("no key", &got[3].key, &None)?;
    same("no headers", &got[3].headers, &Vec::new())
}

fn topics(f: &Fixture) -> Result<(), Broken> {
    let (b, a) = (f.topic("b", 3)?, f.topic("a", 2)?);
    f.log.create_topic(&TopicSpec::new(&b, 3))?;
    let outcome = f.log.create_topic(&TopicSpec::new(&b, 4));
    let refused = matches!(&outcome, Err(LogError::Partitions { expected: 4, got: 3, .. }));
    expect(refused, || format!("another partition count: {outcome:?}"))?;
    same("partitions", &f.log.partitions(&b)?, &3)?;
    let ours: Vec<_> = f.log.topics()?.into_iter().filter(|(name, _)| name.starts_with(&f.prefix)).collect();
    same("topics", &ours, &vec![(a, 2), (b, 3)])
}

fn unknown(f: &Fixture) -> Result<(), Broken> {
    let topic = f.topic("known", 2)?;
    let nowhere = f.name("nowhere");
    let outcome = f.log.partitions(&nowhere);
    expect(matches!(outcome, Err(LogError::UnknownTopic { .. })), || format!("partitions: {outcome:?}"))?;
    let outcome = f.log.offsets(&TopicPartition::new(&nowhere, 0));
    expect(matches!(outcome, Err(LogError::UnknownTopic { .. })), || format!("offsets: {outcome:?}"))?;
    let outcome = f.log.reader(&TopicPartition::new(&nowhere, 0), 0).map(drop);
    expect(matches!(outcome, Err(LogError::UnknownTopic { .. })), || format!("reader: {outcome:?}"))?;
    let outcome = f.log.offsets(&TopicPartition::new(&topic, 2));
    expect(matches!(outcome, Err(LogError::UnknownPartition { .. })), || format!("offsets: {outcome:?}"))
}

fn limits(f: &Fixture) -> Result<(), Broken> {
    let topic = f.topic("limits", 1)?;
    let records: Vec<Append> = (0..50).map(|i| append(&topic, 0, format!("{i:0>100}"))).collect();
    f.log.writer(&f.name("limits"))?.commit(&records, &[])?;
    let at = TopicPartition::new(&topic, 0);
    for (limit, most) in [
        (PollLimit { records: 7, bytes: usize::MAX }, 7),
        (PollLimit { records: 1, bytes: usize::MAX }, 1),
        (PollLimit { records: 1000, bytes: 1 }, 1),
        (PollLimit { records: 1000, bytes: 450 }, 5),
    ] {
        let mut reader = f.log.reader(&at, 0)?;
        let mut got = Vec::new();
        for _ in 0..f.looks() + 50 {
            let records = reader.poll(limit, f.step())?;
            expect(records.len() <= most, || format!("{} records with {limit:?}", records.len()))?;
            expect(records.is_empty() || got.len() == 50 || !reader.at_end() || got.len() + records.len() == 50, || {
                "at the end before the last record".to_owned()
            })?;
            got.extend(records.iter().map(text));
            if reader.at_end() {
                break;
            }
        }
        same("records", &got.len(), &50)?;
    }
    Ok(())
}

fn wakes(f: &Fixture) -> Result<(), Broken> {
    let topic = f.topic("wakes", 1)?;
    let at = TopicPartition::new(&topic, 0);
    let mut reader = f.log.reader(&at, 0)?;
    let mut writer = f.log.writer(&f.name("wakes"))?;
    for n in 0..5 {
        let record = append(&topic, 0, n.to_string());
        let thread = std::thread::spawn(move || {
            let outcome = writer.commit(&[record], &[]);
            (writer, outcome)
        });
        let mut got = Vec::new();
        for _ in 0..5 {
            // Far longer than a commit takes: a reader that sleeps through it would fail the suite's time, not only this.
            got = reader.poll(PollLimit::default(), f.patience.max(Duration::from_secs(2)))?;
            if !got.is_empty() {
                break;
            }
        }
        let (back, outcome) = thread.join().map_err(|_| Broken::new("the writing thread died"))?;
        writer = back;
        outcome?;
        same("record", &got.iter().map(text).collect::<Vec<_>>(), &vec![n.to_string()])?;
    }
    Ok(())
}

fn gaps(f: &Fixture) -> Result<(), Broken> {
    let topic = f.topic("gaps", 1)?;
    let at = TopicPartition::new(&topic, 0);
    let mut writer = f.log.writer(&f.name("gaps"))?;
    let mut reader = f.log.reader(&at, 0)?;
    expect(!reader.at_end(), || "at the end before anything was fetched".to_owned())?;
    let mut got = Vec::new();
    for epoch in 0..6 {
        let records: Vec<Append> = (0..2).map(|i| append(&topic, 0, format!("{epoch}.{i}"))).collect();
        writer.commit(&records, &[])?;
        let end = f.log.offsets(&at)?.end;
        for _ in 0..f.looks() {
            got.extend(reader.poll(PollLimit::default(), f.step())?);
            if reader.at_end() && reader.position() >= end {
                break;
            }
        }
        same("position at the end", &(reader.position(), reader.at_end()), &(end, true))?;
        same("records", &got.len(), &(2 * (epoch + 1)))?;
    }
    expect(got.windows(2).any(|w| w[1].offset > w[0].offset + 1), || "this log made no gap".to_owned())?;
    for (n, record) in got.iter().enumerate() {
        let rest = f.read(&at, record.offset + 1)?;
        same("records after a record", &rest.len(), &(got.len() - n - 1))?;
    }
    expect(reader.poll(PollLimit::default(), f.step())?.is_empty() && reader.at_end(), || "not at the end".to_owned())
}

fn by_time(f: &Fixture) -> Result<(), Broken> {
    let topic = f.topic("times", 1)?;
    let at = TopicPartition::new(&topic, 0);
    let base = EventTime::from_secs(1_780_000_000);
    let time = |s: i64| base.plus(s * 1_000_000_000);
    same("empty partition", &f.log.offset_at(&at, base)?, &f.log.offsets(&at)?.end)?;
    let mut writer = f.log.writer(&f.name("times"))?;
    for second in [10, 20, 20, 15, 30] {
        writer.commit(&[append_at(&topic, 0, time(second), second.to_string())], &[])?;
    }
    let records = f.read(&at, 0)?;
    for (second, index) in [(0, 0), (10, 0), (11, 1), (15, 1), (20, 1), (21, 4), (30, 4)] {
        same(&format!("offset at second {second}"), &f.log.offset_at(&at, time(second))?, &records[index].offset)?;
    }
    same("offset after the last", &f.log.offset_at(&at, time(31))?, &f.log.offsets(&at)?.end)
}

fn append_time(f: &Fixture) -> Result<(), Broken> {
    let mut spec = TopicSpec::new(f.name("stamped"), 1);
    spec.append_time = true;
    let topic = f.topic_with(spec)?;
    let claimed = EventTime::from_secs(1_000);
    f.log.writer(&f.name("stamped"))?.commit(&[append_at(&topic, 0, claimed, "x"), append(&topic, 0, "y")], &[])?;
    let records = f.read(&TopicPartition::new(&topic, 0), 0)?;
    expect(records.iter().all(|r| r.timestamp != claimed), || "the writer's time was kept".to_owned())
}

fn deleted(f: &Fixture) -> Result<(), Broken> {
    let topic = f.topic("deleted", 2)?;
    let at = TopicPartition::new(&topic, 0);
    let mut writer = f.log.writer(&f.name("deleted"))?;
    let records: Vec<Append> = (0..20).map(|i| append(&topic, i % 2, i.to_string())).collect();
    writer.commit(&records, &[])?;
    let before = f.read(&at, 0)?;
    let mut behind = f.log.reader(&at, before[1].offset)?;
    let cut = before[5].offset;
    f.log.delete_before(&at, cut)?;
    same("start", &f.log.offsets(&at)?.start, &cut)?;
    same("what is left", &f.read(&at, cut)?, &before[5..].to_vec())?;
    let outcome = f.log.reader(&at, 0).and_then(|mut r| r.poll(PollLimit::default(), f.patience));
    expect(matches!(outcome, Err(LogError::OutOfRange { .. })), || format!("reader below the start: {outcome:?}"))?;
    let outcome = behind.poll(PollLimit::default(), f.patience);
    expect(matches!(outcome, Err(LogError::OutOfRange { .. })), || format!("reader that fell behind: {outcome:?}"))?;
    let end = f.log.offsets(&at)?.end;
    let outcome = f.log.reader(&at, end + 10).and_then(|mut r| r.poll(PollLimit::default(), f.patience));
    expect(matches!(outcome, Err(LogError::OutOfRange { .. })), || format!("reader above the end: {outcome:?}"))?;
    same("the other partition", &f.texts(&TopicPartition::new(&topic, 1))?.len(), &10)?;
    f.log.delete_before(&at, end)?;
    same("nothing is left", &f.read(&at, end)?, &Vec::new())?;
    writer.commit(&[append(&topic, 0, "next")], &[])?;
    same("offsets go on", &(f.read(&at, end)?[0].offset >= end), &true)
}

fn retention(f: &Fixture) -> Result<(), Broken> {
    let time = EventTime::from_secs;
    let mut by_size = TopicSpec::new(f.name("by-size"), 1);
    by_size.retention_bytes = Some(5_500);
    let mut by_age = TopicSpec::new(f.name("by-age"), 1);
    by_age.retention_age = Some(Duration::from_secs(100));
    let (by_size, by_age, kept) = (f.topic_with(by_size)?, f.topic_with(by_age)?, f.topic("kept", 1)?);
    let mut writer = f.log.writer(&f.name("retention"))?;
    for n in 0..20 {
        let value = format!("{n:0>900}");
        let at = time(1_000_000 + n * 10);
        writer.commit(&[&by_size, &by_age, &kept].map(|t| append_at(t, 0, at, value.clone())), &[])?;
    }
    let removed = f.log.enforce_retention(time(1_000_000 + 195))?;
    let count = |t: &str| f.texts(&TopicPartition::new(t, 0)).map(|texts| texts.len());
    // Records of the last 100 s: those of seconds 100 to 190.
    same("kept by age", &count(&by_age)?, &10)?;
    let left = count(&by_size)?;
    expect((5..=6).contains(&left), || format!("{left} records of 900 bytes left in 5500 bytes"))?;
    same("without retention", &count(&kept)?, &20)?;
    same("removed", &removed, &(10 + 20 - left as u64))?;
    let start = f.log.offsets(&TopicPartition::new(&by_age, 0))?.start;
    let outcome = f.log.reader(&TopicPartition::new(&by_age, 0), start - 1).map(drop);
    expect(matches!(outcome, Err(LogError::OutOfRange { .. })), || format!("reader below the start: {outcome:?}"))?;
    same("a second time", &f.log.enforce_retention(time(1_000_000 + 195))?, &0)
}
