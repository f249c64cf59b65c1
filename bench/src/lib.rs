//! The stages that every flow passes, each alone and with its input ready: for benches that count rows a second and for
//! counts of instructions (`.ci/run instructions`). What a flow costs on the whole way is what `tidewatch-bench cost` measures.

pub mod stages;
