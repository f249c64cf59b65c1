//! dev
use std::sync::Arc;
use tidewatch_tests::sim::*;
fn main() -> anyhow::Result<()> {
    let a: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let t = std::time::Instant::now();
    let refs: Vec<_> = (0..4).map(|v| Arc::new(world::undisturbed(office::Arrangement(v), None).unwrap())).collect();
    for r in &refs {
        println!("{:?} {} digests {:?}", r.signals.iter().map(|(t, s)| (t, s.len())).collect::<Vec<_>>(), r.digests.len(), r.aside);
        assert_eq!(tidewatch_tests::scenario::without_raw(&r.signals), tidewatch_tests::scenario::without_raw(&refs[0].signals));
    }
    println!("{:?}", t.elapsed());
    for seed in a[0]..a[1] {
        let t = std::time::Instant::now();
        let options = world::Options { seed, accidents: plan::plan(seed), control: None, reference: Some(refs[(seed % 4) as usize].clone()) };
        if std::env::var("PLAN").is_ok() { for x in &options.accidents { println!("{x}"); } }
        let o = world::run(options)?;
        println!("seed {seed} {:?} crashes {} steps {} signals {} compared {} rebalances {} sim {:.0} s real {:?} digest {:x}", o.broken.as_ref().map(|b| b.chars().take(600).collect::<String>()), o.history.crashes.len(), o.history.count, o.signals, o.compared, o.rebalances, o.took_ns as f64/1e9, t.elapsed(), o.history.digest);
        if o.broken.is_some() || std::env::var("TELL").is_ok() { print!("{}", world::told(&o.history, 60)); }
    }
    Ok(())
}
