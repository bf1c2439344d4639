"""What a model is refused for, each with its evidence and its remedy, and what its digest covers."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from capfilt.data_contracts.errors import ModelError
from capfilt.models.checkpoint import (
    CLIP_MEAN,
    CLIP_STD,
    digest_of,
    free_memory,
    locate,
    pixel_statistics,
    require_memory,
    tensor_shapes,
    weight_files,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def copy(blip_filter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(blip_filter, tmp_path / "model"))


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_reads_configuration_and_headers(blip_filter: Path) -> None:
    checkpoint = locate(str(blip_filter))
    assert (checkpoint.model_type, checkpoint.architecture) == ("blip", "BlipForImageTextRetrieval")
    assert checkpoint.commit is None
    assert checkpoint.pinned == str(blip_filter)
    assert tensor_shapes(checkpoint)["itm_head.weight"] == (2, 32)


def test_sharded_weights(blip_filter: Path, copy: Path) -> None:
    names = list(tensor_shapes(locate(str(blip_filter))))
    shards = {"model-00001-of-00001.safetensors"}
    (copy / "model.safetensors").rename(copy / next(iter(shards)))
    index = {"weight_map": {name: next(iter(shards)) for name in names}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [file.name for file in weight_files(locate(str(copy)))] == sorted(shards)
    assert set(tensor_shapes(locate(str(copy)))) == set(names)
    (copy / next(iter(shards))).unlink()
    with pytest.raises(ModelError, match="has no weights"):
        weight_files(locate(str(copy)))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "nowhere"])
def test_missing_directory(name: str) -> None:
    with pytest.raises(ModelError, match="there is no model at") as caught:
        locate(name)
    assert "hub id" in caught.value.remedy


def test_a_path_under_an_existing_folder_is_not_taken_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="is missing"):
        locate("checkpoints/filter")


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    with pytest.raises(ModelError, match="is a file"):
        locate(str(tmp_path / "weights.pt"))


def test_directory_without_configuration(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no .*config.json"):
        locate(str(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_unreadable_configuration(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    with pytest.raises(ModelError, match="cannot be read"):
        locate(str(copy))


@pytest.mark.parametrize("suffix", ["bin", "pt"])
def test_pickled_weights_come_with_the_conversion(copy: Path, suffix: str) -> None:
    (copy / "model.safetensors").rename(copy / f"pytorch_model.{suffix}")
    with pytest.raises(ModelError, match="pickles") as caught:
        weight_files(locate(str(copy)))
    assert f"pytorch_model.{suffix}" in caught.value.evidence
    assert "BlipForImageTextRetrieval as M" in caught.value.remedy
    assert "save_pretrained" in caught.value.remedy


def test_the_conversion_in_the_remedy_works(copy: Path) -> None:
    """The one-liner is code: run it. Its import of AutoProcessor is what users have to wait for, too."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError) as caught:
        weight_files(locate(str(copy)))
    code = caught.value.remedy.partition('python -c "')[2].rstrip('"')
    exec(code, {})
    assert tensor_shapes(locate(f"{copy}-safe"))["itm_head.weight"] == (2, 32)
    assert (Path(f"{copy}-safe") / "tokenizer.json").is_file()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_a_checkpoint_is_refused(copy: Path, file: str) -> None:
    edit(copy / file, auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(ModelError, match="brings its own code") as caught:
        locate(str(copy))
    assert file in caught.value.evidence


def test_truncated_weights(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ModelError, match="cannot be read"):
        tensor_shapes(locate(str(copy)))


def test_a_model_larger_than_memory_is_refused_before_it_is_read(blip_filter: Path) -> None:
    checkpoint = locate(str(blip_filter))
    assert free_memory() > 10**8
    require_memory(checkpoint)
    with pytest.raises(ModelError, match="larger than the memory that is free") as caught:
        require_memory(checkpoint, available=1000)
    assert "GB of weights" in caught.value.evidence


def test_pixel_statistics_from_either_file(copy: Path) -> None:
    mean, std = pixel_statistics(locate(str(copy)))
    assert len(mean) == len(std) == 3
    (copy / "preprocessor_config.json").unlink()
    assert pixel_statistics(locate(str(copy))) == (CLIP_MEAN, CLIP_STD)
    (copy / "processor_config.json").write_text(
        json.dumps({"image_processor": {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}})
    )
    assert pixel_statistics(locate(str(copy))) == ((0.5,) * 3, (0.25,) * 3)


def test_digest_covers_what_the_model_computes_with(blip_filter: Path, copy: Path) -> None:
    same = digest_of(str(blip_filter))
    assert len(same) == 64
    assert digest_of(str(copy)) == same  # wherever it lies
    for name in ("README.md", "metrics.json", "optimizer.pt"):
        (copy / name).write_text("{}")
    assert digest_of(str(copy)) == same
    edit(copy / "preprocessor_config.json", image_mean=[0.0, 0.0, 0.0])
    other = digest_of(str(copy))
    assert other != same
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert digest_of(str(copy)) not in (same, other)


@pytest.fixture
def hub(blip_filter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hugging Face's cache as a download leaves it, and no network."""
    repo = tmp_path / "hub" / "models--team--filter"
    shutil.copytree(blip_filter, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return repo / "snapshots" / COMMIT


def test_hub_id_is_pinned_to_its_commit(hub: Path) -> None:
    checkpoint = locate("team/filter")
    assert (checkpoint.directory, checkpoint.commit) == (hub, COMMIT)
    assert checkpoint.pinned == digest_of("team/filter") == f"team/filter@{COMMIT}"
    assert locate(checkpoint.pinned).directory == hub
    assert digest_of(checkpoint.pinned) == checkpoint.pinned


@pytest.mark.usefixtures("hub")
def test_hub_id_that_cannot_be_fetched() -> None:
    with pytest.raises(ModelError, match="could not be fetched") as caught:
        locate("team/other")
    assert "give its directory" in caught.value.remedy
