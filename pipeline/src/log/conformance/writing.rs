//! Checks of commits: order, atomicity, fencing, visibility, limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::log::{Append, CommitError, Log, LogError, PollLimit, TopicPartition, TopicSpec};

use super::fixture::{Broken, Fixture, Want, append, committed, expect, same, text};
use super::{Check, always};

const NOTHING: Want = Want { partition_bytes_max: None, gap_every: None };

/// Small enough to be filled quickly.
const SMALL_PARTITION: Want = Want { partition_bytes_max: Some(64 << 10), gap_every: None };

pub(super) const CHECKS: &[Check] = &[
    Check { name: "records_keep_their_order_per_partition", want: NOTHING, applies: always, run: order },
    Check { name: "an_epoch_reaches_all_partitions_with_its_offsets", want: NOTHING, applies: |c| c.groups, run: atomic },
    Check { name: "a_refused_epoch_leaves_nothing", want: NOTHING, applies: |c| c.groups, run: refused },
    Check { name: "offsets_alone_can_be_committed", want: NOTHING, applies: |c| c.groups, run: offsets_only },
    Check { name: "a_second_writer_fences_the_first", want: NOTHING, applies: always, run: fencing },
    Check { name: "readers_see_whole_epochs_only", want: NOTHING, applies: always, run: whole_epochs },
    Check { name: "a_record_of_1_mib_passes_and_a_larger_one_does_not", want: NOTHING, applies: always, run: sizes },
    Check {
        name: "a_full_partition_refuses_until_freed",
        want: SMALL_PARTITION,
        applies: |c| c.byte_limit && c.deletes,
        run: full,
    },
    Check { name: "a_writer_without_a_group_commits_no_offsets", want: NOTHING, applies: always, run: groupless },
    Check { name: "writing_to_what_is_not_there_is_an_error", want: NOTHING, applies: always, run: unknown },
];

fn order(f: &Fixture) -> Result<(), Broken> {
    let topic = f.topic("order", 2)?;
    let mut writer = f.log.writer(&f.name("order"))?;
    for epoch in 0..5 {
        let records: Vec<Append> = (0..20).map(|i| append(&topic, i % 2, format!("{}", epoch * 20 + i))).collect();
        writer.commit(&records, &[])?;
    }
    for partition in 0..2 {
        let records = f.read(&TopicPartition::new(&topic, partition), 0)?;
        let got: Vec<String> = records.iter().map(text).collect();
        let expected: Vec<String> = (0..100).filter(|n| n % 2 == partition).map(|n| n.to_string()).collect();
        same("records", &got, &expected)?;
        expect(records.windows(2).all(|w| w[0].offset < w[1].offset), || "offsets do not grow".to_owned())?;
    }
    Ok(())
}

fn atomic(f: &Fixture) -> Result<(), Broken> {
    let (input, one, two) = (f.topic("in", 2)?, f.topic("one", 1)?, f.topic("two", 3)?);
    let group = f.name("atomic");
    let at = [TopicPartition::new(&input, 0), TopicPartition::new(&input, 1)];
    f.log.writer(&f.name("feeder"))?.commit(&[append(&input, 0, "x"), append(&input, 1, "y")], &[])?;
    same("positions before", &f.log.committed(&group, &at)?, &vec![None, None])?;
    let membership = f.alone(&group, std::slice::from_ref(&input))?;
    let mut writer = membership.writer(&f.name("atomic"))?;
    let metadata = "hash=0123 \u{e9}\n\"quoted\"";
    writer.commit(
        &[append(&one, 0, "a"), append(&two, 2, "b"), append(&two, 0, "c")],
        &[(at[0].clone(), committed(1, metadata))],
    )?;
    same("position", &f.log.committed(&group, &at)?, &vec![Some(committed(1, metadata)), None])?;
    same("one/0", &f.texts(&TopicPartition::new(&one, 0))?, &vec!["a".to_owned()])?;
    same("two/2", &f.texts(&TopicPartition::new(&two, 2))?, &vec!["b".to_owned()])?;
    same("two/0", &f.texts(&TopicPartition::new(&two, 0))?, &vec!["c".to_owned()])?;
    same("two/1", &f.texts(&TopicPartition::new(&two, 1))?, &Vec::new())?;
    same("another group", &f.log.committed(&f.name("other"), &at)?, &vec![None, None])?;
    membership.leave(true)?;
    same("position after leaving", &f.log.committed(&group, &at)?, &vec![Some(committed(1, metadata)), None])
}

