//! The states of files and jobs, and the one table of what leads from which to which. Pure: every write of a state asks here first.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

/// Where a file is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum FileState {
    /// In work, or waiting for something outside.
    Waiting,
    /// Its report is committed; it is about to be moved to `done`.
    Reported,
    /// Its rejection is committed; it is about to be moved to `failed`.
    Rejected,
    /// A whole slide: it stays in the inbox.
    Refused,
    /// Lies in `done`.
    Filed,
    /// Lies in `failed`.
    Failed,
    /// Somebody took it away before it was moved.
    Vanished,
    /// Another file got its name before it was moved.
    Replaced,
    /// On its way back to the inbox.
    Retrying,
    /// Went back to the inbox and got a row of its own there.
    Retried,
}

/// What happens to a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileEvent {
    /// It is taken into work, or has to wait.
    Wait,
    /// Its bytes have a report.
    Report,
    /// It gets no report.
    Reject,
    /// It is a whole slide.
    Refuse,
    /// It reached its last place.
    Place,
    /// It is not in the inbox any more.
    Vanish,
    /// Another file has its name.
    Replace,
    /// Its return to the inbox begins.
    BeginRetry,
    /// It lies in the inbox again.
    EndRetry,
    /// Its return from `failed` did not succeed.
    StayFailed,
    /// Its return as a slide in the inbox did not succeed.
    StayRefused,
}

impl FileState {
    /// All states.
    pub const ALL: [FileState; 10] = [
        FileState::Waiting,
        FileState::Reported,
        FileState::Rejected,
        FileState::Refused,
        FileState::Filed,
        FileState::Failed,
        FileState::Vanished,
        FileState::Replaced,
        FileState::Retrying,
        FileState::Retried,
    ];

    /// Where `event` leads; none where it cannot happen. Every operation may be repeated after a commit of unknown outcome, so each
    /// end answers its own event with itself.
    pub fn next(self, event: FileEvent) -> Option<FileState> {
        use FileState as S;
        let open = matches!(self, S::Waiting | S::Reported | S::Rejected | S::Refused);
        match event {
            // A file that still lies in the inbox may be judged anew: after a retry of its twin, or under another bundle.
            FileEvent::Wait => open.then_some(S::Waiting),
            FileEvent::Report => open.then_some(S::Reported),
            FileEvent::Reject => open.then_some(S::Rejected),
            FileEvent::Refuse => open.then_some(S::Refused),
            FileEvent::Place => match self {
                S::Reported | S::Filed => Some(S::Filed),
                S::Rejected | S::Failed => Some(S::Failed),
                S::Waiting | S::Refused | S::Vanished | S::Replaced | S::Retrying | S::Retried => None,
            },
            FileEvent::Vanish => (open || self == S::Vanished).then_some(S::Vanished),
            FileEvent::Replace => (open || self == S::Replaced).then_some(S::Replaced),
            FileEvent::BeginRetry => self.can_be_retried().then_some(S::Retrying),
            FileEvent::EndRetry => matches!(self, S::Retrying | S::Retried).then_some(S::Retried),
            FileEvent::StayFailed => matches!(self, S::Retrying | S::Failed).then_some(S::Failed),
            FileEvent::StayRefused => matches!(self, S::Retrying | S::Refused).then_some(S::Refused),
        }
    }

    /// Whether a person may send it through again.
    pub fn can_be_retried(self) -> bool {
        matches!(self, FileState::Failed | FileState::Refused | FileState::Retrying)
    }

    /// Whether it has a report, committed or filed.
    pub fn has_report(self) -> bool {
        matches!(self, FileState::Reported | FileState::Filed)
    }

    /// The word in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            FileState::Waiting => "waiting",
            FileState::Reported => "reported",
            FileState::Rejected => "rejected",
            FileState::Refused => "refused",
            FileState::Filed => "filed",
            FileState::Failed => "failed",
            FileState::Vanished => "vanished",
            FileState::Replaced => "replaced",
            FileState::Retrying => "retrying",
            FileState::Retried => "retried",
        }
    }
}

/// Where the work on one content under one bundle is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum JobState {
    /// In work by a run.
    Claimed,
    /// An attempt failed, another follows.
    RetryWait,
    /// To be claimed again; the last attempt did not count.
    Released,
    /// Its report is committed.
    Committed,
    /// It gets no report.
    Rejected,
}

/// What happens to a job.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum JobEvent {
    /// A worker takes it.
    Claim,
    /// It is given back; the attempt does not count.
    Release,
    /// It is given back; the attempt counts.
    TryLater,
    /// It has a report.
    Commit,
    /// It gets none.
    Reject,
    /// A person sends it through again.
    Retry,
}

impl JobState {
    /// All states.
    pub const ALL: [JobState; 5] =
        [JobState::Claimed, JobState::RetryWait, JobState::Released, JobState::Committed, JobState::Rejected];

