//! Which partition a key belongs to: Kafka's default (`murmur2_random` in librdkafka), so that every producer agrees.

use crate::event::PartitionId;

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;

/// The partition of `key` among `partition_count` (at least 1) partitions.
pub fn partition_of(key: &[u8], partition_count: u32) -> PartitionId {
    debug_assert!(partition_count > 0, "a topic has at least one partition");
    let positive = murmur2(key) & 0x7fff_ffff;
    let partition = positive % partition_count.max(1);
    PartitionId(i32::try_from(partition).unwrap_or(0))
}

/// Murmur2 with the seed of Kafka's Java client.
pub fn murmur2(data: &[u8]) -> u32 {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        mixed ^= mixed >> 24;
        mixed = mixed.wrapping_mul(MULTIPLIER);
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed;
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, expected: i32) {
        assert_eq!(murmur2(key.as_bytes()).cast_signed(), expected, "{key}");
    }

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn agrees_with_the_java_client() {
        check("21", -973_932_308);
        check("foobar", -790_332_482);
        check("a-little-bit-long-string", -985_981_536);
        check("a-little-bit-longer-string", -1_486_304_829);
        check("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971);
        check("abc", 479_470_107);
    }

    #[test]
    fn every_partition_is_in_range() {
        for user in 0..1_000 {
            let partition = partition_of(format!("u{user}").as_bytes(), 7);
            assert!((0..7).contains(&partition.0));
        }
    }
}
