"""Recorded episodes come back from files and from other formats as they were."""

import io
import json
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from stand_ins import start_view, walled_world_model

from mirage_env.cli import main
from mirage_env.envs.world import MirageEnv
from mirage_env.episodes import (
    CountEpisodes,
    Episode,
    RecordEpisodes,
    differences,
    episode_files,
    load_episode,
    save_episode,
    with_observations,
)
from mirage_env.episodes.lerobot import export_lerobot
from mirage_env.episodes.minari import export_minari, import_minari
from mirage_env.errors import EpisodeError, EpisodeNotFoundError, InvalidActionError, InvalidOptionError
from mirage_env.tasks import PointNav

FORWARD = np.array([0, 0, 0.3, 0, 0, 0], np.float32)


def env(**arguments):
    return MirageEnv(walled_world_model(), start_view, task=PointNav(radius=0.05, stop="automatic"), **arguments)


def record(steps=(2, 3), all_frames=True):
    """Episodes of so many steps."""
    taken = []
    recorder = RecordEpisodes(env(), taken.append, all_frames, {"model": "tiny"})
    for seed, count in enumerate(steps):
        recorder.reset(seed=seed)
        for _ in range(count):
            recorder.step(FORWARD)
    recorder.close()
    return taken


@pytest.fixture(scope="module")
def episodes():
    return record()


def test_recorder_keeps_what_was_returned():
    taken, inner = [], env(info_frames=True)
    recorder = RecordEpisodes(inner, taken.append, all_frames=True)
    observation, info = recorder.reset(seed=4)
    after, reward, *_, later = recorder.step(FORWARD)
    recorder.close()
    [episode] = taken
    for t, (seen, told) in enumerate(((observation, info), (after, later))):
        for name, value in seen.items():
            np.testing.assert_array_equal(episode.observations[name][t], value)
        for name in ("coverage", "spl", "distance_to_goal", "is_success"):
            assert episode.infos[name][t] == told[name]
    np.testing.assert_array_equal(episode.frames["images"], [*info["frames"], *later["frames"]])
    np.testing.assert_array_equal(episode.frames["poses"], [*info["poses"], *later["poses"]])
    assert episode.counts.tolist() == [1, 4]
    assert episode.rewards.tolist() == [reward]
    assert episode.provenance["seed"] == 4


def test_failed_step_is_not_recorded_and_an_episode_without_steps_is_left_out():
    taken = []
    recorder = RecordEpisodes(env(), taken.append)
    recorder.reset(seed=0)
    recorder.reset(seed=1)
    with pytest.raises(InvalidActionError):
        recorder.step(np.full(6, np.nan))
    recorder.step(FORWARD)
    recorder.close()
    recorder.close()
    assert [(len(e), e.provenance["seed"]) for e in taken] == [(1, 1)]


def test_recorder_writes_to_a_folder_behind_what_is_there(tmp_path):
    for _ in range(2):
        recorder = RecordEpisodes(env(), tmp_path)
        recorder.reset(seed=0)
        recorder.step(FORWARD)
        recorder.close()
    assert [p.name for p in episode_files(tmp_path)] == ["episode_000000.zarr.zip", "episode_000001.zarr.zip"]


def test_counter_counts_steps_rewards_and_successes():
    counter = CountEpisodes(MirageEnv(walled_world_model(), start_view, task=PointNav(radius=3.9, stop="automatic")))
    counter.reset(seed=0)
    *_, reward, terminated, _, info = counter.step(FORWARD)
    assert (terminated, info["is_success"]) == (True, True)
    assert counter.counts == {"episodes": 1, "successes": 1, "steps": 1, "rewards": reward}


def test_episode_comes_back_from_its_file(tmp_path, episodes):
    for episode in episodes:
        save_episode(tmp_path / "e.zarr.zip", episode)
        again = load_episode(tmp_path / "e.zarr.zip")
        assert differences(episode, again) == []
        assert again.provenance == episode.provenance
    assert [p.name for p in tmp_path.iterdir()] == ["e.zarr.zip"]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, episodes):
    path = tmp_path / "e.zarr.zip"
    save_episode(path, episodes[0])
    with pytest.raises(TypeError):
        save_episode(path, replace(episodes[0], provenance={"what": object()}))
    assert differences(load_episode(path), episodes[0]) == []
    assert [p.name for p in tmp_path.iterdir()] == ["e.zarr.zip"]


def test_damaged_and_missing_episodes_are_refused(tmp_path, episodes):
    path = tmp_path / "e.zarr.zip"
    with pytest.raises(EpisodeNotFoundError, match="there is no episode"):
        load_episode(path)
    with pytest.raises(EpisodeNotFoundError, match="holds no episodes"):
        episode_files(tmp_path)
    save_episode(path, episodes[0])
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole.replace(b"mirage_episode", b"mirage_episodf")):
        path.write_bytes(damaged)
        with pytest.raises(EpisodeError):
            load_episode(path)


