//! Names that people get nearly right.

/// Names less alike than that are not meant.
const ALIKE: f64 = 0.8;

/// The name that is most like this one, if one is.
pub(crate) fn most_like<'a>(found: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |name: &str| strsim::jaro_winkler(name, found);
    let best = names.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= ALIKE).then_some(best)
}

/// What an error adds after what was found.
pub(crate) fn did_you_mean(meant: Option<&str>) -> String {
    meant.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default()
}
