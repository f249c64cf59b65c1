//! Seeded beacons and controls.

use tidewatch_schemas::address::Address;

use crate::{Record, first_alert, run};

pub(crate) struct Stream(u64);

impl Stream {
    pub(crate) fn new(seed: u64) -> Self {
        let mut s = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            s.next();
        }
        s
    }

    pub(crate) fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
}

fn contact(start: f64, bytes: u64) -> Record {
    Record::Flow {
        start,
        at: start + 0.2,
        peer: Address::v4([203, 0, 113, 66]),
        port: 443,
        transport: 6,
        bytes,
        state: "SF".into(),
        flags: 0x1b,
    }
}

fn beacon(seed: u64, period: f64, jitter: f64, symmetric: bool, lost: f64, contacts: usize) -> Vec<Record> {
    let mut s = Stream::new(seed);
    let mut t = 1_700_000_000.0 + 1000.0 * s.next();
    let mut out = Vec::new();
    while out.len() < contacts {
        let u = s.next();
        t += if symmetric { period * (1.0 + jitter * (2.0 * u - 1.0)) } else { period * (1.0 - jitter * u) };
        if s.next() >= lost {
            out.push(contact(t + 0.3 * s.next(), (500.0 * (0.8 + 0.4 * s.next())) as u64));
        }
    }
    out
}

pub(crate) fn grid() {
    const RUNS: u64 = 40;
    println!("period_s jitter shape  lost   recall@30 recall@60 median_contacts p90 confidence@end");
    for period in [10.0, 30.0, 60.0, 300.0, 3600.0, 14_400.0, 86_400.0] {
        for (jitter, symmetric) in
            [(0.0, false), (0.1, false), (0.2, false), (0.37, false), (0.5, false), (0.9, false), (0.5, true)]
        {
            for lost in [0.0, 0.2] {
                let mut needed: Vec<usize> = Vec::new();
                let mut confidence = 0;
                for seed in 0..RUNS {
                    let records = beacon(seed + 1, period, jitter, symmetric, lost, 60);
                    let found = run(records.clone());
                    if let Some(f) = first_alert(&found) {
                        let at = f.decided_at.as_secs_f64();
                        needed.push(records.iter().filter(|r| r.at() <= at + 1e-6).count());
                        confidence += u32::from(found.last().unwrap().confidence);
                    }
                }
                needed.sort_unstable();
                let within = |n: usize| needed.iter().filter(|c| **c <= n).count() as f64 / RUNS as f64;
                let q = |p: f64| needed.get(((needed.len() as f64 - 1.0) * p) as usize).copied().unwrap_or(0);
                println!(
                    "{period:>8} {jitter:>5} {} {lost:>5}   {:>8.2} {:>8.2} {:>8} {:>6} {:>6}",
                    if symmetric { "sym" } else { "one" },
                    within(30),
                    within(60),
                    q(0.5),
                    q(0.9),
                    confidence / (needed.len().max(1) as u32)
                );
            }
        }
    }
}

/// Situations of detection.md's list that are not on the grid.
pub(crate) fn situations() {
    println!("\nsituation                        runs  found  median contacts");
    situation("60 s jitter 50 %, 2 h", |s| {
        (0..160)
            .scan(1.7e9, |t, _| {
                *t += 60.0 * (1.0 - 0.5 * s.next());
                Some(contact(*t, 500))
            })
            .collect()
    });
    situation("300 s jitter 20 %, 2 h", |s| {
        (0..27)
            .scan(1.7e9, |t, _| {
                *t += 300.0 * (1.0 - 0.2 * s.next());
                Some(contact(*t, 500))
            })
            .collect()
    });
    situation("60 s jitter 20 %, 30 min", |s| {
        (0..33)
            .scan(1.7e9, |t, _| {
                *t += 60.0 * (1.0 - 0.2 * s.next());
                Some(contact(*t, 500))
            })
            .collect()
    });
    situation("60 s jitter 90 %, 24 h", |s| {
        (0..2600)
            .scan(1.7e9, |t, _| {
                *t += 60.0 * (1.0 - 0.9 * s.next());
                Some(contact(*t, 500))
            })
            .collect()
    });
    situation("60 s +-50 % 20 % lost, 8 h", |s| beacon((s.next() * 1e6) as u64, 60.0, 0.5, true, 0.2, 400));
    situation("4 h jitter 50 %, 7 d", |s| {
        (0..56)
            .scan(1.7e9, |t, _| {
                *t += 14_400.0 * (1.0 - 0.5 * s.next());
                Some(contact(*t, 500))
            })
            .take_while(|r| r.at() < 1.7e9 + 604_800.0)
            .collect()
    });
    situation("24 h jitter 10 %, 14 d", |s| {
        (0..14)
            .scan(1.7e9, |t, _| {
                *t += 86_400.0 * (1.0 - 0.1 * s.next());
                Some(contact(*t, 500))
            })
            .collect()
    });
    situation("60 s jitter 20 % after 5 h of Poisson", |s| {
        let mut t = 1.7e9;
        let mut out: Vec<Record> = (0..300)
            .map(|_| {
                t -= 60.0 * s.next().ln();
                contact(t, 500)
            })
            .collect();
        out.extend((0..60).map(|_| {
            t += 60.0 * (1.0 - 0.2 * s.next());
            contact(t, 500)
        }));
        out
    });
    situation("300 s jitter 20 % under 20 visits a day", |s| {
        let mut t = 1.7e9;
        let mut out: Vec<Record> = (0..320)
            .map(|_| {
                t += 300.0 * (1.0 - 0.2 * s.next());
                contact(t, 500)
            })
            .collect();
        out.extend((0..20).map(|_| contact(1.7e9 + 86_400.0 * s.next(), 2000)));
        out
    });
    for (jitter, visits) in [(0.0, 600.0), (0.2, 600.0), (0.2, 300.0), (0.5, 600.0)] {
        situation(&format!("60 s jitter {jitter}, visits every {visits} s"), |s| {
            let mut t = 1.7e9;
            let mut out: Vec<Record> = (0..200)
                .map(|_| {
                    t += 60.0 * (1.0 - jitter * s.next());
                    contact(t, 500)
                })
                .collect();
            let end = t;
            t = 1.7e9;
            while t < end {
                t -= visits * s.next().ln();
                out.push(contact(t, 2000));
            }
            out
        });
    }
    situation("60 s jitter 20 %, whole seconds", |s| {
        (0..30)
            .scan(1.7e9, |t, _| {
                *t += 60.0 * (1.0 - 0.2 * s.next());
                Some(contact(t.floor(), 500))
            })
            .collect()
    });
    situation("two implants 300 s jitter 20 %, one key", |s| {
        let mut out = Vec::new();
        for _ in 0..2 {
            let mut t = 1.7e9 + 300.0 * s.next();
            for _ in 0..150 {
                t += 300.0 * (1.0 - 0.2 * s.next());
                out.push(contact(t, 500));
            }
        }
        out
    });
    situation("60 s jitter 20 %, bursts of 3", |s| {
        let mut t = 1.7e9;
        (0..30)
            .flat_map(|_| {
                t += 60.0 * (1.0 - 0.2 * s.next());
                [contact(t, 500), contact(t + 0.7 * s.next(), 500), contact(t + 1.5 * s.next(), 500)]
            })
            .collect()
    });
}

