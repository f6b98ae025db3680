//! Where plans come from: a seed, and nothing else.

use balanceroute::policy;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::plan::{Event, Plan, Setting};
use crate::rank::BLOCK;

/// Longer than the way of any message: reports that others overtake by more begin another life.
const MOST_DELAY_MS: u64 = 400;

/// Draws the events of one world, as many as are wanted.
pub(crate) struct Source {
    pub(crate) setting: Setting,
    rng: ChaCha8Rng,
    /// How often many arrive at once, and at most how many.
    bursts: (u32, u64),
}

impl Source {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let setting = setting(seed, &mut rng);
        // A world in a hundred knows great bursts.
        let bursts = if seed % 97 == 96 { (1_500, 30_000) } else { (1_500, 60) };
        Self { setting, rng, bursts }
    }

    /// A world with bursts of up to so many.
    pub(crate) fn bursts(self, most: u64) -> Self {
        Self { bursts: (self.bursts.0, most), ..self }
    }

    pub(crate) fn plan(mut self, events: usize) -> Plan {
        Plan { setting: self.setting, events: (0..events).map(|_| self.next()).collect() }
    }

    fn prompt(&mut self) -> u64 {
        let most = self.setting.blocks * BLOCK;
        match self.rng.random_range(0..40u32) {
            // As long as a rank's cache, or longer.
            0 => self.rng.random_range(most / 2..most + 64),
            1..=4 => self.rng.random_range(1..40),
            _ => self.rng.random_range(1..most / 6),
        }
    }

    fn output(&mut self) -> u64 {
        match self.rng.random_range(0..20u32) {
            0 => 1,
            1 => self.rng.random_range(100..200),
            _ => self.rng.random_range(2..60),
        }
    }

    pub(crate) fn next(&mut self) -> Event {
        let (prompt, output) = (self.prompt(), self.output());
        let rng = &mut self.rng;
        let Setting { fronts, clocks, ranks, slots, blocks, .. } = self.setting;
        let (front, rank, which) =
            (rng.random_range(0..fronts), rng.random_range(0..ranks), rng.random_range(0..1 << 20));
        let salt: u64 = rng.random_range(0..1 << 48);
        let (seldom, most) = self.bursts;
        if rng.random_ratio(1, seldom) {
            return Event::Burst { front, count: rng.random_range(most / 4..=most), salt };
        }
        match rng.random_range(0..1000u32) {
            0..250 => Event::Time { ms: if rng.random_ratio(1, 200) { salt % 90_000 } else { salt % 40 } },
            250..400 => Event::Arrive { front, prompt, output, salt },
            400..550 => Event::Step { front, salt },
            550..750 => Event::Engine { rank, steps: 1 + salt % 3, salt },
            750..850 => Event::Report { rank, salt },
            850..870 => Event::Abort { front, which, salt },
            870..875 => Event::Send { front, which, prompt, output, salt },
            875..880 => Event::Advance { front },
            880..885 => Event::Preempt { front, which },
            885..892 => Event::Adopt { front, rank },
            892..895 => Event::Move { front, which, rank },
            895..897 => Event::Disown { front, rank, ago_ms: salt % 500 },
            897..899 => Event::Restart { rank },
            899..902 => Event::Stick { rank, ms: salt % 3_000 },
            902..908 => {
                // Mostly it becomes what it was.
                let (base_slots, base_blocks) = (slots, blocks);
                let slots =
                    if salt.is_multiple_of(2) { base_slots } else { rng.random_range(0..base_slots + 4) };
                let blocks = match salt / 2 % 8 {
                    0 => 0,
                    1..=3 => rng.random_range(1..base_blocks + 20),
                    _ => base_blocks,
                };
                Event::Resize { rank, slots, blocks, salt }
            }
            908..914 => {
                let most = if salt.is_multiple_of(2) { 1 } else { blocks / 3 };
                Event::Pin { rank, blocks: rng.random_range(0..most) }
            }
            914..922 => Event::Foreign { rank, prompt: prompt.min(blocks * BLOCK / 3), output, salt },
            922..930 => Event::Join { front, rank, salt },
            930..932 => Event::Drain { front, rank },
            932..934 => Event::Remove { front, rank, salt },
            934..936 => {
                let of = rng.random_range(1..4);
                Event::Share { front, index: rng.random_range(0..of), of }
            }
            936..940 => {
                let far = rng.random_ratio(1, 2);
                let by_ms =
                    if far { 3_600_000 * rng.random_range(1..500) } else { rng.random_range(0..4_000) };
                Event::Clock { front, clock: rng.random_range(0..clocks), by_ms, back: salt % 2 }
            }
            940 if salt.is_multiple_of(4) => Event::Recover { front, salt },
            940 => Event::Step { front, salt },
            941 => Event::Learn { front },
            942..975 => Event::Invalid { front, kind: which, salt },
            975..990 => Event::Mischief { front, kind: which },
            _ => Event::Device { call: which, code: salt },
        }
    }
}

