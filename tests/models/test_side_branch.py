"""The side branch: exact at the start of training, heard where it should be, safe beside what wraps transformers."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import (
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    WanTransformer3DModel,
)
from peft import LoraConfig
from torch import Tensor, nn

from mirage_env.errors import InvalidOptionError
from mirage_env.models.wan.branch_condition import condition_channels
from mirage_env.models.wan.side_branch import ControlBranch
from mirage_env.models.wan.transformer import ControlledTransformer
from mirage_env.models.world_model_loader import load_module, load_world_model, save_module

B, R, T, P, C, GRID = 2, 2, 5, 1, 8, (4, 4)
PARTS = ("readout", "observed")
PATCHES = GRID[0] * GRID[1] // 4
SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": C,
    "out_channels": C,
    "text_dim": 8,
    "freq_dim": 16,
    "ffn_dim": 48,
    "num_layers": 3,
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def a_transformer(cls: type[WanTransformer3DModel] = ControlledTransformer, dtype=torch.float32, **sizes: int):
    return nn.Module.to(cls(**SIZES | sizes).eval(), dtype)


def a_branch(transformer, parts=PARTS, layers=(0, 2), trained: bool = True) -> ControlBranch:
    branch = ControlBranch.from_transformer(transformer, parts, layers)
    if trained:
        train_a_little(branch)
    return branch


def train_a_little(branch: ControlBranch) -> None:
    """Give the zero layers values, as training does."""
    for layer in (branch.before_proj, *branch.after_proj):
        nn.init.normal_(layer.weight, std=0.1)
        nn.init.normal_(layer.bias, std=0.1)


def inputs(references: int = 0, dtype=torch.float32, per_token: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    frames = references + T + P
    timestep = 1000.0 * torch.rand(B, frames * PATCHES) if per_token else 1000.0 * torch.rand(B)
    return torch.randn(B, C, frames, *GRID).to(dtype), timestep, torch.randn(B, 3, 8).to(dtype)


def a_condition(parts=PARTS) -> Tensor:
    return torch.randn(B, condition_channels(parts, C), T, *GRID)


def add_lora(transformer, fused: bool) -> None:
    transformer.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    if fused:
        transformer.fuse_lora()
        transformer.unload_lora()


def by_hooks(
    branch: ControlBranch, transformer: WanTransformer3DModel, given: tuple, condition: Tensor, references: int
):
    """The slow way: side blocks before the first main block, on what the stock class passes to it."""
    hints, unseen = {}, references * PATCHES
    frames = given[0].shape[2] - references
    padded = torch.cat([condition, condition.new_zeros(B, condition.shape[1], frames - T, *GRID)], 2)
    tokens = branch.patch_embedding(padded.to(branch.dtype)).flatten(2).transpose(1, 2).contiguous()

    def before_first(block, arguments):
        x, text, time, rotary = arguments
        time = time[:, unseen:] if time.ndim == 4 else time
        x = branch.before_proj(tokens) + x[:, unseen:]
        for layer, side, project in zip(branch.layers, branch.blocks, branch.after_proj, strict=True):
            x = side(x, text, time, tuple(r[:, unseen:] for r in rotary))
            hints[layer] = project(x)

    handles = [transformer.blocks[0].register_forward_pre_hook(before_first)]
    for layer in branch.layers:

        def add(block, arguments, x, layer=layer):
            return torch.cat([x[:, :unseen], x[:, unseen:] + hints[layer]], 1)

        handles.append(transformer.blocks[layer].register_forward_hook(add))
    out = transformer(*given, return_dict=False)[0]
    for handle in handles:
        handle.remove()
    return out


# At the start of training


@pytest.mark.parametrize("cls", [WanTransformer3DModel, ControlledTransformer])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("references", [0, R])
@pytest.mark.parametrize("per_token", [True, False])
@pytest.mark.parametrize("lora", ["none", "adapter", "fused"])
@torch.no_grad()
def test_new_branch_leaves_the_transformer_exactly_as_it_was(cls, dtype, references, per_token, lora):
    transformer = a_transformer(cls, dtype)
    branch = a_branch(transformer, trained=False)
    given = inputs(references, dtype, per_token)
    bare = transformer(*given, return_dict=False)[0]
    if lora != "none":
        add_lora(transformer, fused=lora == "fused")
        without, bare = bare, transformer(*given, return_dict=False)[0]
        assert not torch.equal(bare, without)
    out = branch.run(transformer, *given, a_condition(), references=references)
    assert out.dtype == dtype
    assert torch.equal(out, bare)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_branch_holds_copies_of_the_main_blocks_in_their_types(dtype):
    transformer = a_transformer(dtype=dtype)
    transformer.blocks[1].norm2.float()  # as diffusers loads them
    branch = a_branch(transformer, layers=(1,), trained=False)
    assert branch.before_proj.weight.dtype == branch.patch_embedding.weight.dtype == dtype
    own, main = branch.blocks[0].state_dict(), transformer.blocks[1].state_dict()
    assert own.keys() == main.keys()
    for key, value in own.items():
        assert value.dtype == main[key].dtype
        assert torch.equal(value, main[key])
        assert value.data_ptr() != main[key].data_ptr()
    assert all(p.requires_grad for p in branch.parameters())


def test_branch_of_a_transformer_with_adapters_is_refused():
    transformer = a_transformer()
    add_lora(transformer, fused=False)
    with pytest.raises(InvalidOptionError, match="adapters"):
        ControlBranch.from_transformer(transformer, PARTS, (0,))


def test_first_gradient_of_a_new_branch_reaches_its_output_layers():
    transformer = a_transformer()
    branch = a_branch(transformer, trained=False)
    branch.run(transformer, *inputs(), a_condition()).square().sum().backward()
    assert all(layer.weight.grad.abs().max() > 0 for layer in branch.after_proj)


# A trained branch


@pytest.mark.parametrize("cls", [WanTransformer3DModel, ControlledTransformer])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("references", [0, R])
@pytest.mark.parametrize("per_token", [True, False])
@torch.no_grad()
def test_hints_are_those_that_hooks_on_the_stock_blocks_would_add(cls, dtype, references, per_token):
    transformer = a_transformer(cls, dtype)
    branch, given, condition = a_branch(transformer), inputs(references, dtype, per_token), a_condition()
    expected = by_hooks(branch, transformer, given, condition, references)
    assert torch.equal(branch.run(transformer, *given, condition, references=references), expected)
    assert not torch.equal(transformer(*given, return_dict=False)[0], expected)


@torch.no_grad()
def test_shipped_weights_give_what_hooks_would_give():
    generator = load_world_model("rooms", dtype=torch.float32).generator
    branch, transformer = generator.branch, generator.transformer
    channels, size = transformer.config.in_channels, transformer.config.text_dim
    _, rows, columns = transformer.config.patch_size
    tokens = (T + P) * (GRID[0] // rows) * (GRID[1] // columns)
    given = torch.randn(B, channels, T + P, *GRID), 1000.0 * torch.rand(B, tokens), torch.randn(B, 1, size)
    condition = torch.randn(B, branch.patch_embedding.in_channels, T, *GRID)
    expected = by_hooks(branch, transformer, given, condition, 0)
    assert torch.equal(branch.run(transformer, *given, condition), expected)


@torch.no_grad()
def test_stock_checkpoint_loads_into_the_controlled_class_and_back(tmp_path):
    stock, given = a_transformer(WanTransformer3DModel), inputs()
    for parameter in stock.parameters():
        parameter.copy_(parameter.half())  # weights are saved in 16 bits
    save_module(stock, tmp_path / "stock")
    controlled = load_module(ControlledTransformer, tmp_path / "stock")
    save_module(controlled, tmp_path / "controlled")
    again = load_module(WanTransformer3DModel, tmp_path / "controlled")
    assert list(stock.state_dict()) == list(controlled.state_dict()) == list(again.state_dict())
    outputs = [net(*given, return_dict=False)[0] for net in (stock, controlled, again)]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(controlled(*given).sample, outputs[0])


@torch.no_grad()
def test_frames_after_the_chunk_have_a_zero_condition():
    transformer = a_transformer()
    branch, given, condition = a_branch(transformer), inputs(), a_condition()
    padded = torch.cat([condition, torch.zeros_like(condition[:, :, :P])], 2)
    assert torch.equal(branch.run(transformer, *given, condition), branch.run(transformer, *given, padded))


@torch.no_grad()
def test_references_get_no_hint():
    transformer = a_transformer()
    last = SIZES["num_layers"] - 1  # after it, no attention carries a hint to other tokens
    branch, given = a_branch(transformer, layers=(last,)), inputs(R)
    bare = transformer(*given, return_dict=False)[0]
    moved = (branch.run(transformer, *given, a_condition(), references=R) - bare).abs().amax((0, 1, 3, 4))
    assert not moved[:R].any()
    assert (moved[R:] > 0).all()


@torch.no_grad()
def test_branch_does_not_see_references():
    transformer = a_transformer()
    branch, given, condition = a_branch(transformer, layers=(0,)), inputs(R), a_condition()
    hints = []
    branch.after_proj[0].register_forward_hook(lambda layer, x, hint: hints.append(hint))
    for reference in (given[0], torch.cat([torch.randn(B, C, R, *GRID), given[0][:, :, R:]], 2)):
        branch.run(transformer, reference, *given[1:], condition, references=R)
    assert hints[0].shape[1] == (T + P) * PATCHES
    assert torch.equal(hints[0], hints[1])


def test_trained_branch_listens_to_every_condition_channel_and_frame():
    transformer = a_transformer()
    condition = a_condition().requires_grad_()
    a_branch(transformer).run(transformer, *inputs(R), condition, references=R).square().sum().backward()
    assert (condition.grad.abs().amax((0, 3, 4)) > 0).all()


def test_gradient_reaches_every_parameter_of_the_branch_and_only_those():
    transformer = a_transformer().requires_grad_(False)
    branch = a_branch(transformer)
    branch.run(transformer, *inputs(R), a_condition(), references=R).square().sum().backward()
    for name, parameter in branch.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert all(p.grad is None for p in transformer.parameters())


@pytest.mark.parametrize(("frames", "references"), [(T + P + 1, 0), (T, R), (1, -1)])
def test_condition_that_does_not_fit_the_frames_is_refused(frames, references):
    transformer = a_transformer()
    condition = torch.randn(B, C + 1, frames, *GRID)
    with pytest.raises(InvalidOptionError, match=rf"{frames} frames of condition and {references} references"):
        a_branch(transformer).run(transformer, *inputs(), condition, references=references)


@torch.no_grad()
def test_threads_share_a_transformer_with_branches_of_their_own():
    transformer, given, condition = a_transformer(), inputs(R), a_condition()
    branches = [a_branch(transformer, layers=layers) for layers in ((0,), (1, 2), (0, 2), (2,))]
    alone = [b.run(transformer, *given, condition, references=R) for b in branches]

    @torch.no_grad()
    def walk(branch: ControlBranch) -> Tensor:
        return branch.run(transformer, *given, condition, references=R)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(walk, branches))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


# Training


def gradients(branch: ControlBranch, transformer, given: tuple, condition: Tensor) -> tuple[dict[str, Tensor], int]:
    """Gradients of the branch, and the bytes of different tensors that were kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    branch.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = branch.run(transformer, *given, condition, references=R).square().sum()
    loss.backward()
    own = {p.untyped_storage().data_ptr() for m in (branch, transformer) for p in m.parameters()}
    return {n: p.grad for n, p in branch.named_parameters()}, sum(v for k, v in kept.items() if k not in own)


