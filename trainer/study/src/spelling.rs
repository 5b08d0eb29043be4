//! Names that a person may have meant.

use mmlnb_models::spelling::distance;

/// The known names that are nearest to an unknown one, at most three, nearest first; none when nothing is near.
pub fn nearest<'n>(asked: &str, known: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
    let limit = (asked.chars().count() / 3).max(2);
    let mut near: Vec<(usize, &str)> =
        known.into_iter().map(|name| (distance(asked, name), name)).filter(|(far, _)| *far <= limit).collect();
    near.sort();
    near.dedup();
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

/// `; did you mean ...?`, or else all that is known.
pub fn hint<'n>(asked: &str, known: impl IntoIterator<Item = &'n str> + Clone) -> String {
    let near = nearest(asked, known.clone());
    match near.as_slice() {
        [] => format!("; known are {}", known.into_iter().collect::<Vec<_>>().join(", ")),
        near => format!("; did you mean {}?", near.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_come_first_and_far_ones_not_at_all() {
        let known = ["q_proj", "k_proj", "down_proj", "learning_rate"];
        assert_eq!(nearest("learnig_rate", known), ["learning_rate"]);
        assert_eq!(nearest("qproj", known), ["q_proj", "k_proj"]);
        assert!(nearest("colour", known).is_empty());
        assert_eq!(distance("", "abc"), 3);
        assert!(hint("colour", known).contains("known are q_proj, k_proj"));
    }
}
