//! When to try again: a pure function of the number of failures and one random number. Knows no clock and no server.

use std::time::Duration;

/// How a destination is retried. There is no limit on attempts: what is unreachable today is tried until it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Upper bound of the first pause.
    pub first: Duration,
    /// Upper bound of every pause.
    pub cap: Duration,
}

/// 1 s doubling to 60 s, the cap that SIEM vendors' own forwarders keep to.
impl Default for RetryPolicy {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), cap: Duration::from_secs(60) }
    }
}

/// Longest pause that a server may ask for; beyond it the server is asked again.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// The pause after `failures` failures in a row (from 1): uniform between nothing and the doubled bound ("full jitter"),
/// so that many senders do not come back together. `random` is any uniform number. A pause the server asked for comes
/// first, up to [`RETRY_AFTER_MAX`].
pub fn pause(policy: RetryPolicy, failures: u32, random: u64, asked: Option<Duration>) -> Duration {
    if let Some(asked) = asked {
        return asked.min(RETRY_AFTER_MAX);
    }
    let doublings = failures.saturating_sub(1).min(31);
    let bound = policy.first.saturating_mul(1 << doublings).min(policy.cap);
    let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    // The high half of the product of two 64-bit numbers: uniform over 0..nanos without division.
    Duration::from_nanos(((u128::from(nanos) * u128::from(random)) >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_cap() {
        let policy = RetryPolicy::default();
        let longest = |failures| pause(policy, failures, u64::MAX, None).as_secs_f64().round();
        let bounds: Vec<_> = [1, 2, 3, 6, 7, 8, 1000, u32::MAX].into_iter().map(longest).collect();
        assert_eq!(bounds, [1.0, 2.0, 4.0, 32.0, 60.0, 60.0, 60.0, 60.0]);
        assert_eq!(pause(policy, 5, 0, None), Duration::ZERO);
        assert_eq!(pause(policy, 1, u64::MAX / 2, None).as_millis(), 499);
    }

    #[test]
    fn the_server_is_heard_within_reason() {
        let policy = RetryPolicy::default();
        assert_eq!(pause(policy, 1, 7, Some(Duration::from_secs(90))), Duration::from_secs(90));
        assert_eq!(pause(policy, 1, 7, Some(Duration::ZERO)), Duration::ZERO);
        assert_eq!(pause(policy, 1, 7, Some(Duration::from_secs(1 << 40))), RETRY_AFTER_MAX);
    }
}
