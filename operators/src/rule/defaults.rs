//! The default rules of `rules/`, compiled in, so that the command needs no files beside it. One line per file.

/// File name and text of every default rule file, in the order of the manual.
pub static DEFAULTS: &[(&str, &str)] = &[
    ("rules/beaconing.yaml", include_str!("../../../rules/beaconing.yaml")),
    ("rules/egress_volume.yaml", include_str!("../../../rules/egress_volume.yaml")),
    ("rules/lateral.yaml", include_str!("../../../rules/lateral.yaml")),
];
