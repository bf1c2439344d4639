import pytest

from capfilt.pipeline.execution.events import Event, Listener, Listeners, Message


class _Ear(Listener):
    def __init__(self, deaf: bool = False) -> None:
        self.heard: list[Event] = []
        self._deaf = deaf

    def hear(self, event: Event) -> None:
        self.heard.append(event)
        if self._deaf:
            raise OSError("no ear")


def test_a_listener_that_fails_harms_nobody_and_is_told_nothing_more() -> None:
    deaf, good = _Ear(deaf=True), _Ear()
    listeners = Listeners(deaf, good)
    with listeners:
        listeners.hear(Message("one"))
        listeners.hear(Message("two"))
    assert len(deaf.heard) == 1
    texts = [event.text for event in good.heard if isinstance(event, Message)]
    assert texts == ["one", "_Ear is off: OSError('no ear')", "two"]


def test_several_that_fail_at_once_harm_nobody() -> None:
    good = _Ear()
    listeners = Listeners(_Ear(deaf=True), good, _Ear(deaf=True))
    with listeners:
        listeners.hear(Message("one"))
    assert len(good.heard) == 3


def test_a_stop_is_no_failure_of_a_listener() -> None:
    class Stopped(Listener):
        def hear(self, event: Event) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Listeners(Stopped()).hear(Message("one"))
