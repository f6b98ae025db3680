//! The smallest number of which something holds that then holds of all greater ones.

/// Looks from `start` on up to `most`, in steps that double, and then halves what is left; none where it does
/// not hold of `most`.
pub(super) fn smallest<E>(
    start: usize,
    most: usize,
    mut holds: impl FnMut(usize) -> Result<bool, E>,
) -> Result<Option<usize>, E> {
    let start = start.clamp(1, most);
    // It holds of `enough`, and not of `few`.
    let (mut few, mut enough);
    if holds(start)? {
        (few, enough) = (0, start);
        let mut step = 1;
        while enough > 1 {
            let lower = enough.saturating_sub(step).max(1);
            if !holds(lower)? {
                few = lower;
                break;
            }
            (enough, step) = (lower, 2 * step);
        }
    } else {
        few = start;
        let mut step = 1;
        enough = loop {
            if few == most {
                return Ok(None);
            }
            let greater = (few + step).min(most);
            if holds(greater)? {
                break greater;
            }
            (few, step) = (greater, 2 * step);
        };
    }
    while enough - few > 1 {
        let middle = few + (enough - few) / 2;
        if holds(middle)? { enough = middle } else { few = middle }
    }
    Ok(Some(enough))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_the_first_from_wherever_it_begins() {
        for most in 1..40 {
            for first in 1..=most + 1 {
                for start in 0..=most + 3 {
                    let mut asked = Vec::new();
                    let found = smallest(start, most, |at| {
                        assert!((1..=most).contains(&at));
                        asked.push(at);
                        Ok::<_, ()>(at >= first)
                    });
                    assert_eq!(found, Ok((first <= most).then_some(first)), "{start} {most}");
                    assert!(asked.len() <= 13, "{asked:?}");
                }
            }
        }
    }

    #[test]
    fn who_cannot_tell_ends_it() {
        assert_eq!(smallest(3, 30, |at| if at < 9 { Ok(false) } else { Err(at) }), Err(10));
    }
}
