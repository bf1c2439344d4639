import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.error import FetchError
from capfilt.stages.ingest.fetch.url import Url


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("HTTP://Example.COM", "http://example.com/"),
        ("http://example.com:80/a?b=c#d", "http://example.com/a?b=c"),
        ("https://example.com.:8443/", "https://example.com:8443/"),
        ("http://example.com/a b/ü.png", "http://example.com/a%20b/%C3%BC.png"),
        ("http://example.com/a%20b", "http://example.com/a%20b"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[2606:4700:0::1111]:81/", "http://[2606:4700::1111]:81/"),
        ("http://\uff11\uff12\uff17.0.0.1/", "http://127.0.0.1/"),
    ],
)
def test_a_url_has_one_spelling(url: str, plain: str) -> None:
    assert Url.parse(url).url == plain
    assert Url.parse(plain).url == plain


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", Reason.BAD_URL),
        ("example.com/a.png", Reason.BAD_URL),
        ("//example.com/a.png", Reason.BAD_URL),
        ("http:///a.png", Reason.BAD_URL),
        ("http://[::1/", Reason.BAD_URL),
        ("http://[fe80::1%25eth0]/", Reason.BAD_URL),
        ("http://a:b/", Reason.BAD_URL),
        ("http://a:0/", Reason.BAD_URL),
        ("http://a:65536/", Reason.BAD_URL),
        ("http://me@example.com/", Reason.BAD_URL),
        ("http://example.com\\@127.0.0.1/", Reason.BAD_URL),
        ("http://127.0.0.1\\.example.com/", Reason.BAD_URL),
        ("http://a%2eb/", Reason.BAD_URL),
        ("http://a b/", Reason.BAD_URL),
        ("http://a/\r\nHost: b", Reason.BAD_URL),
        ("http://" + "a" * 64 + ".com/", Reason.BAD_URL),
        ("javascript:alert(1)", Reason.SCHEME),
        ("DATA:,x", Reason.SCHEME),
        ("file:///etc/passwd", Reason.SCHEME),
    ],
)
def test_what_is_no_url_of_the_web_is_refused(url: str, reason: Reason) -> None:
    with pytest.raises(FetchError) as fetch_error:
        Url.parse(url)
    assert fetch_error.value.reason is reason


@given(
    st.text()
    | st.text().map(lambda text: f"http://a.b/{text}")
    | st.text().map(lambda text: f"http://{text}/")
)
def test_any_text_is_a_target_that_can_be_sent_or_refused(text: str) -> None:
    try:
        target = Url.parse(text)
    except FetchError:
        return
    line = f"GET {target.selector} {target.authority}"
    assert line.isascii()
    assert line.isprintable()
    assert line.count(" ") == 2


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("b.png", "http://a.com/x/b.png"),
        ("//b.com/", "http://b.com/"),
        ("/ü".encode().decode("latin-1"), "http://a.com/ü"),
        ("file:///etc/passwd", "file:///etc/passwd"),
    ],
)
def test_a_location_is_relative_to_its_url(location: str, url: str) -> None:
    assert Url.parse("http://a.com/x/y").join(location) == url
