//! The default rules of `rules/`, compiled in, so that the command needs no files beside it. One line per file.

/// The default rules of one kind.
#[derive(Clone, Copy, Debug)]
pub struct DefaultRules {
    /// Kind in rule files.
    pub rule_kind: &'static str,
    /// File in the project.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// All of them, in the order of the manual.
pub static DEFAULTS: &[DefaultRules] = &[
    DefaultRules { rule_kind: "beaconing", file: "rules/beaconing.yaml", text: include_str!("../../../rules/beaconing.yaml") },
    DefaultRules { rule_kind: "dns_dga", file: "rules/dns_dga.yaml", text: include_str!("../../../rules/dns_dga.yaml") },
    DefaultRules { rule_kind: "dns_exfil", file: "rules/dns_exfil.yaml", text: include_str!("../../../rules/dns_exfil.yaml") },
    DefaultRules {
        rule_kind: "egress_volume",
        file: "rules/egress_volume.yaml",
        text: include_str!("../../../rules/egress_volume.yaml"),
    },
    DefaultRules { rule_kind: "lateral", file: "rules/lateral.yaml", text: include_str!("../../../rules/lateral.yaml") },
    DefaultRules { rule_kind: "scan", file: "rules/scan.yaml", text: include_str!("../../../rules/scan.yaml") },
    DefaultRules {
        rule_kind: "long_connection",
        file: "rules/long_connection.yaml",
        text: include_str!("../../../rules/long_connection.yaml"),
    },
];
