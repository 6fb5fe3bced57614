//! How a process lived: when it ran, stood still, and was gone. For the picture of a run.

use std::sync::Mutex;
use std::time::Instant;

use super::lock;
use crate::timeline::{Life, Span};

/// What a process is and was. What happens to it by another way than through the harness is not in it.
#[derive(Debug, Default)]
pub struct ProcessTimeline(Mutex<Vec<(Instant, Life)>>);

impl ProcessTimeline {
    /// From now on it is that.
    pub(super) fn becomes(&self, life: Life) {
        let mut changes = lock(&self.0);
        if changes.last().is_none_or(|(_, last)| *last != life) {
            changes.push((Instant::now(), life));
        }
    }

    /// What it is now; `None` before it was started.
    pub fn now(&self) -> Option<Life> {
        lock(&self.0).last().map(|(_, life)| *life)
    }

    /// All of it, up to now.
    pub fn told(&self) -> Vec<Span<Life, Instant>> {
        let changes = lock(&self.0);
        let ends = changes.iter().skip(1).map(|(at, _)| *at).chain([Instant::now()]);
        changes
            .iter()
            .zip(ends)
            .map(|((from, what), to)| Span {
                from: *from,
                to,
                what: *what,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_life_lasts_until_the_next() {
        let lives = ProcessTimeline::default();
        assert_eq!((lives.now(), lives.told().len()), (None, 0));
        for life in [Life::Up, Life::Paused, Life::Paused, Life::Down] {
            lives.becomes(life);
        }
        let told = lives.told();
        let what: Vec<_> = told.iter().map(|span| span.what).collect();
        assert_eq!(what, [Life::Up, Life::Paused, Life::Down]);
        assert!(told.windows(2).all(|pair| pair[0].to == pair[1].from));
        assert_eq!(lives.now(), Some(Life::Down));
    }
}
