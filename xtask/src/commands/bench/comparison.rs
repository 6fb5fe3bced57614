//! One thing that was measured of ours and of a peer, in the same rounds.

use super::figures::{median, ratios, spread};

/// Which way is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    Less,
    More,
}

/// What was measured of ours, and of a peer in the same run.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    /// What of: the election, forwarding.
    pub(super) part: String,
    pub(super) what: String,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    pub(super) ours: Vec<f64>,
    /// Who, and of the same rounds as ours; nobody does some of it.
    pub(super) peer: Option<(&'static str, Vec<f64>)>,
}

/// How ours stands beside the peer's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ratio {
    pub(super) least: f64,
    pub(super) median: f64,
    pub(super) most: f64,
}

impl Comparison {
    /// Ours to the peer's: of each round where there are pairs, else of the medians.
    pub(super) fn ratio(&self) -> Option<Ratio> {
        let (_, theirs) = self.peer.as_ref()?;
        // A margin that is less than nothing is no part of anything.
        if self.ours.iter().chain(theirs).any(|number| *number < 0.0) {
            return None;
        }
        let each = if theirs.len() == self.ours.len() {
            ratios(&self.ours, theirs)
        } else {
            vec![median(&self.ours) / median(theirs)]
        };
        let ratio = Ratio {
            least: each.iter().copied().fold(f64::INFINITY, f64::min),
            median: median(&each),
            most: each.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        };
        // What a round measured as nothing says nothing beside anything.
        [ratio.least, ratio.median, ratio.most]
            .iter()
            .all(|number| number.is_finite())
            .then_some(ratio)
    }

    /// Whether ours is the better one, in every round; `None` if now the one was and now the other.
    pub(super) fn ahead(&self) -> Option<bool> {
        let ratio = self.ratio()?;
        if (ratio.least..=ratio.most).contains(&1.0) {
            None
        } else {
            Some((ratio.median < 1.0) == (self.better == Better::Less))
        }
    }

    /// What was measured, in words.
    pub(super) fn said(&self) -> String {
        let theirs = match &self.peer {
            Some((who, theirs)) => format!("; {who}: {} {}", shown(theirs), self.unit),
            None => String::new(),
        };
        format!("{} {}{theirs}", shown(&self.ours), self.unit)
    }

    /// The line of a table.
    pub(super) fn row(&self) -> String {
        let (who, theirs) = match &self.peer {
            Some((who, theirs)) => ((*who).to_owned(), shown(theirs)),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let ratio = self.ratio().map_or("-".to_owned(), |ratio| {
            format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.least, ratio.most)
        });
        let word = match (self.ratio().is_some(), self.ahead()) {
            (false, _) => "",
            (true, Some(true)) => "ahead",
            (true, Some(false)) => "behind",
            (true, None) => "level",
        };
        format!(
            "| {} | {} | {} | {who} | {theirs} | {ratio} | {word} |",
            self.what,
            self.unit,
            shown(&self.ours)
        )
    }
}

/// The median, and the least and the most.
fn shown(numbers: &[f64]) -> String {
    spread(numbers, digits(median(numbers)))
}

/// As many as say something.
fn digits(number: f64) -> usize {
    match number.abs() {
        number if number >= 100.0 => 0,
        number if number >= 10.0 => 1,
        number if number >= 1.0 => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(better: Better, ours: &[f64], theirs: &[f64]) -> Comparison {
        Comparison {
            part: "a part".into(),
            what: "a thing".into(),
            unit: "s",
            better,
            ours: ours.to_vec(),
            peer: Some(("the peer", theirs.to_vec())),
        }
    }

    #[test]
    fn ratios_are_of_the_same_round_where_there_are_pairs() {
        let pairs = comparison(Better::Less, &[1.0, 20.0, 3.0], &[2.0, 20.0, 1.0]);
        let ratio = Ratio {
            least: 0.5,
            median: 1.0,
            most: 3.0,
        };
        assert_eq!(pairs.ratio(), Some(ratio));
        let odd = comparison(Better::Less, &[1.0, 2.0, 3.0], &[4.0]);
        assert_eq!(odd.ratio().unwrap().median, 0.5);
        assert_eq!(comparison(Better::Less, &[1.0], &[0.0]).ratio(), None);
    }

    #[test]
    fn who_is_ahead_depends_on_what_is_better() {
        assert_eq!(comparison(Better::Less, &[1.0], &[2.0]).ahead(), Some(true));
        assert_eq!(comparison(Better::More, &[1.0], &[2.0]).ahead(), Some(false));
        assert_eq!(
            comparison(Better::More, &[1.0, 3.0, 4.0], &[1.5, 2.0, 2.0]).ahead(),
            None
        );
    }

    #[test]
    fn a_margin_that_is_less_than_nothing_has_no_ratio() {
        let margins = comparison(Better::More, &[0.5], &[-0.8]);
        assert_eq!(margins.ratio(), None);
        assert_eq!(
            margins.said(),
            "0.500 (0.500 to 0.500) s; the peer: -0.800 (-0.800 to -0.800) s"
        );
    }

    #[test]
    fn a_row_says_all_of_it() {
        let row = comparison(Better::More, &[150.0, 250.0], &[100.0, 100.0]).row();
        assert_eq!(
            row,
            "| a thing | s | 200 (150 to 250) | the peer | 100 (100 to 100) | 2.00 (1.50 to 2.50) | ahead |"
        );
    }
}
