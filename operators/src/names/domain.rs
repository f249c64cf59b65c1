//! The registered domain of a name: what somebody had to register, by the public suffix list with its private section.
//! Not a validator of host names: what is not a name at all is told apart, nothing is repaired.
//!
//! Always holds: no allocation; the parts of a [`Registered`] are pieces of the name that was asked for.

use psl::{Psl, Type};

use super::providers;

/// Longest name, bytes (RFC 1035, without the root's dot).
pub const NAME_BYTES_MAX: usize = 253;

/// Longest label, bytes.
pub const LABEL_BYTES_MAX: usize = 63;

/// A name under its registered domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered<'a> {
    /// The registered domain: `example.co.uk` of `www.example.co.uk`, `mine.ddns.net` of `mine.ddns.net`.
    pub domain: &'a str,
    /// Its own label, right under the suffix: what somebody chose, `example` of `www.example.co.uk`.
    pub label: &'a str,
    /// The labels in front of the registered domain; empty when the name is the registered domain.
    pub front: &'a str,
    /// The public suffix.
    pub suffix: &'a str,
    /// The name belongs to a provider that hands out names under its own domain (content networks, clouds); `domain` and
    /// `label` are then the provider's, because what is in front of them was not registered by anybody.
    pub provided: bool,
}

/// Why a name has no registered domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unregistered {
    /// Empty, too long, an empty or too long label, or a character that no host name has.
    #[error("not a name")]
    Malformed,
    /// One label: a host of the local network, a browser's probe.
    #[error("a single label")]
    Single,
    /// A public suffix itself.
    #[error("a public suffix")]
    Suffix,
    /// A reverse look-up (`in-addr.arpa`, `ip6.arpa`) or another name of the infrastructure under `arpa`.
    #[error("an infrastructure name")]
    Infrastructure,
    /// Under a top-level label that nobody can register in: `lan`, `local`, `corp`, an address, a typing error.
    #[error("not under a public suffix")]
    Internal,
}

/// Top-level labels outside the root zone under which names are registered all the same (Namecoin, Emercoin, OpenNIC):
/// generated names live there because nobody can take them down.
const ALTERNATIVE_ROOTS: &[&str] = &[
    "bazar", "bbs", "bit", "chan", "coin", "crypto", "cyb", "dyn", "emc", "eth", "geek", "gopher", "indy", "lib", "libre", "neo",
    "null", "o", "oss", "oz", "parody", "pirate",
];

/// Reserved for documentation and tests (RFC 2606): names there are treated as registered, so that a test's names behave
/// like real ones.
const RESERVED_AS_REAL: &[&str] = &["example", "test"];

/// Suffixes of dynamic DNS, and those sold like a country's (`uy.com`) that left the public suffix list: each label under
/// them is somebody else's.
const DYNAMIC_DNS: &[&str] = &[
    "allowed.org",
    "ar.com",
    "chickenkiller.com",
    "co.cc",
    "co.tv",
    "crabdance.com",
    "cu.cc",
    "cz.cc",
    "dynserv.com",
    "evils.in",
    "hu.com",
    "ignorelist.com",
    "jumpingcrab.com",
    "kr.com",
    "moo.com.au",
    "mooo.com",
    "my03.com",
    "no.com",
    "qc.com",
    "raspberryip.com",
    "strangled.net",
    "twilightparadox.com",
    "uk.to",
    "undo.it",
    "us.to",
    "uy.com",
    "yi.org",
];

/// The registered domain of a name in lower case without the root's dot.
pub fn registered(name: &str) -> Result<Registered<'_>, Unregistered> {
    if !is_name(name) {
        return Err(Unregistered::Malformed);
    }
    let Some((_, top)) = name.rsplit_once('.') else { return Err(Unregistered::Single) };
    if top == "arpa" {
        return Err(Unregistered::Infrastructure);
    }
    let (suffix, provided) = suffix_of(name, top)?;
    let (domain, label) = under(name, suffix).ok_or(Unregistered::Suffix)?;
    let front = name.len().checked_sub(domain.len() + 1).map_or("", |end| &name[..end]);
    Ok(Registered { domain, label, front, suffix, provided })
}

