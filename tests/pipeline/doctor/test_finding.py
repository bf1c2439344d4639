"""A check that hangs or breaks is a finding, and what it found before stays."""

import threading
import time
from collections.abc import Iterator

from capfilt.data_contracts.errors import StorageError
from capfilt.pipeline.doctor.finding import Finding, bounded

GOOD = Finding("first", "ok", "found")


def test_a_check_that_hangs_is_told_in_time_with_what_it_had_found():
    release = threading.Event()

    def check() -> Iterator[Finding]:
        yield GOOD
        release.wait(60)

    began = time.monotonic()
    first, late = bounded("slow", check, 0.5, "warn")
    release.set()
    assert time.monotonic() - began < 30
    assert first == GOOD
    assert (late.name, late.verdict, late.found) == ("slow", "warn", "no answer within 0.5 s")


def test_an_error_of_capfilts_own_keeps_its_evidence_and_remedy():
    def check() -> Iterator[Finding]:
        yield GOOD
        raise StorageError(what="it fails", evidence="no disk", remedy="mount it", run="x")

    assert [*bounded("disk", check, 30)] == [
        GOOD,
        Finding("disk", "fail", "it fails: no disk", "mount it", "it fails"),
    ]


def test_any_other_error_is_a_failure_that_says_where():
    def check() -> Iterator[Finding]:
        yield GOOD
        raise RuntimeError("of a library\nand more")

    first, broken = bounded("odd", check, 30)
    assert first == GOOD
    assert broken.verdict == "fail"
    assert broken.found.startswith("RuntimeError: of a library (test_finding.py line ")
    assert broken.remedy
