//! IANA's names of DNS record types and response codes, both ways of writing them. Tables only.

/// RR types by name (IANA "DNS Parameters"): those that telemetry shows, sorted by name. NB and
/// NBSTAT are NetBIOS's words for 32 and 33.
const TYPES: &[(&str, u16)] = &[
    ("A", 1),
    ("AAAA", 28),
    ("AFSDB", 18),
    ("ANY", 255),
    ("AXFR", 252),
    ("CAA", 257),
    ("CDNSKEY", 60),
    ("CDS", 59),
    ("CERT", 37),
    ("CNAME", 5),
    ("DHCID", 49),
    ("DNAME", 39),
    ("DNSKEY", 48),
    ("DS", 43),
    ("EUI48", 108),
    ("EUI64", 109),
    ("HINFO", 13),
    ("HTTPS", 65),
    ("IXFR", 251),
    ("KEY", 25),
    ("LOC", 29),
    ("MX", 15),
    ("NAPTR", 35),
    ("NB", 32),
    ("NBSTAT", 33),
    ("NS", 2),
    ("NSEC", 47),
    ("NSEC3", 50),
    ("NSEC3PARAM", 51),
    ("NULL", 10),
    ("OPT", 41),
    ("PTR", 12),
    ("RP", 17),
    ("RRSIG", 46),
    ("SIG", 24),
    ("SMIMEA", 53),
    ("SOA", 6),
    ("SPF", 99),
    ("SRV", 33),
    ("SSHFP", 44),
    ("SVCB", 64),
    ("TKEY", 249),
    ("TLSA", 52),
    ("TSIG", 250),
    ("TXT", 16),
    ("URI", 256),
    ("WKS", 11),
    ("ZONEMD", 63),
];

/// Response codes by name (IANA "DNS RCODEs"), codes of the header alone.
const CODES: &[(&str, u8)] = &[
    ("NOERROR", 0),
    ("FORMERR", 1),
    ("SERVFAIL", 2),
    ("NXDOMAIN", 3),
    ("NOTIMP", 4),
    ("REFUSED", 5),
    ("YXDOMAIN", 6),
    ("YXRRSET", 7),
    ("NXRRSET", 8),
    ("NOTAUTH", 9),
    ("NOTZONE", 10),
    ("DSOTYPENI", 11),
    ("BADVERS", 16),
    ("BADKEY", 17),
    ("BADTIME", 18),
    ("BADMODE", 19),
    ("BADNAME", 20),
    ("BADALG", 21),
    ("BADTRUNC", 22),
    ("BADCOOKIE", 23),
];

/// Number of a record type given as name, `TYPE123` (RFC 3597) or number, in any case; 0 when unknown.
pub(super) fn query_type(text: &str) -> u16 {
    if let Some(&(_, number)) = TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
        return number;
    }
    let digits = match text.get(..4) {
        Some(head) if head.eq_ignore_ascii_case("TYPE") => &text[4..],
        _ => text,
    };
    super::value::decimal(digits).unwrap_or(match text {
        "*" => 255,
        _ => 0,
    })
}

/// Number of a response code given as name, `RCODE11` or number, in any case; `None` when unknown or empty.
pub(super) fn response_code(text: &str) -> Option<u8> {
    if let Some(&(_, number)) = CODES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
        return Some(number);
    }
    let digits = match text.get(..5) {
        Some(head) if head.eq_ignore_ascii_case("RCODE") => &text[5..],
        _ => text,
    };
    super::value::decimal(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for (text, number) in [
            ("A", 1),
            ("aaaa", 28),
            ("HTTPS", 65),
            ("TYPE65", 65),
            ("type123", 123),
            ("16", 16),
            ("*", 255),
            ("", 0),
            ("NOPE", 0),
            ("TYPE70000", 0),
            ("\u{e9}\u{e9}\u{e9}", 0),
        ] {
            assert_eq!(query_type(text), number, "{text}");
        }
        for (text, number) in
            [("NOERROR", Some(0)), ("NXDomain", Some(3)), ("5", Some(5)), ("RCODE24", Some(24)), ("", None), ("nope", None)]
        {
            assert_eq!(response_code(text), number, "{text}");
        }
    }
}
