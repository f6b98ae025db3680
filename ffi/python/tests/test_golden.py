"""The golden vectors of the repository give the same bytes as in every other language."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

import balanceroute as br

FOLDER = Path(__file__).resolve().parents[3] / "tests" / "golden"
FILES = sorted(FOLDER.glob("*.json"))
REASONS = {"no-slot": 1, "no-capacity": 2, "not-eligible": 3, "outside-window": 4, "deferred": 5}


def column(entries, key, dtype, default):
    values = [entry.get(key, default) for entry in entries]
    return None if all(value == default for value in values) else np.array(values, dtype)


def arguments(case):
    workers, requests = case["workers"], case["requests"]
    found = {
        "load_tokens": np.array([of["load_tokens"] for of in workers], np.uint64),
        "free_slots": np.array([of["free_slots"] for of in workers], np.uint32),
        "prompt_tokens": np.array([of["prompt_tokens"] for of in requests], np.uint32),
        "running": np.array([of["running"] for of in workers], np.uint32),
        "kv_capacity_tokens": column(workers, "kv_capacity_tokens", np.int64, -1),
        "kv_used_tokens": np.array(
            [of.get("kv_used_tokens", of["load_tokens"]) for of in workers], np.uint64
        ),
        "kv_growth_tokens": column(workers, "kv_growth_tokens", np.uint64, 0),
        "weight": column(workers, "weight", np.float32, 1),
        "accepting": column(workers, "accepting", np.bool_, True),
        "next_completion_steps": column(workers, "next_completion_steps", np.int32, -1),
        "ids": np.array([of["id"] for of in requests], np.uint64),
        "waited_steps": column(requests, "waited_steps", np.uint32, 0),
        "passed": column(requests, "passed", np.uint32, 0),
        "traffic": br.Traffic(**case["traffic"]) if "traffic" in case else None,
        "request_growth_tokens": case.get("request_growth_tokens", 0),
    }
    for key in ("deadline_steps", "rank", "pair_row", "survival_class"):
        found[key] = column(requests, key, np.int32, -1)
    for key, name, dtype in (
        ("projection", "projection", np.uint64),
        ("bonus_tokens", "bonus_tokens", np.float32),
        ("eligible", "eligible", np.bool_),
        ("classes", "class_survival", np.float32),
    ):
        if key in case:
            found[name] = np.array(case[key], dtype)
    if "ends" in case:
        ends = [end for of in case["ends"] for end in of]
        offsets = np.cumsum([0] + [len(of) for of in case["ends"]]).astype(np.uint32)
        found["ends"] = (
            offsets,
            np.array([end[0] for end in ends], np.uint32),
            np.array([end[1] for end in ends], np.uint64),
        )
    return found


def packed(admitted, waiting, balance):
    """An answer as bytes: scores and balances to the last bit."""
    out = [struct.pack("<QId", *pick) for pick in admitted]
    out += [struct.pack("<QB", *waits) for waits in waiting]
    return b"|".join([b"".join(out), struct.pack("<4d", *balance)])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_same_bytes(path):
    file = json.loads(path.read_text())
    assert file["format"] == 1
    assigners, decisions = {}, 0
    for case in file["batches"]:
        columns = arguments(case)
        ids = [request["id"] for request in case["requests"]]
        for answer in case["answers"]:
            expected = packed(
                answer["admitted"],
                [(id, REASONS[reason]) for id, reason in answer["waiting"]],
                [*answer["before"], *answer["after"]],
            )
            for policy in answer["policies"]:
                assigner = assigners.setdefault(policy, br.Assigner(policy))
                found = assigner.assign(**columns, reasons=True)
                picks = zip(found.row.tolist(), found.worker.tolist(), found.score_tokens.tolist())
                waiting = [(id, reason) for id, reason in zip(ids, found.wait_reason.tolist()) if reason]
                balance = [
                    found.before.envelope_tokens,
                    found.before.imbalance_tokens,
                    found.after.envelope_tokens,
                    found.after.imbalance_tokens,
                ]
                assert packed([(ids[row], *rest) for row, *rest in picks], waiting, balance) == expected, (
                    case["name"],
                    policy,
                )
                decisions += 1
    assert decisions >= 100


def test_no_file_is_missing():
    assert len(FILES) >= 5
