//! The length order of everybody at once.

use super::candidates::Candidates;
use crate::entities::limits::MAX_PROMPT_TOKENS;

impl Candidates {
    /// Sorts (tokens, slot) of everybody into the first half of `keys`, byte by byte from the last: equal
    /// lengths stay in order of arrival.
    pub(super) fn sort(&mut self) {
        const BYTES: usize = MAX_PROMPT_TOKENS.ilog2() as usize / 8 + 1;
        let count = self.count;
        self.keys.clear();
        self.keys.extend(
            self.entries.iter().zip(0u32..).map(|(entry, slot)| (entry.waiting.request.prompt_tokens, slot)),
        );
        self.keys.resize(2 * count, (0, 0));
        let mut ends = [[0u32; 256]; BYTES];
        for &(tokens, _) in &self.keys[..count] {
            for (byte, ends) in ends.iter_mut().enumerate() {
                ends[(tokens >> (8 * byte)) as usize & 255] += 1;
            }
        }
        let (mut from, mut to) = self.keys.split_at_mut(count);
        let mut swapped = false;
        for (byte, ends) in ends.iter_mut().enumerate() {
            let at = |tokens: u32| (tokens >> (8 * byte)) as usize & 255;
            // All alike in this byte.
            if from.first().is_none_or(|&(tokens, _)| ends[at(tokens)] as usize == count) {
                continue;
            }
            let mut sum = 0;
            for end in ends.iter_mut() {
                sum += std::mem::replace(end, sum);
            }
            for &key in from.iter() {
                let place = &mut ends[at(key.0)];
                to[*place as usize] = key;
                *place += 1;
            }
            std::mem::swap(&mut from, &mut to);
            swapped = !swapped;
        }
        if swapped {
            to.copy_from_slice(from);
        }
    }
}