@pytest.mark.parametrize("cls", [WanTransformer3DModel, ControlledTransformer])
def test_gradient_checkpointing_keeps_less_and_changes_no_gradient(cls):
    transformer = a_transformer(cls).requires_grad_(False)
    branch, given, condition = a_branch(transformer), inputs(R), a_condition()
    plain, bytes_plain = gradients(branch, transformer, given, condition)
    branch.enable_gradient_checkpointing()
    side, bytes_side = gradients(branch, transformer, given, condition)
    transformer.enable_gradient_checkpointing()
    both, bytes_both = gradients(branch, transformer, given, condition)
    assert all(torch.equal(plain[n], side[n]) and torch.equal(plain[n], both[n]) for n in plain)
    assert bytes_both < 0.7 * bytes_side < 0.7 * bytes_plain


def test_branch_in_full_precision_trains_beside_a_bfloat16_transformer():
    transformer = a_transformer(dtype=torch.bfloat16).requires_grad_(False)
    branch = a_branch(transformer).float()
    given = inputs(dtype=torch.bfloat16)
    out = branch.run(transformer, *given, a_condition())
    out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16
    assert branch.before_proj.weight.grad.dtype == torch.float32


# What wraps a transformer


@pytest.mark.parametrize(
    "config",
    [
        FirstBlockCacheConfig(0.1),
        PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500),
    ],
    ids=lambda config: type(config).__name__,
)
@torch.no_grad()
def test_transformer_with_a_cache_is_refused_until_the_cache_is_off(config):
    transformer = a_transformer()
    branch, given, condition = a_branch(transformer), inputs(), a_condition()
    before = branch.run(transformer, *given, condition)
    transformer.enable_cache(config)
    with pytest.raises(InvalidOptionError, match="disable_cache"):
        branch.run(transformer, *given, condition)
    transformer.disable_cache()
    assert torch.equal(branch.run(transformer, *given, condition), before)


