//! What `cargo xtask up` shows: each instance with its role, as a table and as news.
use std::time::{Duration, Instant};

use curator_harness::Role;

/// What an instance is at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Started, and silent so far.
    Starting,
    /// What it says.
    Role(Role),
    /// It has ended, this way.
    Ended(String),
}

/// All instances, and what happened since the last look.
#[derive(Debug)]
pub struct Board {
    rows: Vec<Row>,
    news: Vec<String>,
    started: Instant,
    /// Since when nobody leads.
    leaderless: Option<Instant>,
}

#[derive(Debug)]
struct Row {
    name: String,
    node_id: String,
    pid: u32,
    state: State,
    since: Instant,
    paused: bool,
    /// How calls through it go.
    calls: Option<Calls>,
}

/// The calls through one instance in a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Answered.
    pub answered: u64,
    /// Failed.
    pub failed: u64,
    /// The node that answered the last one.
    pub by: String,
    /// The slowest, in milliseconds.
    pub slowest_ms: u64,
    /// Why the last one failed.
    pub why: String,
}

impl Row {
    /// The revision under which it leads, unless it cannot act on it.
    fn leads(&self) -> Option<i64> {
        match &self.state {
            State::Role(Role::Leader { lock_revision, .. }) if !self.paused => Some(*lock_revision),
            _ => None,
        }
    }
}

impl Board {
    /// A board of instances, each with its name, node id and pid.
    pub fn new(instances: Vec<(String, String, u32)>, now: Instant) -> Self {
        let row = |(name, node_id, pid)| Row {
            name,
            node_id,
            pid,
            state: State::Starting,
            since: now,
            paused: false,
            calls: None,
        };
        Self {
            rows: instances.into_iter().map(row).collect(),
            news: Vec::new(),
            started: now,
            leaderless: Some(now),
        }
    }

    /// An instance has become something else.
    pub fn change(&mut self, name: &str, state: State, now: Instant) {
        let Some(row) = self.rows.iter().position(|row| row.name == name) else {
            return;
        };
        if self.rows[row].state == state {
            return;
        }
        let mut text = format!(
            "{:>8.3} s  {name}  {}",
            (now - self.started).as_secs_f64(),
            self.words(&state)
        );
        if let (State::Role(role), Some(since)) = (&state, self.leaderless)
            && role.is_leader()
        {
            text.push_str(&format!(
                ", after {:.2} s without a leader",
                (now - since).as_secs_f64()
            ));
        }
        self.rows[row].state = state;
        self.rows[row].since = now;
        self.news.push(text);
        self.look_for_a_leader(now);
    }

    /// An instance was stopped in its tracks, or goes on.
    pub fn paused(&mut self, name: &str, paused: bool, now: Instant) {
        let Some(row) = self.rows.iter_mut().find(|row| row.name == name) else {
            return;
        };
        if std::mem::replace(&mut row.paused, paused) != paused {
            let words = if paused { "paused" } else { "goes on" };
            self.news.push(format!(
                "{:>8.3} s  {name}  {words}",
                (now - self.started).as_secs_f64()
            ));
            self.look_for_a_leader(now);
        }
    }

    fn look_for_a_leader(&mut self, now: Instant) {
        self.leaderless = if self.leader().is_some() {
            None
        } else {
            self.leaderless.or(Some(now))
        };
    }

    /// A second of calls through an instance. It is news when another one answers, or when calls fail.
    pub fn calls(&mut self, name: &str, calls: Calls, now: Instant) {
        let Some(row) = self.rows.iter().position(|row| row.name == name) else {
            return;
        };
        let before = self.rows[row].calls.replace(calls.clone()).unwrap_or_default();
        let words = if calls.failed > 0 {
            (before.why != calls.why).then(|| format!("{} failed: {}", calls.failed, calls.why))
        } else if calls.answered > 0 && (before.by != calls.by || before.failed > 0) {
            Some(format!(
                "answered by {}, the slowest after {} ms",
                self.name_of(&calls.by),
                calls.slowest_ms
            ))
        } else {
            None
        };
        if let Some(words) = words {
            let at = (now - self.started).as_secs_f64();
            self.news.push(format!("{at:>8.3} s  calls through {name}  {words}"));
        }
    }

    fn name_of<'a>(&'a self, node_id: &'a str) -> &'a str {
        let row = self.rows.iter().find(|row| row.node_id == node_id);
        row.map_or(node_id, |row| &row.name)
    }

    /// An instance that had ended has been started again.
    pub fn restarted(&mut self, name: &str, pid: u32, now: Instant) {
        self.change(name, State::Starting, now);
        if let Some(row) = self.rows.iter_mut().find(|row| row.name == name) {
            row.pid = pid;
        }
    }

    /// What happened since the last call, one line each.
    pub fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// The table, in lines of fewer than `columns` characters.
    pub fn table(&self, now: Instant, columns: usize) -> Vec<String> {
        let age = |since: Instant| age(now.saturating_duration_since(since));
        let mut lines = vec![String::new()];
        lines.push(match (&self.leader(), self.leaderless) {
            (Some(row), _) => format!("LEADER: {} for {}", row.name, age(row.since)),
            (None, since) => format!("NO LEADER for {}", age(since.unwrap_or(now))),
        });
        lines.push(format!(
            "  {:<12} {:>8}  {:>8}  {:<18}  role",
            "instance", "pid", "since", "calls a second"
        ));
        for row in &self.rows {
            let mark = if row.leads().is_some() { '>' } else { ' ' };
            let paused = if row.paused { "PAUSED, said last: " } else { "" };
            let (since, words) = (age(row.since), self.words(&row.state));
            lines.push(format!(
                "{mark} {:<12} {:>8}  {since:>8}  {:<18}  {paused}{words}",
                row.name,
                row.pid,
                self.calls_of(row)
            ));
        }
        lines
            .iter()
            .map(|line| line.chars().take(columns.saturating_sub(1)).collect())
            .collect()
    }