RUNS_A_PROGRAM = b"cposix\nsystem\n(S'touch %s'\ntR."
"""A pickle, as protocol 0 writes it."""


def of_another_format(path, ran, version, coded):
    """A file with an array whose codec or filter unpickles."""
    with zipfile.ZipFile(path, "w") as archive:
        about = {"format": "mirage_episode", "version": 1, "arrays": ["rewards"], "provenance": {}}
        if version == 2:
            array = {"zarr_format": 2, "shape": [1], "chunks": [1], "fill_value": 0, "order": "C", **coded}
            archive.writestr(".zgroup", '{"zarr_format": 2}')
            archive.writestr(".zattrs", json.dumps(about))
            archive.writestr("rewards/.zarray", json.dumps(array))
            archive.writestr("rewards/0", RUNS_A_PROGRAM % bytes(ran))
        else:
            array = {"zarr_format": 3, "node_type": "array", "shape": [1], "fill_value": 0.0, "data_type": "float64"}
            array |= {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}}}
            array |= {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}, **coded}
            archive.writestr("zarr.json", json.dumps({"zarr_format": 3, "node_type": "group", "attributes": about}))
            archive.writestr("rewards/zarr.json", json.dumps(array))
            archive.writestr("rewards/c/0", RUNS_A_PROGRAM % bytes(ran))


LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
PICKLED = {"id": "pickle", "protocol": 0}