@pytest.mark.parametrize("kind", [{"offload_type": "leaf_level"}, {"num_blocks_per_group": 1}], ids=["leaf", "block"])
@torch.no_grad()
def test_offloading_changes_nothing(kind):
    transformer = a_transformer()
    branch, given, condition = a_branch(transformer), inputs(R), a_condition()
    before = branch.run(transformer, *given, condition, references=R)
    for module in (transformer, branch):
        module.enable_group_offload(torch.device("cpu"), torch.device("cpu"), **{"offload_type": "block_level"} | kind)
    assert torch.equal(branch.run(transformer, *given, condition, references=R), before)


@torch.no_grad()
def test_compiling_the_whole_transformer_loses_no_hint():
    transformer = a_transformer(num_layers=1)
    branch, given, condition = a_branch(transformer, layers=(0,)), inputs(R), a_condition()
    before = branch.run(transformer, *given, condition, references=R)
    transformer.compile(backend="eager", fullgraph=True)
    transformer(*given, return_dict=False)
    assert torch.equal(branch.run(transformer, *given, condition, references=R), before)


@pytest.mark.parametrize("wrap", ["compiled", "hooked", "offloaded"])
def test_stock_class_that_is_wrapped_as_a_whole_is_refused_with_the_class_to_use(wrap):
    transformer = a_transformer(WanTransformer3DModel)
    branch = a_branch(transformer)
    if wrap == "compiled":
        transformer.compile(backend="eager")
    elif wrap == "hooked":
        transformer.register_forward_pre_hook(lambda module, args: None)
    else:
        transformer.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    with pytest.raises(InvalidOptionError, match="ControlledTransformer"):
        branch.run(transformer, *inputs(), a_condition())


