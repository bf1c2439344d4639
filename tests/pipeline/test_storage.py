"""The same promises of a local folder and of an object store, and what each says when it fails."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from capfilt.data_contracts.errors import RecipeError, StorageError
from capfilt.pipeline.storage import Bucket, Folder, Storage, patience, storage_at
from tests.store import BUCKET, Store, Trouble, in_environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a store keeps on the machine goes to the test's own folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture(params=["folder", "bucket"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return storage_at(tmp_path / "runs/run")
    request.getfixturevalue("store")
    return storage_at(f"s3://{BUCKET}/{uuid.uuid4().hex}/run")


@pytest.fixture
def bucket(store: Store) -> Storage:
    return storage_at(f"s3://{BUCKET}/{uuid.uuid4().hex}/run")


def create(where: Storage, name: str, data: bytes) -> bool:
    with where.scratch() as folder:
        (folder / "file").write_bytes(data)
        return where.create(name, folder / "file")


def names(where: Storage, folder: str) -> list[str]:
    return sorted(entry.name for entry in where.entries(folder))


# -- put-if-absent ------------------------------------------------------------------------------------------


def test_the_first_writer_wins_and_the_second_changes_nothing(where: Storage):
    assert create(where, "score/part", b"first")
    assert not create(where, "score/part", b"second")
    assert not where.claim("score/part", b"third")
    assert where.read("score/part") == b"first"


def test_one_of_eight_threads_wins(where: Storage):
    for name in ("a", "b", "c"):
        start = threading.Barrier(8)

        def race(number: int, name: str = name, start: threading.Barrier = start) -> bool:
            start.wait()
            return create(where, f"score/{name}", b"%d" % number)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(race, range(8)))
        assert won.count(True) == 1
        assert where.read(f"score/{name}") == b"%d" % won.index(True)
    assert names(where, "score") == ["a", "b", "c"]


RACER = """
import sys
from capfilt.pipeline.storage import storage_at
where = storage_at(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print("".join("1" if where.claim(f"race/{n}", sys.argv[2].encode()) else "0" for n in range(20)), flush=True)
"""


def test_of_three_processes_one_wins_each_name(where: Storage):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, where.url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for number in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    for name in range(20):
        winner = [number for number in range(3) if won[number][name] == "1"]
        assert winner == [int(where.read(f"race/{name}"))]


def test_no_file_is_seen_before_it_is_whole(where: Storage):
    """While large files come to be, whoever lists the folder sees none or the whole."""
    size, seen, stop = 3_000_000, set(), threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.update(entry.size for entry in where.entries("score"))

    watcher = threading.Thread(target=look)
    watcher.start()
    for name in ("a", "b", "c"):
        create(where, f"score/{name}", b"x" * size)
        where.replace(f"score/{name}", b"y" * size)
    stop.set()
    watcher.join()
    assert seen <= {size}
    assert [entry.size for entry in where.entries("score")] == [size] * 3


# -- the other verbs ----------------------------------------------------------------------------------------


def test_what_is_not_there(where: Storage):
    with pytest.raises(FileNotFoundError):
        where.read("score/none")
    assert where.size("score/none") is None
    assert (names(where, "score"), where.tree("score")) == ([], [])
    where.remove("score/none")


def test_replace_and_remove(where: Storage):
    for data in (b"one", b"two!", b""):
        where.replace("score/file", data)
        assert (where.read("score/file"), where.size("score/file")) == (data, len(data))
    where.remove("score/file")
    assert where.size("score/file") is None
    assert create(where, "score/file", b"again")


def test_entries_are_the_direct_files_of_a_folder(where: Storage):
    for name in ("score/part-1", "score/_rejects/part-1", "score/deep/er/x", "scores/y", "score.json"):
        where.replace(name, b"12345")
    assert sorted(where.entries("score")) == [("part-1", 5)]
    assert names(where, "score/_rejects") == ["part-1"]
    assert names(where, "") == ["score.json"]
    assert where.tree("score") == ["_rejects/part-1", "deep/er/x", "part-1"]


def test_a_scratch_folder_is_private_and_leaves_nothing(where: Storage, tmp_path: Path):
    with where.scratch() as one, where.scratch() as other:
        assert one != other
        (one / "half").write_bytes(b"written")
        assert names(where, "") == []
    with pytest.raises(FileNotFoundError), where.scratch() as folder:
        shutil.copy(folder / "missing", folder / "half")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_trees_are_published_moved_and_fetched(where: Storage, tmp_path: Path):
    for content in ("one", "two"):
        with where.scratch() as folder:
            (folder / "model/sub").mkdir(parents=True)
            (folder / "model/config.json").write_text(content)
            (folder / "model/sub/weights").write_text(content)
            where.put_tree(folder / "model", "models/filter")
    assert where.tree("models/filter") == ["config.json", "sub/weights"]
    for _ in range(2):
        local = where.local_tree("models/filter", "digest")
        assert {path.name: path.read_text() for path in local.rglob("*") if path.is_file()} == {
            "config.json": "one",
            "weights": "one",
        }
    where.move_tree("models/filter", "_quarantine/models/filter-1")
    assert where.tree("models/filter") == []
    assert where.tree("_quarantine/models/filter-1") == ["config.json", "sub/weights"]


def test_a_fetched_tree_that_lost_a_file_is_fetched_again(bucket: Storage):
    for name in ("a", "b"):
        bucket.replace(f"models/filter/{name}", b"x")
    (bucket.local_tree("models/filter", "digest") / "a").unlink()
    assert (bucket.local_tree("models/filter", "digest") / "a").read_bytes() == b"x"


@pytest.mark.parametrize("machine", ["this", "another"])
def test_what_was_kept_outlives_an_attempt(
    where: Storage, machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = where.lasting("captioner-1")
    (folder / "state").write_bytes(b"step 200")
    (folder / "deep").mkdir()
    (folder / "deep/curve").write_bytes(b"200 lines")
    where.keep("captioner-1")
    (tmp_path / "another").mkdir()
    if machine == "another":
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "another"))
    after = storage_at(where.url).lasting("captioner-1")
    assert {path.name: path.read_bytes() for path in after.rglob("*") if path.is_file()} == {
        "state": b"step 200",
        "curve": b"200 lines",
    }
    where.forget("captioner-1")
    assert not [*where.lasting("captioner-1").iterdir()]
    where.sweep()
    assert where.tree("") == []


def test_a_machine_that_fell_behind_takes_over_what_another_one_kept(
    bucket: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Half of its own state and half of the other's would be a curve that does not belong to the weights."""
    (bucket.lasting("filter-1") / "curve").write_bytes(b"50 lines")
    (tmp_path / "another").mkdir()
    with monkeypatch.context() as there:
        there.setattr("tempfile.tempdir", str(tmp_path / "another"))
        folder = bucket.lasting("filter-1")
        (folder / "curve").write_bytes(b"200 lines")
        (folder / "state").write_bytes(b"step 200")
        bucket.keep("filter-1")
    folder = bucket.lasting("filter-1")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "curve": b"200 lines",
        "state": b"step 200",
    }


