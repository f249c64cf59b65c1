//! Numbered epochs for the torn-write test: what the killed writer writes and the test expects.

use bytes::Bytes;
use tidewatch::log::{Append, CommitError, Committed, Log, Member, TopicPartition, TopicSpec};

/// Topic whose position is committed with each epoch.
pub const INPUT: &str = "input";
/// Topic that the epochs go to.
pub const OUTPUT: &str = "output";
/// Its partitions.
pub const OUTPUT_PARTITIONS: u32 = 3;
/// Records of an epoch in each of them.
pub const RECORDS_PER_PARTITION: u32 = 4;
/// Group that commits.
pub const GROUP: &str = "group";

/// Makes the topics.
pub fn prepare(log: &dyn Log) {
    for (name, partitions) in [(INPUT, 1), (OUTPUT, OUTPUT_PARTITIONS)] {
        log.create_topic(&TopicSpec::new(name, partitions)).expect("an open log takes a topic");
    }
}

/// Commits epochs from the last committed one on, for ever, calling `started` after the first.
pub fn write_for_ever(log: &dyn Log, mut started: impl FnMut()) -> Result<(), CommitError> {
    let at = TopicPartition::new(INPUT, 0);
    let member = Member { id: "m".to_owned(), index: 0, of: 1 };
    let mut membership = log.join(GROUP, &[INPUT.to_owned()], &member)?;
    membership.poll(std::time::Duration::ZERO)?;
    let mut writer = membership.writer("writer")?;
    let mut epoch = log.committed(GROUP, std::slice::from_ref(&at))?[0].as_ref().map_or(0, |c| c.offset);
    loop {
        epoch += 1;
        let records: Vec<Append> = (0..OUTPUT_PARTITIONS)
            .flat_map(|partition| (0..RECORDS_PER_PARTITION).map(move |i| (partition, i)))
            .map(|(partition, i)| Append {
                topic: OUTPUT.to_owned(),
                partition,
                timestamp: None,
                key: Some(Bytes::from(format!("{epoch}.{i}"))),
                // Some lie in the table, some beside it.
                value: Some(Bytes::from(vec![epoch as u8; if i == 0 { 20_000 } else { 100 }])),
                headers: Vec::new(),
            })
            .collect();
        writer.commit(&records, &[(at.clone(), Committed { offset: epoch, metadata: format!("epoch {epoch}") })])?;
        started();
    }
}
