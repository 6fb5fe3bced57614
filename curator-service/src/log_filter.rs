//! What an instance logs, as those who run it may change it.

/// Chooses which events the process logs.
pub trait LogFilter: Send + Sync + 'static {
    /// The filter that is in force.
    fn current(&self) -> String;

    /// Puts another one in force, until it is changed again or the process ends; returns the one that there was before.
    ///
    /// # Errors
    /// The text is no filter. The error says what would be one, for whoever asked; the one that there was stays.
    fn change(&self, filter: &str) -> Result<String, String>;
}