def test_sweeping_leaves_what_is_committed(where: Storage):
    where.replace("score/part", b"1")
    (where.lasting("filter-1") / "state").write_bytes(b"old")
    where.keep("filter-1")
    where.sweep()
    assert where.tree("") == ["score/part"]


def test_relatives_find_each_other(where: Storage):
    parent = where.at("../parent")
    assert where.relative(parent) == "../parent"
    assert storage_at(where.relative(parent), where).url == parent.url
    assert (parent.name, where.name, str(where)) == ("parent", "run", where.url)
    parent.replace("x", b"1")
    assert where.at("../parent").read("x") == b"1"
    assert where.at("..").at("run").url == where.url


def test_strangers_are_named_whole(tmp_path: Path):
    folder, one, other = Folder(tmp_path / "run"), Bucket("s3://one/run"), Bucket("gs://other/run")
    for here in (folder, one, other):
        for there in (folder, one, other):
            assert storage_at(here.relative(there), here).url == there.url


@pytest.mark.parametrize(
    ("url", "relative", "expected"),
    [
        ("s3://bucket", "run", "s3://bucket/run"),
        ("s3://bucket/", "run", "s3://bucket/run"),
        ("s3://bucket/run/", "..", "s3://bucket"),
        ("s3://bucket/runs/run", "../../other/run", "s3://bucket/other/run"),
    ],
)
def test_paths_at_the_root_of_a_bucket(url: str, relative: str, expected: str):
    assert storage_at(url).at(relative).url == expected


def test_a_storage_travels_to_another_process(where: Storage):
    where.replace("x", b"1")
    copy = pickle.loads(pickle.dumps(where))
    assert (copy.url, copy.read("x")) == (where.url, b"1")


def test_a_file_url_is_a_folder(tmp_path: Path):
    assert storage_at(f"file://{tmp_path}").url == str(tmp_path)


