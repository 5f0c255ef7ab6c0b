"""The plan of a run: properties of its formulas, and counts on the order and the network themselves."""

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flm.checkpoint import TrainingState
from flm.commands.plan import PlanOptions, gradient_bytes_of, main, warnings_of
from flm.data.loader import WINDOWS_AHEAD, LoaderConfig
from flm.data.manifest import ShardEntry
from flm.data.order import RunOrder
from flm.errors import InputError
from flm.model.network import ModelConfig, build_network
from flm.training.checkpoint_writer import save_checkpoint
from flm.training.config import TrainConfig
from flm.training.optimization import OptimizerConfig, build_optimizer, optimizer_tensors
from flm.training.plan import (
    MANIFEST_BYTES_PER_SHARD,
    ORDER_BYTES_PER_FACE,
    ORDER_BYTES_PER_SHARD,
    PlanConfig,
    all_reduce_time_s,
    cached_shards,
    lanes_of_part,
    plan_run,
    shards_fetched,
)


def a_config(
    *, sizes=None, batch_size: int = 64, epochs: float = 2.0, lanes: int = 1, window: int = 16, **changes
) -> PlanConfig:
    loader = LoaderConfig(lanes=lanes, window_shards=window)
    fields = {
        "run": TrainConfig(recipe="drawn", batch_size=batch_size, epochs=epochs, loader=loader),
        "shard_sizes": np.full(100, 640, np.int64) if sizes is None else sizes,
        "shard_bytes": 13e6,
        "gradient_bytes": 10**8,
        "gpus": 1,
        "machines": 1,
        "img_per_s": 100.0,
        "decode_per_s": 1600.0,
        "link_gbit_s": 100.0,
        "link_latency_us": 0.0,
        "overlap": True,
        "store_gbit_s": 10.0,
        "write_mb_s": 500.0,
    }
    return PlanConfig(**{**fields, **changes})


@given(gpus=st.sampled_from([1, 2, 4]), lanes=st.sampled_from([1, 2]), overlap=st.booleans())
def test_twice_the_gpus_take_half_the_time_but_for_the_gradients(gpus, lanes, overlap):
    def computed_s(gpus: int) -> float:
        plan = plan_run(a_config(gpus=gpus, lanes=lanes, overlap=overlap))
        assert plan.limit == "computing"
        return plan.steps * (plan.step_s - plan.exposed_s)

    assert computed_s(2 * gpus) == pytest.approx(computed_s(gpus) / 2)
    instant = {"link_gbit_s": 1e12, "overlap": overlap}
    one, two = (plan_run(a_config(gpus=n * gpus, **instant)) for n in (1, 2))
    assert two.run_s == pytest.approx(one.run_s / 2)
    assert two.scaling == pytest.approx(1)


def test_all_faces_are_trained_on_at_the_speed_that_is_told():
    plan = plan_run(a_config(gpus=8, machines=2))
    assert plan.steps == 2 * 64_000 / 64
    assert plan.images_per_s * plan.steps * plan.step_s == pytest.approx(2 * 64_000)
    assert plan.faces_per_machine * 2 == plan.num_faces
    assert plan.disk_bytes_per_s * 2 * plan.steps_per_epoch * plan.step_s == pytest.approx(plan.data_bytes)
    # 100 img/s on each of 8 GPUs, and a ninth of their time for the gradients would be a scaling of 0.9.
    assert plan.scaling == pytest.approx(plan.images_per_s / 800)


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=40).map(lambda s: np.array(s, np.int64))


