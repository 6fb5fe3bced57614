//! Access to the internals for tests, fuzzing, the simulation and the benches. Not part of any released program.

#[cfg(feature = "measure")]
pub mod bench_hooks;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(all(feature = "simulation", debug_assertions))]
pub mod simulation;
