//! Drafts: what a lone request will probably write next, looked up in what was written before. The language model reads a draft in one call and keeps
//! as much of it as it would have written itself, so a text is the same with drafts and without, and sooner there where descriptions repeat phrases.

use std::collections::VecDeque;

/// Most tokens of a draft: with the token before them four rows, which kernels read at nearly the price of one.
pub(super) const MOST: usize = 3;
/// So many tokens must stand alike before what followed them is proposed.
const LEAST: usize = 2;
/// More that stand alike make a place no likelier.
const LONGEST: usize = 8;
/// Tokens of earlier descriptions that are kept: some hundred texts, searched in some microseconds.
const KEPT: usize = 1 << 14;
/// Stands before the first token of each text. Ids are not negative.
const BEGIN: i64 = -1;

/// Proposes drafts.
#[derive(Default)]
pub(super) struct Drafts {
    /// Earlier descriptions, each behind a [`BEGIN`].
    texts: VecDeque<i64>,
    eagerness: Eagerness,
}

/// Whether drafts are worth their calls, by how much of them was kept lately.
struct Eagerness {
    /// Tokens kept of a draft, a mean in which the latest count most.
    kept: f64,
    /// Drafts that were found and not tried since the last one was.
    passed: usize,
}

impl Eagerness {
    /// A call with a draft takes up to a third longer: below so many tokens kept it does not pay.
    const WORTH: f64 = 0.4;
    /// Of the drafts that do not pay, every so manieth is tried: texts may begin to repeat.
    const PATIENCE: usize = 24;

    /// Whether the next draft is tried.
    fn tries(&mut self) -> bool {
        self.passed += 1;
        let tries = self.kept >= Self::WORTH || self.passed > Self::PATIENCE;
        if tries {
            self.passed = 0;
        }
        tries
    }

    fn heard(&mut self, kept: usize) {
        self.kept += (kept as f64 - self.kept) / 8.0;
    }
}

impl Default for Eagerness {
    fn default() -> Self {
        Eagerness { kept: 1.0, passed: 0 }
    }
}

impl Drafts {
    /// At most `room` tokens that may follow those that a request has written; none where nothing like them was written, or where drafts do not pay.
    pub fn propose(&mut self, written: &[i64], room: usize) -> Vec<i64> {
        let draft = self.followers(written, room.min(MOST));
        if draft.is_empty() || !self.eagerness.tries() { Vec::new() } else { draft }
    }

    /// So many tokens of a draft were kept.
    pub fn kept(&mut self, tokens: usize) {
        self.eagerness.heard(tokens);
    }

    /// A request has ended with this text.
    pub fn learn(&mut self, written: &[i64]) {
        self.texts.push_back(BEGIN);
        self.texts.extend(written);
        self.texts.drain(..self.texts.len().saturating_sub(KEPT));
    }

    /// What followed the longest and latest place that is like the end of `written`, in this text or an earlier one.
    fn followers(&mut self, written: &[i64], count: usize) -> Vec<i64> {
        let end: Vec<i64> = written.iter().rev().copied().chain([BEGIN]).take(LONGEST).collect();
        let own = std::iter::once(BEGIN).chain(written.iter().copied());
        let all: Vec<i64> = self.texts.make_contiguous().iter().copied().chain(own).collect();
        let alike = |place: usize| all[..place].iter().rev().zip(&end).take_while(|(one, other)| one == other).count();
        // Behind the last token nothing has followed yet.
        let best = (1..all.len()).map(|place| (alike(place), place)).filter(|(alike, _)| *alike >= LEAST).max();
        let followers = best.map_or(&[][..], |(_, place)| &all[place..]);
        followers.iter().copied().take(count).take_while(|token| *token != BEGIN).collect()
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
        drafts.learn(&vec![0; KEPT]);
        assert!(drafts.texts.len() == KEPT && drafts.propose(&[1, 2, 3], 9).is_empty(), "the oldest are forgotten");
    }

    #[test]
    fn drafts_that_are_not_kept_become_rare_and_come_back() {
        let mut drafts = Drafts::default();
        let mut ask = |kept: usize| {
            let tried = !drafts.propose(&[5, 6, 7, 5, 6], 9).is_empty();
            if tried {
                drafts.kept(kept);
            }
            tried
        };
        let vain = (0..1000).filter(|_| ask(0)).count();
        assert!((1000 / (Eagerness::PATIENCE + 1)..60).contains(&vain), "{vain} of 1000");
        let paying = (0..1000).filter(|_| ask(3)).count();
        assert!(paying > 900, "{paying} of 1000");
    }
}
