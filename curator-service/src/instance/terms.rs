//! Begins a term of this instance: makes its leader, and the routes to it for the listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use curator_election::Term;
use curator_listener::LeaderServicesError;
use tokio::sync::watch;
use tonic::service::Routes;

use crate::auth::{Authenticator, Authorized};
use crate::consensus::ConsensusStatus;
use crate::instance::role::Begun;
use crate::leader::added_services::{Gate, LeaderServices, TermContext};
use crate::leader::{Leader, LeaderContext, LeaderHandle};
use crate::step_down::StepDownCoordinator;
use curator_election::fence::Fenced;

/// The routes to the leader of a term, or why its services could not be made.
pub(crate) type TermRoutes = Result<Routes, LeaderServicesError>;

/// What all terms of this instance have in common.
pub(crate) struct TermFactory {
    pub(crate) context: LeaderContext,
    pub(crate) consensus: watch::Receiver<ConsensusStatus>,
    pub(crate) coordinator: StepDownCoordinator,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) added: LeaderServices,
    /// The leader, in each term of this instance.
    pub(crate) leaders: watch::Sender<Option<Arc<Leader>>>,
    /// Set by a term that begins with all of its services.
    pub(crate) has_served: Arc<AtomicBool>,
}

impl TermFactory {
    /// Begins a term. The error is for callers.
    pub(crate) fn begin(&self, term: &Term) -> Result<Begun<TermRoutes>, String> {
        let store = match &*self.consensus.borrow() {
            ConsensusStatus::Running(store) => store.clone(),
            ConsensusStatus::NotRunning { .. } => return Err("the consensus of this leader is not running".into()),
        };
        let fenced = Fenced::new(store, term.clone());
        let leader = Leader::new(fenced.clone(), self.context.clone());
        let handle = LeaderHandle::new(leader.clone());
        let step_down = self.coordinator.clone().service(term.clone());
        let step_down = Authorized::new(step_down, self.authenticator.clone(), handle.clone());
        let routes = handle.clone().routes(&self.authenticator).add_service(step_down);
        let gate = Gate {
            authenticator: self.authenticator.clone(),
            leader: handle,
        };
        let context = self
            .added
            .add_to(routes, &TermContext::new(term.clone(), fenced), &gate);
        if context.is_ok() {
            self.has_served.store(true, Ordering::Relaxed);
        }
        self.leaders.send_replace(Some(leader.clone()));
        let leaders = self.leaders.clone();
        let work = async move {
            leader.run().await;
            leaders.send_replace(None);
        };
        Ok(Begun {
            context,
            work: Box::pin(work),
        })
    }
}
