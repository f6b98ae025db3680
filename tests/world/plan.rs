//! A world as it is written down: what it is like, and the list of all that happens in it.
//!
//! Nothing is drawn while a world runs. An event carries numbers of its own for whatever it decides, and
//! names whom it is about by a number that is taken modulo those who are there: so any part of a list is a
//! list too, and an event without anybody to happen to does nothing.

use std::fmt;
use std::str::FromStr;

use balanceroute::policy;

/// The value of a field in words of the form `name=value`.
fn value<'a>(words: &[&'a str], field: &str) -> Result<&'a str, String> {
    let found = words.iter().find_map(|word| word.strip_prefix(field)?.strip_prefix('='));
    found.ok_or_else(|| format!("{field}=... is missing"))
}

fn number(words: &[&str], field: &str) -> Result<u64, String> {
    let found = value(words, field)?;
    found.parse().map_err(|error| format!("{field}={found}: {error}"))
}

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident { $($field:ident),* },)*) => {
        /// Something that happens. `salt` stands for all that it decides by chance.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Event { $($(#[$doc])* $name { $($field: u64),* },)* }

        impl fmt::Display for Event {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name { $($field),* } => {
                        f.write_str(stringify!($name))?;
                        $(write!(f, concat!(" ", stringify!($field), "={}"), $field)?;)*
                        Ok(())
                    })*
                }
            }
        }

        impl FromStr for Event {
            type Err = String;

            fn from_str(line: &str) -> Result<Self, String> {
                let words: Vec<&str> = line.split_whitespace().collect();
                match words.first().copied().unwrap_or_default() {
                    $(stringify!($name) => Ok(Self::$name {
                        $($field: number(&words, stringify!($field))?),*
                    }),)*
                    found => Err(format!("no event is called {found:?}")),
                }
            }
        }
    };
}

events! {
    /// Time passes, and what is due arrives.
    Time { ms },
    /// A request arrives, to wait for a step or to be placed.
    Arrive { front, prompt, output, salt },
    /// Many arrive at once.
    Burst { front, count, salt },
    /// A front end decides.
    Step { front, salt },
    /// A front end sends a request, one that waits or a new one, to a worker with or without room.
    Send { front, which, prompt, output, salt },
    /// A rank computes so many steps.
    Engine { rank, steps, salt },
    /// A rank reports to all front ends.
    Report { rank, salt },
    /// Every request of a front end has a token more.
    Advance { front },
    /// Somebody is given up.
    Abort { front, which, salt },
    /// A request comes back from its engine, to be sent again.
    Preempt { front, which },
    /// An engine says that it runs what is nobody's.
    Adopt { front, rank },
    /// An engine says that it runs what waits or runs elsewhere.
    Move { front, which, rank },
    /// The ends of what was sent to a rank will not be told.
    Disown { front, rank, ago_ms },
    /// A rank begins anew under its id, with nothing.
    Restart { rank },
    /// A rank computes nothing for a while.
    Stick { rank, ms },
    /// A rank has other slots and another KV cache, and the front ends hear of it or not.
    Resize { rank, slots, blocks, salt },
    /// KV blocks that nobody holds who runs.
    Pin { rank, blocks },
    /// Somebody else's request.
    Foreign { rank, prompt, output, salt },
    /// A front end lets a rank join, is told that it will, or opens and closes it.
    Join { front, rank, salt },
    /// A front end drains a rank.
    Drain { front, rank },
    /// A front end takes a rank out.
    Remove { front, rank, salt },
    /// A front end is another part of all.
    Share { front, index, of },
    /// A front end's clock is set.
    Clock { front, clock, by_ms, back },
    /// A front end begins anew.
    Recover { front, salt },
    /// What a front end has learned goes through a file.
    Learn { front },
    /// A call that must be refused.
    Invalid { front, kind, salt },
    /// What a caller supplies breaks its promise, or panics, when it is asked next.
    Mischief { front, kind },
    /// A call of the device's runtime fails.
    Device { call, code },
}

macro_rules! setting {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// What a world is like.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) struct Setting {
            pub(crate) policy: &'static str,
            $($(#[$doc])* pub(crate) $field: u64,)*
        }

        impl fmt::Display for Setting {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "World policy={}", self.policy)?;
                $(write!(f, concat!(" ", stringify!($field), "={}"), self.$field)?;)*
                Ok(())
            }
        }

        impl FromStr for Setting {
            type Err = String;

            fn from_str(line: &str) -> Result<Self, String> {
                let words: Vec<&str> = line.split_whitespace().collect();
                if words.first() != Some(&"World") {
                    return Err(format!("a plan begins with a line World ..., found {line:?}"));
                }
                let name = value(&words, "policy")?;
                let policy = policy::NAMES.iter().find(|&&known| known == name);
                let policy = policy.ok_or_else(|| format!("no policy is called {name}"))?;
                Ok(Self { policy, $($field: number(&words, stringify!($field))?,)* })
            }
        }
    };
}

setting! {
    seed,
    /// 0: step, 1: arrival, 2: mixed.
    mode,
    /// Slots above which a mixed mode does not wait.
    bypass,
    /// Front ends with a router of their own.
    fronts,
    /// Whether each has a share of every rank; without, the others are foreign load.
    shared,
    /// Clocks of each router's callers.
    clocks,
    ranks,
    /// Workers that were announced and never come: so many that a mask takes two words now and then.
    absent,
    slots,
    /// KV blocks of a rank.
    blocks,
    /// Whether front ends know how many.
    bounded,
    /// Room for growth in steps; 0: learned.
    headroom,
    in_order,
    /// Timeouts in milliseconds; 0: none.
    dispatch_ms,
    silence_ms,
    expire_ms,
    /// How many a decision chooses among.
    window,
    /// By how many a request may be passed; 0: the policy's own bound.
    max_passed,
    /// The share of lower classes; 0: none.
    one_in,
    /// Whether requests are of several classes, have masks and bonuses, name their rank, have deadlines.
    classes,
    masks,
    bonuses,
    pinned,
    deadlines,
    /// Whether the caller supplies policy and classifier.
    supplied,
    /// Which ranks tell dispatch numbers, report numbers, epochs and ages, a bit each.
    numbers,
    sequences,
    epochs,
    ages,
    /// Of a thousand messages so many are lost, so many come twice; none is longer on its way.
    lost,
    twice,
    delay_ms,
    /// Whether decisions are explained.
    explains,
}

/// A world and all that happens in it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) setting: Setting,
    pub(crate) events: Vec<Event>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.setting)?;
        self.events.iter().try_for_each(|event| writeln!(f, "{event}"))
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let at_line = |at: usize| move |error: String| format!("line {at}: {error}");
        let (at, first) = lines.next().ok_or("a plan has a line at least")?;
        let setting = first.parse().map_err(at_line(at))?;
        let events = lines.map(|(at, line)| line.parse().map_err(at_line(at)));
        Ok(Self { setting, events: events.collect::<Result<_, _>>()? })
    }
}