fn situation(name: &str, mut make: impl FnMut(&mut Stream) -> Vec<Record>) {
    let runs = 40;
    let mut needed = Vec::new();
    for seed in 0..runs {
        let records = make(&mut Stream::new(seed + 500));
        if let Some(f) = first_alert(&run(records.clone())) {
            let at = f.decided_at.as_secs_f64();
            needed.push(records.iter().filter(|r| r.at() <= at + 1e-6).count());
        }
    }
    needed.sort_unstable();
    println!(
        "{name:<40} {runs:>4}  {:.2}  {}",
        needed.len() as f64 / runs as f64,
        needed.get(needed.len() / 2).copied().unwrap_or(0)
    );
}

pub(crate) fn controls() {
    println!("\ncontrol                      runs  share with an alert");
    for mean in [5.0, 10.0, 30.0, 60.0, 300.0, 3600.0] {
        let n = (86_400.0_f64 / mean).clamp(200.0, 2000.0) as usize;
        control(&format!("poisson mean {mean} s n {n}"), 200, |s| {
            let mut t = 1.7e9;
            (0..n)
                .map(|_| {
                    t -= mean * s.next().ln();
                    contact(t, 500)
                })
                .collect()
        });
    }
    for shape in [2.0f64, 3.0] {
        control(&format!("erlang-{shape} mean 60 s n 1000"), 100, |s| {
            let mut t = 1.7e9;
            (0..1000)
                .map(|_| {
                    for _ in 0..shape as usize {
                        t -= 60.0 / shape * s.next().ln();
                    }
                    contact(t, 500)
                })
                .collect()
        });
    }
    control("business hours, 5 days", 100, |s| {
        let mut out = Vec::new();
        for day in 0..5 {
            let mut t = 1.7e9 + 86_400.0 * f64::from(day) + 28_800.0;
            let end = t + 32_400.0;
            while t < end {
                // A visit: a page of some clicks, then something else.
                for _ in 0..(1.0 - 4.0 * s.next().ln()) as usize {
                    t -= 25.0 * s.next().ln();
                    for _ in 0..(1.0 + 4.0 * s.next()) as usize {
                        out.push(contact(t + 3.0 * s.next(), (300.0 + 3000.0 * s.next()) as u64));
                    }
                }
                t -= 1500.0 * s.next().ln();
            }
        }
        out
    });
    control("log-normal sigma 1 mean ~60 s", 100, |s| {
        let mut t = 1.7e9;
        (0..1000)
            .map(|_| {
                let z = (-2.0 * s.next().ln()).sqrt() * (std::f64::consts::TAU * s.next()).cos();
                t += 40.0 * z.exp();
                contact(t, 500)
            })
            .collect()
    });
}

fn control(name: &str, runs: u64, mut make: impl FnMut(&mut Stream) -> Vec<Record>) {
    let hit = (0..runs).filter(|seed| first_alert(&run(make(&mut Stream::new(seed + 1000)))).is_some()).count();
    println!("{name:<32} {runs:>4}  {:.3}", hit as f64 / runs as f64);
}
