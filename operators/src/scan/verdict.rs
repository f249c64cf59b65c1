//! From what is kept to what is told: the forms of a scan, how sure and how grave each is, and the words for it.

use libm::{log2, round};
use tidewatch_schemas::signal::{Endpoint, Evidence, Severity, Value};
use tidewatch_schemas::time::EventTime;

use super::Scan;
use super::group::{DAY_S, FAILS_MAX, Group, STEP_S, Sweep, What};
use super::state::{Attempt, HostState, Seen, seconds};
use crate::operator::{Context, Draft, RawRows};
use crate::why::{About, CASES_MAX, Case, Condition};

/// Horizons, seconds, and how many times the threshold each asks for: chance collects more over longer ones.
const HORIZONS: [(u32, f64); 3] = [(2 * STEP_S, 1.0), (3600, 1.25), (DAY_S, 1.5)];

/// Share of new targets that must fail; of web servers outside, which everybody visits by the hundred, more.
const SHARE: f64 = 0.3;
const SHARE_WEB: f64 = 0.6;

/// Share of the threshold that must have failed where answers inside support the rest.
const FAILED_SHARE: f64 = 0.6;

/// A list of web servers outside that is tried at once: so many of the threshold fail within a minute, and between them others
/// answer. Were all to fail, it is the network that is down.
const LIST_S: u32 = 60;
const LIST_TIMES: f64 = 0.5;
const LIST_SHARE: std::ops::RangeInclusive<f64> = 0.3..=0.75;

/// Share of all failed attempts outside that a high port must have: who fails at many ports looks for peers, not for a
/// service.
const STANDS_OUT: f64 = 0.6;

/// Targets of a block, and ports of it, each with at least so many failed attempts.
const BLOCK_SIDE: usize = 3;

/// Failed attempts of a block, as so many times the threshold for targets.
const BLOCK_TIMES: f64 = 1.5;

/// How long a sweep that was answered everywhere is looked at before it is told, seconds: pollers come again.
pub(super) const SWEEP_WAIT_S: u32 = 900;

/// Confidence from which a scan is grave, inside and outside.
const GRAVE: [u8; 2] = [75, 80];

/// A host is told again after so long, or when what failed has doubled.
const AGAIN_NS: i64 = 3600 * 1_000_000_000;

/// What shape a scan has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Horizontal,
    Vertical,
    Block,
    Sweep,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Horizontal => "horizontal",
            Self::Vertical => "vertical",
            Self::Block => "block",
            Self::Sweep => "sweep",
        }
    }
}

/// A scan that is to be told.
pub(super) struct Shape {
    form: Form,
    what: What,
    failed: u32,
    answered: u32,
    /// Targets tried, ports tried.
    targets: u32,
    ports: Vec<u16>,
    window_s: u32,
    span_s: u32,
    /// Score over what was asked for.
    excess: f64,
    at_least: bool,
    examples: Vec<String>,
    /// The host was known for a day.
    old: bool,
    first: EventTime,
    at: EventTime,
    raw: RawRows,
}

impl Scan {
    /// After a new attempt that failed.
    pub(super) fn judge(&self, seen: &mut Seen, a: &Attempt, [port, target]: [usize; 2]) -> Option<Shape> {
        let side = &seen.sides[usize::from(a.outside)];
        let ready = side.told_at.is_none_or(|told| a.at.since(told) >= AGAIN_NS || side.pairs >= 2 * side.told_pairs);
        if !ready {
            return None;
        }
        let at_s = seconds(a.at);
        let web = a.outside && matches!(a.port, 80 | 443) && a.transport == 6;
        let stands_out = !a.outside || a.port < 1024 || seen.standing_out(a.port) >= STANDS_OUT;
        let times = if web || matches!(a.transport, 1 | 58) { 2.0 } else { 1.0 };
        let share = if web { SHARE_WEB } else { SHARE };
        let groups = seen.groups.records_mut();
        let shape = stands_out
            .then(|| over(&mut groups[port], self.targets * times, share, at_s))
            .flatten()
            .or_else(|| web.then(|| list(&mut groups[port], LIST_TIMES * self.targets, at_s)).flatten())
            .or_else(|| over(&mut groups[target], self.ports, SHARE, at_s))
            .or_else(|| if side.pairs.is_multiple_of(8) { self.block(seen.groups.records(), a.outside, at_s) } else { None })?;
        let place = match shape.form {
            Form::Vertical => target,
            _ => port,
        };
        let group = &mut seen.groups.records_mut()[place];
        (group.told, group.told_s) = (group.tried, at_s);
        Some(finish(seen, shape, a.at))
    }

