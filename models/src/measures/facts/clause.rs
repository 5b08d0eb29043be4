//! From a text to pieces of sentences in which a negation reaches every finding.

/// A word, a share in percent, or a mark that separates.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Lower-case letters and digits.
    Word(String),
    /// A number followed by a percent sign or the word.
    Percent(f64),
    /// A comma or a bracket.
    Comma,
    /// The end of a sentence or half-sentence.
    Stop,
}

/// Verbs after which a comma begins something new.
const VERBS: &[&str] = &[
    "is", "are", "was", "were", "be", "been", "shows", "show", "showed", "contains", "contain", "has", "have", "lies", "lie",
    "displays", "display", "exhibits", "exhibit", "forms", "form", "seen", "makes", "make", "occupies", "occupy", "fills",
    "fill", "appears", "appear",
];
/// Words that begin something new wherever they stand.
const TURNS: &[&str] = &[
    "but",
    "however",
    "although",
    "though",
    "while",
    "whereas",
    "except",
    "yet",
    "with",
    "which",
    "there",
    "showing",
    "containing",
    "whose",
];
/// Words that deny what follows them.
pub(super) const DENIALS: &[&str] =
    &["no", "without", "neither", "nor", "lacks", "lack", "devoid", "free", "never", "not", "cannot"];

/// Cuts a text into words, percentages and marks. Hyphens separate words; `isn't` becomes `is not`.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let text = text.to_lowercase().replace(['\u{2019}', '\u{2018}'], "'").replace("can't", "cannot").replace("n't", " not");
    let text = text.replace("there's", "there is").replace("salt & pepper", "salt and pepper");
    let letters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut place = 0;
    while place < letters.len() {
        let length = letters[place..].iter().take_while(|letter| letter.is_alphanumeric()).count();
        if letters[place].is_ascii_digit() {
            place = number(&letters, place, &mut tokens);
        } else if length > 0 {
            word(letters[place..place + length].iter().collect(), &mut tokens);
            place += length;
        } else {
            match letters[place] {
                ',' | '(' | ')' | '/' | '"' => tokens.push(Token::Comma),
                '.' | ';' | '!' | '?' | '\u{2013}' | '\u{2014}' => tokens.push(Token::Stop),
                ':' => tokens.push(Token::Word("is".into())),
                '<' => tokens.push(Token::Word("under".into())),
                '>' | '\u{2265}' => tokens.push(Token::Word("over".into())),
                '%' => percent(&mut tokens),
                _ => {}
            }
            place += 1;
        }
    }
    tokens
}

fn word(word: String, tokens: &mut Vec<Token>) {
    match word.as_str() {
        "percent" => percent(tokens),
        "cent" if tokens.last() == Some(&Token::Word("per".into())) => {
            tokens.pop();
            percent(tokens);
        }
        _ => tokens.push(Token::Word(word)),
    }
}

/// Reads digits with at most one point, and the rest of a word like `20x`.
fn number(letters: &[char], start: usize, tokens: &mut Vec<Token>) -> usize {
    let mut end = start;
    let inside = |end: usize| {
        let point = matches!(letters[end], '.' | ',') && letters.get(end + 1).is_some_and(char::is_ascii_digit);
        letters[end].is_alphanumeric() || point
    };
    while end < letters.len() && inside(end) {
        end += 1;
    }
    tokens.push(Token::Word(letters[start..end].iter().collect()));
    end
}

/// Makes the number before a percent sign a share; `3-5 %` becomes their mean, `under` and `over` move it off a limit.
fn percent(tokens: &mut Vec<Token>) {
    let Some(last) = taken_number(tokens) else { return };
    let mut share = last;
    if tokens.last() == Some(&Token::Word("to".into())) {
        tokens.pop();
    }
    if let Some(first) = taken_number(tokens) {
        share = f64::midpoint(first, last);
    }
    let before = tokens.iter().rev().take(3).filter_map(as_word).collect::<Vec<_>>();
    let said = |words: &[&str]| before.iter().any(|word| words.contains(word));
    let denied = said(&["no", "not"]);
    if said(&["under", "below", "less", "fewer"]) && !denied {
        share *= 0.999;
    } else if said(&["over", "above", "more"]) && !denied {
        share *= 1.001;
    }
    tokens.push(Token::Percent(share));
}

fn taken_number(tokens: &mut Vec<Token>) -> Option<f64> {
    let number = tokens.last().and_then(as_word)?.replace(',', ".").parse().ok()?;
    tokens.pop();
    Some(number)
}

fn as_word(token: &Token) -> Option<&str> {
    if let Token::Word(word) = token { Some(word) } else { None }
}

/// Ranges of tokens; `held` marks tokens inside a finding's wording, which are never a border.
pub(super) fn clauses(tokens: &[Token], held: &[bool]) -> Vec<std::ops::Range<usize>> {
    let mut clauses = Vec::new();
    let mut start = 0;
    for (place, held) in held.iter().enumerate() {
        if !held && begins_new(tokens, start, place) {
            clauses.push(start..place);
            start = place;
        }
    }
    clauses.push(start..tokens.len());
    clauses.retain(|clause| !clause.is_empty());
    clauses
}

fn begins_new(tokens: &[Token], start: usize, place: usize) -> bool {
    match &tokens[place] {
        Token::Stop => true,
        Token::Comma => said_something(&tokens[start..place]),
        Token::Word(word) if word == "and" => {
            said_something(&tokens[start..place]) || is_sentence(&tokens[place + 1..]) && is_denied(&tokens[start..place])
        }
        Token::Word(word) => TURNS.contains(&word.as_str()),
        Token::Percent(_) => false,
    }
}

/// Whether a verb stands after the last denial.
fn said_something(clause: &[Token]) -> bool {
    let last = clause.iter().rposition(|token| as_word(token).is_some_and(|word| DENIALS.contains(&word)));
    clause[last.map_or(0, |last| last + 1)..].iter().any(is_verb)
}

fn is_denied(clause: &[Token]) -> bool {
    clause.iter().any(|token| as_word(token).is_some_and(|word| DENIALS.contains(&word)))
}

/// Whether a verb comes before the next mark.
fn is_sentence(rest: &[Token]) -> bool {
    rest.iter().take_while(|token| !matches!(token, Token::Comma | Token::Stop)).any(is_verb)
}

fn is_verb(token: &Token) -> bool {
    as_word(token).is_some_and(|word| VERBS.contains(&word))
}