fn setting(seed: u64, rng: &mut ChaCha8Rng) -> Setting {
    let coin = |rng: &mut ChaCha8Rng, of: f64| u64::from(rng.random_bool(of));
    let fronts = [1, 1, 1, 2, 3][rng.random_range(0..5usize)];
    let ranks = rng.random_range(1..7);
    let bits = |rng: &mut ChaCha8Rng| match rng.random_range(0..3u32) {
        0 => 0,
        1 => u64::MAX >> 1,
        _ => rng.random_range(0..1 << ranks),
    };
    let (lost, in_order) = ([0, 0, 20, 100][rng.random_range(0..4usize)], coin(rng, 0.3));
    let numbers = if coin(rng, 0.5) == 1 { u64::MAX >> 1 } else { bits(rng) };
    // Where nothing is lost callers may hand requests over in process.
    let in_process = lost == 0 && coin(rng, 0.4) == 1;
    let all_number = numbers == u64::MAX >> 1;
    let silence_ms = if all_number && coin(rng, 0.5) == 1 { 0 } else { rng.random_range(3_000..6_000) };
    Setting {
        policy: policy::NAMES[(seed % policy::NAMES.len() as u64) as usize],
        seed,
        mode: [0, 0, 1, 2][rng.random_range(0..4usize)],
        bypass: rng.random_range(0..10),
        fronts,
        shared: if fronts == 1 { 0 } else { coin(rng, 0.6) },
        clocks: if coin(rng, 0.3) == 1 { rng.random_range(2..4) } else { 1 },
        ranks,
        absent: if rng.random_ratio(1, 12) { 65 - ranks } else { 0 },
        slots: rng.random_range(1..12),
        blocks: rng.random_range(40..300),
        bounded: coin(rng, 0.7),
        headroom: [0, 4, 20][rng.random_range(0..3usize)],
        in_order,
        dispatch_ms: if in_process { 0 } else { rng.random_range(1_000..2_500) },
        silence_ms: if in_process { 0 } else { silence_ms },
        expire_ms: if coin(rng, 0.5) == 1 { rng.random_range(500..30_000) } else { 0 },
        window: [1, 3, 16, 4_096, 4_096, 4_096][rng.random_range(0..6usize)],
        max_passed: [0, 1, 5, 40][rng.random_range(0..4usize)],
        one_in: if coin(rng, 0.3) == 1 { rng.random_range(2..8) } else { 0 },
        classes: coin(rng, 0.4),
        masks: coin(rng, 0.3),
        bonuses: coin(rng, 0.5),
        pinned: coin(rng, 0.4),
        deadlines: coin(rng, 0.4),
        supplied: coin(rng, 0.4),
        numbers,
        sequences: bits(rng),
        epochs: bits(rng),
        ages: bits(rng),
        lost,
        twice: [0, 50][rng.random_range(0..2usize)],
        delay_ms: [0, 60, MOST_DELAY_MS][rng.random_range(0..3usize)],
        explains: coin(rng, 0.2),
    }
}
