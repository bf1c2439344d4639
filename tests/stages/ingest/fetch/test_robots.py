import time

import pytest

from capfilt.stages.ingest.fetch.robots import parse

RFC = """
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot/1.0
Disallow: /example/page.html

User-Agent: quxbot
"""


@pytest.mark.parametrize(
    ("token", "path", "allowed"),
    [
        ("other", "/example/page.html", False),
        ("other", "/a.gif", False),
        ("other", "/a.gif?x", True),
        ("other", "/publications/x", True),
        ("foobot", "/example/page.html", True),
        ("foobot", "/example/allowed.gif", True),
        ("foobot", "/anything", False),
        ("barbot", "/example/page.html", False),
        ("bazbot", "/example/page.html", False),
        ("bazbot", "/a.gif", True),
        ("quxbot", "/example/page.html", True),
    ],
)
def test_the_example_of_the_standard(token: str, path: str, allowed: bool) -> None:
    assert parse(RFC, token).allow(path) is allowed


@pytest.mark.parametrize(
    ("rules", "path", "allowed"),
    [
        ("Disallow: /a\nAllow: /a", "/a", True),
        ("Disallow: /a\nAllow: /ab", "/abc", True),
        ("Disallow: /fish*.php", "/fish/x.php?id", False),
        ("Disallow: /*.php$", "/x.php/y", True),
        ("Disallow: /*.php$", "/x.php/y.php", False),
        ("Disallow: /$", "/", False),
        ("Disallow: /$", "/x", True),
        ("Disallow:", "/x", True),
        ("Disallow: /ü # umlaut", "/%C3%BC", False),
        ("Disallow: /%7Ea", "/~a", False),
        ("nonsense\nDisallow: /x", "/x", False),
    ],
)
def test_rules(rules: str, path: str, allowed: bool) -> None:
    assert parse(f"\ufeffuser-agent: *\r\n{rules}", "capfilt").allow(path) is allowed


def test_groups_of_one_name_are_one() -> None:
    rules = parse(
        "User-agent: a\nDisallow: /x\n\nUser-agent: b\nDisallow: /\nUser-agent: a\nDisallow: /y", "a"
    )
    assert [rules.allow(path) for path in ("/x", "/y", "/z")] == [False, False, True]


def test_a_hostile_pattern_costs_no_time() -> None:
    began = time.monotonic()
    assert parse(f"User-agent: *\nDisallow: /{'*a' * 500}b$", "capfilt").allow("/" + "a" * 5000)
    assert time.monotonic() - began < 1
