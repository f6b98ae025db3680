//! What a call does when the library fails inside, and what callers of earlier versions are told.

use super::*;
use crate::BR_NONE;
use balanceroute::policy::Parameters;
use balanceroute::{Assignment, Batch, Needs, Policy, RouterConfig};

fn made(router: Router) -> *mut br_router {
    Box::into_raw(Box::new(br_router(Handle::new(State::new(router)))))
}

fn request(id: u64) -> br_request {
    // SAFETY: every field may be zero.
    let zero: br_request = unsafe { std::mem::zeroed() };
    br_request { struct_size: size_of::<br_request>(), id, prompt_tokens: 10, ..zero }
}

/// Where a call panics, that call says so once; nothing else is answered until every request has come back.
#[test]
fn a_router_that_panicked_gives_every_request_back() {
    let config = RouterConfig::new(2, 1);
    let router = made(Router::new(config, "level", &Parameters::default()).expect("valid"));
    let panics = |after: fn(&mut State)| {
        // SAFETY: the handle is alive, here and below, and every pointer is of the size that is said.
        unsafe {
            br_router::enter(router, |state| {
                after(state);
                std::panic::resume_unwind(Box::new("asked for"))
            })
        }
    };
    let enqueued = |id| {
        let request = request(id);
        // SAFETY: see above.
        unsafe { br_router_enqueue(router, &request) }
    };
    // SAFETY: see above.
    let recovered = || unsafe { br_router_recover(router) };
    for id in 1..=3 {
        assert_eq!(enqueued(id), br_status::BR_OK);
    }
    // In the middle of a step: two have been admitted, and nobody was told.
    assert_eq!(panics(|state| drop(state.router.step(0).cloned())), br_status::BR_INTERNAL);
    for _ in 0..2 {
        assert_eq!(enqueued(4), br_status::BR_BROKEN);
        // SAFETY: see above.
        assert_eq!(unsafe { br_router_advance(router) }, br_status::BR_BROKEN);
    }
    assert_eq!(recovered(), br_status::BR_OK);
    // SAFETY: see above; what comes back is plain numbers.
    let (mut returned, mut count): ([br_returned; 8], usize) = (unsafe { std::mem::zeroed() }, 0);
    let told = |returned: &mut [br_returned; 8], count: &mut usize| {
        // SAFETY: see above.
        unsafe { br_router_returned(router, returned.as_mut_ptr(), 8, count, std::ptr::null_mut()) }
    };
    assert_eq!(told(&mut returned, &mut count), br_status::BR_OK);
    let mut ids: Vec<u64> = returned[..count].iter().map(|of| of.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3]);
    let reason = br_return_reason::BR_RECOVERED as u32;
    assert!(returned[..count].iter().all(|of| of.reason == reason));
    assert_eq!(returned[..count].iter().filter(|of| of.worker != BR_NONE).count(), 2);
    // It is a router again: the same ids may come again.
    assert_eq!((enqueued(1), enqueued(1)), (br_status::BR_OK, br_status::BR_BATCH));
    assert_eq!((recovered(), told(&mut returned, &mut count)), (br_status::BR_OK, br_status::BR_OK));
    assert_eq!((count, returned[0].id), (1, 1));
    // SAFETY: the struct may be zero.
    let mut metrics: br_metrics = unsafe { std::mem::zeroed() };
    metrics.struct_size = size_of::<br_metrics>();
    // SAFETY: see above.
    assert_eq!(unsafe { br_router_metrics(router, &mut metrics) }, br_status::BR_OK);
    assert_eq!((metrics.recovered, metrics.returned), (4, [0; 8]));
    assert_eq!(metrics.arrived, 4);
    // SAFETY: see above, and not used again.
    unsafe { br_router_free(router) };
}

