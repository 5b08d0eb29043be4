//! The values of all rounds as a table, and whether ours reach what is wanted.

use super::{
    OURS, Record,
    figure::{FIGURES, Figure},
    machine::Class,
};

/// A figure of one side over the rounds.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
    /// Largest share of a round's time in which some process waited for a core.
    waited: Option<f64>,
}

/// Markdown: one row a figure and side, the peers by their medians, then ratios. Second: every target that is missed or cannot be judged.
pub fn table(records: &[Record], class: Class) -> (String, Vec<String>) {
    let mut text = "| figure | side | median (smallest to largest) | disturbed |\n|---|---|---|---|\n".to_owned();
    let mut ratios = "| figure | ours | best peer | ratio | wanted |\n|---|---|---|---|---|\n".to_owned();
    let mut missed = Vec::new();
    for figure in &FIGURES {
        let sides = sides(records, figure);
        for (side, spread) in &sides {
            text += &row(figure, side, spread);
        }
        let ours = sides.iter().find(|(side, _)| *side == OURS);
        let best = sides.iter().find(|(side, _)| *side != OURS);
        if let Some((ours, (peer, theirs))) = ours.zip(best.map(|(side, spread)| (side, spread))) {
            let ratio = figure.ratio(ours.1.median, theirs.median);
            let wanted = figure.wanted(class);
            if wanted.is_some_and(|wanted| ratio < wanted) {
                missed.push(format!("{}: {ratio:.2} times {peer}, wanted {}", figure.name, wanted.unwrap_or_default()));
            }
            let told = wanted.map_or("-".to_owned(), |wanted| wanted.to_string());
            ratios += &format!(
                "| {} | {} | {} {} | **{ratio:.2}** | {told} |\n",
                figure.name,
                number(ours.1.median),
                peer,
                number(theirs.median)
            );
        } else if figure.wanted(class).is_some() && !sides.is_empty() {
            missed.push(format!("{}: not compared, since only {} was measured", figure.name, sides[0].0));
        }
    }
    (format!("{text}\n{ratios}"), missed)
}

/// Every side that has this figure: ours, then the peers, the best one first.
fn sides<'r>(records: &'r [Record], figure: &Figure) -> Vec<(&'r str, Spread)> {
    let mut names: Vec<&str> = Vec::new();
    for record in records.iter().filter(|record| record.sample.figure == figure.name) {
        if !names.contains(&record.side.as_str()) {
            names.push(&record.side);
        }
    }
    let mut sides: Vec<(&str, Spread)> = names.into_iter().map(|name| (name, spread(records, figure, name))).collect();
    sides.sort_by(|(one, left), (other, right)| {
        let better =
            if figure.more_is_better { right.median.total_cmp(&left.median) } else { left.median.total_cmp(&right.median) };
        (*one != OURS).cmp(&(*other != OURS)).then(better)
    });
    sides
}

fn spread(records: &[Record], figure: &Figure, side: &str) -> Spread {
    let found = || records.iter().filter(|record| record.sample.figure == figure.name && record.side == side);
    let mut values: Vec<f64> = found().map(|record| record.sample.value).collect();
    values.sort_by(f64::total_cmp);
    let waited = found().filter_map(|record| record.sample.waited).max_by(f64::total_cmp);
    Spread { median: values[values.len() / 2], least: values[0], most: values[values.len() - 1], waited }
}

fn row(figure: &Figure, side: &str, spread: &Spread) -> String {
    let [median, least, most] = [spread.median, spread.least, spread.most].map(number);
    let waited = spread.waited.map_or("-".to_owned(), |share| format!("{:.0} %", share * 100.0));
    format!("| {}, {} | {side} | {median} ({least} to {most}) | {waited} |\n", figure.name, figure.unit)
}

/// Three figures that count.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Sample, *};

    fn record(side: &str, figure: &str, value: f64) -> Record {
        Record { side: side.to_owned(), sample: Sample { figure: figure.to_owned(), value, waited: Some(0.25) } }
    }

    #[test]
    fn ours_is_compared_with_the_best_peer_and_a_missed_target_is_told() {
        let mut records = vec![record("slow", "decode 1", 10.0), record("fast", "decode 1", 50.0)];
        records.extend([70.0, 40.0, 55.0].map(|value| record(OURS, "decode 1", value)));
        records.extend([record(OURS, "export", 5.0), record("builder", "export", 50.0), record(OURS, "prompt", 1.0)]);
        let (text, missed) = table(&records, Class::Vnni);
        assert!(text.contains("| decode 1 | 55.0 | fast 50.0 | **1.10** | 1.2 |\n"), "{text}");
        assert!(text.contains("| export | 5.00 | builder 50.0 | **10.00** | - |\n"), "{text}");
        assert!(text.contains(&format!("| decode 1, tokens/s | {OURS} | 55.0 (40.0 to 70.0) | 25 % |\n")), "{text}");
        assert_eq!(missed.len(), 2, "{missed:?}");
        assert!(missed[1].starts_with("decode 1: 1.10 times fast"), "{missed:?}");
        assert!(table(&records, Class::Plain).1.len() == 1, "1.10 is enough without VNNI");
    }
}
