"""A decode loop that asks the router every step: eight workers, requests that come and go."""

import random

import balanceroute as br

random.seed(1)
router = br.Router(
    [br.WorkerConfig(slots=16, kv_capacity_tokens=120_000)] * 8, policy="level", headroom_steps=64
)
left: dict[int, int] = {}  # tokens that each running request will still send
next_id, admitted, finished, imbalance, steps = 0, 0, 0, 0.0, 2_000

for step in range(steps):
    while router.waiting_len < 32:
        router.enqueue(next_id, prompt_tokens=random.randint(100, 6_000))
        next_id += 1
    plan = router.step(now_ms=step * 50)
    for dispatch in plan.admissions:  # hand the request to its worker here
        left[dispatch.id] = random.randint(1, 400)
    admitted += len(plan.admissions)
    imbalance += plan.after.imbalance_tokens
    router.advance()  # one lock-step decode step has run
    for request in [request for request, tokens in left.items() if tokens == 1]:
        router.finish(request)
        finished += 1
    left = {request: tokens - 1 for request, tokens in left.items() if tokens > 1}

assert admitted == finished + len(left)
print(
    f"{finished} finished, {len(left)} running, mean imbalance {imbalance / steps:.0f} tokens over 8 workers"
)
