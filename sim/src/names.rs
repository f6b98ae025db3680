//! Names that people get nearly right.

/// One letter in so many may be wrong, missing or swapped; one always.
const LETTERS_AN_EDIT: usize = 4;

/// The name that was likely meant by this one, if one was.
pub(crate) fn most_like<'a>(found: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let far = |name: &'a str| (strsim::damerau_levenshtein(found, name), name);
    let (edits, name) = names.map(far).min_by_key(|&(edits, _)| edits)?;
    (edits <= 1.max(found.chars().count() / LETTERS_AN_EDIT)).then_some(name)
}

/// What an error adds after what was found.
pub(crate) fn did_you_mean(meant: Option<&str>) -> String {
    meant.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default()
}