    fn calls_of(&self, row: &Row) -> String {
        match &row.calls {
            None => "-".to_owned(),
            Some(calls) if calls.failed > 0 => format!("{} ok, {} FAILED", calls.answered, calls.failed),
            Some(calls) if calls.answered > 0 => format!("{} by {}", calls.answered, self.name_of(&calls.by)),
            Some(_) => "waiting".to_owned(),
        }
    }

    fn leader(&self) -> Option<&Row> {
        // One that has just woken up may not know yet that it leads no more.
        self.rows
            .iter()
            .filter(|row| row.leads().is_some())
            .max_by_key(|row| row.leads())
    }

    fn words(&self, state: &State) -> String {
        match state {
            State::Starting => "starting".to_owned(),
            State::Ended(how) => format!("ended ({how})"),
            State::Role(Role::Undetermined) => "undetermined".to_owned(),
            State::Role(Role::Leader { lock_revision, .. }) => format!("LEADER at revision {lock_revision}"),
            State::Role(Role::Follower {
                leader, lock_revision, ..
            }) => {
                let name = self
                    .rows
                    .iter()
                    .find(|row| row.node_id == *leader)
                    .map_or(leader, |row| &row.name);
                format!("follows {name} at revision {lock_revision}")
            }
        }
    }
}

fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(revision: i64) -> State {
        State::Role(Role::Leader {
            lock_key: "k".to_owned(),
            lock_revision: revision,
        })
    }

    fn follower(of: &str, revision: i64) -> State {
        let (leader, lock_key) = (of.to_owned(), "k".to_owned());
        State::Role(Role::Follower {
            leader,
            leader_address: None,
            lock_key,
            lock_revision: revision,
        })
    }

    #[test]
    fn a_failover_is_told_with_its_time() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut board = Board::new(
            vec![
                ("a".to_owned(), "id-a".to_owned(), 1),
                ("b".to_owned(), "id-b".to_owned(), 2),
            ],
            start,
        );
        board.change("a", leader(4), at(500));
        board.change("b", follower("id-a", 4), at(600));
        board.change("b", follower("id-a", 4), at(700));
        assert_eq!(
            board.take_news(),
            [
                "   0.500 s  a  LEADER at revision 4, after 0.50 s without a leader",
                "   0.600 s  b  follows a at revision 4",
            ]
        );
        let table = board.table(at(3_000), 80);
        assert_eq!(table[1], "LEADER: a for 2 s");
        assert_eq!(
            table[3],
            "> a                   1       2 s  -                   LEADER at revision 4"
        );
        assert_eq!(
            table[4],
            "  b                   2       2 s  -                   follows a at revision 4"
        );

        board.change("a", State::Ended("signal: 9 (SIGKILL)".to_owned()), at(4_000));
        assert_eq!(board.table(at(6_000), 80)[1], "NO LEADER for 2 s");
        board.change("b", leader(9), at(9_250));
        board.restarted("a", 3, at(10_000));
        assert_eq!(
            board.take_news(),
            [
                "   4.000 s  a  ended (signal: 9 (SIGKILL))",
                "   9.250 s  b  LEADER at revision 9, after 5.25 s without a leader",
                "  10.000 s  a  starting",
            ]
        );
        board.paused("b", true, at(11_000));
        let table = board.table(at(12_000), 80);
        assert_eq!(table[1], "NO LEADER for 1 s");
        assert_eq!(
            table[4],
            "  b                   2       2 s  -                   PAUSED, said last: LEADE"
        );
        board.change("a", leader(12), at(17_000));
        board.paused("b", false, at(18_000));
        assert_eq!(
            board.table(at(19_000), 80)[1],
            "LEADER: a for 2 s",
            "the newer one leads"
        );
        assert_eq!(
            board.take_news(),
            [
                "  11.000 s  b  paused",
                "  17.000 s  a  LEADER at revision 12, after 6.00 s without a leader",
                "  18.000 s  b  goes on",
            ]
        );
        let through = |answered, failed, why: &str| Calls {
            answered,
            failed,
            by: "id-a".to_owned(),
            slowest_ms: 7,
            why: why.to_owned(),
        };
        for calls in [
            through(40, 0, ""),
            through(41, 0, ""),
            through(3, 2, "no"),
            through(0, 2, "no"),
            through(40, 0, ""),
        ] {
            board.calls("b", calls, at(19_000));
        }
        assert_eq!(
            board.take_news(),
            [
                "  19.000 s  calls through b  answered by a, the slowest after 7 ms",
                "  19.000 s  calls through b  2 failed: no",
                "  19.000 s  calls through b  answered by a, the slowest after 7 ms",
            ]
        );
        assert!(board.table(at(19_000), 80)[4].contains(" 40 by a  "));
        assert!(board.table(at(11_000), 20).iter().all(|line| line.len() < 20));
    }
}
