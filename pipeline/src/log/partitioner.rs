//! The partition that the Java client, Kafka Connect and librdkafka's `murmur2_random` choose for a key.
//!
//! Used where others expect that placement (published signals). It is not how tidewatch places its own records: internal
//! topics use the routing hash of the operators. The function is fixed for ever: changing it moves keys.

/// Seed of the Java client's murmur2.
const SEED: u32 = 0x9747_b28c;
/// Multiplier of murmur2.
const M: u32 = 0x5bd1_e995;

/// Partition of `key` among `partitions`, as the Java client computes it; 0 when there are no partitions.
pub fn murmur2_partition(key: &[u8], partitions: u32) -> u32 {
    if partitions == 0 {
        return 0;
    }
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// 32-bit murmur2 with the Java client's seed.
fn murmur2(data: &[u8]) -> u32 {
    // The length enters modulo 2^32, as in the 32-bit original; keys are far shorter.
    let mut h = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in words.by_ref() {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_java_client() {
        assert_eq!(murmur2(b"21") as i32, -973_932_308);
        assert_eq!(murmur2(b"foobar") as i32, -790_332_482);
        assert_eq!(murmur2(b"kafka"), 0xd067_cf64);
        assert_eq!(murmur2(b""), 0x106e_08d9);
        assert_eq!(murmur2(b"acme"), 0xb39b_9904);
        assert_eq!(murmur2(b"192.0.2.10"), 0x4d61_4073);
    }

    #[test]
    fn partitions_are_those_of_the_java_client() {
        assert_eq!(murmur2_partition(b"acme", 12), 0);
        assert_eq!(murmur2_partition(b"192.0.2.10", 12), 11);
        assert_eq!(murmur2_partition(b"anything", 0), 0);
    }
}
