"""The Ray Serve example: 8 replicas in lock-step answer every request once, and their KV tokens are more
level than with Ray's own router.

`tests/engines/run ray` makes the environment and runs this; `-s` prints the figures.
"""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed: tests/engines/run ray", allow_module_level=True)

import ray
from ray import serve

sys.path.insert(0, str(Path(__file__).parents[2] / "ffi/python/examples/ray_serve"))
import lockstep


@pytest.fixture
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    serve.shutdown()
    ray.shutdown()


def test_eight_replicas_in_lock_step(cluster):
    imbalance = {}
    for balanced in (False, True):
        imbalance[balanced], answers = lockstep.run(balanced, count=600)
        assert len(answers) == 600
        per_replica = Counter(answers)
        print(
            f"\n    {'balanceroute' if balanced else 'ray serve'}:"
            f" fullest replica {imbalance[balanced]:.1%} above the mean,"
            f" requests {sorted(per_replica.values())}",
            end="",
        )
        assert len(per_replica) == lockstep.REPLICAS
    assert imbalance[True] < 0.5 * imbalance[False]
