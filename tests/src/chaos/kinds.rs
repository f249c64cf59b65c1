//! What is done to a deployment, in a seeded order in which every kind comes equally often.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// One kind of rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// kill -9 of a worker, started again at once as the same static member.
    KillInPlace,
    /// kill -9 of a worker that stays away until another has taken over.
    KillAndLeave,
    /// kill -9 of a broker.
    KillBroker,
    /// kill -9 of the broker that coordinates a worker's transactions.
    KillCoordinator,
    /// SIGSTOP of a worker for longer than its session, then SIGCONT.
    Freeze,
    /// The same, but another process has taken its name meanwhile.
    FreezeAndReplace,
    /// SIGTERM, and a start.
    Drain,
    /// Three workers, one, three, two, three.
    Scale,
    /// The connection breaks between the end of a transaction and its answer, once.
    CutOnce,
    /// The same at every try, until the commit has been settled by a new producer.
    CutUntilSettled,
    /// A partition more for an input topic.
    AddPartition,
}

/// Partitions added in a run, at most: each costs tasks.
const ADDED_MAX: usize = 6;

impl Kind {
    /// All.
    pub const ALL: [Self; 11] = [
        Self::KillInPlace,
        Self::KillAndLeave,
        Self::KillBroker,
        Self::KillCoordinator,
        Self::Freeze,
        Self::FreezeAndReplace,
        Self::Drain,
        Self::Scale,
        Self::CutOnce,
        Self::CutUntilSettled,
        Self::AddPartition,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillInPlace => "kill -9, restart in place",
            Self::KillAndLeave => "kill -9, another takes over",
            Self::KillBroker => "kill -9 of a broker",
            Self::KillCoordinator => "kill -9 of a coordinator",
            Self::Freeze => "zombie",
            Self::FreezeAndReplace => "zombie, replaced",
            Self::Drain => "SIGTERM, restart",
            Self::Scale => "scale 3-1-3-2-3",
            Self::CutOnce => "commit cut once",
            Self::CutUntilSettled => "commit cut until settled",
            Self::AddPartition => "partition added",
        }
    }
}

/// The kinds of a run. Rounds of all of them, shuffled; in a last round that is not whole the most telling come first.
/// Only those of `only`, if it names any. Without `grows` no partition is added: rows that come before it is known are late or not by chance when little lateness
/// allows for that.
pub fn schedule(seed: u64, rotations: u32, grows: bool, only: &[Kind]) -> Vec<Kind> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut all = Vec::new();
    let mut added = 0;
    while all.len() < rotations as usize {
        let left = rotations as usize - all.len();
        let mut round: Vec<Kind> = Kind::ALL.into_iter().filter(|k| only.is_empty() || only.contains(k)).take(left).collect();
        for kind in &mut round {
            if *kind == Kind::AddPartition {
                added += 1;
                if !grows || added > ADDED_MAX {
                    *kind = Kind::KillInPlace;
                }
            }
        }
        round.shuffle(&mut random);
        all.extend(round);
    }
    all
}

/// Chance of one rotation: a run that is continued draws the same.
pub fn chance(seed: u64, scene: &str, rotation: u32) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ u64::from(rotation).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let word = scene.bytes().fold(0_u64, |w, b| w.wrapping_mul(31).wrapping_add(b.into()));
    ChaCha8Rng::seed_from_u64(random.random::<u64>() ^ word)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn kinds_come_equally_often() {
        let kinds = schedule(7, 200, true, &[]);
        assert_eq!(kinds.len(), 200);
        let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
        kinds.iter().for_each(|k| *counts.entry(*k).or_default() += 1);
        assert_eq!(counts[&Kind::AddPartition], ADDED_MAX);
        assert!(counts.iter().all(|(k, n)| *k == Kind::AddPartition || *n >= 18), "{counts:?}");
        assert_eq!(kinds, schedule(7, 200, true, &[]));
        assert_ne!(kinds, schedule(8, 200, true, &[]));
        assert_eq!(schedule(7, 3, true, &[Kind::Freeze]), [Kind::Freeze; 3]);
        let few: std::collections::BTreeSet<Kind> = schedule(1, 12, true, &[]).into_iter().collect();
        assert_eq!(few.len(), Kind::ALL.len());
        assert!(!schedule(1, 40, false, &[]).contains(&Kind::AddPartition));
    }
}