    /// Several ports of several targets, none of them enough by itself.
    fn block(&self, groups: &[Group], outside: bool, at_s: u32) -> Option<Shape> {
        for (window_s, times) in &HORIZONS[1..] {
            let (mut failed, mut first_s, mut targets, mut ports, mut examples) = (0, at_s, 0, Vec::new(), Vec::new());
            for group in groups.iter().filter(|g| g.what.outside() == outside && g.fails() >= BLOCK_SIDE) {
                let (n, first) = group.failed(at_s, *window_s);
                if (n as usize) < BLOCK_SIDE {
                    continue;
                }
                match group.what {
                    What::Port { port, .. } => ports.push(port),
                    What::Target { .. } => {
                        (failed, first_s, targets) = (failed + n, first_s.min(first), targets + 1);
                        examples.extend(group.examples.first().cloned());
                    }
                }
            }
            let need = BLOCK_TIMES * self.targets * times;
            if f64::from(failed) >= need && targets as usize >= BLOCK_SIDE && ports.len() >= BLOCK_SIDE {
                ports.sort_unstable();
                examples.truncate(super::group::EXAMPLES_MAX);
                let what = What::Target { peer: 0, outside };
                let excess = f64::from(failed) / need;
                let shape = Shape { targets, ports, examples, excess, ..bare(Form::Block, what, failed, 0, *window_s) };
                return Some(Shape { span_s: at_s - first_s, ..shape });
            }
        }
        None
    }

    /// After a new answer inside: whether a sweep is to be waited for, until when.
    pub(super) fn sweeps(&self, seen: &mut Seen, place: usize, at_s: u32) -> Option<u32> {
        let old = seen.is_old(at_s);
        let group = &mut seen.groups.records_mut()[place];
        if matches!(group.sweep, Sweep::Until(_)) || (group.sweep == Sweep::Judged && at_s < group.told_s + DAY_S) {
            return None;
        }
        let answers = group.answers(at_s).map(f64::from);
        let [step, hour, day] = HORIZONS.map(|(_, times)| 2.0 * self.targets * times);
        if answers[0] < step && answers[1] < hour && !(old && answers[2] >= day) {
            return None;
        }
        (group.sweep, group.again) = (Sweep::Until(at_s + SWEEP_WAIT_S), 0);
        seen.waiting += 1;
        Some(at_s + SWEEP_WAIT_S)
    }

    /// Sweeps that were waited for long enough; the widest that nobody calls again.
    pub(super) fn swept(&self, seen: &mut Seen, at: EventTime) -> Option<Shape> {
        let at_s = seconds(at);
        let mut best: Option<Shape> = None;
        for group in seen.groups.records_mut() {
            let Sweep::Until(until) = group.sweep else { continue };
            if until > at_s {
                continue;
            }
            (group.sweep, group.told_s) = (Sweep::Judged, at_s);
            let answers = group.answers(at_s);
            // The hour is two running ones, and holds what came a quarter of an hour ago.
            let in_hour = f64::from(answers[1]) >= 2.0 * self.targets;
            let (answered, window_s) = if in_hour { (answers[1], 3600) } else { (answers[2], DAY_S) };
            if u32::from(group.again) * 2 >= answered {
                continue;
            }
            let failed = group.failed(at_s, window_s).0;
            let excess = f64::from(answered) / (2.0 * self.targets);
            let shape = Shape {
                targets: answered + failed,
                ports: ports_of(group),
                examples: group.examples.clone(),
                excess,
                ..bare(Form::Sweep, group.what, failed, answered, window_s)
            };
            if best.as_ref().is_none_or(|b| shape.excess > b.excess) {
                best = Some(shape);
            }
        }
        seen.waiting = seen.groups.records().iter().filter(|g| matches!(g.sweep, Sweep::Until(_))).count() as u32;
        best.map(|shape| finish(seen, shape, at))
    }