def test_control_beside_what_it_does_not_take_is_refused():
    transformer = a_transformer()
    branch, given = a_branch(transformer), inputs()
    calls = []
    transformer.register_forward_pre_hook(lambda m, args, kwargs: calls.append(kwargs["control"]), with_kwargs=True)
    branch.run(transformer, *given, a_condition())
    with pytest.raises(InvalidOptionError, match="encoder_hidden_states_image"):
        transformer(*given, encoder_hidden_states_image=given[2], control=calls[0])


# Widening


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parts", [("rays",), ("winner", "rays")])
@torch.no_grad()
def test_widened_branch_gives_the_same_bits_until_it_is_trained(dtype, parts):
    transformer = a_transformer(dtype=dtype)
    branch, given, condition = a_branch(transformer), inputs(R, dtype), a_condition()
    wide = branch.widened(parts)
    more = torch.cat([condition, torch.randn(B, condition_channels(parts, C), T, *GRID)], 1)
    before = branch.run(transformer, *given, condition, references=R)
    assert {p.dtype for p in wide.parameters()} == {dtype}
    assert wide.training == branch.training
    assert torch.equal(wide.run(transformer, *given, more, references=R), before)
    nn.init.normal_(wide.patch_embedding.weight)
    after = wide.run(transformer, *given, more, references=R)
    again = wide.widened(("known",))
    most = torch.cat([more, torch.randn(B, C, T, *GRID)], 1)
    assert torch.equal(again.run(transformer, *given, most, references=R), after)