@pytest.mark.parametrize("url", ["ftp://host/runs", "https://host/runs", "s4://bucket/runs", "://x"])
def test_an_unknown_kind_of_url_is_refused(url: str):
    with pytest.raises(RecipeError, match="runs cannot be stored") as caught:
        storage_at(url)
    assert "s3" in caught.value.remedy


# -- when it fails: an object store -------------------------------------------------------------------------

PATIENCE = 0.7


@pytest.fixture
def troubled(store_server: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store behind its proxy, and a patience long enough for what passes."""
    monkeypatch.setattr(patience, "SECONDS", 10.0)
    with in_environment(store_server, through_proxy=True):
        yield store_server


def fresh() -> Storage:
    return storage_at(f"s3://{BUCKET}/{uuid.uuid4().hex}/run")


OPERATIONS: dict[str, Callable[[Storage], Any]] = {
    "read": lambda where: where.read("x"),
    "size": lambda where: where.size("x"),
    "entries": lambda where: names(where, "score"),
    "create": lambda where: create(where, "score/new", b"1"),
    "replace": lambda where: where.replace("x", b"2"),
    "remove": lambda where: where.remove("x"),
    "tree": lambda where: where.tree("score"),
}


def failing(
    where: Storage, operation: str, seconds: float = PATIENCE, limit: float = 3 * PATIENCE
) -> StorageError:
    """How it fails with a patience of so many seconds, within ``limit``."""
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patience, "SECONDS", seconds)
        with pytest.raises(StorageError) as caught:
            OPERATIONS[operation](where)
    assert time.monotonic() - began < limit
    assert where.url in caught.value.what
    assert caught.value.evidence
    assert f"capfilt resume {where.url}" in str(caught.value)
    return caught.value


@pytest.mark.parametrize("operation", ["read", "entries", "create", "replace", "tree"])
def test_a_bucket_that_is_not_there(store: Store, operation: str):
    error = failing(storage_at("s3://nowhere/run"), operation, seconds=60, limit=1.0)
    assert "bucket" in error.evidence.lower()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_wrong_credentials_are_said_at_once(troubled: Store, operation: str):
    with troubled.trouble(*(Trouble(method, 403) for method in ("GET", "HEAD", "PUT", "POST", "DELETE"))):
        error = failing(fresh(), operation, seconds=60, limit=1.0)
    assert "403" in error.evidence or "permission" in error.evidence.lower()
    assert "credentials" in error.remedy


@pytest.mark.parametrize("operation", ["read", "create"])
def test_no_server_at_all(operation: str, troubled: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    failing(fresh(), operation)


@pytest.mark.parametrize("status", [500, 503, 0])
def test_trouble_that_passes_is_not_noticed(troubled: Store, status: int):
    where = fresh()
    where.replace("x", b"1")
    where.replace("score/part", b"1")
    for method, operations in {
        "GET": ("read", "entries", "tree"),
        "HEAD": ("size",),
        "PUT": ("create", "replace"),
        "POST": ("remove",),
    }.items():
        for operation in operations:
            with troubled.trouble(Trouble(method, status, times=2)) as (trouble,):
                OPERATIONS[operation](where)
            assert trouble.met == 2, operation
    assert where.tree("") == ["score/new", "score/part"]


@pytest.mark.parametrize("status", [500, 503, 0])
def test_a_put_that_was_carried_out_before_its_answer_was_lost_has_won(troubled: Store, status: int):
    """The retried request meets its own object: to take that for another writer's would lose the winner."""
    where = fresh()
    with troubled.trouble(Trouble("PUT", status, times=2, after=True)) as (trouble,):
        assert create(where, "score/part", b"mine")
    assert trouble.met >= 1
    assert where.read("score/part") == b"mine"
    with troubled.trouble(Trouble("PUT", status, times=1, after=True)):
        assert not create(where, "score/part", b"another's")
    assert where.read("score/part") == b"mine"


@pytest.mark.parametrize("operation", ["read", "size", "entries", "create", "remove"])
@pytest.mark.parametrize("status", [503, 0])
def test_a_store_that_stays_broken(troubled: Store, operation: str, status: int):
    url = fresh().url
    storage_at(url).replace("score/part", b"1")
    with troubled.trouble(*(Trouble(method, status) for method in ("GET", "HEAD", "PUT", "POST", "DELETE"))):
        failing(storage_at(url), operation)
    assert storage_at(url).tree("") == ["score/part"]


def test_a_name_that_is_given_back_during_the_claim_can_be_had(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch
):
    """As the lease's when its holder ends: taken when asked for, gone when looked at."""
    bucket.replace("_lease.json", b"other's")
    read = Bucket.read

    def gone(self: Bucket, name: str) -> bytes:
        self.remove(name)
        return read(self, name)

    monkeypatch.setattr(Bucket, "read", gone)
    assert bucket.claim("_lease.json", b"mine")


# -- when it fails: a disk ----------------------------------------------------------------------------------


def failing_first(monkeypatch: pytest.MonkeyPatch, name: str, times: float, number: int) -> list[int]:
    """Let a function of `os` fail its first calls; the list has an entry for each failure."""
    real, met = getattr(os, name), []

    def fails(*args: Any, **kwargs: Any) -> Any:
        if len(met) < times:
            met.append(1)
            raise OSError(number, os.strerror(number), str(args[0]))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, fails)
    return met


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(patience, "SECONDS", 10.0)
    folder = Folder(tmp_path / "run")
    folder.replace("x", b"1")
    folder.replace("score/part", b"1")
    return folder