    fn confidence(&self, shape: &Shape) -> f64 {
        let wide = (6.0 * log2(shape.excess.max(1.0))).clamp(0.0, 15.0);
        let share = f64::from(shape.failed) / f64::from((shape.failed + shape.answered).max(1));
        let form = match shape.form {
            Form::Block => 10.0,
            Form::Horizontal | Form::Vertical => 5.0,
            Form::Sweep => -5.0,
        };
        let pace = match shape.window_s {
            DAY_S => -5.0,
            3600 => 0.0,
            _ => 5.0,
        };
        (self.base_confidence + wide + 15.0 * share + form + pace).clamp(1.0, 99.0)
    }

    pub(super) fn draft(&self, shape: &Shape, inside: bool, ctx: &Context<'_>) -> Draft {
        let confidence = self.confidence(shape) as u8;
        let outside = shape.what.outside();
        let share = f64::from(shape.failed) / f64::from((shape.failed + shape.answered).max(1));
        let where_ = if outside { "external" } else { "internal" };
        let of = if shape.at_least { "at least " } else { "" };
        let span = round(f64::from(shape.span_s));
        let answered = match (shape.form, shape.answered) {
            (_, 0) => String::new(),
            (Form::Sweep, _) => ", nearly all answered and hardly one was called again".to_owned(),
            (_, n) => format!(", {n} other new ones answered"),
        };
        let host = &ctx.key.host;
        let example = shape.examples.first().map_or("", String::as_str);
        let protocol = protocol(shape.what);
        let port = shape.ports.first().copied().unwrap_or(0);
        let why = match shape.form {
            Form::Horizontal => format!(
                "{host} tried {protocol}port {port} of {of}{} {where_} hosts within {span} s, such as {example}, in vain{answered}",
                shape.failed
            ),
            Form::Vertical => {
                format!("{host} tried {of}{} ports of {where_} host {example} within {span} s in vain{answered}", shape.failed)
            }
            Form::Block => format!(
                "{host} tried {} ports of {} {where_} hosts within {span} s, such as {example}: {of}{} attempts failed",
                shape.ports.len(),
                shape.targets,
                shape.failed
            ),
            Form::Sweep => format!(
                "{host} opened {protocol}port {port} of {} internal hosts that it had not called before, within {}{answered}",
                shape.targets,
                if shape.window_s == DAY_S { "a day" } else { "two hours" },
            ),
        };
        let mut evidence = Evidence::new();
        let mut put = |name: &str, value: Value| evidence.insert(name.to_owned(), value);
        put("form", Value::Text(shape.form.name().to_owned()));
        put("side", Value::Text(where_.to_owned()));
        put("targets", Value::Long(i64::from(shape.targets)));
        put("ports", Value::List(shape.ports.iter().map(|p| Value::Long(i64::from(*p))).collect()));
        put("failed", Value::Long(i64::from(shape.failed)));
        put("answered", Value::Long(i64::from(shape.answered)));
        put("failed_ratio", Value::Double(round(share * 1000.0) / 1000.0));
        put("at_least", Value::Flag(shape.at_least));
        put("window_s", Value::Long(i64::from(shape.window_s)));
        put("span_s", Value::Long(i64::from(shape.span_s)));
        put("examples", Value::List(shape.examples.iter().map(|e| Value::Text(e.clone())).collect()));
        let subject = match (shape.form, shape.what) {
            (Form::Vertical, _) => format!("vertical {example}"),
            (Form::Block, _) => format!("block {where_}"),
            (form, _) => format!("{} {protocol}{port} {where_}", form.name()),
        };
        let destination = match shape.form {
            Form::Vertical => {
                let ip = example.parse::<std::net::IpAddr>().is_ok().then(|| example.to_owned());
                let name = ip.is_none().then(|| example.to_owned());
                Some(Endpoint { ip, name, ..Endpoint::default() })
            }
            Form::Block => None,
            _ => Some(Endpoint { port: Some(port), ..Endpoint::default() }),
        };
        Draft {
            why,
            confidence,
            severity: Some(severity(shape, inside, confidence)),
            subject,
            destination,
            first_seen: shape.first.min(shape.at),
            last_seen: shape.at,
            decided_at: shape.at,
            evidence,
            attack: if outside { vec!["T1595.001"] } else { vec!["T1018"] },
            raw: shape.raw.clone(),
            ..Draft::default()
        }
    }
}