fn refused(f: &Fixture) -> Result<(), Broken> {
    let (input, out) = (f.topic("in", 1)?, f.topic("out", 2)?);
    let group = f.name("refused");
    let at = TopicPartition::new(&input, 0);
    f.log.writer(&f.name("feeder"))?.commit(&[append(&input, 0, "x")], &[])?;
    let membership = f.alone(&group, std::slice::from_ref(&input))?;
    let mut writer = membership.writer(&f.name("refused"))?;
    let huge = Append { value: Some(Bytes::from(vec![0; 2 << 20])), ..append(&out, 1, "") };
    let outcome = writer.commit(&[append(&out, 0, "first"), huge], &[(at.clone(), committed(1, "no"))]);
    expect(matches!(outcome, Err(CommitError::TooLarge { .. })), || format!("2 MiB record: {outcome:?}"))?;
    same("records", &f.texts(&TopicPartition::new(&out, 0))?, &Vec::new())?;
    same("position", &f.log.committed(&group, std::slice::from_ref(&at))?, &vec![None])?;
    writer.commit(&[append(&out, 0, "again")], &[(at.clone(), committed(1, "yes"))])?;
    same("records", &f.texts(&TopicPartition::new(&out, 0))?, &vec!["again".to_owned()])?;
    same("position", &f.log.committed(&group, &[at])?, &vec![Some(committed(1, "yes"))])
}

fn offsets_only(f: &Fixture) -> Result<(), Broken> {
    let input = f.topic("in", 1)?;
    let group = f.name("offsets");
    let at = TopicPartition::new(&input, 0);
    f.log.writer(&f.name("feeder"))?.commit(&[append(&input, 0, "x")], &[])?;
    let membership = f.alone(&group, &[input])?;
    let mut writer = membership.writer(&f.name("offsets"))?;
    writer.commit(&[], &[(at.clone(), committed(1, ""))])?;
    same("position", &f.log.committed(&group, std::slice::from_ref(&at))?, &vec![Some(committed(1, ""))])?;
    writer.commit(&[], &[])?;
    writer.commit(&[], &[(at.clone(), committed(0, "back"))])?;
    same("position", &f.log.committed(&group, &[at])?, &vec![Some(committed(0, "back"))])
}

fn fencing(f: &Fixture) -> Result<(), Broken> {
    let topic = f.topic("fencing", 1)?;
    let id = f.name("fencing");
    let mut first = f.log.writer(&id)?;
    first.commit(&[append(&topic, 0, "first")], &[])?;
    let mut second = f.log.writer(&id)?;
    let outcome = first.commit(&[append(&topic, 0, "ghost")], &[]);
    expect(matches!(outcome, Err(CommitError::Fenced { .. })), || format!("fenced writer: {outcome:?}"))?;
    second.commit(&[append(&topic, 0, "second")], &[])?;
    let outcome = first.commit(&[append(&topic, 0, "ghost")], &[]);
    expect(matches!(outcome, Err(CommitError::Fenced { .. })), || format!("fenced writer, later: {outcome:?}"))?;
    f.log.writer(&f.name("other"))?.commit(&[append(&topic, 0, "other")], &[])?;
    second.commit(&[append(&topic, 0, "third")], &[])?;
    let expected = ["first", "second", "other", "third"].map(str::to_owned).to_vec();
    same("records", &f.texts(&TopicPartition::new(&topic, 0))?, &expected)
}

/// While one thread commits epochs of several records to three partitions, what lies between any two stable ends is
/// always a number of whole epochs.
fn whole_epochs(f: &Fixture) -> Result<(), Broken> {
    const EPOCHS: usize = 40;
    const PER_PARTITION: usize = 7;
    let topic = f.topic("epochs", 3)?;
    let mut writer = f.log.writer(&f.name("epochs"))?;
    let writing = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&writing);
    let written = topic.clone();
    let thread = std::thread::spawn(move || {
        let outcome = (0..EPOCHS).try_for_each(|epoch| {
            let records: Vec<Append> =
                (0..3 * PER_PARTITION).map(|i| append(&written, (i % 3) as u32, epoch.to_string())).collect();
            writer.commit(&records, &[])
        });
        flag.store(false, Ordering::Release);
        outcome
    });
    let seen = watch_epochs(f.log.as_ref(), &topic, &writing, PER_PARTITION, f);
    let written = thread.join().map_err(|_| Broken::new("the writing thread died"))?;
    written?;
    seen?;
    for partition in 0..3 {
        let count = f.texts(&TopicPartition::new(&topic, partition))?.len();
        same("records", &count, &(EPOCHS * PER_PARTITION))?;
    }
    Ok(())
}

