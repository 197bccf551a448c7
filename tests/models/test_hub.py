"""Models from the hub: huggingface_hub's own client against a server on this machine."""

import shutil

import pytest
import torch
from hub_server import COMMIT, hub
from huggingface_hub import constants
from tiny_checkpoints import save_control, save_pipeline
from tiny_geometry import save_depth_anything

from mirage_env.errors import ModelNotFoundError
from mirage_env.models.io.hub import find_model, find_part, is_hub_id
from mirage_env.models.world_model_loader import fingerprint, load_world_model


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    save_pipeline(root / "some" / "wan", shards=True)
    (root / "some" / "wan" / "video.mp4").write_bytes(b"large")
    (root / "some" / "wan" / "vae" / "old.bin").write_bytes(b"pickled")
    save_depth_anything(root / "some" / "depth")
    save_control(root / "some" / "branch")
    return root


@pytest.fixture
def served(repositories, tmp_path, monkeypatch):
    """The server's requests; it is the hub while the test runs, with an empty cache."""
    with hub(repositories) as (address, requests):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield requests


def downloaded(requests):
    return {request.partition(f"{COMMIT}/")[2] for request in requests if request.startswith("GET some")} - {""}


def test_what_is_needed_is_downloaded_and_no_more(served):
    folder = find_model("some/wan")
    files = downloaded(served)
    assert {f.partition("/")[0] for f in files} == {
        *("model_index.json", "mirage.json", "scheduler", "text_encoder", "tokenizer", "transformer", "vae")
    }
    assert not any(f.endswith((".mp4", ".bin")) for f in files)
    assert all((folder / f).is_file() for f in files)


def test_without_the_text_encoder_its_weights_stay_on_the_hub(served):
    find_model("some/wan", text=False)
    assert not any(f.startswith("text_encoder") and f.endswith("safetensors") for f in downloaded(served))
    assert any(f.startswith("tokenizer") for f in downloaded(served))


def test_model_of_the_hub_is_that_of_the_folder(served, repositories):
    model = load_world_model("some/wan", dtype=torch.float32, depth="some/depth", control="some/branch")
    assert model.config.name == "some/wan"
    assert model.generator.branch is not None
    local = repositories / "some" / "wan"
    alike = load_world_model(local, dtype=torch.float32, depth="some/depth", control=repositories / "some" / "branch")
    assert model.identity == alike.identity
    assert fingerprint(find_model("some/wan")) == fingerprint(local)


@pytest.mark.parametrize("revision", ["v1", COMMIT])
def test_revision_is_taken(served, revision):
    assert find_model("some/wan", revision).name == COMMIT
    assert any(revision in request for request in served)


def test_revision_that_is_not_there_is_refused(served):
    with pytest.raises(ModelNotFoundError, match="'some/wan' at revision 'v9'"):
        find_model("some/wan", "v9")


def test_repository_that_is_not_there_is_refused(served):
    with pytest.raises(ModelNotFoundError, match="the hub has no 'some/castle'"):
        find_model("some/castle")


def test_what_was_downloaded_needs_no_hub(repositories, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub(repositories) as (address, _):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        folder = find_model("some/wan")
    assert find_model("some/wan") == folder
    with pytest.raises(ModelNotFoundError, match=r"cannot be reached and 'some/depth'.*hf download some/depth"):
        find_part("some/depth")


def test_single_file_is_taken_from_the_hub(served):
    path = find_part("some/branch/diffusion_pytorch_model.safetensors")
    assert path.name == "diffusion_pytorch_model.safetensors"
    assert [r.rpartition("/")[2] for r in served if r.startswith("GET some")] == [path.name]
    with pytest.raises(ModelNotFoundError, match="some/branch"):
        find_part("some/branch/nothing.safetensors")


def test_folder_comes_before_the_hub(served, repositories, tmp_path, monkeypatch):
    shutil.copytree(repositories / "some", tmp_path / "some")
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id("some/wan")
    assert load_world_model("some/wan", depth="some/depth").config.name == "wan"
    assert served == []
    with pytest.raises(ModelNotFoundError, match="there is no"):
        find_part("castle")
