from capfilt.data_contracts.rejects import MEANING, Reason


def test_every_reason_is_explained_in_words_of_its_own() -> None:
    assert MEANING.keys() == set(Reason)
    assert len(set(MEANING.values())) == len(Reason)