/// The table of the detector's page; the rule's severity is the ceiling.
fn severity(shape: &Shape, inside: bool, confidence: u8) -> Severity {
    match shape.form {
        // Somebody outside: the internet's noise.
        _ if !inside => Severity::Low,
        Form::Sweep if shape.window_s == DAY_S || !shape.old => Severity::Low,
        Form::Sweep => Severity::Medium,
        _ if confidence >= GRAVE[usize::from(shape.what.outside())] => Severity::High,
        _ => Severity::Medium,
    }
}

/// What the state says of each condition, port by port and target by target.
pub(super) fn cases(of: &Scan, state: &HostState, about: &About<'_>) -> Vec<Case> {
    let Some(seen) = state.kept() else { return Vec::new() };
    let at_s = seconds(about.at);
    let mut cases: Vec<Case> = Vec::new();
    for group in seen.groups.records() {
        let side = if group.what.outside() { "external" } else { "internal" };
        let (subject, way) = match group.what {
            What::Port { port, .. } => (format!("{}{port} {side}", protocol(group.what)), "horizontal"),
            What::Target { .. } => (group.examples.first().cloned().unwrap_or_default(), "vertical"),
        };
        if !about.is(&subject) {
            continue;
        }
        let mut conditions = group_conditions(of, group, at_s);
        if let What::Port { port, outside: true, .. } = group.what
            && port >= 1024
        {
            conditions.push(Condition::at_least("share of all failures outside", seen.standing_out(port), STANDS_OUT));
        }
        cases.push(Case { subject, way, conditions });
    }
    cases.sort_by(|a, b| a.distance().total_cmp(&b.distance()).then_with(|| a.subject.cmp(&b.subject)));
    cases.truncate(CASES_MAX);
    cases
}

/// Over the horizon that comes nearest.
fn group_conditions(of: &Scan, group: &Group, at_s: u32) -> Vec<Condition> {
    // Moving time on belongs to the detector.
    let answers = group.clone().answers(at_s);
    let (threshold, share_min) = match group.what {
        What::Port { transport: 6, port: 80 | 443, outside: true } => (of.targets * 2.0, SHARE_WEB),
        What::Port { transport: 1 | 58, .. } => (of.targets * 2.0, SHARE),
        What::Port { .. } => (of.targets, SHARE),
        What::Target { .. } => (of.ports, SHARE),
    };
    const NAMES: [&str; 3] = ["failed and answered, 10 min", "failed and answered, 1 h", "failed and answered, 1 day"];
    let all = HORIZONS.into_iter().zip(answers).zip(NAMES).map(|(((window_s, times), answered), name)| {
        let (f, s) = (f64::from(group.failed(at_s, window_s).0), f64::from(answered));
        let score = f + if group.what.outside() { 0.0 } else { s.min(f) / 2.0 };
        vec![
            Condition::at_least("failed attempts", f, FAILED_SHARE * threshold),
            Condition::at_least(name, score, (threshold * times).min(FAILS_MAX as f64)),
            Condition::at_least("share that failed", f / (f + s).max(1.0), share_min),
        ]
    });
    let lacks = |all: &Vec<Condition>| all.iter().map(Condition::lacks).sum::<f64>();
    all.min_by(|a, b| lacks(a).total_cmp(&lacks(b))).unwrap_or_default()
}