@pytest.mark.parametrize(
    ("operation", "function"),
    [("create", "link"), ("create", "fsync"), ("replace", "fsync"), ("entries", "scandir")],
)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.ESTALE])
def test_errors_of_the_disk_that_pass_are_not_noticed(
    disk: Folder, operation: str, function: str, number: int, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        met = failing_first(patch, function, 2, number)
        assert OPERATIONS[operation](disk) is not False
    assert len(met) == 2
    assert names(disk, "score") == (["new", "part"] if operation == "create" else ["part"])


@pytest.mark.parametrize(
    ("function", "number", "remedy"),
    [
        ("link", errno.EIO, "check the disk"),
        ("fsync", errno.ENOSPC, "make room"),
        ("mkdir", errno.EDQUOT, "quota"),
        ("link", errno.EROFS, "mount it for writing"),
        ("link", errno.EACCES, "give this user the right"),
    ],
)
def test_errors_of_the_disk_that_stay(
    disk: Folder, function: str, number: int, remedy: str, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        met = failing_first(patch, function, float("inf"), number)
        error = failing(disk, "create")
    assert remedy in error.remedy
    assert os.strerror(number) in error.evidence
    assert (len(met) > 1) == (number in (errno.EIO, errno.ENOSPC, errno.EDQUOT))
    assert disk.tree("score") == ["part"]
    assert create(disk, "score/new", b"1")


def test_an_error_after_the_link_is_no_other_writer(disk: Folder, monkeypatch: pytest.MonkeyPatch):
    """The link is made, the folder's own flush fails: what the second try finds there is ours."""
    real, met = os.fsync, []

    def fails_on_folders(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}") and not met:
            met.append(1)
            raise OSError(errno.EIO, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", fails_on_folders)
    assert create(disk, "score/new", b"mine")
    assert met


def test_a_file_that_goes_during_a_listing_does_not_hide_the_others(
    disk: Folder, monkeypatch: pytest.MonkeyPatch
):
    (disk.path / "score/going").write_bytes(b"1")
    real = os.scandir

    class Scan:
        def __init__(self, path: Any) -> None:
            self.scan = real(path)

        def __enter__(self) -> Iterator[Any]:
            for entry in self.scan.__enter__():
                if entry.name == "going":
                    os.unlink(entry.path)
                yield entry

        def __exit__(self, *_: object) -> None:
            self.scan.close()

    monkeypatch.setattr(os, "scandir", Scan)
    assert names(disk, "score") == ["part"]


def test_a_full_disk_and_a_read_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk: Path):
    monkeypatch.setattr(patience, "SECONDS", 0.5)
    where = Folder(small_disk / "run")
    where.replace("score/part", b"1" * 1000)
    (small_disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 4096))
    with pytest.raises(StorageError, match="storage of the run fails") as caught:
        where.claim("score/new", b"x" * 100_000)
    assert "make room on the disk" in caught.value.remedy
    assert where.tree("") == ["score/part"]
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageError) as caught:
        where.claim("score/new", b"x")
    assert "mount it for writing" in caught.value.remedy
    assert where.read("score/part") == b"1" * 1000
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert where.claim("score/new", b"x")


def test_a_folder_that_cannot_be_made_is_said_with_a_remedy() -> None:
    for write in (lambda folder: folder.replace("a", b""), lambda folder: folder.claim("a", b"")):
        with pytest.raises(StorageError, match="the output cannot be made: /proc/nope") as caught:
            write(Folder(Path("/proc/nope")))
        assert "may write to" in caught.value.remedy
