//! When a file counts as completely written: unchanged over two looks and the settling time, then its end mark is probed.
//! Pure: the scanner brings stamps and the time since boot, this says what to do next. Ages and wall clocks play no part.

use std::time::Duration;

use crate::files::Stamp;

/// What an event said about the file; a hint never replaces the probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hint {
    /// Nothing is known.
    #[default]
    None,
    /// A writer closed it.
    Closed,
    /// It was renamed into the folder: complete by the contract of whoever renames.
    RenamedIn,
}

/// The settling times.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Unchanged for this long before the probe.
    pub settle: Duration,
    /// Unchanged for this long without an end mark: the file is given up.
    pub incomplete: Duration,
}

/// How long a closed file must lie unchanged.
const AFTER_CLOSE: Duration = Duration::from_millis(500);
/// How often the end mark is looked for again while the file does not change.
const PROBE_AGAIN: Duration = Duration::from_secs(5);

/// A file under observation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watched {
    stamp: Stamp,
    since: Duration,
    looks: u32,
    probed: Option<Duration>,
}

/// What to do after a look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Look again no later than this.
    Wait(Duration),
    /// Probe the end mark; `last` means: if it is not there, the file is given up.
    Probe {
        /// The time for waiting is over.
        last: bool,
    },
    /// It stayed empty: given up.
    Empty,
}

/// Looks at a file: the observation to keep and what to do.
pub fn look(before: Option<Watched>, stamp: Stamp, hint: Hint, now: Duration, rules: &Rules) -> (Watched, Next) {
    let same = before.filter(|watched| watched.stamp == stamp);
    let mut watched = match same {
        Some(watched) => Watched { looks: watched.looks.saturating_add(1), ..watched },
        None => Watched { stamp, since: now, looks: 1, probed: None },
    };
    let next = decide(&watched, hint, now, rules);
    if matches!(next, Next::Probe { .. }) {
        watched.probed = Some(now);
    }
    (watched, next)
}

fn decide(watched: &Watched, hint: Hint, now: Duration, rules: &Rules) -> Next {
    let rest = now.saturating_sub(watched.since);
    if watched.stamp.size == 0 {
        return match rest >= rules.incomplete && watched.looks >= 2 {
            true => Next::Empty,
            false => Next::Wait(rules.incomplete.saturating_sub(rest).min(PROBE_AGAIN)),
        };
    }
    let (need, looks) = match hint {
        Hint::RenamedIn => (Duration::ZERO, 1),
        Hint::Closed => (AFTER_CLOSE.min(rules.settle), 2),
        Hint::None => (rules.settle, 2),
    };
    if rest < need || watched.looks < looks {
        return Next::Wait(need.saturating_sub(rest));
    }
    let last = rest >= rules.incomplete && watched.looks >= 2;
    match watched.probed {
        Some(at) if !last && now.saturating_sub(at) < PROBE_AGAIN => Next::Wait(PROBE_AGAIN - (now - at)),
        _ => Next::Probe { last },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules { settle: Duration::from_millis(2000), incomplete: Duration::from_secs(600) };

    fn stamp(size: u64, mtime_ns: i64) -> Stamp {
        Stamp { dev: 1, ino: 2, size, mtime_ns }
    }

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn two_equal_looks_over_the_settling_time_lead_to_a_probe() {
        let (watched, next) = look(None, stamp(5, 1), Hint::None, ms(100), &RULES);
        assert_eq!(next, Next::Wait(ms(2000)));
        let (watched, next) = look(Some(watched), stamp(5, 1), Hint::None, ms(2000), &RULES);
        assert_eq!(next, Next::Wait(ms(100)));
        let (_, next) = look(Some(watched), stamp(5, 1), Hint::None, ms(2100), &RULES);
        assert_eq!(next, Next::Probe { last: false });
    }

    #[test]
    fn any_change_starts_anew() {
        let (watched, _) = look(None, stamp(5, 1), Hint::None, ms(0), &RULES);
        for changed in [stamp(6, 1), stamp(5, 2), Stamp { ino: 9, ..stamp(5, 1) }] {
            let (_, next) = look(Some(watched), changed, Hint::None, ms(5000), &RULES);
            assert_eq!(next, Next::Wait(ms(2000)));
        }
    }

    #[test]
    fn hints_shorten_but_never_skip_the_probe() {
        let (_, next) = look(None, stamp(5, 1), Hint::RenamedIn, ms(0), &RULES);
        assert_eq!(next, Next::Probe { last: false });
        let (watched, next) = look(None, stamp(5, 1), Hint::Closed, ms(0), &RULES);
        assert_eq!(next, Next::Wait(ms(500)));
        let (_, next) = look(Some(watched), stamp(5, 1), Hint::Closed, ms(500), &RULES);
        assert_eq!(next, Next::Probe { last: false });
    }

    #[test]
    fn an_end_mark_that_does_not_come_is_given_up() {
        let (mut watched, _) = look(None, stamp(5, 1), Hint::None, ms(0), &RULES);
        let mut probes = 0;
        for second in 1..=600 {
            let (after, next) = look(Some(watched), stamp(5, 1), Hint::None, ms(second * 1000), &RULES);
            watched = after;
            if let Next::Probe { last } = next {
                probes += 1;
                assert_eq!(last, second == 600);
            }
        }
        assert!((100..=125).contains(&probes), "{probes}");
    }

    #[test]
    fn an_empty_file_waits_and_is_given_up() {
        let (watched, next) = look(None, stamp(0, 1), Hint::RenamedIn, ms(0), &RULES);
        assert_eq!(next, Next::Wait(ms(5000)));
        let (_, next) = look(Some(watched), stamp(0, 1), Hint::None, ms(600_000), &RULES);
        assert_eq!(next, Next::Empty);
    }

    proptest! {
        /// Whatever the looks, a file that changed within the settling time is never probed without a hint.
        #[test]
        fn never_early(steps in proptest::collection::vec((0u64..3000, any::<bool>()), 1..60)) {
            let (mut now, mut changed_at, mut version, mut watched) = (0, 0, 0, None);
            for (wait, change) in steps {
                now += wait;
                if change || watched.is_none() {
                    version += 1;
                    changed_at = now;
                }
                let (after, next) = look(watched, stamp(9, version), Hint::None, ms(now), &RULES);
                watched = Some(after);
                if matches!(next, Next::Probe { .. }) {
                    prop_assert!(now - changed_at >= 2000);
                }
            }
        }

        /// A file that stays as it is gets probed within the settling time plus one look.
        #[test]
        fn never_stuck(pace in 1u64..1500) {
            let (mut now, mut watched) = (0, None);
            loop {
                let (after, next) = look(watched, stamp(9, 1), Hint::None, ms(now), &RULES);
                watched = Some(after);
                if matches!(next, Next::Probe { .. }) {
                    break;
                }
                now += pace;
                prop_assert!(now <= 2000 + 2 * pace);
            }
        }
    }
}
