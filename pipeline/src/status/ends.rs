//! Ends of partitions, asked for now and then beside the hot path: lag is the distance to them.
//!
//! Asking costs a request per partition and round, so it has a pace of its own, and one slow broker ends a round early.

use std::time::{Duration, Instant};

use super::Board;
use crate::log::{Log, TopicPartition};

/// Longest round: what was not asked by then is asked in the next one, which begins there.
const ROUND_MAX: Duration = Duration::from_secs(5);

/// Where the next round begins.
#[derive(Debug, Default)]
pub struct Look {
    next: usize,
}

/// Asks for the ends of all partitions that this process reads. `source` holds the inputs, `log` the rest.
pub fn look_at_ends(look: &mut Look, board: &Board, source: &dyn Log, log: &dyn Log) {
    let tasks: Vec<(String, TopicPartition)> =
        board.tasks().into_iter().map(|t| (t.stage, TopicPartition::new(t.topic, t.partition))).collect();
    let began = Instant::now();
    for asked in 0..tasks.len() {
        let (stage, at) = &tasks[(look.next + asked) % tasks.len()];
        if began.elapsed() > ROUND_MAX {
            look.next = (look.next + asked) % tasks.len();
            return;
        }
        let from = if stage == "normalize" { source } else { log };
        // Who cannot be reached is told by the reader; here the old figures stay.
        let (Ok(range), Ok(end)) = (from.offsets(at), from.high_watermark(at)) else { continue };
        board.known_task(stage, at, |line| {
            line.stable_end = Some(range.end);
            line.end = Some(end.max(range.end));
        });
    }
    look.next = 0;
}
