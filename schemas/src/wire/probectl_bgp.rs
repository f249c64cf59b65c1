//! `probectl-bgp`: one `probectl.bgp.v1.BGPEvent`. Read and checked, then skipped: there is no table of routing events.

use bumpalo::Bump;

use super::protobuf::Reader;
use super::value::{unix_ns, wrong};
use super::{BadRow, Decoded, Decoder, Fault, RecordMeta};

/// Hops of a path or expected origins, at most.
const NUMBERS_MAX: usize = 4096;

/// Decoder of `probectl-bgp`.
#[derive(Debug, Default)]
pub(super) struct ProbectlBgp;

impl Decoder for ProbectlBgp {
    fn decode<'a>(&mut self, value: &'a [u8], _: RecordMeta, _: &'a Bump, out: &mut Decoded<'a>) -> Result<(), Fault> {
        if value.is_empty() {
            return Err(Fault::Empty);
        }
        match Wire::read(Reader::new(value))?.check() {
            Ok(()) => out.skip("bgp has no observation table yet"),
            Err(fault) => out.bad.push(BadRow { index: 0, fault, bytes: value.to_vec() }),
        }
        Ok(())
    }
}

struct Wire<'a> {
    tenant: &'a str,
    prefix: &'a str,
    confidence: f64,
    detected_at_ns: i64,
    numbers: usize,
}

impl<'a> Wire<'a> {
    fn read(mut r: Reader<'a>) -> Result<Self, Fault> {
        let mut w = Wire { tenant: "", prefix: "", confidence: 0.0, detected_at_ns: 0, numbers: 0 };
        while let Some(tag) = r.tag()? {
            match tag.number {
                1 => w.tenant = r.text(tag, "tenant_id")?,
                2 => drop(r.u64(tag, "event_type")?),
                3 => drop(r.u64(tag, "severity")?),
                4 => w.confidence = r.f64(tag, "confidence")?,
                5 => w.prefix = r.text(tag, "prefix")?,
                6 => drop(r.u64(tag, "new_origin_asn")?),
                7 => drop(r.u64(tag, "old_origin_asn")?),
                8 => r.numbers(tag, "new_as_path", |_| w.numbers += 1)?,
                9 => r.numbers(tag, "old_as_path", |_| w.numbers += 1)?,
                10 => r.numbers(tag, "expected_origins", |_| w.numbers += 1)?,
                11 => drop(r.u64(tag, "rpki_status")?),
                12 => drop(r.text(tag, "collector")?),
                13 => drop(r.u64(tag, "peer_asn")?),
                14 => drop(r.text(tag, "peer_address")?),
                15 => drop(r.text(tag, "message")?),
                16 => w.detected_at_ns = r.i64(tag, "detected_at_unix_nano")?,
                _ => r.skip(tag)?,
            }
        }
        Ok(w)
    }

    fn check(&self) -> Result<(), Fault> {
        for (field, text) in [("tenant_id", self.tenant), ("prefix", self.prefix)] {
            if text.is_empty() {
                return Err(Fault::Missing { field });
            }
        }
        if self.prefix.parse::<ipnet::IpNet>().is_err() {
            return Err(wrong("prefix", "a CIDR", self.prefix));
        }
        if !(0.0..=1.0).contains(&self.confidence) {
            return Err(wrong("confidence", "0 to 1", self.confidence));
        }
        if self.numbers > NUMBERS_MAX {
            return Err(Fault::TooLarge { what: "AS numbers of one event", limit: NUMBERS_MAX });
        }
        unix_ns("detected_at_unix_nano", self.detected_at_ns).map(drop)
    }
}
