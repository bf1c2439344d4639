"""Every kind of damage to every kind of stage, in this process: found before it is used, redone with what read it.

What a resume on Ray does with it is in `test_damage`; here a run is mended in a second, so that each kind has a case.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.data_contracts.errors import CapfiltError
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.build import Plan
from capfilt.pipeline.planning.status import sharded, stage_statuses
from capfilt.pipeline.reports import stages
from capfilt.pipeline.reports.verify import verify
from tests.pipeline.local import plan_of, run, write_data
from tests.scenarios.command import difference, snapshot

pytestmark = pytest.mark.thorough

STAGES = ("list_web", "human", "ingest", "caption", "score", "select", "export")
SHARD = "0000001"

Damage = Callable[[Path], None]


@pytest.fixture
def copy(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "copy"))


# -- what can happen to a file --------------------------------------------------------------------------------


def _change(at: Callable[[int], int]) -> Damage:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at(len(data))] ^= 0b100
        path.write_bytes(data)

    return change


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _swap(path: Path) -> None:
    """With its neighbour: both are whole Parquet files, under each other's names."""
    other = path.with_name(path.name.replace(SHARD, "0000000"))
    mine, others = path.read_bytes(), other.read_bytes()
    path.write_bytes(others)
    other.write_bytes(mine)


def _rewrite(path: Path) -> None:
    """A valid file with the same rows and record, as a tool that "repairs" files would leave it."""
    pq.write_table(pq.read_table(path), path, compression="none")


