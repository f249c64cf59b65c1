//! Addresses in front of a name, as block lists and policies of mail are asked: `4.3.2.1.zen.example`, 32 nibbles for IPv6.
//! Decides nothing about what stands behind them.
//!
//! Always holds: no allocation; what is left is a piece of the text that was asked for.

/// Labels of an IPv4 address.
const OCTETS: usize = 4;
/// Labels of an IPv6 address, reversed.
const NIBBLES: usize = 32;

/// What a policy of mail puts behind an address to say of which kind it is.
const KINDS: [&str; 2] = ["in-addr", "ip6"];

/// What stands behind an address at the beginning of labels, empty when nothing does; `None` when no address stands there:
/// four octets or 32 nibbles and no more, so that data cut into such labels is not taken for one.
pub(crate) fn behind_an_address(labels: &str) -> Option<&str> {
    let octet = |label: &&str| label.len() <= 3 && label.parse::<u8>().is_ok();
    let nibble = |label: &&str| label.len() == 1 && label.bytes().all(|b| b.is_ascii_hexdigit());
    let count = if labels.split('.').take_while(nibble).count() == NIBBLES {
        NIBBLES
    } else if labels.split('.').take_while(octet).count() == OCTETS {
        OCTETS
    } else {
        return None;
    };
    let rest = labels.splitn(count + 1, '.').nth(count).unwrap_or("");
    match rest.split_once('.') {
        Some((kind, rest)) if KINDS.contains(&kind) => Some(rest),
        None if KINDS.contains(&rest) => Some(""),
        _ => Some(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_no_more_is_taken_away() {
        let nibbles = |n: usize| vec!["a"; n].join(".");
        for (labels, behind) in [
            ("4.3.2.1", Some("")),
            ("4.3.2.1.zen", Some("zen")),
            ("4.3.2.1.key.zen.dq", Some("key.zen.dq")),
            ("4.3.2.1.in-addr.sender.example.spf", Some("sender.example.spf")),
            ("4.3.2.1.in-addr", Some("")),
            ("5.4.3.2.1.zen", None),
            ("3.2.1.zen", None),
            ("4.3.2.256.zen", None),
            ("zen.4.3.2.1", None),
            ("", None),
        ] {
            assert_eq!(behind_an_address(labels), behind, "{labels}");
        }
        assert_eq!(behind_an_address(&format!("{}.zen", nibbles(32))), Some("zen"));
        assert_eq!(behind_an_address(&nibbles(32)), Some(""));
        assert_eq!(behind_an_address(&nibbles(33)), None);
        assert_eq!(behind_an_address(&nibbles(31)), None);
        // All of whose nibbles are digits.
        assert_eq!(behind_an_address(&format!("{}.zen", ["1"; 32].join("."))), Some("zen"));
    }
}
