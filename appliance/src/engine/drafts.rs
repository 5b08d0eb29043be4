//! Prompt-lookup speculative decoding for a lone request (n-gram drafts): what followed the same tokens before is proposed, the language model reads the
//! proposal in one call, and the sampler keeps as much of it as it would have chosen anyway. Texts are the same with drafts and without.
//!
//! Earlier descriptions are kept as token ids in this process's memory for it, and nowhere else.

use std::time::Duration;

/// Most tokens of a draft: with the token before them four rows, which products in few bits read while memory is the bottleneck anyway.
pub(super) const MOST: usize = 3;
/// So many tokens must stand alike before what followed them is proposed.
const LEAST: usize = 2;
/// More that stand alike make a place no likelier.
const LONGEST: usize = 8;
/// Tokens of earlier descriptions that are kept: a hundred texts or so, searched in some ten microseconds.
const KEPT: usize = 1 << 14;
/// Stands before the first token of each text. Ids are not negative.
const BEGIN: i64 = -1;

/// Proposes drafts.
#[derive(Default)]
pub(super) struct Drafts {
    /// Earlier descriptions, each behind a [`BEGIN`].
    texts: Vec<i64>,
    gain: Gain,
}

impl Drafts {
    /// At most `room` tokens that may follow those that a request has written; none where nothing like them was written, or where drafts do not pay.
    pub fn propose(&mut self, written: &[i64], room: usize) -> Vec<i64> {
        let room = room.min(MOST);
        if room == 0 || !self.gain.tries() { Vec::new() } else { self.followers(written, room) }
    }

    /// A token by itself took so long.
    pub fn stepped(&mut self, time: Duration) {
        self.gain.step = Some(time);
    }

    /// A draft's call took so long, and so many of its tokens were kept.
    pub fn read(&mut self, drafted: usize, kept: usize, time: Duration) {
        self.gain.record(drafted, kept, time);
    }

    /// A request has ended with this text.
    pub fn learn(&mut self, written: &[i64]) {
        self.texts.push(BEGIN);
        self.texts.extend(written);
        self.texts.drain(..self.texts.len().saturating_sub(KEPT));
    }

    /// What followed the longest and latest place that is like the end of `written`, in this text or an earlier one.
    fn followers(&self, written: &[i64], count: usize) -> Vec<i64> {
        let own: Vec<i64> = std::iter::once(BEGIN).chain(written.iter().copied()).collect();
        let end: Vec<i64> = own.iter().rev().copied().take(LONGEST).collect();
        let mut best = (LEAST - 1, &[][..]);
        for text in [&own, &self.texts] {
            for place in (1..text.len()).rev().filter(|place| text[*place] != BEGIN) {
                let alike = text[..place].iter().rev().zip(&end).take_while(|(one, other)| one == other).count();
                if alike > best.0 {
                    best = (alike, &text[place..]);
                }
                if alike == LONGEST {
                    break;
                }
            }
        }
        best.1.iter().copied().take(count).take_while(|token| *token != BEGIN).collect()
    }
}

/// Whether drafts are worth their calls on this machine, by how much of them was kept lately and by what their calls took.
struct Gain {
    /// Tokens kept of a draft, a mean in which the latest count most.
    kept: f64,
    /// Of the latest token by itself, and of the latest call with a draft.
    step: Option<Duration>,
    call: Option<Duration>,
    /// Chances that were passed since the last one was taken.
    passed: usize,
}

impl Default for Gain {
    fn default() -> Self {
        Gain { kept: 1.0, step: None, call: None, passed: 0 }
    }
}

impl Gain {
    /// While drafts do not pay, one chance in so many is taken: texts may begin to repeat.
    const PATIENCE: usize = 24;
    /// What the latest draft counts in the mean; after a pause a good one is believed at once.
    const LATEST: f64 = 0.125;
    /// How many times a step a call may take before both were measured.
    const SUPPOSED: f64 = 1.3;

    /// Counts a chance to draft, and says whether it is taken.
    fn tries(&mut self) -> bool {
        self.passed += 1;
        let tries = self.pays() || self.passed > Self::PATIENCE;
        if tries {
            self.passed = 0;
        }
        tries
    }

    /// A call yields the kept tokens and one more in the time of so many steps.
    fn pays(&self) -> bool {
        let steps = match (self.call, self.step) {
            (Some(call), Some(step)) => call.as_secs_f64() / step.as_secs_f64().max(1e-9),
            _ => Self::SUPPOSED,
        };
        1.0 + self.kept > steps
    }

    fn record(&mut self, drafted: usize, kept: usize, time: Duration) {
        let whole = drafted == kept && !self.pays();
        self.kept = if whole { kept as f64 } else { self.kept + (kept as f64 - self.kept) * Self::LATEST };
        self.call = Some(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_the_longest_and_latest_place_is_proposed() {
        let mut drafts = Drafts::default();
        assert!(drafts.propose(&[5, 6, 5, 6], 0).is_empty(), "no room");
        assert_eq!(drafts.propose(&[5, 6, 7, 8, 5, 6], 9), [7, 8, 5], "of its own text");
        assert!(drafts.propose(&[1, 2, 3], 9).is_empty(), "nothing is alike");
        drafts.learn(&[1, 2, 3, 4]);
        drafts.learn(&[9, 2, 3, 8]);
        assert_eq!(drafts.propose(&[1, 2, 3], 9), [4], "the longest place, and no further than its text");
        assert_eq!(drafts.propose(&[7, 2, 3], 9), [8], "the latest of two that are equally long");
        assert_eq!(drafts.propose(&[1], 1), [2], "texts that begin alike");
        assert!(drafts.propose(&[3], 9).is_empty(), "one token says too little");
        drafts.learn(&[1, 2, 3]);
        assert_eq!(drafts.propose(&[1, 2, 3], 9), [4], "nothing follows the end of a text");
        drafts.learn(&vec![0; KEPT]);
        assert!(drafts.texts.len() == KEPT && drafts.propose(&[1, 2, 3], 9).is_empty(), "the oldest are forgotten");
    }

    #[test]
    fn drafts_that_do_not_pay_become_rare_and_come_back() {
        let mut drafts = Drafts::default();
        let mut ask = |kept: usize, call: u64| {
            drafts.stepped(Duration::from_millis(10));
            let tried = !drafts.propose(&[5, 6, 7, 5, 6], 9).is_empty();
            if tried {
                drafts.read(3, kept, Duration::from_millis(call));
            }
            usize::from(tried)
        };
        let rare = 1000 / (Gain::PATIENCE + 1)..60;
        let vain: usize = (0..1000).map(|_| ask(0, 11)).sum();
        assert!(rare.contains(&vain), "{vain} of 1000");
        let paying: usize = (0..1000).map(|_| ask(3, 11)).sum();
        assert!(paying > 950, "{paying} of 1000");
        let dear: usize = (0..1000).map(|_| ask(2, 40)).sum();
        assert!(rare.contains(&dear), "a call of four steps for three tokens: {dear} of 1000");
    }
}
