//! What a text says: which findings, denied or present, and how much.

use super::clause::{DENIALS, Token, clauses, tokens};
use super::lexicon::{AMOUNTS, LEXICON};
use super::{Fact, State};
use std::ops::Range;

/// Words that, after `not` or `cannot be`, deny what stands before.
const NOTICED: &[&str] = &[
    "seen",
    "present",
    "identified",
    "found",
    "evident",
    "observed",
    "apparent",
    "detected",
    "recognised",
    "recognized",
    "recognisable",
    "recognizable",
    "visible",
    "noted",
    "appreciated",
    "discernible",
    "shown",
    "conspicuous",
    "prominent",
    "a",
];
/// Words that deny what stands before them, or after them when nothing does.
const MISSING: &[&str] = &["absent", "absence", "missing", "lacking", "none"];
/// How far an amount reaches forward, in tokens.
const REACH: usize = 4;

/// A finding's wording in a text.
struct Mention {
    finding: usize,
    place: Range<usize>,
    state: State,
}

/// Every fact of a text, each once, in the order of first mention. A finding both denied and present gives two facts.
pub fn read(text: &str) -> Vec<Fact> {
    let tokens = tokens(text);
    let mut mentions = mentions(&tokens);
    let mut held = vec![false; tokens.len()];
    for mention in &mentions {
        held[mention.place.clone()].fill(true);
    }
    for clause in clauses(&tokens, &held) {
        let from = mentions.partition_point(|mention| mention.place.start < clause.start);
        let to = mentions.partition_point(|mention| mention.place.start < clause.end);
        settle(&tokens, &held, clause, &mut mentions[from..to]);
    }
    let mut facts: Vec<Fact> = Vec::new();
    for Mention { finding, state, .. } in mentions {
        add(&mut facts, Fact { finding: LEXICON[finding].name, state });
    }
    facts
}

/// An amount says more than bare presence, and the first amount counts.
fn add(facts: &mut Vec<Fact>, fact: Fact) {
    let known =
        facts.iter_mut().find(|one| one.finding == fact.finding && (one.state == State::Absent) == (fact.state == State::Absent));
    match known {
        None => facts.push(fact),
        Some(known) if known.state == State::Present => known.state = fact.state,
        Some(_) => {}
    }
}

fn mentions(tokens: &[Token]) -> Vec<Mention> {
    let mut mentions = Vec::new();
    let mut place = 0;
    while place < tokens.len() {
        match longest(&tokens[place..]) {
            Some((finding, length, state)) => {
                mentions.push(Mention { finding, place: place..place + length, state });
                place += length;
            }
            None => place += 1,
        }
    }
    mentions
}

/// The finding whose wording fits the beginning of `tokens` over the most tokens.
fn longest(tokens: &[Token]) -> Option<(usize, usize, State)> {
    let mut best: Option<(usize, usize, State)> = None;
    for (finding, entry) in LEXICON.iter().enumerate() {
        let plain = entry.phrases.iter().map(|phrase| (*phrase, State::Present));
        for (phrase, state) in plain.chain(entry.telling.iter().copied()) {
            if let Some(length) = fitting(phrase, tokens)
                && best.is_none_or(|(_, most, _)| length > most)
            {
                best = Some((finding, length, state));
            }
        }
    }
    best
}

/// How many tokens a wording covers; commas between its words do not matter.
fn fitting(phrase: &str, tokens: &[Token]) -> Option<usize> {
    let mut place = 0;
    for (number, wanted) in phrase.split(' ').enumerate() {
        while number > 0 && tokens.get(place) == Some(&Token::Comma) {
            place += 1;
        }
        let Some(Token::Word(word)) = tokens.get(place) else { return None };
        let fits = wanted.strip_suffix('*').map_or(word == wanted, |beginning| word.starts_with(beginning));
        if !fits {
            return None;
        }
        place += 1;
    }
    Some(place)
}

/// Gives the mentions of one clause their states.
fn settle(tokens: &[Token], held: &[bool], clause: Range<usize>, mentions: &mut [Mention]) {
    for place in clause.clone().filter(|place| !held[*place]) {
        match &tokens[place] {
            Token::Percent(share) => attach_share(*share, place, mentions),
            Token::Word(word) => {
                if let Some((_, state)) = AMOUNTS.iter().find(|(amount, _)| amount == word) {
                    let denied = place > clause.start && tokens[place - 1] == Token::Word("not".into());
                    attach(if denied { State::Little } else { *state }, place, mentions);
                }
            }
            Token::Comma | Token::Stop => {}
        }
    }
    for place in clause.clone().filter(|place| !held[*place]) {
        if let Token::Word(word) = &tokens[place] {
            deny(word, &tokens[place + 1..clause.end], place, mentions);
        }
    }
}

/// Denies what a word of denial reaches: what follows it, or what stands before it in `not seen` and `absent`.
fn deny(word: &str, rest: &[Token], place: usize, mentions: &mut [Mention]) {
    let next =
        |number: usize| rest.get(number).and_then(|token| if let Token::Word(word) = token { Some(word.as_str()) } else { None });
    let before = mentions.iter().any(|mention| mention.place.end <= place);
    let backwards = if MISSING.contains(&word) {
        before && next(0) != Some("of")
    } else if !DENIALS.contains(&word) {
        return;
    } else if word == "not" || word == "cannot" {
        if next(0)
            .is_some_and(|word| word == "only" || AMOUNTS.iter().any(|(amount, _)| *amount == word && !NOTICED.contains(&word)))
        {
            return;
        }
        before && (0..3).filter_map(next).any(|word| NOTICED.contains(&word))
    } else {
        // `no more than 5 %` is an amount, `free cells` no denial.
        if word == "no" && next(0).is_some_and(|word| ["more", "less", "fewer"].contains(&word))
            || word == "free" && next(0) != Some("of")
        {
            return;
        }
        false
    };
    for mention in mentions.iter_mut() {
        let reached = if backwards { mention.place.end <= place } else { mention.place.start > place };
        if reached {
            mention.state = State::Absent;
        }
    }
}

/// A share belongs to the finding after it, or else before it.
fn attach_share(share: f64, place: usize, mentions: &mut [Mention]) {
    let following = mentions.iter().position(|mention| mention.place.start > place);
    let preceding = mentions.iter().rposition(|mention| mention.place.end <= place);
    if let Some(mention) = following.or(preceding).map(|number| &mut mentions[number]) {
        let (little, much) = LEXICON[mention.finding].bands;
        mention.state = match share {
            0.0 => State::Absent,
            share if share < little => State::Little,
            share if share <= much => State::Moderate,
            _ => State::Much,
        };
    }
}

/// A word of amount belongs to the finding that follows closely, or else to the one before it.
fn attach(state: State, place: usize, mentions: &mut [Mention]) {
    let following = mentions.iter().position(|mention| mention.place.start > place && mention.place.start - place <= REACH);
    let preceding = mentions.iter().rposition(|mention| mention.place.end <= place);
    if let Some(mention) = following.or(preceding).map(|number| &mut mentions[number])
        && mention.state == State::Present
    {
        mention.state = state;
    }
}
