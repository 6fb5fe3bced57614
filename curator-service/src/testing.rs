//! What tests, fuzzing, the simulation and the benches reach the crate's inside by. No program for use is built with
//! any of it.

#[cfg(feature = "measure")]
pub mod bench_hooks;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(all(feature = "simulation", debug_assertions))]
pub mod simulation;