    /// Where `event` leads; none where it cannot happen. As with files, a repeated event leads to where it led.
    pub fn next(self, event: JobEvent) -> Option<JobState> {
        use JobState as S;
        match (event, self) {
            (JobEvent::Claim, S::Claimed | S::RetryWait | S::Released) => Some(S::Claimed),
            (JobEvent::Release, S::Claimed | S::Released) => Some(S::Released),
            // From `Released`: a worker may still finish what the end of its run has given back.
            (JobEvent::TryLater, S::Claimed | S::RetryWait | S::Released) => Some(S::RetryWait),
            (JobEvent::Commit, S::Claimed | S::Released | S::Committed) => Some(S::Committed),
            (JobEvent::Reject, S::Claimed | S::Released | S::Rejected) => Some(S::Rejected),
            (JobEvent::Retry, S::Rejected | S::Released) => Some(S::Released),
            (JobEvent::Claim, S::Committed | S::Rejected)
            | (JobEvent::Release, S::RetryWait | S::Committed | S::Rejected)
            | (JobEvent::TryLater, S::Committed | S::Rejected)
            | (JobEvent::Commit, S::RetryWait | S::Rejected)
            | (JobEvent::Reject, S::RetryWait | S::Committed)
            | (JobEvent::Retry, S::Claimed | S::RetryWait | S::Committed) => None,
        }
    }

    /// The word in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            JobState::Claimed => "claimed",
            JobState::RetryWait => "retry_wait",
            JobState::Released => "released",
            JobState::Committed => "committed",
            JobState::Rejected => "rejected",
        }
    }
}

/// A state with a word of its own in the ledger.
macro_rules! stored_as_word {
    ($state:ty) => {
        impl ToSql for $state {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.name().into())
            }
        }

        impl FromSql for $state {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                let word = value.as_str()?;
                let unknown = || FromSqlError::Other(format!("{word} is no state that this program knows").into());
                Self::ALL.into_iter().find(|state| state.name() == word).ok_or_else(unknown)
            }
        }

        impl std::fmt::Display for $state {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
stored_as_word!(FileState);
stored_as_word!(JobState);

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair of a file's state and event, written out once more by hand.
    #[test]
    fn each_pair_of_file_and_event_is_decided() {
        use FileEvent as E;
        use FileState as S;
        let table: [(E, [Option<S>; 10]); 11] = {
            let open = |to: S| [Some(to), Some(to), Some(to), Some(to), None, None, None, None, None, None];
            let (f, x) = (Some(S::Filed), Some(S::Failed));
            let (r, d) = (Some(S::Retrying), Some(S::Retried));
            [
                (E::Wait, open(S::Waiting)),
                (E::Report, open(S::Reported)),
                (E::Reject, open(S::Rejected)),
                (E::Refuse, open(S::Refused)),
                (E::Place, [None, f, x, None, f, x, None, None, None, None]),
                (E::Vanish, {
                    let v = Some(S::Vanished);
                    [v, v, v, v, None, None, v, None, None, None]
                }),
                (E::Replace, {
                    let v = Some(S::Replaced);
                    [v, v, v, v, None, None, None, v, None, None]
                }),
                (E::BeginRetry, [None, None, None, r, None, r, None, None, r, None]),
                (E::EndRetry, [None, None, None, None, None, None, None, None, d, d]),
                (E::StayFailed, [None, None, None, None, None, x, None, None, x, None]),
                (E::StayRefused, {
                    let v = Some(S::Refused);
                    [None, None, None, v, None, None, None, None, v, None]
                }),
            ]
        };
        for (event, expected) in table {
            for (state, expected) in S::ALL.into_iter().zip(expected) {
                assert_eq!(state.next(event), expected, "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn each_pair_of_job_and_event_is_decided() {
        use JobEvent as E;
        use JobState as S;
        let (c, w, r, m, x) = (Some(S::Claimed), Some(S::RetryWait), Some(S::Released), Some(S::Committed), Some(S::Rejected));
        let table = [
            (E::Claim, [c, c, c, None, None]),
            (E::Release, [r, None, r, None, None]),
            (E::TryLater, [w, w, w, None, None]),
            (E::Commit, [m, None, m, m, None]),
            (E::Reject, [x, None, x, None, x]),
            (E::Retry, [None, None, r, None, r]),
        ];
        for (event, expected) in table {
            for (state, expected) in S::ALL.into_iter().zip(expected) {
                assert_eq!(state.next(event), expected, "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn a_repeated_event_leads_to_where_it_led() {
        let events = [
            FileEvent::Wait,
            FileEvent::Report,
            FileEvent::Reject,
            FileEvent::Refuse,
            FileEvent::Place,
            FileEvent::Vanish,
            FileEvent::Replace,
            FileEvent::BeginRetry,
            FileEvent::EndRetry,
            FileEvent::StayFailed,
            FileEvent::StayRefused,
        ];
        for (state, event) in FileState::ALL.into_iter().flat_map(|state| events.map(|event| (state, event))) {
            if let Some(next) = state.next(event) {
                assert_eq!(next.next(event), Some(next), "{state:?} {event:?}");
            }
        }
        let events =
            [JobEvent::Claim, JobEvent::Release, JobEvent::TryLater, JobEvent::Commit, JobEvent::Reject, JobEvent::Retry];
        for (state, event) in JobState::ALL.into_iter().flat_map(|state| events.map(|event| (state, event))) {
            if let Some(next) = state.next(event) {
                assert_eq!(next.next(event), Some(next), "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn words_are_read_back_and_others_refused() {
        for state in FileState::ALL {
            assert_eq!(FileState::column_result(ValueRef::Text(state.name().as_bytes())).unwrap(), state);
        }
        for state in JobState::ALL {
            assert_eq!(JobState::column_result(ValueRef::Text(state.name().as_bytes())).unwrap(), state);
        }
        assert!(FileState::column_result(ValueRef::Text(b"lost")).is_err());
    }
}
