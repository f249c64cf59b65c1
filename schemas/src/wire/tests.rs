//! Golden rows of every format.

#![allow(clippy::unwrap_used)]

use bumpalo::Bump;
use prost::Message;

use super::*;
use crate::proto;
use crate::proto::tests::{T0_NS, V0A};

/// Timestamp of the records of these tests: a second after t0.
const META: RecordMeta = RecordMeta { timestamp: EventTime(T0_NS + 1_000_000_000) };

fn decode<T>(name: &str, value: &[u8], look: impl FnOnce(Decoded<'_>) -> T) -> Result<T, Fault> {
    let arena = Bump::new();
    let mut out = Decoded::default();
    (format(name).unwrap().decoder)().decode(value, META, &arena, &mut out)?;
    Ok(look(out))
}

#[test]
fn golden_flow() {
    decode("probectl-flow", &hex::decode(V0A).unwrap(), |out| {
        let [row] = &out.rows[..] else { panic!("{out:?}") };
        assert_eq!((row.tenant, row.agent, row.index), ("t1", Some("a"), 0));
        let Row::Flow(f) = row.row else { panic!() };
        assert_eq!((f.event_time, f.end_time, f.start_time), (EventTime(T0_NS), Some(EventTime(T0_NS)), None));
        assert_eq!(
            (f.source_address.unwrap().to_string(), f.destination_address.unwrap().to_string()),
            ("10.0.0.5".into(), "203.0.113.66".into())
        );
        assert_eq!((f.bytes_forward, f.sampling_rate, f.destination_asn, f.transport), (Some(5120), 10, Some(64496), 6));
    })
    .unwrap();
    let _ = proto::flow::FlowBatch::default().encode_to_vec();
}