@given(
    sizes=sizes,
    window=st.integers(1, 4),
    lanes=st.sampled_from([1, 2, 3, 4, 6, 12]),
    machines=st.sampled_from([1, 2, 3, 4]),
)
def test_shards_are_fetched_as_the_order_asks_for_them(sizes, window, lanes, machines):
    batch = 24
    config = a_config(
        sizes=sizes, batch_size=batch, lanes=lanes, window=window, gpus=machines, machines=machines
    )
    order = RunOrder(sizes, seed=0, window_shards=window, lanes=lanes)
    total = int(sizes.sum())
    fetched = shards_fetched(config)
    read = []
    for machine in range(machines):
        rows = range(machine * batch // machines, (machine + 1) * batch // machines)
        mine = np.unique(order.positions(0, batch, rows) % lanes).tolist()
        assert mine == list(lanes_of_part(config, machine, machines))
        positions = np.array([p for p in range(total) if p % lanes in mine], np.int64)
        touched = set(order.locate(positions)[:, 0].tolist()) if len(positions) else set()
        # Whole windows are fetched ahead, so a machine fetches what it reads and at most two windows beside.
        assert len(touched) <= fetched[machine] <= len(touched) + 2 * (window - 1)
        read.append(touched)
    assert set.union(*read) == set(range(len(sizes)))
    assert len(sizes) <= sum(fetched) <= len(sizes) * machines
    if lanes == 1:
        assert fetched == [len(sizes)] * machines


@given(sizes=sizes, window=st.integers(1, 3), lanes=st.sampled_from([1, 2, 4]))
def test_the_cache_has_room_for_all_that_is_looked_ahead_for(sizes, window, lanes):
    # As `flm.data.loader` looks ahead, on shards of one size.
    sizes = np.full_like(sizes, 8)
    config = a_config(sizes=sizes, window=window, lanes=lanes, batch_size=8)
    order = RunOrder(sizes, seed=0, window_shards=window, lanes=lanes)
    ahead = min(WINDOWS_AHEAD * 8 * window * lanes, order.num_samples)
    for start in range(0, max(1, order.num_samples - ahead), 5):
        # At the seams of epochs and lanes there may be one window more.
        wanted = order.shards_between(start, start + ahead)
        assert len(wanted) <= cached_shards(config) + window * lanes


def test_lanes_spare_machines_the_shards_of_others():
    shared, own = (plan_run(a_config(gpus=4, machines=4, lanes=lanes, window=2)) for lanes in (1, 4))
    assert shared.shards_per_machine == 100
    assert shared.shards_all_machines == 400
    assert own.shards_per_machine <= 27
    assert own.shards_all_machines <= 108
    assert own.store_bytes_per_s < 0.3 * shared.store_bytes_per_s


@given(gpus=st.sampled_from([2, 8, 64]), gbit=st.floats(1, 1000), latency=st.floats(0, 100))
def test_the_ring_takes_its_time_and_overlap_hides_some_of_it(gpus, gbit, latency):
    config = a_config(gpus=gpus, link_gbit_s=gbit, link_latency_us=latency)
    compute_s = 0.1
    ring_s, waited_s = all_reduce_time_s(config, compute_s)
    bandwidth_s = 2 * (gpus - 1) / gpus * 1e8 / (gbit * 1e9 / 8)
    assert ring_s == pytest.approx(bandwidth_s + 4 * 2 * (gpus - 1) * latency * 1e-6)
    # Four buckets: the last is always waited for, and three quarters of the backward pass hide the others.
    assert ring_s / 4 <= waited_s <= ring_s
    assert ring_s - waited_s <= 2 / 3 * compute_s * 3 / 4 + 1e-12
    plain = dataclasses.replace(config, overlap=False)
    assert all_reduce_time_s(plain, compute_s) == (ring_s, ring_s)
    assert all_reduce_time_s(dataclasses.replace(config, gpus=1), compute_s) == (0.0, 0.0)


def test_gradients_and_checkpoint_are_those_of_the_network(tmp_path):
    model = ModelConfig(backbone="xception_compact_slim", head_channels=32)
    network = build_network(model)
    gradient_bytes, buffer_bytes = gradient_bytes_of(model)
    network(torch.zeros(2, 3, 64, 64)).landmarks_unit.sum().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert gradient_bytes == sum(gradient.numel() * gradient.element_size() for gradient in gradients)
    optimizer = build_optimizer(network, OptimizerConfig())
    optimizer.step()
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    folder = save_checkpoint(
        tmp_path,
        TrainConfig(recipe="drawn"),
        TrainingState(step=1, manifest_hash="0"),
        model=network.state_dict(),
        training={**weights, **optimizer_tensors(optimizer)},
        is_best=False,
        keep=1,
    )
    written = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    planned = plan_run(a_config(gradient_bytes=gradient_bytes, buffer_bytes=buffer_bytes)).checkpoint_bytes
    # The rest are names and shapes, 100 bytes a tensor.
    assert planned < written < 1.05 * planned


def test_what_does_not_fit_is_said():
    def told(**changes) -> str:
        config = a_config(**changes)
        return "\n".join(warnings_of(config, plan_run(config)))

    assert told() == ""
    assert "--batch-size 64 cannot be shared by 6 processes; give 66" in told(gpus=6)
    assert "--lanes 2 is no multiple of 4 machines" in told(gpus=4, machines=4, lanes=2, window=2)
    assert "give 4" in told(gpus=4, machines=4, lanes=2, window=2)
    assert "--cache-gib 50 is too small" in told(shard_bytes=2e9, store_gbit_s=100.0)
    assert "wait 89 % of the time for gradients" in told(gpus=8, link_gbit_s=2.0)
    assert "--num-workers 4" in told(gpus=2, img_per_s=5000.0, link_gbit_s=1e4)
    assert "the store is too slow" in told(store_gbit_s=0.001)
    assert "--loader.max-open-files 96" in told(window=96)
    assert "of memory" in told(sizes=np.full(300, 10**6, np.int64))
    assert "more than all faces" in told(sizes=np.array([10], np.int64))


def test_a_step_waits_for_the_slowest():
    assert plan_run(a_config(img_per_s=5000.0)).limit == "decoding"
    assert plan_run(a_config(img_per_s=5000.0)).images_per_s == pytest.approx(1600)
    slow = plan_run(a_config(store_gbit_s=0.001))
    assert slow.limit == "the store"
    assert slow.store_bytes_per_s == pytest.approx(0.001e9 / 8)


def test_validation_costs_a_third_of_training():
    # 2,000 steps of 64 faces, every 200 of them an evaluation of 6,400 faces: half as many as are trained on.
    plan = plan_run(a_config(num_validation=6400))
    assert plan.evaluation_share == pytest.approx((0.5 / 3) / (1 + 0.5 / 3))


def test_what_is_kept_in_memory_is_as_large_as_assumed():
    entries = [
        {"name": f"train-{n:06d}.tar", "num_samples": 1000, "num_bytes": 10**7 + n, "sha256": f"{n:064x}"}
        for n in range(2000)
    ]
    texts = [json.dumps({**entry, "made_from": entry["sha256"][::-1]}) for entry in entries]
    tracemalloc.start()
    kept = [ShardEntry(**json.loads(text)) for text in texts]
    used = tracemalloc.get_traced_memory()[0] / len(kept)
    tracemalloc.stop()
    assert used == pytest.approx(MANIFEST_BYTES_PER_SHARD, rel=0.1)
    order = RunOrder(np.full(4000, 50, np.int64), seed=0, window_shards=16)
    order.locate(np.arange(0, 2000))
    line, window = next(iter(order._epochs.values())), next(iter(order._windows.values()))
    lines = sum(array.nbytes for array in (line.shards, line.starts, line.ends, line.window_ends))
    assert 0.5 < lines / (4000 * ORDER_BYTES_PER_SHARD) <= 1
    assert window.nbytes == 16 * 50 * ORDER_BYTES_PER_FACE


def test_a_billion_faces_are_planned_at_once():
    sizes = np.full(100_000, 10_000, np.int64)
    plan = plan_run(a_config(sizes=sizes, gpus=256, machines=32, lanes=32, batch_size=8192, epochs=1.0))
    assert plan.steps == -(-(10**9) // 8192)
    assert 100_000 / 32 <= plan.shards_per_machine < 100_000 / 32 + 32


def test_the_command_reads_shards_and_writes_what_it_told(make_shards, tmp_path, capsys):
    make_shards(tmp_path / "data", {"train": 20, "validation": 4}, shard_size=8)
    words = [
        "--data",
        str(tmp_path / "data"),
        "--recipe",
        "quickstart",
        "--img-per-s",
        "10",
        "--batch-size",
        "4",
    ]
    main([*words, "--json", str(tmp_path / "plan.json")])
    assert "20 in 3 shards" in capsys.readouterr().out
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["steps"] == 14 * 20 / 4
    assert plan["warnings"] == []
    assert plan["options"]["img_per_s"] == 10
    sizes = PlanOptions(num_faces=2500, img_per_s=1.0).to_config().shard_sizes
    assert sizes.tolist() == [1000, 1000, 500]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-faces", "10"], "--img-per-s"),
        (["--img-per-s", "3"], "either --data or --num-faces"),
        (["--img-per-s", "0", "--num-faces", "10"], "--img-per-s is 0.0, must be a number above 0"),
        (["--img-per-s", "3", "--num-faces", "0"], "--num-faces is 0"),
        (["--img-per-s", "3", "--num-faces", "9", "--lanes", "7"], "no multiple of --lanes 7"),
        (
            ["--img-per-s", "3", "--num-faces", "9", "--gpus", "3", "--machines", "2"],
            "no multiple of --machines 2",
        ),
        (["--img-per-s", "3", "--num-faces", "9", "--recipe", "none"], "recipe 'none' is unknown"),
    ],
)
def test_mistakes_are_told(words, message):
    with pytest.raises(InputError, match=message):
        main(words)