/// Told of lately, and not doubled since.
fn is_told(group: &Group, at_s: u32) -> bool {
    group.told > 0 && at_s < group.told_s + DAY_S && group.tried < 2 * group.told
}

/// Many web servers at once of which about half answer.
fn list(group: &mut Group, threshold: f64, at_s: u32) -> Option<Shape> {
    let (failed, first_s) = group.failed(at_s, LIST_S);
    if f64::from(failed) < threshold || is_told(group, at_s) {
        return None;
    }
    let [answered, ..] = group.answers(at_s);
    let (f, s) = (f64::from(failed), f64::from(answered));
    LIST_SHARE.contains(&(f / (f + s))).then(|| {
        let shape = Shape {
            targets: failed + answered,
            excess: f / threshold,
            ..bare(Form::Horizontal, group.what, failed, answered, LIST_S)
        };
        Shape { ports: ports_of(group), examples: group.examples.clone(), span_s: at_s - first_s, ..shape }
    })
}

/// The first horizon over which a group is over its threshold.
fn over(group: &mut Group, threshold: f64, share_min: f64, at_s: u32) -> Option<Shape> {
    if (group.fails() as f64) < FAILED_SHARE * threshold {
        return None;
    }
    if is_told(group, at_s) {
        return None;
    }
    let answers = group.answers(at_s);
    let inside = !group.what.outside();
    for ((window_s, times), answered) in HORIZONS.into_iter().zip(answers) {
        let (failed, first_s) = group.failed(at_s, window_s);
        let (f, s) = (f64::from(failed), f64::from(answered));
        // More than is kept cannot be asked for.
        let need = (threshold * times).min(FAILS_MAX as f64);
        let score = f + if inside { s.min(f) / 2.0 } else { 0.0 };
        if f >= FAILED_SHARE * threshold && score >= need && f >= share_min * (f + s) {
            let form = if matches!(group.what, What::Port { .. }) { Form::Horizontal } else { Form::Vertical };
            let targets = if form == Form::Horizontal { failed + answered } else { 1 };
            let shape = Shape { targets, excess: score / need, ..bare(form, group.what, failed, answered, window_s) };
            let at_least = group.overflowed();
            // Doubled since it was told: how far is in the counter, not in what is kept.
            let failed = if group.told > 0 { failed.max(group.tried) } else { failed };
            return Some(Shape {
                failed,
                at_least,
                ports: ports_of(group),
                examples: group.examples.clone(),
                span_s: at_s - first_s,
                ..shape
            });
        }
    }
    None
}

fn bare(form: Form, what: What, failed: u32, answered: u32, window_s: u32) -> Shape {
    Shape {
        form,
        what,
        failed,
        answered,
        targets: 0,
        ports: Vec::new(),
        window_s,
        span_s: 0,
        excess: 1.0,
        at_least: false,
        examples: Vec::new(),
        old: false,
        first: EventTime::MIN,
        at: EventTime::MIN,
        raw: RawRows::default(),
    }
}

/// What the host's state adds, and that it was told.
fn finish(seen: &mut Seen, shape: Shape, at: EventTime) -> Shape {
    seen.tainted = true;
    let old = seen.is_old(seconds(at));
    let side = &mut seen.sides[usize::from(shape.what.outside())];
    if shape.form != Form::Sweep {
        (side.told_at, side.told_pairs) = (Some(at), side.pairs);
    }
    let first = if shape.form == Form::Sweep { at.minus(i64::from(SWEEP_WAIT_S) * 1_000_000_000) } else { side.first };
    let first = first.max(at.minus(i64::from(shape.window_s) * 1_000_000_000));
    Shape { old, first, at, raw: side.raw.clone(), ..shape }
}

fn ports_of(group: &Group) -> Vec<u16> {
    match group.what {
        What::Port { port, .. } => vec![port],
        What::Target { .. } => group.ports(),
    }
}

fn protocol(what: What) -> &'static str {
    match what {
        What::Port { transport: 6, .. } => "tcp ",
        What::Port { transport: 17, .. } => "udp ",
        What::Port { transport: 1 | 58, .. } => "icmp ",
        _ => "",
    }
}
