//! A linear model over runs of characters.
use super::chance::Chance;
use super::learn::Example;
use tidewatch_operators::names::grams::BUCKETS;

pub fn train(examples: &[Example], epochs: u32, step: f32, decay: f32, seed: u64) -> Vec<f32> {
    let mut chance = Chance::of(seed, "linear");
    let mut w = vec![0.0_f32; BUCKETS + 1];
    let mut s = vec![1e-2_f32; BUCKETS + 1];
    let mut order: Vec<u32> = (0..examples.len() as u32).collect();
    let total = epochs as usize * examples.len();
    let mut done = 0;
    for _ in 0..epochs {
        chance.shuffle(&mut order);
        for &i in &order {
            let e = &examples[i as usize];
            let root = 1.0 / (e.buckets.len().max(1) as f32).sqrt();
            let logit: f32 = e.buckets.iter().map(|b| w[usize::from(*b)]).sum::<f32>() * root + w[BUCKETS];
            let p = 1.0 / (1.0 + libm::expf(-logit));
            let err = (p - f32::from(u8::from(e.generated))) * e.weight;
            let st = step * (1.0 - 0.9 * done as f32 / total as f32);
            for b in &e.buckets {
                let b = usize::from(*b);
                let g = err * root + decay * w[b] * e.weight;
                s[b] += g * g;
                w[b] -= st * g / s[b].sqrt();
            }
            s[BUCKETS] += err * err;
            w[BUCKETS] -= st * err / s[BUCKETS].sqrt();
            done += 1;
        }
    }
    w
}
