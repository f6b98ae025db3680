//! From a plan that fails to a short one that fails in that place: delta debugging over the list of events,
//! then over what the world is like.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::plan::{Plan, Setting};

/// So many shorter plans are tried, at most.
const TRIES: usize = 6_000;

/// Where a world failed, and what was said there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Failure {
    pub(crate) place: String,
    pub(crate) message: String,
}

thread_local! {
    /// What the last panic of this thread said, while one is waited for.
    static HEARD: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|&text| text.to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "something that is no text".to_owned())
}

/// Runs what may panic, and says nothing of it but by the answer.
pub(crate) fn attempt<T>(run: impl FnOnce() -> T) -> Result<T, Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let is_awaited = HEARD.with_borrow_mut(|heard| {
                // The first one is the cause.
                if let Some(heard) = heard.as_mut().filter(|heard| heard.place.is_empty()) {
                    heard.place = panic.location().map(ToString::to_string).unwrap_or_default();
                    heard.message = message_of(panic.payload());
                }
                heard.is_some()
            });
            if !is_awaited {
                before(panic);
            }
        }));
    });
    let outer = HEARD.replace(Some(Failure::default()));
    let done = catch_unwind(AssertUnwindSafe(run));
    let heard = HEARD.replace(outer).unwrap_or_default();
    done.map_err(|_| heard)
}

/// The shortest plan that was found which fails where this one does, and how it fails.
pub(crate) fn shrink(
    plan: &Plan,
    failure: &Failure,
    mut fails: impl FnMut(&Plan) -> Option<Failure>,
) -> (Plan, Failure) {
    let (mut best, mut how, mut tries) = (plan.clone(), failure.clone(), 0);
    let mut is_as_good = |tried: &Plan, how: &mut Failure| {
        tries += 1;
        let found = if tries > TRIES { None } else { fails(tried) };
        let found = found.filter(|found| found.place == failure.place);
        if let Some(found) = &found {
            *how = found.clone();
        }
        found.is_some()
    };
    // What comes after the failure has no part in it.
    let (mut enough, mut few) = (best.events.len(), 0);
    while few < enough {
        let half = (few + enough) / 2;
        let tried = Plan { events: best.events[..half].to_vec(), ..best };
        if is_as_good(&tried, &mut how) { enough = half } else { few = half + 1 }
    }
    best.events.truncate(enough);
    // What the world is like decides what it takes, and the other way round.
    loop {
        let before = best.clone();
        let mut chunk = best.events.len().div_ceil(2).max(1);
        loop {
            let (length, mut from) = (best.events.len(), 0);
            while from < best.events.len() {
                let to = (from + chunk).min(best.events.len());
                let events = [&best.events[..from], &best.events[to..]].concat();
                let tried = Plan { events, ..best };
                if is_as_good(&tried, &mut how) { best = tried } else { from = to }
            }
            if chunk > 1 {
                chunk = chunk.div_ceil(2);
            } else if best.events.len() == length {
                break;
            }
        }
        for setting in simpler() {
            let tried = Plan { setting: setting(best.setting), events: best.events.clone() };
            if tried.setting != best.setting && is_as_good(&tried, &mut how) {
                best = tried;
            }
        }
        if best == before {
            break;
        }
    }
    (best, how)
}

/// What a world need not be like.
fn simpler() -> Vec<fn(Setting) -> Setting> {
    macro_rules! without {
        ($($field:ident: $value:literal),* $(,)?) => {
            vec![$(|setting| Setting { $field: $value, ..setting }),*]
        };
    }
    without! {
        fronts: 1, shared: 0, clocks: 1, ranks: 1, ranks: 2, lost: 0, twice: 0, delay_ms: 0, explains: 0,
        supplied: 0, absent: 0, classes: 0, masks: 0, bonuses: 0, pinned: 0, deadlines: 0, one_in: 0,
        ages: 0, epochs: 0, sequences: 0, expire_ms: 0, silence_ms: 0, in_order: 0, headroom: 0,
        max_passed: 0, window: 4096, mode: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Event;
    use crate::source::Source;
    use crate::world::World;

    #[test]
    fn a_plan_reads_as_it_was_written_and_a_seed_draws_it_again() {
        for seed in 0..40 {
            let plan = Source::new(seed).plan(300);
            assert_eq!(plan.to_string().parse(), Ok(plan.clone()));
            assert_eq!(Source::new(seed).plan(300), plan);
        }
        let bad = |text: &str| text.parse::<Plan>().expect_err("no plan");
        let plan = Source::new(1).plan(0).to_string();
        assert_eq!(bad(&format!("{plan}\n# so\nTime ms=x")), "line 4: ms=x: invalid digit found in string");
        assert_eq!(bad(&format!("{plan}Step front=1")), "line 2: salt=... is missing");
        assert_eq!(bad(&format!("{plan}Jump by=1")), "line 2: no event is called \"Jump\"");
        assert!(bad("Step front=1 salt=1").contains("begins with a line World"));
        assert_eq!(bad(&plan.replace("policy=", "policy=x")), "line 1: no policy is called xround-robin");
    }

    /// Whoever takes this for an invariant is wrong: no request finishes after a rank has begun anew and a
    /// clock was set.
    fn with_a_fault(plan: &Plan) -> Option<Failure> {
        let run = || {
            let mut world = World::new(plan.setting);
            let (mut restarted, mut set, mut finished) = (false, false, 0);
            for event in &plan.events {
                world.play(event);
                restarted |= matches!(event, Event::Restart { .. });
                set |= matches!(event, Event::Clock { .. });
                let now = world.fronts[0].router.counters().finished;
                assert!(now == finished || !(restarted && set), "{finished} finished, then {now}");
                finished = now;
            }
        };
        attempt(run).err()
    }

    #[test]
    fn a_fault_is_shrunk_to_the_events_that_it_takes() {
        let plan = Source::new(6).plan(1_500);
        let failure = with_a_fault(&plan).expect("it fails");
        let (short, how) = shrink(&plan, &failure, with_a_fault);
        assert_eq!(
            (how.place.as_str(), &how),
            (failure.place.as_str(), &with_a_fault(&short).expect("fails"))
        );
        let count = |is: fn(&Event) -> bool| short.events.iter().filter(|event| is(event)).count();
        assert_eq!(count(|event| matches!(event, Event::Restart { .. })), 1);
        assert_eq!(count(|event| matches!(event, Event::Clock { .. })), 1);
        // Beside these somebody arrives, is decided on, runs and ends.
        assert!(short.events.len() <= 12, "{short}");
        // Each of them is needed.
        for without in 0..short.events.len() {
            let mut fewer = short.clone();
            let event = fewer.events.remove(without);
            assert!(with_a_fault(&fewer).is_none(), "{event} is not needed:\n{short}");
        }
        // What is printed fails as well, read from a file.
        let read: Plan = short.to_string().parse().expect("a plan");
        assert_eq!(with_a_fault(&read).map(|found| found.place), Some(failure.place));
    }

    #[test]
    fn what_panics_inside_of_an_attempt_is_told_by_the_first_cause() {
        let outer: Result<(), Failure> = attempt(|| {
            let inner = attempt(|| panic!("inner"));
            assert_eq!(inner.map_err(|inner: Failure| inner.message), Err::<(), _>("inner".to_owned()));
            panic!("outer");
        });
        let outer: Failure = outer.expect_err("it panics");
        assert_eq!(outer.message, "outer");
        assert!(outer.place.contains("shrink.rs"), "{}", outer.place);
        assert_eq!(attempt(|| 7), Ok(7));
    }
}
