//! The guard of a term for transactions of one's own `etcd-client`.

use curator_store::etcd::etcd_client;

use super::Term;

impl Term {
    /// The guard for a transaction of one's own [`etcd_client::Client`] of the same etcd: it holds while the lock key
    /// exists, with its full name in etcd, with the create revision of this term.
    ///
    /// A transaction that fails for it must be [reported](Term::report_fenced_out); check the term before.
    ///
    /// ```no_run
    /// # async fn write(
    /// #     term: curator_election::Term,
    /// #     mut client: curator_election::etcd::etcd_client::KvClient,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// use curator_election::etcd::etcd_client::{Txn, TxnOp};
    ///
    /// term.check()?;
    /// let txn = Txn::new().when([term.etcd_guard()]).and_then([TxnOp::put("/jobs/1", "mine", None)]);
    /// if !client.txn(txn).await?.succeeded() {
    ///     // The guard is the only condition.
    ///     term.report_fenced_out();
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn etcd_guard(&self) -> etcd_client::Compare {
        self.guard_in_store().into()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock, TokioClock};
    use crate::store::Revision;

    #[tokio::test]
    async fn etcd_guard_compares_the_full_key_with_the_revision_of_the_term() {
        let clock = Arc::new(TokioClock::new());
        let until = clock.now() + Duration::from_secs(5);
        let (_owner, term) = Term::for_test("/leader/1", Revision(7), until, clock);
        term.set_names("jobs//leader/1".into(), None);
        let expected = etcd_client::Compare::create_revision("jobs//leader/1", etcd_client::CompareOp::Equal, 7);
        assert_eq!(format!("{:?}", term.etcd_guard()), format!("{expected:?}"));
    }
}
