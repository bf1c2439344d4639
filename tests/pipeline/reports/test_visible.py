from capfilt.pipeline.reports.visible import visible


def test_no_control_character_reaches_a_terminal() -> None:
    assert visible("a\x1b[31m caf\u00e9\n") == "a\ufffd[31m caf\u00e9\ufffd"
    assert visible(0.123456) == "0.1235"