/// The router itself stands by what a policy does.
#[test]
fn a_policy_that_panics_has_changed_nothing() {
    struct Panics;
    impl Policy for Panics {
        fn name(&self) -> &'static str {
            "panics"
        }
        fn decide(&mut self, _: &Batch<'_>, _: &mut Assignment) {
            std::panic::resume_unwind(Box::new("asked for"));
        }
        fn needs(&self) -> Needs {
            Needs::new()
        }
    }
    let made_of = Router::with_policy(RouterConfig::new(1, 1), Box::new(Panics), None);
    let router = made(made_of.expect("valid"));
    // SAFETY: the handle is alive, every pointer is of the size that is said, and structs may be zero.
    unsafe {
        assert_eq!(br_router_enqueue(router, &request(1)), br_status::BR_OK);
        let mut admission: br_dispatch = std::mem::zeroed();
        let mut plan: br_plan = std::mem::zeroed();
        plan.struct_size = size_of::<br_plan>();
        (plan.admissions, plan.admission_capacity) = (&mut admission, 1);
        for _ in 0..2 {
            assert_eq!(br_router_step(router, 5, std::ptr::null(), &mut plan), br_status::BR_INTERNAL);
            let mut waiting = 0;
            assert_eq!(br_router_counts(router, &mut waiting, std::ptr::null_mut()), br_status::BR_OK);
            assert_eq!((waiting, plan.admission_count), (1, 0));
        }
        br_router_free(router);
    }
}

/// As many places as all workers have slots suffice for every step, whichever front end's turn it is by then.
#[test]
fn room_for_all_slots_suffices_in_every_turn() {
    const SLOTS: usize = 8;
    let mut borrowed = 0;
    for (index, of) in [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)] {
        let config = RouterConfig::new(2, SLOTS as u32).share(balanceroute::Share::new(index, of));
        let mut router = Router::new(config, "level", &Parameters::default()).expect("valid");
        // What is lent must have been shown to be free.
        for worker in 0..2 {
            router.report(worker, balanceroute::WorkerReport::new(0, 0), None).expect("a worker");
        }
        let router = made(router);
        for at in 0..200 {
            // SAFETY: the handle is alive, every pointer is of the size that is said, and structs may be
            // zero.
            unsafe {
                assert_eq!(br_router_at(router, at * 37), br_status::BR_OK);
                let ids = 100 * at..100 * at + 2 * SLOTS as u64;
                for id in ids.clone() {
                    assert_eq!(br_router_enqueue(router, &request(id)), br_status::BR_OK);
                }
                let mut admissions: [br_dispatch; 2 * SLOTS] = std::mem::zeroed();
                let mut plan: br_plan = std::mem::zeroed();
                plan.struct_size = size_of::<br_plan>();
                (plan.admissions, plan.admission_capacity) = (admissions.as_mut_ptr(), admissions.len());
                let stepped = br_router_step(router, (at + 1) * 37, std::ptr::null(), &mut plan);
                assert_eq!(stepped, br_status::BR_OK, "share {index} of {of}, step {at}");
                borrowed += usize::from(of > 1 && plan.admission_count > SLOTS);
                for id in ids {
                    assert_eq!(br_router_abort(router, id, std::ptr::null_mut()), br_status::BR_OK);
                }
            }
        }
        // SAFETY: alive, and not used again.
        unsafe { br_router_free(router) };
    }
    assert!(borrowed > 100, "{borrowed} steps beyond what a front end is sure of");
}

/// A caller whose struct has no `max_tokens` is not told that it is set: it sends back what it was told.
#[test]
fn an_earlier_version_is_told_what_it_can_send_back() {
    let router = made(Router::new(RouterConfig::new(1, 1), "level", &Parameters::default()).expect("valid"));
    let mut full = request(1);
    (full.fields, full.max_tokens) = (BR_HAS_PROMPT_HASH | BR_HAS_MAX_TOKENS, 40);
    let first = std::mem::offset_of!(br_request, cached_tokens);
    for size in [size_of::<br_request>(), std::mem::offset_of!(br_request, max_tokens), first] {
        let mut again = request(0);
        again.struct_size = size;
        // SAFETY: the handle is alive, and every pointer is of the size that is said, or more.
        unsafe {
            let mut dispatch: br_dispatch = std::mem::zeroed();
            assert_eq!(br_router_send(router, &full, 0, &mut dispatch), br_status::BR_OK);
            assert_eq!(br_router_preempt_request(router, 1, &mut again), br_status::BR_OK);
            let fields = if size == size_of::<br_request>() { full.fields } else { BR_HAS_PROMPT_HASH };
            assert_eq!((again.id, again.fields, again.struct_size), (1, fields, size));
            assert_eq!(br_router_enqueue(router, &again), br_status::BR_OK, "{size} bytes");
            assert_eq!(br_router_abort(router, 1, std::ptr::null_mut()), br_status::BR_OK);
        }
    }
    // SAFETY: alive, and not used again.
    unsafe { br_router_free(router) };
}