/// The suffix, and whether it is a provider's domain that was left out of the private section.
fn suffix_of<'a>(name: &'a str, top: &'a str) -> Result<(&'a str, bool), Unregistered> {
    let listed = psl::List.suffix(name.as_bytes()).ok_or(Unregistered::Malformed)?;
    if !listed.is_known() {
        let known = ALTERNATIVE_ROOTS.binary_search(&top).is_ok() || RESERVED_AS_REAL.contains(&top);
        return if known { Ok((top, false)) } else { Err(Unregistered::Internal) };
    }
    let suffix = &name[name.len() - listed.as_bytes().len()..];
    if listed.typ() == Some(Type::Private) {
        let icann = icann_suffix(suffix);
        if let Some((provider, _)) = under(suffix, icann)
            && providers::hands_out_names(provider)
        {
            return Ok((icann, name.len() > provider.len()));
        }
        // The suffix itself was registered by somebody.
        return Ok((if suffix.len() == name.len() { icann } else { suffix }, false));
    }
    if let Some((domain, _)) = under(name, suffix) {
        let below = domain.len() < name.len();
        if below && DYNAMIC_DNS.binary_search(&domain).is_ok() {
            return Ok((domain, false));
        }
        return Ok((suffix, below && providers::hands_out_names(domain)));
    }
    Ok((suffix, false))
}

/// The public suffix of a suffix in the private section.
fn icann_suffix(private: &str) -> &str {
    let mut tail = private;
    while let Some((_, rest)) = tail.split_once('.') {
        tail = rest;
        let whole = |s: &psl::Suffix<'_>| s.as_bytes().len() == tail.len() && s.typ() == Some(Type::Icann);
        if psl::List.suffix(tail.as_bytes()).as_ref().is_some_and(whole) {
            break;
        }
    }
    tail
}

/// The domain right under a suffix and its label; `None` when the name is the suffix.
fn under<'a>(name: &'a str, suffix: &str) -> Option<(&'a str, &'a str)> {
    let rest = &name[..name.len().checked_sub(suffix.len() + 1)?];
    let start = rest.rfind('.').map_or(0, |dot| dot + 1);
    Some((&name[start..], &rest[start..]))
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= LABEL_BYTES_MAX
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn domain(name: &str) -> &str {
        registered(name).unwrap().domain
    }

    #[test]
    fn the_registered_domain_goes_by_the_list_with_its_private_section() {
        for (name, expected) in [
            ("example.com", "example.com"),
            ("www.example.com", "example.com"),
            ("a.b.example.co.uk", "example.co.uk"),
            ("evil.example", "evil.example"),
            ("x.mine.ddns.net", "mine.ddns.net"),
            ("abc.github.io", "abc.github.io"),
            ("abc.com.ru", "abc.com.ru"),
            ("abc.yi.org", "abc.yi.org"),
            ("www.abc.uy.com", "abc.uy.com"),
            ("ddns.net", "ddns.net"),
            ("cloudfront.net", "cloudfront.net"),
            ("abcd.bazar", "abcd.bazar"),
            ("www.city.kawasaki.jp", "city.kawasaki.jp"),
        ] {
            assert_eq!(domain(name), expected, "{name}");
        }
        let r = registered("a.b.example.co.uk").unwrap();
        assert_eq!((r.label, r.front, r.suffix, r.provided), ("example", "a.b", "co.uk", false));
        assert_eq!(registered("example.com").unwrap().front, "");
        assert!(!registered("cloudfront.net").unwrap().provided);
    }

    #[test]
    fn what_a_provider_hands_out_counts_as_the_providers() {
        for (name, expected) in [
            ("d111111abcdef8.cloudfront.net", "cloudfront.net"),
            ("bucket.s3.eu-west-1.amazonaws.com", "amazonaws.com"),
            ("e1234.dscb.akamaiedge.net", "akamaiedge.net"),
            ("mine.azurewebsites.net", "azurewebsites.net"),
            ("a-b-c.vercel.app", "vercel.app"),
        ] {
            let r = registered(name).unwrap();
            assert_eq!((r.domain, r.provided), (expected, true), "{name}");
        }
    }

    #[test]
    fn names_without_a_registered_domain_say_why() {
        for (name, why) in [
            ("", Unregistered::Malformed),
            ("a..b", Unregistered::Malformed),
            ("UPPER.com", Unregistered::Malformed),
            ("sp ace.com", Unregistered::Malformed),
            ("xkjhdfkjh", Unregistered::Single),
            ("com", Unregistered::Single),
            ("co.uk", Unregistered::Suffix),
            ("4.3.2.1.in-addr.arpa", Unregistered::Infrastructure),
            ("printer.lan", Unregistered::Internal),
            ("wpad.corp", Unregistered::Internal),
            ("10.0.0.1", Unregistered::Internal),
        ] {
            assert_eq!(registered(name), Err(why), "{name}");
        }
        let long = "a".repeat(64) + ".com";
        assert_eq!(registered(&long), Err(Unregistered::Malformed));
    }

    #[test]
    fn lists_are_sorted_for_binary_search() {
        assert!(ALTERNATIVE_ROOTS.is_sorted() && DYNAMIC_DNS.is_sorted());
    }
}
