//! Supervised tasks: the first task that ends unexpectedly ends all of them.

use std::collections::HashMap;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// A group of named tasks that end together.
pub(crate) struct Supervisor<E> {
    tasks: JoinSet<Result<(), E>>,
    names: HashMap<Id, &'static str>,
    cancel: CancellationToken,
}

/// How a task ended unexpectedly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended<E> {
    #[error("the {task} task ended unexpectedly")]
    Unasked { task: &'static str },
    #[error("the {task} task failed: {source}")]
    Failed { task: &'static str, source: E },
    #[error("the {task} task panicked: {source}")]
    Panicked { task: &'static str, source: JoinError },
}

impl<E: Send + 'static> Supervisor<E> {
    /// A group that ends when `cancel` is cancelled.
    pub(crate) fn new(cancel: CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            names: HashMap::new(),
            cancel,
        }
    }

    /// Starts a task, which must run until it is cancelled.
    pub(crate) fn spawn(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits until all tasks have ended. If a task ends unexpectedly, cancels the others and returns its result.
    pub(crate) async fn join(mut self) -> Result<(), Ended<E>> {
        let mut first = Ok(());
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let asked = self.cancel.is_cancelled();
            self.cancel.cancel();
            let id = match &ended {
                Ok((id, _)) => *id,
                Err(error) => error.id(),
            };
            let task = self.names.get(&id).copied().unwrap_or("unnamed");
            let result = match ended {
                Ok((_, Ok(()))) if asked => Ok(()),
                Ok((_, Ok(()))) => Err(Ended::Unasked { task }),
                Ok((_, Err(source))) => Err(Ended::Failed { task, source }),
                Err(source) => Err(Ended::Panicked { task, source }),
            };
            if first.is_ok() {
                first = result;
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> (Supervisor<std::io::Error>, CancellationToken) {
        let cancel = CancellationToken::new();
        let mut group = Supervisor::new(cancel.clone());
        let waiting = cancel.clone();
        group.spawn("patient", async move {
            waiting.cancelled().await;
            Ok(())
        });
        (group, cancel)
    }

    #[tokio::test]
    async fn ends_when_told_to() {
        let (group, cancel) = group();
        cancel.cancel();
        group.join().await.expect("asked");
    }

    #[tokio::test]
    async fn a_task_that_returns_ends_the_others() {
        let (mut group, _cancel) = group();
        group.spawn("hasty", async { Ok(()) });
        assert!(matches!(group.join().await, Err(Ended::Unasked { task: "hasty" })));
    }

    #[tokio::test]
    async fn a_failure_and_a_panic_are_reported_with_their_task() {
        let (mut group, _cancel) = self::group();
        group.spawn("broken", async { Err(std::io::Error::other("no")) });
        assert!(matches!(group.join().await, Err(Ended::Failed { task: "broken", .. })));

        let (mut group, _cancel) = self::group();
        group.spawn("panicking", async { panic!("on purpose") });
        assert!(matches!(
            group.join().await,
            Err(Ended::Panicked { task: "panicking", .. })
        ));
    }
}
