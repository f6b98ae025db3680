//! A call allocates nothing once its handle has seen its largest sizes.

#[path = "../../../tests/support/counting.rs"]
mod counting;

use std::cell::Cell;
use std::ptr::{null, null_mut};

use balanceroute_capi::*;
use counting::BYTES;

fn allocated(f: impl FnOnce()) -> usize {
    let before = BYTES.with(Cell::get);
    f();
    BYTES.with(Cell::get) - before
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn an_assigner_allocates_once() {
    const WORKERS: usize = 24;
    const MOST: usize = 400;
    let mut assigner = null_mut();
    // SAFETY: every pointer is NULL or alive and of the size that is said, here and below.
    let made = unsafe { br_assigner_new(c"level".as_ptr(), null(), &mut assigner, null_mut(), 0) };
    assert_eq!(made, br_status::BR_OK);
    let mut draw = Draw(1);
    let mut decided = 0;
    for round in 0..300 {
        // The largest of everything first.
        let warm = round < 2;
        let count = if warm { MOST } else { draw.below(MOST as u64) as usize };
        let loads: Vec<u64> = (0..WORKERS).map(|_| 100_000 + draw.below(40_000)).collect();
        let free: Vec<u32> = (0..WORKERS).map(|_| if warm { 3 } else { draw.below(4) as u32 }).collect();
        let prompts: Vec<u32> = (0..count).map(|_| 1 + draw.below(5_000) as u32).collect();
        let ids: Vec<u64> = (0..count as u64).map(|at| 7 + at).collect();
        let (mut row, mut worker) = (vec![0; 3 * WORKERS], vec![0; 3 * WORKERS]);
        let workers = br_workers {
            struct_size: size_of::<br_workers>(),
            count: WORKERS,
            load_tokens: loads.as_ptr(),
            running: null(),
            free_slots: free.as_ptr(),
            kv_capacity_tokens: null(),
            kv_used_tokens: null(),
            kv_growth_tokens: null(),
            weight: null(),
            accepting: null(),
            next_completion_steps: null(),
        };
        let requests = br_requests {
            struct_size: size_of::<br_requests>(),
            count,
            prompt_tokens: prompts.as_ptr(),
            ids: if round % 2 == 0 { ids.as_ptr() } else { null() },
            waited_steps: null(),
            deadline_steps: null(),
            rank: null(),
            pair_row: null(),
            survival_class: null(),
            passed: null(),
            priority: null(),
        };
        let mut answer = br_answer {
            struct_size: size_of::<br_answer>(),
            capacity: row.len(),
            count: 0,
            row: row.as_mut_ptr(),
            worker: worker.as_mut_ptr(),
            score_tokens: null_mut(),
            wait_reason: null_mut(),
            envelope_before_tokens: 0.0,
            imbalance_before_tokens: 0.0,
            envelope_after_tokens: 0.0,
            imbalance_after_tokens: 0.0,
        };
        let bytes = allocated(|| {
            // SAFETY: see above.
            let status = unsafe { br_assign(assigner, &workers, &requests, null(), &mut answer) };
            assert_eq!(status, br_status::BR_OK);
        });
        decided += answer.count;
        assert!(warm == (bytes > 0) || (round == 1 && bytes == 0), "round {round}: {bytes} bytes");
    }
    assert!(decided > 5_000);
    // SAFETY: see above.
    unsafe { br_assigner_free(assigner) };
}

#[test]
fn a_router_allocates_until_it_is_warm() {
    let slots = [16u32; 8];
    let mut router = null_mut();
    // SAFETY: every pointer is NULL or alive and of the size that is said, here and below; the struct may be
    // zero.
    unsafe {
        let mut config: br_router_config = std::mem::zeroed();
        config.struct_size = size_of::<br_router_config>();
        assert_eq!(br_router_defaults(&mut config), br_status::BR_OK);
        config.worker_count = slots.len();
        config.slots = slots.as_ptr();
        let made = br_router_new(null(), null(), &config, &mut router, null_mut(), 0);
        assert_eq!(made, br_status::BR_OK);
    }
    let mut draw = Draw(2);
    let (mut next_id, mut waiting, mut finished) = (0, 0, 0);
    let mut running: Vec<(u64, u64)> = Vec::with_capacity(256);
    // SAFETY: an admission is plain numbers.
    let mut admissions: Vec<br_dispatch> = vec![unsafe { std::mem::zeroed() }; 64];
    for step in 0..4_000u64 {
        let arrivals: Vec<br_request> = (waiting..32)
            .map(|_| {
                next_id += 1;
                // SAFETY: every field may be zero.
                let mut arrival: br_request = unsafe { std::mem::zeroed() };
                arrival.struct_size = size_of::<br_request>();
                arrival.id = next_id;
                arrival.prompt_tokens = 1 + draw.below(5_000) as u32;
                arrival
            })
            .collect();
        running.sort_unstable_by_key(|&(_, end)| std::cmp::Reverse(end));
        let ids: Vec<u64> = running.iter().map(|&(id, _)| id).collect();
        let no_tokens = vec![0; ids.len()];
        let mut grown = 0;
        // SAFETY: see above.
        let mut plan: br_plan = unsafe { std::mem::zeroed() };
        plan.struct_size = size_of::<br_plan>();
        plan.admissions = admissions.as_mut_ptr();
        plan.admission_capacity = admissions.len();
        let bytes = allocated(|| {
            // SAFETY: see above.
            unsafe {
                for arrival in &arrivals {
                    assert_eq!(br_router_enqueue(router, arrival), br_status::BR_OK);
                }
                assert_eq!(br_router_step(router, step, null(), &mut plan), br_status::BR_OK);
                assert_eq!(br_router_advance(router), br_status::BR_OK);
                let (count, tokens) = (ids.len(), no_tokens.as_ptr());
                let done = br_router_progress_requests(router, ids.as_ptr(), tokens, count, &mut grown);
                assert_eq!((done, grown), (br_status::BR_OK, count));
                while running.last().is_some_and(|&(_, end)| end <= step) {
                    let (id, _) = running.pop().expect("there is a last");
                    assert_eq!(br_router_finish(router, id, null_mut(), null_mut()), br_status::BR_OK);
                    finished += 1;
                }
            }
        });
        waiting = 32 - plan.admission_count;
        running
            .extend(admissions[..plan.admission_count].iter().map(|of| (of.id, step + 1 + draw.below(200))));
        assert!(step < 2_000 || bytes == 0, "step {step}: {bytes} bytes");
    }
    assert!(finished > 2_000);
    // SAFETY: see above.
    unsafe { br_router_free(router) };
}
