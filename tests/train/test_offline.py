import os
import subprocess
import sys
from pathlib import Path

import pytest
import run_worker
import torch

HERE = Path(__file__).parent


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def launch(folder, *arguments, script="run_worker.py", processes=2):
    """Run a worker under torchrun; a hang is a failure."""
    path = f"{HERE}:{HERE.parent}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [*command, str(HERE / script), str(folder), *map(str, arguments)],
        env=environment, timeout=150, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", ["dpo", "ipo", "kto", "sft"])
def test_micro_batches_change_nothing(tmp_path, name):
    one_by_one = run_worker.run(tmp_path / "a", name, 1, double=True)
    together = run_worker.run(tmp_path / "b", name, 10**6, double=True)
    assert relative(one_by_one[0], together[0]) < 1e-6  # reference log-probabilities are float32
    assert torch.allclose(one_by_one[2], together[2], atol=1e-6)


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_two_processes_equal_one(tmp_path, name):
    single = run_worker.run(tmp_path / "one", name, 300)
    launch(tmp_path, name, 120)
    first, second = (torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1))
    assert torch.equal(first[1], second[1]), "ranks drifted apart"
    assert relative(first[0], single[0]) < 1e-5
    assert torch.allclose(first[2], single[2], atol=1e-4)


def test_two_processes_of_unequal_load_and_small_batches(tmp_path):
    single = run_worker.run(tmp_path / "one", "dpo", 10**6, batch=7)
    launch(tmp_path, "dpo", 60, "--uneven", "--batch", 7)
    first, second = (torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1))
    assert torch.equal(first[1], second[1])
    assert relative(first[0], single[0]) < 1e-5


def test_a_batch_of_one_on_two_processes(tmp_path):
    single = run_worker.run(tmp_path / "one", "ipo", 10**6, batch=1)
    launch(tmp_path, "ipo", 60, "--batch", 1)
    first, second = (torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1))
    assert torch.equal(first[1], second[1])
    assert relative(first[0], single[0]) < 1e-5


def test_sharded_parameters_get_the_same_gradients(tmp_path):
    launch(tmp_path, script="shard_worker.py")
    assert all(float((tmp_path / f"rank{r}.txt").read_text()) < 1e-5 for r in (0, 1))


# ---- a second stream -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dpo", "bfpo", "kto", "sft"])
def test_the_gradient_of_both_streams_is_the_sum_of_theirs(tmp_path, name):
    main, buffer, both = (
        run_worker.run(tmp_path / streams, name, 300, double=True, steps=1, streams=streams)
        for streams in ("main", "buffer", "both")
    )
    assert relative(both[0], main[0] + buffer[0]) < 1e-9
    assert both[2][0].item() == pytest.approx(main[2][0].item() + buffer[2][0].item(), rel=1e-6)
    assert min(main[0].norm(), buffer[0].norm()) > 0.01 * both[0].norm(), "neither is negligible"


def test_with_an_empty_main_loss_a_step_is_the_buffers(tmp_path):
    buffer = run_worker.run(tmp_path / "a", "dpo", 300, double=True, streams="buffer", steps=4)
    both = run_worker.run(tmp_path / "b", "dpo", 300, double=True, streams="empty", steps=4)
    assert relative(both[0], buffer[0]) < 1e-9
    assert torch.allclose(both[2], buffer[2], atol=1e-9) and torch.allclose(both[1], buffer[1], atol=1e-9)


@pytest.mark.parametrize("name", ["bfpo", "kto", "sft"])
def test_micro_batches_change_nothing_with_two_streams(tmp_path, name):
    one_by_one = run_worker.run(tmp_path / "a", name, 1, double=True, streams="both")
    together = run_worker.run(tmp_path / "b", name, 10**6, double=True, streams="both")
    assert relative(one_by_one[0], together[0]) < 1e-6
    assert torch.allclose(one_by_one[2], together[2], rtol=1e-6, atol=1e-6)


def test_two_processes_equal_one_with_two_streams(tmp_path):
    single = run_worker.run(tmp_path / "one", "dpo", 300, streams="both")
    launch(tmp_path, "dpo", 120, "--streams", "both")
    first, second = (torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1))
    assert torch.equal(first[1], second[1]), "ranks drifted apart"
    assert relative(first[0], single[0]) < 1e-5
    assert torch.allclose(first[2], single[2], atol=1e-4)


def test_no_name_collides_with_the_parent():
    from transformers import Trainer

    from equipoise.train.offline import OfflineTrainer

    meant = {
        "__init__", "__module__", "__doc__", "__orig_bases__", "__parameters__",
        "__firstlineno__", "__static_attributes__",
        "get_train_dataloader", "training_step", "log", "_save_checkpoint", "prediction_step", "floating_point_ops",
    }  # fmt: skip
    own = set(vars(OfflineTrainer)) - meant
    assert own and not [name for name in own if hasattr(Trainer, name)]
    assert not [name for name in own if not name.startswith("_")], "the trainer adds no public method"
