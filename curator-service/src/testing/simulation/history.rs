//! Checks the clients' histories of registers: linearizable, each call at most once, no lost write.
//!
//! The store gives the order of a register's writes, and each value names the call that wrote it. So there is one order
//! to check instead of one to search for: a history is linearizable if no call returned or wrote an older version than
//! calls that had ended before it began. Pure; no I/O.

use std::collections::BTreeMap;

/// Identifies a call.
pub(super) type CallId = u64;

/// A value of a register, in the store's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) by: CallId,
    /// For a call that increments: the previous count plus one.
    pub(super) count: u64,
    pub(super) adds: bool,
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A read: the call that wrote the value.
    Read(Option<CallId>),
    /// A write that was made.
    Wrote,
    /// It is unknown whether the call ran.
    Unknown,
}

/// A call of a register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) register: usize,
    pub(super) writes: bool,
    /// The position of its start in the sequence of all starts and ends.
    pub(super) begun: u64,
    /// The position of its end, and the outcome; `None` while it is under way, or if its caller went away.
    pub(super) ended: Option<(u64, Answer)>,
}

/// A violation: the invariant, and the details.
pub(super) type Broken = (&'static str, String);

/// The registers when the store was restored from a snapshot.
#[derive(Clone, Debug)]
pub(super) struct Restore {
    /// The position in the sequence of all starts and ends of calls.
    pub(super) place: u64,
    /// All versions of each register until then, lost or not.
    pub(super) before: Vec<Vec<Version>>,
    /// The number of versions that the snapshot has.
    pub(super) kept: Vec<usize>,
}

/// Checks all registers of a store that was restored from a snapshot at most once.
///
/// Writes between the snapshot and the restore are lost. The history before the restore, and that from the restore on,
/// must each be as if there had been no restore: no reply contains lost data, and no write is based on it.
pub(super) fn check(
    calls: &BTreeMap<CallId, Call>,
    registers: &[Vec<Version>],
    restore: Option<&Restore>,
) -> Result<(), Broken> {
    let Some(restore) = restore else {
        return check_stretch(calls, registers);
    };
    // A call answered after the restore may have been answered by either store.
    let before = calls.iter().filter(|(_, call)| call.begun < restore.place);
    let before = before.map(|(id, call)| {
        let ended = call.ended.filter(|(at, _)| *at < restore.place);
        (*id, Call { ended, ..*call })
    });
    check_stretch(&before.collect(), &restore.before)?;
    let mut after: BTreeMap<CallId, Call> = calls
        .iter()
        .filter(|(_, call)| call.ended.is_none_or(|(at, _)| at > restore.place))
        .map(|(id, call)| {
            let ended = call.ended.filter(|_| call.begun > restore.place);
            (*id, Call { ended, ..*call })
        })
        .collect();
    // The content of the snapshot is visible from the restore on, as if it had been read then.
    for (register, (versions, kept)) in registers.iter().zip(&restore.kept).enumerate() {
        let newest = kept.checked_sub(1).and_then(|newest| versions.get(newest));
        let seen = Call {
            register,
            writes: false,
            begun: restore.place,
            ended: Some((restore.place, Answer::Read(newest.map(|newest| newest.by)))),
        };
        after.insert(CallId::MAX - register as u64, seen);
    }
    check_stretch(&after, registers)
}

fn check_stretch(calls: &BTreeMap<CallId, Call>, registers: &[Vec<Version>]) -> Result<(), Broken> {
    for (register, versions) in registers.iter().enumerate() {
        let of_it = calls
            .iter()
            .filter(|(_, call)| call.register == register)
            .map(|(id, call)| (*id, *call));
        check_register(register, &of_it.collect::<Vec<_>>(), versions)?;
    }
    Ok(())
}

fn check_register(register: usize, calls: &[(CallId, Call)], versions: &[Version]) -> Result<(), Broken> {
    let mut places = BTreeMap::new();
    let mut before = 0;
    for (place, version) in versions.iter().enumerate() {
        let by = version.by;
        if places.insert(by, place + 1).is_some() {
            return Err((
                "a call runs at most once",
                format!("call {by} wrote register {register} twice"),
            ));
        }
        if version.adds && version.count != before + 1 {
            let what = format!(
                "call {by} made {} of {before} in register {register}: it decided on something older",
                version.count
            );
            return Err(("what was decided on is so", what));
        }
        before = version.count;
    }
    // Starts and ends in order; positions are unique.
    let mut moments = Vec::new();
    for (id, call) in calls {
        let place = match call.ended {
            Some((_, Answer::Read(None))) => Some(0),
            Some((_, Answer::Read(Some(by)))) => match places.get(&by) {
                Some(place) => Some(*place),
                None => {
                    let what = format!("call {id} read what call {by} wrote, which is not in register {register}");
                    return Err(("what is read was written", what));
                }
            },
            _ => places.get(id).copied(),
        };
        if matches!(call.ended, Some((_, Answer::Wrote))) && place.is_none() {
            let what = format!("the write of call {id} to register {register} was acknowledged and is not there");
            return Err(("what is acknowledged is kept", what));
        }
        let Some(place) = place else { continue };
        moments.push((call.begun, *id, place, true));
        if let Some((ended, Answer::Read(_) | Answer::Wrote)) = call.ended {
            moments.push((ended, *id, place, false));
        }
    }
    moments.sort_unstable();
    let writes: BTreeMap<CallId, bool> = calls.iter().map(|(id, call)| (*id, call.writes)).collect();
    // The newest version that an ended call has seen, and that call.
    let mut newest = (0, 0);
    for (_, id, place, begins) in moments {
        if !begins {
            newest = newest.max((place, id));
            continue;
        }
        let must = newest.0 + usize::from(writes.get(&id).copied().unwrap_or_default());
        if place < must {
            let what = format!(
                "call {id} is at version {place} of register {register}, but call {} had ended with version {} \
                 before it began",
                newest.1, newest.0
            );
            return Err(("reads and writes are linearizable", what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(by: &[CallId]) -> Vec<Version> {
        let version = |by: &CallId| Version {
            by: *by,
            count: 0,
            adds: false,
        };
        by.iter().map(version).collect()
    }

    fn write(begun: u64, ended: Option<u64>) -> Call {
        Call {
            register: 0,
            writes: true,
            begun,
            ended: ended.map(|at| (at, Answer::Wrote)),
        }
    }

    fn read(begun: u64, ended: u64, found: Option<CallId>) -> Call {
        Call {
            register: 0,
            writes: false,
            begun,
            ended: Some((ended, Answer::Read(found))),
        }
    }

    fn rule(calls: &[Call], versions: Vec<Version>) -> Option<&'static str> {
        let calls = (1..).zip(calls.iter().copied()).collect();
        check(&calls, &[versions], None).err().map(|(rule, _)| rule)
    }

    const LINEARIZABLE: Option<&str> = Some("reads and writes are linearizable");

    #[test]
    fn what_can_have_been_passes() {
        // One after the other.
        assert_eq!(rule(&[write(1, Some(2)), read(3, 4, Some(1))], versions(&[1])), None);
        // At the same time: either order.
        assert_eq!(rule(&[write(1, Some(4)), read(2, 3, Some(1))], versions(&[1])), None);
        assert_eq!(rule(&[write(1, Some(4)), read(2, 3, None)], versions(&[1])), None);
        // A write whose answer was lost shows late, or never.
        let late = [write(1, None), read(2, 3, None), read(4, 5, Some(1))];
        assert_eq!(rule(&late, versions(&[1])), None);
        assert_eq!(rule(&[write(1, None), read(2, 3, None)], versions(&[])), None);
        // Writes that overlap may take place in either order.
        assert_eq!(rule(&[write(1, Some(4)), write(2, Some(3))], versions(&[2, 1])), None);
    }

    #[test]
    fn a_restore_loses_what_came_after_the_snapshot_and_nothing_else() {
        // Calls 1 and 2 write, the snapshot is taken in between, and the restore comes at place 10.
        let told = |after: &[Call], versions: &[CallId]| {
            let first = [write(1, Some(2)), write(5, Some(6)), read(7, 8, Some(2))];
            let calls = (1..).zip(first.iter().chain(after).copied()).collect();
            let restore = Restore {
                place: 10,
                before: vec![super::tests::versions(&[1, 2])],
                kept: vec![1],
            };
            let versions = super::tests::versions(versions);
            check(&calls, &[versions], Some(&restore)).err().map(|(rule, _)| rule)
        };
        assert_eq!(told(&[read(11, 12, Some(1))], &[1]), None);
        assert_eq!(told(&[write(11, Some(12)), read(13, 14, Some(4))], &[1, 4]), None);
        // On its way when the store was restored: either is true.
        assert_eq!(told(&[read(9, 12, Some(2))], &[1]), None);
        assert_eq!(told(&[write(9, Some(12))], &[1]), None);
        // Asked after the restore, and told what is lost; or less than the snapshot has; or not kept.
        let lost = told(&[read(11, 12, Some(2))], &[1]);
        assert_eq!(lost, Some("what is read was written"));
        assert_eq!(told(&[read(11, 12, None)], &[1]), LINEARIZABLE);
        let not_kept = told(&[write(11, Some(12))], &[1]);
        assert_eq!(not_kept, Some("what is acknowledged is kept"));
    }

    #[test]
    fn what_cannot_have_been_is_found() {
        // A stale read; one that goes back behind another; a write behind one that had ended.
        assert_eq!(
            rule(&[write(1, Some(2)), read(3, 4, None)], versions(&[1])),
            LINEARIZABLE
        );
        let back = [write(1, None), read(2, 3, Some(1)), read(4, 5, None)];
        assert_eq!(rule(&back, versions(&[1])), LINEARIZABLE);
        assert_eq!(
            rule(&[write(1, Some(2)), write(3, Some(4))], versions(&[2, 1])),
            LINEARIZABLE
        );
        // Read before it was written.
        assert_eq!(
            rule(&[write(3, Some(4)), read(1, 2, Some(1))], versions(&[1])),
            LINEARIZABLE
        );
        assert_eq!(
            rule(&[write(1, Some(2))], versions(&[])),
            Some("what is acknowledged is kept")
        );
        assert_eq!(
            rule(&[write(1, Some(2))], versions(&[1, 1])),
            Some("a call runs at most once")
        );
        assert_eq!(
            rule(&[read(1, 2, Some(9))], versions(&[])),
            Some("what is read was written")
        );
        let mut lost = versions(&[1, 2]);
        for version in &mut lost {
            (version.count, version.adds) = (1, true);
        }
        assert_eq!(
            rule(&[write(1, None), write(2, None)], lost),
            Some("what was decided on is so")
        );
    }
}
