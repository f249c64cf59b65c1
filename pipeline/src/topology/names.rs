//! Names on a shared cluster: internal topics, consumer groups, transactional ids. Two deployments never share one.

use tidewatch_schemas::document::{Mistakes, Node};

/// Longest deployment name, bytes.
const DEPLOYMENT_BYTES_MAX: usize = 32;

/// The stages of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Inputs to `obs`.
    Normalize,
    /// `obs` to `findings`.
    Detect,
    /// `findings` to `signals`.
    Correlate,
    /// `signals` to destinations.
    Deliver,
}

impl Stage {
    /// All, in the order a record meets them.
    pub const ALL: &'static [Self] = &[Self::Normalize, Self::Detect, Self::Correlate, Self::Deliver];

    /// Name on the command line and in groups.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normalize => "normalize",
            Self::Detect => "detect",
            Self::Correlate => "correlate",
            Self::Deliver => "deliver",
        }
    }

    /// By name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.name() == name)
    }
}

/// The names of one deployment. The default deployment has no name and no prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    deployment: Option<String>,
}

impl Names {
    /// Of a deployment whose name matches `^[a-z0-9][a-z0-9-]{0,31}$`; `None` otherwise.
    pub fn of(deployment: &str) -> Option<Self> {
        let good = is_label(deployment, DEPLOYMENT_BYTES_MAX);
        good.then(|| Self { deployment: Some(deployment.to_owned()) })
    }

    pub(super) fn read(node: Option<Node<'_>>, mistakes: &mut Mistakes) -> Self {
        let Some(node) = node else { return Self::default() };
        let Some(text) = node.str(mistakes) else { return Self::default() };
        Self::of(text).unwrap_or_else(|| {
            let rule = "a deployment is 1 to 32 of a-z, 0-9 and -, not beginning with -";
            mistakes.push(node.mistake(format!("{rule}, got {}", tidewatch_schemas::document::shown(text))));
            Self::default()
        })
    }

    /// The deployment's name; `None` = the default one.
    pub fn deployment(&self) -> Option<&str> {
        self.deployment.as_deref()
    }

    /// An internal topic: `tidewatch.<base>`, or `<deployment>.tidewatch.<base>`.
    pub fn topic(&self, base: &str) -> String {
        match &self.deployment {
            Some(deployment) => format!("{deployment}.tidewatch.{base}"),
            None => format!("tidewatch.{base}"),
        }
    }

    /// Normalized observations.
    pub fn obs(&self) -> String {
        self.topic("obs")
    }

    /// Findings and contacts.
    pub fn findings(&self) -> String {
        self.topic("findings")
    }

    /// Signals for others.
    pub fn signals(&self) -> String {
        self.topic("signals")
    }

    /// What rules in shadow say, in the form of signals: for whoever tries a rule, for no destination.
    pub fn shadow(&self) -> String {
        self.topic("shadow")
    }

    /// Records that could not be taken, with the reason.
    pub fn rejected(&self) -> String {
        self.topic("rejected")
    }

    /// Rows that came after their slice.
    pub fn late(&self) -> String {
        self.topic("late")
    }

    /// Signals that a destination will never take, with the reason.
    pub fn undelivered(&self) -> String {
        self.topic("undelivered")
    }

    /// Repaired records on their way back: an input that never holds others back.
    pub fn replayed(&self) -> String {
        self.topic("replayed")
    }

    /// Versions, marks, joins and leaves.
    pub fn control(&self) -> String {
        self.topic("control")
    }

    /// The consumer group of a stage: `tidewatch-<stage>` or `tidewatch-<deployment>-<stage>`. It always begins with
    /// `tidewatch-`, so that it joins no group of anybody else.
    pub fn group(&self, stage: Stage) -> String {
        match &self.deployment {
            Some(deployment) => format!("tidewatch-{deployment}-{}", stage.name()),
            None => format!("tidewatch-{}", stage.name()),
        }
    }

    /// The consumer group of one destination: its position is its own.
    pub fn destination_group(&self, destination: &str) -> String {
        format!("{}{destination}", self.destination_group_prefix())
    }

    /// What the groups of all destinations begin with.
    pub fn destination_group_prefix(&self) -> String {
        format!("{}-", self.group(Stage::Deliver))
    }

    /// The transactional id of one producer; stable over restarts.
    pub fn writer_id(&self, stage: Stage, host_ordinal: u32, thread: u32) -> String {
        format!("{}-{host_ordinal}-{thread}", self.group(stage))
    }
}

/// `^[a-z0-9][a-z0-9-]*$` of at most so many bytes.
pub(super) fn is_label(text: &str, bytes_max: usize) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !text.is_empty()
        && text.len() <= bytes_max
        && text.bytes().all(|b| good(b) || b == b'-')
        && text.bytes().next().is_some_and(good)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn deployments_share_no_name() {
        let plain = Names::default();
        let blue = Names::of("blue").unwrap();
        assert_eq!(plain.obs(), "tidewatch.obs");
        assert_eq!(blue.obs(), "blue.tidewatch.obs");
        assert_eq!(plain.group(Stage::Detect), "tidewatch-detect");
        assert_eq!(blue.group(Stage::Detect), "tidewatch-blue-detect");
        assert_eq!(blue.writer_id(Stage::Normalize, 2, 1), "tidewatch-blue-normalize-2-1");
        for bad in ["", "-a", "A", "a_b", "a.b", "ä", &"a".repeat(33)] {
            assert_eq!(Names::of(bad), None, "{bad}");
        }
    }
}
