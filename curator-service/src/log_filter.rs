//! The process's log filter, which users may change at run time.

/// Selects the events that the process logs.
pub trait LogFilter: Send + Sync + 'static {
    /// The current filter.
    fn current(&self) -> String;

    /// Replaces the filter until the next change or the end of the process. Returns the previous one.
    ///
    /// # Errors
    /// The filter is invalid. The error describes the syntax for the caller; the filter is unchanged.
    fn change(&self, filter: &str) -> Result<String, String>;
}