KINDS: dict[str, Damage] = {
    "truncated": _truncate,
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "first magic": _change(lambda size: 1),
    "last magic": _change(lambda size: size - 2),
    "footer length": _change(lambda size: size - 8),
    "footer": _change(lambda size: size - 200),
    "page": _change(lambda size: size // 4),
    "swapped": _swap,
    "rewritten": _rewrite,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


def dependants(plan: Plan, stage: str) -> list[str]:
    """The stage and whatever reads, shard by shard, what it makes."""
    found = [stage]
    for node in plan:
        if sharded(node) and set(found) & set(node.upstream):
            found.append(node.name)
    return found


def changed(before: dict[str, tuple[int, int, int]], run: Path) -> set[str]:
    return {part.replace(".g1", "") for part, facts in snapshot(run).items() if before.get(part) != facts}


def found(run: Path) -> set[str]:
    return {f"{stage}/{name}" for stage, name, problem in verify(Ledger(run)) if problem}


def bad_shards(kind: str) -> list[str]:
    return ["0000000", SHARD] if kind == "swapped" else [SHARD]


@pytest.mark.parametrize("stage", ["ingest", "score"])
@pytest.mark.parametrize("kind", KINDS)
def test_verify_finds_it_and_a_resume_redoes_it_and_what_read_it(
    copy: Path, clean: Path, checkpoints: dict[str, Path], stage: str, kind: str
):
    folder, plan = copy / "run", plan_of(copy, checkpoints)
    KINDS[kind](folder / stage / f"part-{SHARD}.parquet")
    before = snapshot(folder)
    said = found(folder)
    assert {name.removeprefix(f"{stage}/").removeprefix("shard ") for name in said} == (
        {SHARD} if kind == "missing" else {f"part-{shard}.parquet" for shard in bad_shards(kind)}
    )
    assert changed(before, folder) == set()

    run(plan)
    assert changed(before, folder) == {
        f"{later}/part-{shard}.parquet" for later in dependants(plan, stage) for shard in bad_shards(kind)
    }
    assert difference(folder, clean / "run", STAGES) == ""
    assert found(folder) == set()
    for path in folder.glob("*/part-*.parquet"):  # whoever globs a folder can open all of it
        pq.read_table(path)
    kept = len([*(folder / "_quarantine").glob(f"{stage}-part-*")])
    assert kept == (0 if kind == "missing" else len(bad_shards(kind)))


@pytest.mark.parametrize("kind", ["page", "swapped", "zeros", "rewritten"])
def test_without_verify_it_is_found_by_who_reads_it_before_it_is_used(
    copy: Path, clean: Path, checkpoints: dict[str, Path], kind: str
):
    """The size may be right and nobody has looked: the stage that reads the part compares its digest first."""
    folder = copy / "run"
    KINDS[kind](folder / "ingest" / f"part-{SHARD}.parquet")
    for shard in bad_shards(kind):
        (folder / "caption" / f"part-{shard}.parquet").unlink()
    run(plan_of(copy, checkpoints))
    assert difference(folder, clean / "run", STAGES) == ""
    for shard in bad_shards(kind):
        assert Ledger(folder).index("ingest").generation(shard) == 1
        assert Ledger(folder).index("score").generation(shard) == 1
    assert found(folder) == set()


@pytest.mark.parametrize("stage", ["list_web", "list_human", "human", "evaluate"])
@pytest.mark.parametrize("kind", ["page", "missing"])
def test_listings_human_pairs_and_figures(
    copy: Path, clean: Path, checkpoints: dict[str, Path], stage: str, kind: str
):
    folder, plan = copy / "run", plan_of(copy, checkpoints)
    part = sorted((folder / stage).glob("part-*.parquet"))[0]
    shard = part.stem.removeprefix("part-")
    KINDS[kind](part)
    before = snapshot(folder)
    assert len(found(folder)) == 1
    run(plan)
    assert changed(before, folder) == {
        f"{later}/part-{shard}.parquet"
        for later in dependants(plan, stage)
        if (clean / "run" / later / part.name).exists()
    }
    assert difference(folder, clean / "run", STAGES) == ""
    assert found(folder) == set()


@pytest.mark.parametrize("kind", ["truncated", "page", "missing", "empty"])
def test_all_parts_of_a_stage_at_once(copy: Path, clean: Path, checkpoints: dict[str, Path], kind: str):
    folder, plan = copy / "run", plan_of(copy, checkpoints)
    parts = sorted((folder / "caption").glob("part-*.parquet"))
    for part in parts:
        KINDS[kind](part)
    if kind == "page":
        assert len(found(folder)) == len(parts)
    else:
        shutil.rmtree(folder / "caption" / "_commits")  # and with them what their sizes and digests were
    before = snapshot(folder)
    run(plan)
    assert changed(before, folder) == {
        f"{later}/{part.name}" for later in dependants(plan, "caption") for part in parts
    }
    assert difference(folder, clean / "run", STAGES) == ""
    assert found(folder) == set()


def test_a_page_is_checked_when_the_index_is_gone_as_well(
    copy: Path, clean: Path, checkpoints: dict[str, Path]
):
    """Then no digest tells: the pages' own checksums do, before a digest of the damaged file is noted."""
    folder = copy / "run"
    path = folder / "caption" / f"part-{SHARD}.parquet"
    column = pq.read_metadata(path).row_group(0).column(0)
    _change(lambda _: column.data_page_offset + column.total_compressed_size - 3)(path)
    shutil.rmtree(folder / "caption" / "_commits")
    assert found(folder) == {f"caption/{path.name}"}
    run(plan_of(copy, checkpoints))
    assert difference(folder, clean / "run", STAGES) == ""


def test_a_stage_whose_folder_is_gone(copy: Path, clean: Path, checkpoints: dict[str, Path]):
    folder = copy / "run"
    shutil.rmtree(folder / "score")
    run(plan_of(copy, checkpoints))
    assert difference(folder, clean / "run", STAGES) == ""
    assert found(folder) == set()


@pytest.mark.ci
def test_damage_in_every_stage_at_once(copy: Path, clean: Path, checkpoints: dict[str, Path]):
    folder = copy / "run"
    for stage, kind in zip(STAGES, KINDS, strict=False):
        KINDS[kind](sorted((folder / stage).glob("part-*.parquet"))[0])
    found(folder)
    run(plan_of(copy, checkpoints))
    assert difference(folder, clean / "run", STAGES) == ""
    assert found(folder) == set()


def test_a_part_that_is_damaged_again_and_again_moves_on_by_generations(
    copy: Path, clean: Path, checkpoints: dict[str, Path]
):
    folder = copy / "run"
    for generation in range(3):
        name = Ledger(folder).index("score").part(SHARD).name
        assert name == (f"part-{SHARD}.g{generation}.parquet" if generation else f"part-{SHARD}.parquet")
        _truncate(folder / "score" / name)
        run(plan_of(copy, checkpoints))
    assert difference(folder, clean / "run", STAGES) == ""


def test_plan_says_what_is_damaged_and_changes_nothing(copy: Path, checkpoints: dict[str, Path]):
    folder, plan = copy / "run", plan_of(copy, checkpoints)
    _truncate(folder / "caption" / f"part-{SHARD}.parquet")
    before = snapshot(folder)
    statuses = stage_statuses(plan, Ledger(folder))
    assert list(statuses["caption"].damaged) == [f"part-{SHARD}.parquet"]
    assert statuses["caption"].missing == statuses["score"].missing == (SHARD,)
    assert snapshot(folder) == before


def test_rejects_that_are_gone_or_damaged(copy: Path, checkpoints: dict[str, Path]):
    """They are not data of a later stage, but the story of the rows that left is told from them."""
    folder = copy / "run"
    rejects = sorted((folder / "ingest" / "_rejects").glob("*.parquet"))
    _truncate(rejects[0])
    assert [name for name in found(folder) if name.startswith("ingest/")]
    run(plan_of(copy, checkpoints))
    assert found(folder) == set()
    assert stages.sample(Ledger(folder), "ingest", 5, rejects=True)


# -- models ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path]) -> Path:
    """A run that trains a tokenizer and a captioner for a few steps."""
    folder = tmp_path_factory.mktemp("trained")
    write_data(folder)
    run(training(folder, checkpoints))
    return folder


def training(folder: Path, checkpoints: dict[str, Path]) -> Plan:
    models = {
        "init": "tiny",
        "tokenizer": "wordpiece:200",
        "filter": {"checkpoint": str(checkpoints["filter"])},
        "captioner": {"steps": 3, "batch": 4},
    }
    return plan_of(folder, {}, models=models)


def _flip_weights(model: Path) -> None:
    _change(lambda size: size // 2)(model / "model.safetensors")


@pytest.mark.parametrize(
    "damage",
    [_flip_weights, lambda model: (model / "config.json").unlink(), shutil.rmtree],
    ids=["a bit of its weights", "a file of it gone", "gone"],
)
def test_a_damaged_model_is_quarantined_and_trained_again_with_what_it_wrote(
    trained: Path, tmp_path: Path, checkpoints: dict[str, Path], damage: Damage
):
    folder = Path(shutil.copytree(trained, tmp_path / "copy")) / "run"
    plan = training(folder.parent, checkpoints)
    before = snapshot(folder)
    damage(folder / "models" / "captioner")
    (problem,) = found(folder)
    assert problem.startswith("captioner/")
    run(plan)
    assert found(folder) == set()
    stages = {part.partition("/")[0] for part in changed(before, folder)}
    assert stages >= {"captioner", "caption", "score", "select", "export"}
    assert not stages & {"tokenizer", "ingest", "human", "list_web"}
    assert difference(folder, trained / "run", ("ingest", "caption", "score", "select")) == ""


@pytest.mark.ci
def test_a_damaged_model_is_found_by_the_worker_that_wants_to_open_it(
    trained: Path, tmp_path: Path, checkpoints: dict[str, Path]
):
    folder = Path(shutil.copytree(trained, tmp_path / "copy")) / "run"
    _flip_weights(folder / "models" / "captioner")
    (folder / "caption" / f"part-{SHARD}.parquet").unlink()
    run(training(folder.parent, checkpoints))
    assert Ledger(folder).index("captioner").generation("0000000") == 1
    assert found(folder) == set()
    assert difference(folder, trained / "run", ("ingest", "caption", "score", "select")) == ""


# -- the run itself -------------------------------------------------------------------------------------------


def test_a_run_record_that_is_cut_stops_the_run_and_names_the_file(copy: Path, checkpoints: dict[str, Path]):
    _truncate(copy / "run" / "run.json")
    with pytest.raises(CapfiltError, match=r"run\.json cannot be read"):
        run(plan_of(copy, checkpoints))


def test_a_quarantined_part_that_is_damaged_does_not_bring_its_name_back(
    copy: Path, clean: Path, checkpoints: dict[str, Path]
):
    folder = copy / "run"
    path = folder / "score" / f"part-{SHARD}.parquet"
    _truncate(path)
    run(plan_of(copy, checkpoints))
    path.unlink()
    run(plan_of(copy, checkpoints))
    assert Ledger(folder).index("score").part(SHARD).name == f"part-{SHARD}.g1.parquet"
    assert difference(folder, clean / "run", STAGES) == ""


def test_a_whole_file_of_another_run_is_not_taken_for_ours(
    copy: Path, clean: Path, checkpoints: dict[str, Path]
):
    """Same shard, same columns and inputs, its own sound record: the fingerprint tells it from this run's."""
    folder = copy / "run"
    fork = plan_of(copy, checkpoints, name="other", select={"threshold": 0.5, "rule": "best"})
    run(fork, parent=Ledger(folder))
    name = f"part-{SHARD}.parquet"
    (folder / "select" / name).write_bytes((copy / "other" / "select" / name).read_bytes())
    shutil.rmtree(folder / "select" / "_commits")
    run(plan_of(copy, checkpoints))
    assert difference(folder, clean / "run", STAGES) == ""


def test_the_columns_of_every_stage_stay_the_same(copy: Path, checkpoints: dict[str, Path]):
    """A quarantined part has the contract's columns: a folder with one still opens as one dataset."""
    folder = copy / "run"
    for stage in STAGES[2:]:
        _truncate(folder / stage / f"part-{SHARD}.parquet")
    run(plan_of(copy, checkpoints))
    for stage in STAGES[2:]:
        schemas = {
            str(pq.read_schema(path).remove_metadata()) for path in (folder / stage).glob("part-*.parquet")
        }
        assert len(schemas) == 1
        assert pa.concat_tables(pq.read_table(p) for p in (folder / stage).glob("part-*.parquet")).num_rows
