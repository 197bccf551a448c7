"""The training loop: learning, logs, resume at any moment, and several processes."""

import csv
import json
import logging
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clean_processes import clean_processes
from safetensors.torch import load_file
from torch import nn
from training_runs import (
    KILLED,
    SHARED,
    TOY,
    Net,
    one_process,
    share_work,
    toy,
    toy_loss,
    train_until_killed,
)

from mirage_env.errors import InvalidOptionError, WeightsError
from mirage_env.files import atomic
from mirage_env.training.logs import RunLog
from mirage_env.training.loop import LoopConfig, train


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "log.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def curve(folder: Path) -> list[dict[str, str]]:
    """The log as text, but for the time."""
    with (folder / "log.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if "tensorboard" not in p.parts and p.is_file()}


def test_loop_learns(tmp_path):
    module = toy()
    trained = train(module, toy_loss(module), tmp_path, replace(TOY, steps=150, ema=0.9, log_every=10))
    logged = rows(tmp_path)
    assert logged[-1]["loss"] < 0.3 * logged[0]["loss"]
    x = torch.randn(64, 2, 4, 4)
    assert ((trained(x)[:, 0] - x.mean((1, 2, 3))) ** 2).mean() < 0.3 * logged[0]["loss"]


def test_log_tells_steps_time_rate_gradient_and_every_scalar(tmp_path):
    module = toy()
    train(module, toy_loss(module), tmp_path, TOY)
    logged = rows(tmp_path)
    assert [row["step"] for row in logged] == [2, 4, 6, 8, 10, 12]
    assert list(logged[0]) == ["step", "seconds", "lr", "loss", "size", "grad_norm", "skipped"]
    seconds = [row["seconds"] for row in logged]
    assert seconds == sorted(seconds)
    assert all(row["size"] == pytest.approx(1.0, abs=0.2) for row in logged)
    assert all(row["grad_norm"] > 0.0 for row in logged)


def test_learning_rate_warms_up_and_ends_near_zero(tmp_path):
    module = toy()
    train(module, toy_loss(module), tmp_path, replace(TOY, steps=40, warmup=10, log_every=1))
    rates = [row["lr"] for row in rows(tmp_path)]
    assert rates[0] == pytest.approx(0.1 * TOY.lr)
    assert rates[:9] == sorted(rates[:9])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01 * TOY.lr


def test_averaged_weights_are_returned_for_use(tmp_path):
    module, config = toy(), replace(TOY, steps=5, ema=0.3)
    seen: list[list[torch.Tensor]] = []
    plain = toy_loss(module)

    def loss(step, generator):
        seen.append([p.detach().clone() for p in module.parameters()])
        return plain(step, generator)

    trained = train(module, loss, tmp_path, config)
    tensors = load_file(tmp_path / "checkpoint-5.safetensors")
    seen.append([tensors[f"parameter/{name}"] for name, _ in module.named_parameters()])
    average = seen[0]
    for step, weights in enumerate(seen[1:]):
        decay = min(config.ema, (step + 1) / (step + 10))
        average = [decay * a + (1.0 - decay) * w for a, w in zip(average, weights, strict=True)]
    for ours, expected in zip(trained.parameters(), average, strict=True):
        torch.testing.assert_close(ours.detach(), expected)
    assert not trained.training


def test_parts_of_a_batch_add_up_to_its_gradient(tmp_path):
    """Two parts of 16 samples are a batch of 32."""
    taken: list[torch.Tensor] = []

    def module() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(3, 1)

    def error(net, x):
        return ((net(x)[:, 0] - x.sum(1)) ** 2).mean()

    def part(step, generator):
        taken.append(torch.randn(16, 3, generator=generator))
        return {"loss": error(split, taken[-1])}

    split, whole = module(), module()
    config = replace(TOY, steps=4, log_every=1)
    train(split, part, tmp_path / "split", replace(config, accumulate=2))
    train(whole, lambda s, g: {"loss": error(whole, torch.cat(taken[2 * s : 2 * s + 2]))}, tmp_path / "whole", config)
    torch.testing.assert_close(split.weight, whole.weight)
    for ours, theirs in zip(rows(tmp_path / "split"), rows(tmp_path / "whole"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)


def test_gradients_are_clipped(tmp_path):
    module = nn.Linear(3, 1)
    before = module.weight.detach().clone()

    def loss(step, generator):
        return {"loss": 1e6 * module(torch.ones(2, 3)).sum()}

    train(module, loss, tmp_path, replace(TOY, steps=1, log_every=1, clip=1e-12, warmup=1, weight_decay=0.0))
    assert rows(tmp_path)[0]["grad_norm"] > 1e6
    assert (module.weight - before).abs().max() < 1e-4  # eps of AdamW is large beside a gradient of 1e-12


def test_batch_that_overflows_changes_nothing_and_is_told(tmp_path):
    module = nn.Linear(3, 1)

    def loss(step, generator):
        x = torch.randn(2, 3, generator=generator)
        return {"loss": module(x if step != 2 else x * torch.inf).square().mean()}

    trained = train(module, loss, tmp_path, replace(TOY, steps=5, log_every=1))
    assert [row["skipped"] for row in rows(tmp_path)] == [0, 0, 1, 0, 0]
    assert trained.weight.isfinite().all()


def test_frozen_parameters_stay_and_are_not_in_the_checkpoint(tmp_path):
    module = toy()
    module[0].requires_grad_(False)
    before = module[0].weight.clone()
    trained = train(module, toy_loss(module), tmp_path, TOY)
    assert torch.equal(trained[0].weight, before)
    assert not torch.equal(trained[5].weight, toy()[5].weight)
    names = set(load_file(tmp_path / "checkpoint-12.safetensors"))
    assert "parameter/5.weight" in names
    assert "buffer/1.running_mean" in names
    assert not any("/0." in name for name in names)


def test_training_ends_when_its_minutes_are_over(tmp_path):
    module = toy()
    train(module, toy_loss(module), tmp_path, replace(TOY, steps=10**9, minutes=0.005))
    assert (tmp_path / "checkpoint.json").exists()
    assert 0 < json.loads((tmp_path / "checkpoint.json").read_text())["step"] < 10**6


def test_samples_are_made_with_averaged_weights_and_change_nothing(tmp_path):
    plain, shown = toy(), toy()
    train(plain, toy_loss(plain), tmp_path / "plain", TOY)
    seen: dict[int, torch.Tensor] = {}

    def sample(step):
        assert not shown.training
        assert not torch.is_grad_enabled()
        torch.rand(7)
        seen[step] = shown[5].weight.clone()

    trained = train(shown, toy_loss(shown), tmp_path / "shown", replace(TOY, sample_every=4), sample)
    assert same_weights(plain, shown)
    assert curve(tmp_path / "plain") == curve(tmp_path / "shown")
    assert list(seen) == [4, 8, 12]
    assert torch.equal(seen[12], trained[5].weight)


@pytest.mark.parametrize("changes", [{"steps": 0}, {"accumulate": 0}, {"lr": 0.0}, {"ema": 1.0}, {"clip": -1.0}])
def test_options_out_of_range_are_refused_by_name(changes):
    with pytest.raises(InvalidOptionError, match=next(iter(changes))):
        LoopConfig(**{"steps": 1, **changes})


@pytest.mark.parametrize("native", [False, True])
def test_half_precision_is_used_where_the_processor_has_it(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert LoopConfig(steps=1).bf16 is native


# Resume


def test_stopped_and_resumed_run_ends_with_the_same_weights_and_curve_bit_for_bit(tmp_path):
    whole, broken = toy(), toy()
    expected = train(whole, toy_loss(whole), tmp_path / "whole", TOY)
    with pytest.raises(KeyboardInterrupt):
        train(broken, toy_loss(broken, stop_at=6), tmp_path / "broken", TOY)
    resumed = toy(seed=1)
    result = train(resumed, toy_loss(resumed), tmp_path / "broken", TOY)
    assert same_weights(result, expected)
    assert curve(tmp_path / "broken") == curve(tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / name / "checkpoint-12.safetensors") for name in ("broken", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())


def test_ctrl_c_keeps_the_step_that_it_came_in(tmp_path):
    whole, broken = toy(), toy()
    expected = train(whole, toy_loss(whole), tmp_path / "whole", TOY)
    loss = toy_loss(broken)

    def interrupted(step, generator):
        if step == 4:
            signal.raise_signal(signal.SIGINT)
        return loss(step, generator)

    with pytest.raises(KeyboardInterrupt):
        train(broken, interrupted, tmp_path / "broken", TOY)
    assert "checkpoint-5.safetensors" in files(tmp_path / "broken")
    resumed = toy(seed=1)
    assert same_weights(train(resumed, toy_loss(resumed), tmp_path / "broken", TOY), expected)


def test_finished_run_is_not_run_again(tmp_path):
    module = toy()
    expected = train(module, toy_loss(module), tmp_path, TOY)
    again = toy(seed=1)
    assert same_weights(train(again, toy_loss(again, stop_at=0), tmp_path, TOY), expected)


@pytest.mark.parametrize("torn", ["tensors", "marker"])
def test_half_written_checkpoint_is_never_read(tmp_path, monkeypatch, torn):
    whole, broken = toy(), toy()
    expected = train(whole, toy_loss(whole), tmp_path / "whole", TOY)
    to_disk = atomic._to_disk
    synced: list[Path] = []

    def killed_in_the_second(path):
        synced.append(path)
        if len(synced) == {"tensors": 3, "marker": 4}[torn]:
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt
        to_disk(path)

    monkeypatch.setattr(atomic, "_to_disk", killed_in_the_second)
    folder = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        train(broken, toy_loss(broken), folder, TOY)
    assert synced[-1].parent.parent == folder or synced[-1].parent == folder
    resumed = toy(seed=1)
    assert same_weights(train(resumed, toy_loss(resumed), folder, TOY), expected)
    assert files(folder) == {"checkpoint.json", "checkpoint-12.safetensors", "log.csv"}


def test_run_killed_at_random_moments_has_the_curve_of_one_that_was_not(tmp_path):
    whole = toy()
    train(whole, toy_loss(whole), tmp_path / "whole", KILLED)
    context = clean_processes()
    rng, folder, kills = np.random.default_rng(0), tmp_path / "killed", 0
    while True:
        ours, theirs = context.Pipe(duplex=False)
        with ours, theirs:
            process = context.Process(target=train_until_killed, args=(str(folder), theirs))
            process.start()
            try:
                assert ours.poll(300), "the run did not start"
                first = ours.recv()
                # Long enough for a checkpoint now and then, too short to reach the end at once.
                process.join(rng.uniform(0.0, 0.15) if kills < 6 else 120)
            finally:
                process.kill()
                process.join()
            code = process.exitcode
            process.close()
        if code == 0:
            break
        kills += 1
        assert first <= KILLED.steps
    assert kills >= 3
    assert curve(folder) == curve(tmp_path / "whole")
    ours, theirs = (load_file(f / f"checkpoint-{KILLED.steps}.safetensors") for f in (folder, tmp_path / "whole"))
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())
    assert files(folder) == {"checkpoint.json", f"checkpoint-{KILLED.steps}.safetensors", "log.csv"}


def test_what_a_kill_left_behind_is_removed(tmp_path):
    """safetensors writes to a file of a random name first, as large as the checkpoint."""
    unfinished = atomic.beside(tmp_path / "checkpoint-8.safetensors")
    unfinished = unfinished.with_name(unfinished.name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-"))  # it has ended
    unfinished.mkdir()
    (unfinished / ".tmpAbCdEf").write_bytes(b"half")
    (tmp_path / "checkpoint-8.safetensors").write_bytes(b"never named")
    module = toy()
    train(module, toy_loss(module), tmp_path, TOY)
    assert files(tmp_path) == {"checkpoint.json", "checkpoint-12.safetensors", "log.csv"}


def test_rows_written_after_the_checkpoint_are_cut_off(tmp_path):
    log = RunLog(tmp_path, 0, 0)
    log.write({"step": 1, "loss": 0.5})
    size = log.size
    log.write({"step": 2, "loss": 0.25})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("3,0.1")
    log = RunLog(tmp_path, size, 1)
    log.write({"step": 2, "loss": 0.125})
    assert rows(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.125}]
    log.close()


def test_checkpoint_of_another_network_is_refused_with_what_differs(tmp_path):
    module = toy()
    train(module, toy_loss(module), tmp_path, TOY)
    other = nn.Sequential(nn.Conv2d(2, 4, 5, padding=2), *toy()[1:5], nn.Linear(64, 1, bias=False))
    with pytest.raises(WeightsError, match=r"5\.bias.*another folder") as caught:
        train(other, toy_loss(other), tmp_path, TOY)
    assert "parameter/0.weight has shape" in str(caught.value)


def test_damaged_checkpoint_is_refused(tmp_path):
    module = toy()
    train(module, toy_loss(module), tmp_path, TOY)
    (tmp_path / "checkpoint-12.safetensors").write_bytes(b"half")
    with pytest.raises(WeightsError, match="cannot be read"):
        train(module, toy_loss(module), tmp_path, TOY)
    about = json.loads((tmp_path / "checkpoint.json").read_text())
    (tmp_path / "checkpoint.json").write_text(json.dumps(about | {"file": "../elsewhere.safetensors"}))
    with pytest.raises(WeightsError, match="leads out of"):
        train(module, toy_loss(module), tmp_path, TOY)
    (tmp_path / "checkpoint.json").write_text("{}")
    with pytest.raises(InvalidOptionError, match="damaged"):
        train(module, toy_loss(module), tmp_path, TOY)


def test_run_that_goes_on_with_other_options_says_so(tmp_path, caplog):
    module = toy()
    train(module, toy_loss(module), tmp_path, TOY)
    with caplog.at_level(logging.WARNING):
        train(module, toy_loss(module), tmp_path, replace(TOY, steps=14, log_every=1))
        assert not caplog.records
        train(module, toy_loss(module), tmp_path, replace(TOY, steps=16, lr=0.5, betas=(0.0, 0.9)))
    assert "lr 0.5 instead of 0.01" in caplog.text
    assert "betas" in caplog.text


# Several processes


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory) -> dict[str, Path]:
    """Runs of two processes, and the same of one."""
    out = tmp_path_factory.mktemp("shared")
    folders = {name: out / name for name in ("one", "ddp", "resumed", "fsdp")}
    one_process(folders["one"], parts=2)
    with pytest.raises(KeyboardInterrupt):
        one_process(folders["resumed"], parts=2, stop_at=6)
    context = clean_processes()
    names = {name: str(folder) for name, folder in folders.items()}
    processes = [context.Process(target=share_work, args=(rank, str(out / "meeting"), names)) for rank in range(2)]
    for process in processes:
        process.start()
    end = time.monotonic() + 600
    for process in processes:
        process.join(max(end - time.monotonic(), 0.0))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0]
    return folders


@pytest.mark.parametrize("name", ["ddp", "resumed", "fsdp"])
def test_two_processes_do_what_one_does_with_twice_the_parts(shared_runs, name):
    ours, theirs = (load_file(shared_runs[n] / f"checkpoint-{SHARED.steps}.safetensors") for n in (name, "one"))
    assert ours.keys() == theirs.keys()
    start = dict(Net(0).named_parameters())
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-6)
        if key.startswith("parameter/"):
            assert not torch.allclose(value, start[key.removeprefix("parameter/")], atol=1e-3)
    assert not any("first" in key for key in ours)


@pytest.mark.parametrize("name", ["ddp", "resumed", "fsdp"])
def test_one_of_several_processes_writes_the_log_of_the_whole_batch(shared_runs, name):
    ours, theirs = rows(shared_runs[name]), rows(shared_runs["one"])
    assert len(ours) == SHARED.steps // SHARED.log_every
    for a, b in zip(ours, theirs, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in b.items() if k != "seconds"}, rel=1e-4
        )
    assert files(shared_runs[name]) == {"checkpoint.json", f"checkpoint-{SHARED.steps}.safetensors", "log.csv"}
