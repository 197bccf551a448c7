"""Prompts: what Wan's own pipeline would make of them, computed once, kept and found again."""

import pytest
import torch
from tiny_checkpoints import TEXT_DIM, change_weights, text_encoder, tokenizer
from torch import nn
from transformers import AutoTokenizer, UMT5EncoderModel

from mirage_env.errors import InvalidOptionError, ModelNotFoundError, WeightsError
from mirage_env.models.wan import text_encoder as text_encoder_module
from mirage_env.models.wan.text_encoder import TOKENS, UMT5, Prompts, clean_prompt, file_name, prompt_of, save_embedding

CPU = torch.device("cpu")


class Counting:
    """Passes on to a real encoder and counts what it is asked."""

    def __init__(self, encoder):
        self.encoder, self.asked = encoder, []

    def encode(self, prompts):
        self.asked.append(list(prompts))
        return self.encoder.encode(prompts)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    text_encoder().save_pretrained(folder / "text_encoder")
    tokenizer().save_pretrained(folder / "tokenizer")
    return folder / "text_encoder", folder / "tokenizer"


@pytest.fixture
def encoder(folders):
    return Counting(UMT5(*folders, CPU, torch.float32))


@torch.inference_mode()
def as_wan_does(prompts, folders):
    """Embeddings as diffusers' WanPipeline makes them: padded, masked, cut, and padded again with zeros."""
    encoder, tokens = UMT5EncoderModel.from_pretrained(folders[0]), AutoTokenizer.from_pretrained(folders[1])
    inputs = tokens(prompts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    hidden = encoder.eval()(inputs.input_ids, inputs.attention_mask).last_hidden_state
    return hidden * inputs.attention_mask[..., None]


def test_embeddings_are_those_of_wans_pipeline(encoder, folders):
    prompts = ["a red chair", "", "a sunny living room"]
    found = Prompts(encoder)(prompts)
    assert found.shape == (3, TOKENS, TEXT_DIM)
    torch.testing.assert_close(found, as_wan_does(prompts, folders), rtol=1e-4, atol=1e-5)
    assert (found[0] - found[2]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("prompt", "clean"),
    [
        ("  a  red\n chair ", "a red chair"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("\u201cold\u201d and \u2018new\u2019", "\"old\" and 'new'"),
        ("cafe\u0301", "caf\u00e9"),
        ("", ""),
    ],
)
def test_prompts_are_cleaned(prompt, clean):
    assert clean_prompt(prompt) == clean
    assert clean_prompt(clean) == clean


def test_each_prompt_is_encoded_once(encoder):
    prompts = Prompts(encoder)
    first = prompts(["a red chair", "", "a  red chair"])
    assert torch.equal(prompts([" a red chair"])[0], first[0])
    assert encoder.asked == [["a red chair", ""]]


def test_embeddings_are_kept_on_disk_for_one_encoder(encoder, tmp_path):
    first = Prompts(encoder, cache=tmp_path, model="a")(["a red chair"])
    again = Prompts(encoder, cache=tmp_path, model="a")(["a red chair"])
    assert torch.equal(first, again)
    assert encoder.asked == [["a red chair"]]
    Prompts(encoder, cache=tmp_path, model="b")(["a red chair"])
    assert len(encoder.asked) == 2
    assert sorted(map(prompt_of, tmp_path.iterdir())) == ["a red chair"] * 2


def test_table_replaces_the_encoder(encoder, folders, tmp_path):
    text = "a courtyard in the rain"
    save_embedding(encoder.encode([text])[0], text, tmp_path / file_name(text))
    alone = Prompts(None, table=tmp_path)
    torch.testing.assert_close(alone([text]), as_wan_does([text], folders), rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidOptionError, match=r"no embedding of the prompt 'a fox'.*a courtyard in the rain"):
        alone(["a fox"])


def test_long_prompt_is_cut_as_wans_pipeline_cuts_it_with_a_warning(encoder, folders, caplog):
    prompt = clean_prompt("fox " * 600)
    found = Prompts(encoder)([prompt])
    torch.testing.assert_close(found, as_wan_does([prompt], folders), rtol=1e-4, atol=1e-4)
    assert f"tokens; the model reads the first {TOKENS}" in caplog.text


def test_five_prompts_take_one_load_of_the_encoder(folders, monkeypatch):
    loads = []
    load = text_encoder_module.load_text_encoder
    monkeypatch.setattr(text_encoder_module, "load_text_encoder", lambda *given: loads.append(given) or load(*given))
    texts = ["a red chair", "a fox", "", "rain", "a courtyard"]
    prompts = Prompts(UMT5(*folders, CPU, torch.float32))
    prompts.prepare(texts)
    together = prompts(texts)
    assert len(loads) == 1
    torch.testing.assert_close(together, as_wan_does(texts, folders), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("left", [0, 20, -4])
def test_damaged_embedding_is_refused(encoder, tmp_path, left):
    Prompts(encoder, cache=tmp_path)([""])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(WeightsError, match=file.name):
        Prompts(encoder, cache=tmp_path)([""])


def test_embedding_of_another_prompt_or_with_holes_is_refused(encoder, tmp_path):
    save_embedding(encoder.encode(["a fox"])[0], "a fox", tmp_path / file_name("a chair"))
    with pytest.raises(WeightsError, match="'a fox'"):
        Prompts(encoder, table=tmp_path)(["a chair"])
    save_embedding(torch.full((2, TEXT_DIM), float("nan")), "a fox", tmp_path / file_name("a fox"))
    with pytest.raises(WeightsError, match="finite"):
        Prompts(encoder, table=tmp_path)(["a fox"])


def test_encoder_that_does_not_fit_is_refused(folders, tmp_path):
    text_encoder().save_pretrained(tmp_path)
    name = change_weights(tmp_path / "model.safetensors", lambda weights, name: weights.pop(name))
    with pytest.raises(WeightsError, match=f"missing {name}"):
        UMT5(tmp_path, folders[1], CPU, torch.float32).encode(["a fox"])
    with pytest.raises(ModelNotFoundError, match="tokenizer"):
        UMT5(folders[0], tmp_path / "nothing", CPU, torch.float32).encode(["a fox"])


def test_place_is_made_before_the_encoder_comes(folders):
    made = []
    UMT5(*folders, CPU, torch.float32, lambda: made.append(1)).encode(["a fox"])
    assert made == [1]


def test_padding_is_zeros_after_the_last_token(encoder):
    prompts = Prompts(encoder)
    embedding = prompts.embedding("a red chair")
    padded = prompts(["a red chair"])[0]
    assert torch.equal(padded, nn.functional.pad(embedding, (0, 0, 0, TOKENS - len(embedding))))
