//! Mutations of good inputs: bytes, numbers in text, fields of protobuf messages. Seeded: the same seed, the same inputs.

/// SplitMix64: small, seeded, good enough to mutate bytes.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// A seed, changed in one to six places.
    pub fn mutated(&mut self, seeds: &[Vec<u8>], bytes_max: usize) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            self.mutate(&mut bytes, seeds);
        }
        bytes.truncate(bytes_max);
        bytes
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        // Values at which lengths, signs and separators turn.
        const ODD: [u8; 16] = [0, 1, 0x7f, 0x80, 0xff, b'\t', b'\n', b'-', b'#', b'"', b'\\', b'{', b'[', b':', b'.', b'9'];
        let at = self.below(bytes.len());
        let len = 1 + self.below(8);
        let end = (at + len).min(bytes.len());
        match self.below(12) {
            _ if bytes.is_empty() => bytes.push(self.next() as u8),
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.next() as u8,
            2 => bytes[at] = ODD[self.below(ODD.len())],
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => bytes.insert(at, ODD[self.below(ODD.len())]),
            6 => {
                let copy = bytes[at..end].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            7 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len());
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            8 => {
                let to = self.below(bytes.len());
                bytes.swap(at, to);
            }
            9 => self.number(bytes, at),
            _ => self.message(bytes, 0),
        }
    }
    /// Puts a number at which something turns in the place of the next run of digits.
    fn number(&mut self, bytes: &mut Vec<u8>, at: usize) {
        const NUMBERS: [&str; 12] = [
            "0",
            "-1",
            "00",
            "65536",
            "4294967296",
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551616",
            "1e308",
            "0.0000000001",
            "1e-400",
            "253402300800",
        ];
        let Some(from) = bytes[at..].iter().position(u8::is_ascii_digit).map(|n| at + n) else { return };
        let to = bytes[from..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |n| from + n);
        bytes.splice(from..to, NUMBERS[self.below(NUMBERS.len())].bytes());
    }

    /// Changes one field of what may be a protobuf message and keeps the lengths around it right.
    fn message(&mut self, bytes: &mut Vec<u8>, depth: u32) {
        let mut fields = Vec::new();
        let mut at = 0;
        while let Some((key, from)) = varint(bytes, at) {
            let Some((length, from)) = (if key & 7 == 2 { varint(bytes, from) } else { Some((0, from)) }) else { break };
            let to = match key & 7 {
                0 => varint(bytes, from).map_or(usize::MAX, |(_, to)| to),
                1 => from + 8,
                2 => from.saturating_add(length as usize),
                5 => from + 4,
                _ => usize::MAX,
            };
            if to > bytes.len() {
                break;
            }
            fields.push((at, key, from, to));
            at = to;
        }
        if fields.is_empty() {
            return;
        }
        let (start, key, from, to) = fields[self.below(fields.len())];
        let mut inner = bytes[from..to].to_vec();
        let copies = match self.below(8) {
            0 => 0,
            1 => 2,
            2 => 1 + self.below(40),
            _ => {
                match key & 7 {
                    2 if depth < 3 && self.below(4) > 0 => self.message(&mut inner, depth + 1),
                    0 => {
                        const TURNS: [u64; 8] = [0, 1, 0x7f, 0xffff, 0x1_0000, u32::MAX as u64, i64::MAX as u64, u64::MAX];
                        inner.clear();
                        put_varint(&mut inner, TURNS[self.below(TURNS.len())]);
                    }
                    _ if inner.is_empty() => inner.push(self.next() as u8),
                    _ => {
                        let at = self.below(inner.len());
                        inner[at] = self.next() as u8;
                    }
                }
                1
            }
        };
        let mut field = Vec::new();
        for _ in 0..copies {
            put_varint(&mut field, key);
            if key & 7 == 2 {
                put_varint(&mut field, inner.len() as u64);
            }
            field.extend(&inner);
        }
        bytes.splice(start..to, field);
    }
}

/// A varint and where it ends.
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, byte) in bytes.get(at..)?.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * i as u32)?;
        if *byte < 0x80 {
            return Some((value, at + i + 1));
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