def test_widened_branch_hears_its_new_parts_and_is_saved_with_them(tmp_path):
    transformer = a_transformer()
    wide = a_branch(transformer).widened(("rays",)).half().float()
    given, more = inputs(), a_condition((*PARTS, "rays"))
    wide.run(transformer, *given, more).square().sum().backward()
    assert (wide.patch_embedding.weight.grad.abs().amax((0, 2, 3, 4)) > 0).all()
    save_module(wide, tmp_path)
    loaded = load_module(ControlBranch, tmp_path)
    assert tuple(loaded.config.parts) == (*PARTS, "rays")
    assert torch.equal(loaded.run(transformer, *given, more), wide.run(transformer, *given, more))


def test_added_parts_that_are_not_the_last_are_refused():
    with pytest.raises(InvalidOptionError, match="list them last"):
        ControlBranch(C, PARTS, (0,), (1, 2, 2), 2, 12, 48, added_parts=("readout",))


# As the public weights were trained


def published(branch: ControlBranch) -> ControlBranch:
    config = {key: value for key, value in branch.config.items() if not key.startswith("_")}
    same: ControlBranch = ControlBranch.from_config(config | {"published": True})
    same.load_state_dict(branch.state_dict())
    return same


@torch.no_grad()
def test_published_branch_differs_only_in_frames_without_condition_and_in_where_references_stand():
    transformer = a_transformer()
    branch, condition = a_branch(transformer), a_condition()
    entry = published(branch)(condition, T + P)
    assert torch.equal(entry[:, : T * PATCHES], branch(condition, T + P)[:, : T * PATCHES])
    assert torch.equal(entry[:, T * PATCHES :], branch.before_proj.bias.expand(B, P * PATCHES, -1))

    seen = []
    transformer.blocks[0].register_forward_pre_hook(lambda block, arguments: seen.append(arguments[3]))
    given = inputs(R)
    for one in (branch, published(branch)):
        one.run(transformer, *given, condition, references=R)
    rope, rows = transformer.rope, GRID[0] // 2
    sizes = [rope.t_dim, rope.h_dim, rope.w_dim]
    for table, own, below in zip((rope.freqs_cos, rope.freqs_sin), *seen, strict=True):
        time, row, column = table.split(sizes, 1)
        for frame in range(R + T + P):
            for i in range(rows):
                token = frame * PATCHES + i * GRID[1] // 2
                lower = i + rows if frame < R else i
                assert torch.equal(own[0, token, 0], torch.cat([time[frame], row[i], column[0]]))
                assert torch.equal(below[0, token, 0], torch.cat([time[frame], row[lower], column[0]]))
