//! A half's beacons: some forms of the grid in an office of the half's own, captured ones, and memoryless pairs.

use anyhow::Result;
use tidewatch_generator::{PRESET_START, Plan};
use tidewatch_operators::rule::Rule;

use super::super::beacons::{CONTACTS_MIN, DAYS, Form, GOAL_CONTACTS, HOSTS, forms, memoryless, shared};
use super::super::logs::write_conns;
use super::super::measure::Wanted;
use super::super::{Context, captured, made, way};
use super::tally::{Around, Soon, Tally, Truth};
use super::{Half, ordinary};

const KIND: &str = "ndr.beaconing";
/// Forms of a half, at most: the first in the order of the hash.
const FORMS_MAX: usize = 480;
/// Memoryless pairs of each mean.
const CONTROLS: u32 = 50;

pub fn material(context: &Context, half: Half, rules: &[Rule], tally: &mut Tally) -> Result<()> {
    let seed = half.seed(context);
    let mut all = forms(false);
    all.extend(forms(true));
    all.retain(|form| form.contacts() >= CONTACTS_MIN as f64);
    let mut forms: Vec<Form> = half.of(all, Form::name);
    forms.truncate(FORMS_MAX);
    let attacks = forms.iter().zip(0..).map(|(form, n)| form.attack(seed, n)).collect();
    let office = Plan::office(seed, 0, HOSTS, PRESET_START, DAYS * 86_400);
    let plan = Plan { tenants: vec!["quality".into()], attacks, ..office };
    let renames = shared(&plan, &forms);
    let dir = context.folder(&format!("half-{}-beacons", half.name()))?;
    made::write(&plan, &renames, &dir)?;
    let ran = way::run(&dir, &[], rules)?;
    std::fs::remove_dir_all(&dir)?;
    // Those that by chance came to too few contacts explain what is told of them, and are not counted.
    let truth = |(form, wanted): (&Form, Option<Wanted>)| {
        let wanted = wanted?;
        let kind = if wanted.contacts.len() < CONTACTS_MIN { "" } else { KIND };
        let soon = if form.is_asked() { Soon::Contacts(GOAL_CONTACTS) } else { Soon::Ever };
        Some(Truth { kind, wanted, soon })
    };
    let truths: Vec<Truth> = forms.iter().zip(made::wanted(&plan, &renames)).filter_map(truth).collect();
    tally.take(&ran, &truths, Around::Generated(f64::from(HOSTS * DAYS)), |_| true);

    let (conns, _) = memoryless(seed, CONTROLS);
    let dir = context.folder(&format!("half-{}-memoryless", half.name()))?;
    write_conns(&dir, conns)?;
    let ran = way::run(&dir, &[], rules)?;
    std::fs::remove_dir_all(&dir)?;
    tally.take(&ran, &[], Around::Generated(0.0), |_| true);

    if context.has_sets() {
        for it in half.of(vec![captured::rat(context)?, captured::proxied(context)?], |it| it.name.clone()) {
            let ran = way::run(&it.dir, &it.internal, rules)?;
            tally.take(&ran, &[Truth::of(KIND, it.wanted)], Around::Nothing, |_| true);
        }
    }
    ordinary::days(context, half, "beacons", rules, tally)
}