@pytest.mark.parametrize(
    ("version", "coded", "says"),
    [
        (
            2,
            {"dtype": "|O", "compressor": None, "filters": [PICKLED]},
            "no root group of Zarr v3",
        ),
        (2, {"dtype": "<f8", "compressor": PICKLED, "filters": None}, "no root group of Zarr v3"),
        (3, {"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]}, "codecs"),
        (
            3,
            {"codecs": [LITTLE, {"name": "numcodecs.pickle"}]},
            "codecs",
        ),
        (3, {"codecs": [], "data_type": "variable_length_bytes"}, "type and codecs"),
    ],
)
def test_episode_with_a_codec_that_runs_code_is_refused(tmp_path, version, coded, says):
    ran = tmp_path / "ran"
    of_another_format(tmp_path / "e.zarr.zip", ran, version, coded)
    with pytest.raises(EpisodeError, match=says):
        load_episode(tmp_path / "e.zarr.zip")
    assert not ran.exists()


def test_lengths_that_do_not_fit_are_refused(episodes):
    with pytest.raises(EpisodeError, match="actions has 1 rows, not 2"):
        replace(episodes[0], actions=episodes[0].actions[:1])


@pytest.mark.parametrize("all_frames", [True, False])
def test_minari_gives_back_every_bit(tmp_path, all_frames):
    episodes = record(all_frames=all_frames)
    export_minari(episodes, tmp_path / "walks-v0")
    again = list(import_minari(tmp_path / "walks-v0"))
    assert [differences(a, b) for a, b in zip(episodes, again, strict=True)] == [[], []]
    assert [e.provenance for e in again] == [e.provenance for e in episodes]


def test_minari_goes_to_a_folder_named_from_here(tmp_path, monkeypatch, episodes):
    monkeypatch.chdir(tmp_path)
    export_minari(episodes, "walks-v0")
    assert len(list(import_minari("walks-v0"))) == len(episodes)


def test_minari_reads_the_dataset_itself(tmp_path, monkeypatch, episodes):
    export_minari(episodes, tmp_path / "walks-v0")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import minari
    dataset = minari.load_dataset("walks-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (2, 5)
    for ours, theirs in zip(episodes, dataset, strict=True):
        assert theirs.rewards.tobytes() == ours.rewards.tobytes()
        np.testing.assert_array_equal(theirs.actions, ours.actions)
        np.testing.assert_array_equal(theirs.observations["pixels"], ours.observations["pixels"])
        assert theirs.infos["frame_poses"].shape == (len(ours) + 1, 4, 7)
        assert dataset.observation_space.contains({n: v[0] for n, v in theirs.observations.items()})
        assert dataset.action_space.contains(theirs.actions[0])


def test_lerobot_tables_hold_what_the_policy_saw_and_did(tmp_path, episodes):
    parquet = pytest.importorskip("pyarrow.parquet")
    export_lerobot(episodes, tmp_path)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"]) == ("v3.0", 2, 5)
    assert info["features"]["observation.images.pixels"]["shape"] == [32, 32, 3]
    told = parquet.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in told] == [(0, 2), (2, 5)]
    for number, episode in enumerate(episodes):
        table = parquet.read_table(
            tmp_path
            / info["data_path"].format(
                chunk_index=told[number]["data/chunk_index"], file_index=told[number]["data/file_index"]
            )
        )
        assert set(table.column_names) == set(info["features"])
        rows = table.to_pylist()
        images = [np.asarray(Image.open(io.BytesIO(row["observation.images.pixels"]["bytes"]))) for row in rows]
        np.testing.assert_array_equal(images, episode.observations["pixels"][:-1])
        for name, values in (
            ("observation.state", episode.observations["agent_pos"][:-1]),
            ("action", episode.actions),
        ):
            np.testing.assert_array_equal(np.array([row[name] for row in rows], np.float32), values)
        assert [row["next.reward"] for row in rows] == episode.rewards.astype(np.float32).tolist()
        assert [row["frame_index"] for row in rows] == list(range(len(episode)))
    tasks = parquet.read_table(tmp_path / "meta/tasks.parquet").to_pylist()
    assert [row["task_index"] for row in tasks] == [0]


def test_episodes_of_different_kinds_are_not_mixed(tmp_path, episodes):
    other = replace(episodes[1], actions=np.zeros((3, 7), np.float32))
    for export in (export_minari, export_lerobot):
        with pytest.raises(EpisodeError, match="episode 1 has"):
            export([episodes[0], other], tmp_path / export.__name__)
        with pytest.raises(EpisodeError, match="no episodes"):
            export([], tmp_path / "nothing")


def test_command_exports_and_imports(tmp_path, capsys, episodes):
    for number, episode in enumerate(episodes):
        save_episode(tmp_path / f"in/{number}.zarr.zip", episode)
    for source, to in (("in", "minari"), ("in", "lerobot"), ("minari", "episodes")):
        assert main(["export", str(tmp_path / source), "--to", to, "--out", str(tmp_path / to)]) == 0
        assert "2 episodes" in capsys.readouterr().out
    again = map(load_episode, episode_files(tmp_path / "episodes"))
    assert all(differences(a, b) == [] for a, b in zip(episodes, again, strict=True))
    assert main(["export", str(tmp_path / "in"), "--out", str(tmp_path / "minari")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "lerobot"), "--to", "episodes", "--out", str(tmp_path / "x")]) == 2
    assert "no Minari dataset" in capsys.readouterr().err


def test_recording_needs_chunks():
    import gymnasium

    with pytest.raises(InvalidOptionError, match="shown_frames"):
        RecordEpisodes(gymnasium.make("CartPole-v1"), [].append)
    assert Episode.__dataclass_params__.frozen


def test_observations_are_chosen_or_joined_for_a_dataset(tmp_path, monkeypatch, episodes):
    chosen = with_observations(episodes[0], ["goal", "agent_pos"])
    assert list(chosen.observations) == ["goal", "agent_pos"]
    flat = [with_observations(episode, ["goal", "pixels"], flat=True) for episode in episodes]
    assert flat[0].observations["observation"].shape == (3, 3 + 32 * 32 * 3)
    np.testing.assert_array_equal(flat[0].observations["observation"][:, :3], episodes[0].observations["goal"])
    assert (
        0.0
        <= flat[0].observations["observation"][:, 3:].min()
        <= flat[0].observations["observation"][:, 3:].max()
        <= 1.0
    )
    with pytest.raises(EpisodeError, match="no observations"):
        with_observations(episodes[0], ["depth"])
    minari = pytest.importorskip("minari")
    export_minari(flat, tmp_path / "flat-v0")
    dataset = minari.MinariDataset(tmp_path / "flat-v0" / "data")
    assert dataset.observation_space.shape == (3 + 32 * 32 * 3,)
    back = next(import_minari(tmp_path / "flat-v0"))
    np.testing.assert_array_equal(back.observations["observation"], flat[0].observations["observation"])


def test_stack_of_frames_becomes_images_and_one_vector_the_state(tmp_path, episodes):
    parquet = pytest.importorskip("pyarrow.parquet")
    pixels = episodes[0].observations["pixels"]
    stacked = replace(episodes[0], observations={"pixels": np.stack([pixels, pixels[::-1]], 1)})
    export_lerobot([stacked], tmp_path / "stack")
    row = parquet.read_table(tmp_path / "stack/data/chunk-000/file-000.parquet").to_pylist()[0]
    shown = [np.asarray(Image.open(io.BytesIO(row[f"observation.images.pixels_{i}"]["bytes"]))) for i in range(2)]
    np.testing.assert_array_equal(shown, [pixels[0], pixels[-1]])
    export_lerobot([with_observations(episodes[0], ["goal"], flat=True)], tmp_path / "flat")
    features = json.loads((tmp_path / "flat/meta/info.json").read_text())["features"]
    assert features["observation.state"]["shape"] == [3]
