//! Names: which are none, and what a misspelt one was meant to be.

/// How long a name may be: it stands in logs, labels and registries.
const MOST_CHARACTERS: usize = 255;

/// Why something cannot be called this, if it cannot.
pub(crate) fn fault_of_name(kind: &str, name: &str) -> Option<String> {
    if name.is_empty() {
        return Some(format!("the name of a {kind} cannot be empty"));
    }
    if name.contains(char::is_control) {
        return Some(format!("the name of a {kind} cannot hold a control character"));
    }
    let length = name.chars().count();
    (length > MOST_CHARACTERS)
        .then(|| format!("the name of a {kind} has at most {MOST_CHARACTERS} characters, and this has {length}"))
}

/// The candidate that `given` was most likely meant to be, if any is near enough to be worth saying.
///
/// ```
/// use portcullis_config::did_you_mean;
/// assert_eq!(did_you_mean("ofice", ["office", "trace"]), Some("office"));
/// assert_eq!(did_you_mean("zebra", ["office", "trace"]), None);
/// ```
pub fn did_you_mean<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = given.to_lowercase().replace('-', "_");
    // A third of the letters may be wrong: enough for a slip, too little for another word.
    let slips = folded.chars().count().div_ceil(3).min(3);
    candidates
        .into_iter()
        .filter(|candidate| *candidate != given)
        .map(|candidate| {
            let other = candidate.to_lowercase().replace('-', "_");
            (strsim::damerau_levenshtein(&folded, &other), candidate)
        })
        .filter(|(distance, candidate)| *distance <= slips && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Names for a sentence; of very many only the first.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const MOST: usize = 24;
    let names: Vec<&str> = names.into_iter().collect();
    match names.get(..MOST) {
        Some(first) if names.len() > MOST => format!("{}, … ({} in all)", first.join(", "), names.len()),
        _ => names.join(", "),
    }
}