fn watch_epochs(log: &dyn Log, topic: &str, writing: &AtomicBool, per_partition: usize, f: &Fixture) -> Result<(), Broken> {
    let mut seen_to = [0i64; 3];
    while writing.load(Ordering::Acquire) {
        for (partition, from) in seen_to.iter_mut().enumerate() {
            let at = TopicPartition::new(topic, partition as u32);
            let end = log.offsets(&at)?.end;
            let mut reader = log.reader(&at, *from)?;
            let mut texts = Vec::new();
            for _ in 0..f.looks() {
                if reader.position() >= end {
                    break;
                }
                let records = reader.poll(PollLimit::default(), f.step())?;
                texts.extend(records.iter().filter(|r| r.offset < end).map(text));
            }
            expect(reader.position() >= end, || format!("{at}: {end} was not reached"))?;
            expect(texts.len().is_multiple_of(per_partition), || {
                format!("{at}: {} records between {from} and {end}, an epoch has {per_partition}", texts.len())
            })?;
            for epoch in texts.chunks(per_partition) {
                expect(epoch.iter().all(|t| *t == epoch[0]), || format!("{at}: epochs mixed: {epoch:?}"))?;
            }
            *from = end;
        }
    }
    Ok(())
}

fn sizes(f: &Fixture) -> Result<(), Broken> {
    let mut spec = TopicSpec::new(f.name("large"), 1);
    spec.record_bytes_max = (1 << 20) + 1024;
    let topic = f.topic_with(spec)?;
    let mut writer = f.log.writer(&f.name("large"))?;
    let large = Bytes::from((0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>());
    let record = Append { value: Some(large.clone()), key: Some(Bytes::from_static(b"k")), ..append(&topic, 0, "") };
    writer.commit(&[record.clone(), record.clone(), record], &[])?;
    let too_large = Append { value: Some(Bytes::from(vec![1; (1 << 20) + 2048])), ..append(&topic, 0, "") };
    let outcome = writer.commit(&[too_large], &[]);
    expect(matches!(outcome, Err(CommitError::TooLarge { .. })), || format!("too large a record: {outcome:?}"))?;
    let records = f.read(&TopicPartition::new(&topic, 0), 0)?;
    same("number of records", &records.len(), &3)?;
    expect(records.iter().all(|r| r.value.as_ref() == Some(&large)), || "the bytes differ".to_owned())
}

fn full(f: &Fixture) -> Result<(), Broken> {
    let topic = f.topic("full", 2)?;
    let mut writer = f.log.writer(&f.name("full"))?;
    let epoch = |n: usize| {
        let big = Append { value: Some(Bytes::from(vec![n as u8; 8 << 10])), ..append(&topic, 0, "") };
        [append(&topic, 1, n.to_string()), big]
    };
    let mut refused = None;
    for n in 0..16 {
        match writer.commit(&epoch(n), &[]) {
            Ok(()) => {}
            Err(CommitError::Full { at, .. }) => {
                same("full partition", &at, &TopicPartition::new(&topic, 0))?;
                refused = Some(n);
                break;
            }
            Err(e) => return Err(e.into()),
        }
    }
    let Some(refused) = refused else { return Err(Broken::new("64 KiB were never full")) };
    expect(refused >= 4, || format!("full after {refused} records of 8 KiB"))?;
    same("records beside it", &f.texts(&TopicPartition::new(&topic, 1))?.len(), &refused)?;
    let outcome = writer.commit(&epoch(refused), &[]);
    expect(matches!(outcome, Err(CommitError::Full { .. })), || format!("still full: {outcome:?}"))?;
    let at = TopicPartition::new(&topic, 0);
    f.log.delete_before(&at, f.log.offsets(&at)?.end)?;
    writer.commit(&epoch(refused), &[])?;
    same("records beside it", &f.texts(&TopicPartition::new(&topic, 1))?.len(), &(refused + 1))
}

fn groupless(f: &Fixture) -> Result<(), Broken> {
    let topic = f.topic("groupless", 1)?;
    let at = TopicPartition::new(&topic, 0);
    let outcome = f.log.writer(&f.name("groupless"))?.commit(&[append(&topic, 0, "x")], &[(at.clone(), committed(0, ""))]);
    expect(matches!(outcome, Err(CommitError::Log(LogError::Unsupported { .. }))), || format!("{outcome:?}"))?;
    same("records", &f.texts(&at)?, &Vec::new())
}

fn unknown(f: &Fixture) -> Result<(), Broken> {
    let topic = f.topic("known", 1)?;
    let mut writer = f.log.writer(&f.name("unknown"))?;
    let outcome = writer.commit(&[append(&topic, 0, "x"), append(&topic, 1, "y")], &[]);
    expect(outcome.is_err(), || "a partition that does not exist was written".to_owned())?;
    let mut writer = f.log.writer(&f.name("unknown"))?;
    let outcome = writer.commit(&[append(&topic, 0, "x"), append(&f.name("nowhere"), 0, "y")], &[]);
    expect(outcome.is_err(), || "a topic that does not exist was written".to_owned())?;
    same("records", &f.texts(&TopicPartition::new(&topic, 0))?, &Vec::new())
}
