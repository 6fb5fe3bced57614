//! What the formal models are checked for.

use std::fmt::Debug;
use std::hash::Hash;
use std::num::NonZero;
use std::thread::available_parallelism;

use stateright::{Checker, HasDiscoveries, Model};

/// Every property holds in every state.
pub(crate) fn all_hold<M>(model: M)
where
    M: Model<State: Clone + Debug + Hash + PartialEq + Send + Sync, Action: Clone + Debug + PartialEq>
        + Debug
        + Send
        + Sync
        + 'static,
{
    let told = format!("{model:?}");
    let threads = available_parallelism().map_or(1, NonZero::get);
    let checked = model.checker().threads(threads).spawn_bfs().join();
    println!(
        "{} states, to a depth of {}: {told}",
        checked.unique_state_count(),
        checked.max_depth()
    );
    checked.assert_properties();
}

/// The checker finds how this model, which lacks a safeguard, breaks the property.
pub(crate) fn is_broken<M>(model: M, safeguard: &dyn Debug, property: &'static str)
where
    M: Model<State: Clone + Debug + Hash + PartialEq + Send + Sync, Action: Clone + Debug + PartialEq>
        + Send
        + Sync
        + 'static,
{
    // On one thread the way that is found is a shortest one.
    let wanted = HasDiscoveries::AllOf([property].into());
    let checked = model.checker().finish_when(wanted).spawn_bfs().join();
    let Some(path) = checked.discovery(property) else {
        panic!("without {safeguard:?} nothing was found against: {property}");
    };
    let steps = path.into_actions();
    println!("without {safeguard:?}, in {} steps: {steps:?}", steps.len());
}
