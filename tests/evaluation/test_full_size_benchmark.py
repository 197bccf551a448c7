"""What the full-size benchmark counts without a GPU, against counting by hand; and that it runs at a reduced size."""

import json
from dataclasses import replace

import pytest
import torch
from repository import ROOT
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

MIB = 2**20


@pytest.fixture(scope="module", autouse=True)
def _benchmarks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield


@pytest.fixture(scope="module")
def fakes(_benchmarks):
    from full_size_account import Fakes
    from full_size_networks import SMALL

    return Fakes.of(SMALL, 4)


def test_bytes_alive_are_those_of_the_worst_moment():
    from full_size_account import cost

    layer = nn.Linear(512, 512, bias=False)  # 1 MiB
    x = torch.zeros(512, 512)

    def stage(x):
        first = layer(x)  # x and this
        first = first + 1.0  # and the sum: three
        del x
        return first.view(-1)[:4]

    counted = cost(stage, (x,), layer)
    assert counted.alive == 3 * MIB
    assert counted.weights == MIB
    assert counted.flop == 2 * 512**3
    assert counted.moved == 2 * MIB  # the sum reads one and writes one; views and the product do not count


def test_fake_and_real_tensors_count_the_same():
    from full_size_account import cost

    def stage(x):
        return torch.softmax(layer(x).relu(), -1).sum()

    layer = nn.Linear(64, 96)
    real = cost(stage, (torch.zeros(32, 64),), layer)
    with FakeTensorMode():
        layer = nn.Linear(64, 96)
        assert cost(stage, (torch.zeros(32, 64),), layer) == real


@pytest.mark.parametrize("references", [0, 4])
def test_flop_of_a_network_call_are_those_of_its_products_and_attention(fakes, references):
    from full_size_networks import TOKENS

    nets, config = fakes.nets, fakes.config
    D, text, (h, w) = nets.transformer.config.num_attention_heads * 32, fakes.sizes.transformer, config.latent_size
    patches = h * w // 4
    L = (references + config.chunk_latents + config.preceding_latents) * patches
    S = L - references * patches  # the side branch sees no references

    def block(tokens: int) -> int:
        products = 2 * tokens * (4 * D * D + 2 * D * D + 2 * D * text["ffn_dim"]) + 2 * TOKENS * 2 * D * D
        return products + 4 * tokens * tokens * D + 4 * tokens * TOKENS * D

    embedding = 2 * L * (text["freq_dim"] * D + D * D + 6 * D * D) + 2 * TOKENS * (text["text_dim"] * D + D * D)
    patch = 2 * L * config.latent_channels * 4 * D * 2  # in and out
    side = 2 * S * nets.branch.patch_embedding.in_channels * 4 * D + 2 * S * D * D * (1 + len(nets.branch.layers))
    expected = embedding + patch + side + text["num_layers"] * block(L) + len(nets.branch.layers) * block(S)
    assert fakes.step(references).flop == expected


def test_sizes_are_the_published_ones():
    from full_size_account import Fakes
    from full_size_networks import FULL

    counts = {name: figure.value for name, figure in Fakes.of(FULL, 20).parameters().items()}
    assert counts["transformer, parameters"] == pytest.approx(5.000, abs=0.001)
    assert counts["codec, parameters"] == pytest.approx(0.705, abs=0.001)
    assert counts["text encoder, parameters"] == pytest.approx(5.68, abs=0.01)
    assert counts["depth, parameters"] == pytest.approx(0.335, abs=0.001)


def test_benchmark_runs_at_a_reduced_size(tmp_path, monkeypatch):
    from full_size import Config, main
    from full_size_networks import SIZES

    small = SIZES["small"]
    few = {"transformer": {**small.transformer, "num_layers": 2}, "layers": (0,), "chunk_latents": 3, "references": 2}
    monkeypatch.setitem(SIZES, "small", replace(small, **few))  # counting takes long
    main(Config(out=tmp_path / "out.json", size="small", device="cpu", steps=(1,), chunks=1))
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    stages = ("readout", "network", "decode", "depth", "re-encode", "write", "other")
    whole = figures["1 steps, last chunk, seconds per frame"]["value"]
    assert sum(figures[f"1 steps, last chunk, {stage}"]["value"] for stage in stages) == pytest.approx(whole)
    assert all(figures[f"1 steps, last chunk, {stage}"]["value"] > 0.0 for stage in stages)
    assert figures["conditioning, RGB / latent"]["value"] > 1.0
    assert figures["cache, RGB / latent"]["value"] > 1.0
