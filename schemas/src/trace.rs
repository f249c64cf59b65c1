//! W3C Trace Context, version 00: the `traceparent` and `tracestate` of record headers, read and written.
//!
//! What always holds: a signal's own context is made of its id and of nothing else, so it is the same after every restart,
//! in every layout and in a backtest, whether anybody looks at traces or not. A header that is no trace context is `None`.

/// Name of the header with trace, span and flags.
pub const TRACEPARENT: &str = "traceparent";
/// Name of the header with what vendors add.
pub const TRACESTATE: &str = "tracestate";
/// Bytes of a `tracestate` that are taken; a longer one is left out whole, as the standard allows.
pub const TRACESTATE_BYTES_MAX: usize = 512;

/// Bytes of a `traceparent` of version 00.
const PARENT_BYTES: usize = 55;
/// Flag: whoever sent this may have recorded it.
const SAMPLED: u8 = 1;

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Trace, never all zero.
    pub trace: [u8; 16],
    /// Span, never all zero.
    pub span: [u8; 8],
    /// Flags as sent.
    pub flags: u8,
}

impl TraceContext {
    /// Reads a `traceparent`. A version after 00 is read as far as 00 goes, as the standard asks.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let rest = header.get(PARENT_BYTES..)?;
        let [version] = bytes::<1>(&header[..2])?;
        let dashes = [2, 35, 52].iter().all(|i| header[*i] == b'-');
        let ends = rest.is_empty() || version > 0 && rest[0] == b'-';
        if !dashes || !ends || version == 0xff {
            return None;
        }
        let (trace, span) = (bytes::<16>(&header[3..35])?, bytes::<8>(&header[36..52])?);
        let [flags] = bytes::<1>(&header[53..55])?;
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, flags })
    }

    /// The context made of an id: the first 16 bytes of its BLAKE3 are the trace, the next 8 the span.
    pub fn of_id(id: &[u8]) -> Self {
        let hash = blake3::hash(id);
        let (mut trace, mut span) = ([0; 16], [0; 8]);
        trace.copy_from_slice(&hash.as_bytes()[..16]);
        span.copy_from_slice(&hash.as_bytes()[16..24]);
        Self { trace, span, flags: SAMPLED }
    }

    /// As a `traceparent`.
    pub fn to_header(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        format!("00-{}-{}-{:02x}", hex(&self.trace), hex(&self.span), self.flags)
    }
}

/// A `tracestate` worth passing on: printable, and not too long.
pub fn tracestate(header: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(header).ok()?;
    let good = !text.is_empty() && text.len() <= TRACESTATE_BYTES_MAX && text.bytes().all(|b| (0x20..0x7f).contains(&b));
    good.then_some(text)
}

/// Lower hex alone: the standard knows no other.
fn bytes<const N: usize>(hex: &[u8]) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(hex.chunks(2)) {
        *byte = digit(pair[0])? << 4 | digit(*pair.get(1)?)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn good_headers_read_back() {
        let context = TraceContext::parse(GOOD.as_bytes());
        assert_eq!(context.map(TraceContext::to_header).as_deref(), Some(GOOD));
        let later = format!("cc{}-more", &GOOD[2..]);
        assert_eq!(TraceContext::parse(later.as_bytes()), context);
        assert_eq!(TraceContext::parse(format!("cc{}", &GOOD[2..]).as_bytes()), context);
    }

    #[test]
    fn bad_headers_are_nothing() {
        for bad in [
            String::new(),
            GOOD[..54].to_owned(),
            format!("{GOOD}-more"),
            format!("ff{}", &GOOD[2..]),
            format!("cc{}x", &GOOD[2..]),
            GOOD.to_uppercase(),
            GOOD.replace("-b7", "_b7"),
            GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            GOOD.replace("b7ad", "b7ag"),
            format!("ü{}", &GOOD[2..]),
        ] {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(TraceContext::parse(&[0xff; 80]), None);
    }

    #[test]
    fn states_are_printable_and_short() {
        assert_eq!(tracestate(b"vendor=1,other=2"), Some("vendor=1,other=2"));
        for bad in [&b""[..], b"a\nb", "ü".as_bytes(), &[b'x'; TRACESTATE_BYTES_MAX + 1]] {
            assert_eq!(tracestate(bad), None);
        }
    }

    #[test]
    fn an_id_has_one_context() {
        let context = TraceContext::of_id(b"bd4fa36cd51f26dd");
        assert_eq!(TraceContext::parse(context.to_header().as_bytes()), Some(context));
        assert_ne!(context, TraceContext::of_id(b"bd4fa36cd51f26de"));
    }
}
