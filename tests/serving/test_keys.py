"""API keys."""

import hmac

import pytest

from coterie.errors import ConfigError
from coterie.serving.keys import VARIABLE, Keys

FIRST, SECOND = "k" * 16, "another-and-longer-key"


@pytest.fixture
def keys(monkeypatch):
    monkeypatch.setenv(VARIABLE, f" {FIRST} ,{SECOND},")
    return Keys.from_environment()


@pytest.mark.parametrize(
    ("header", "admitted"),
    [
        (f"Bearer {FIRST}", True),
        (f"bearer {SECOND}", True),
        (f"BEARER   {FIRST} ", True),
        (f"Bearer {FIRST}k", False),
        (f"Bearer {FIRST[:-1]}", False),
        (f"Bearer {FIRST},{SECOND}", False),
        (f"Basic {FIRST}", False),
        (FIRST, False),
        ("Bearer", False),
        ("Bearer ", False),
        ("Bearer é\0\xff", False),
        ("", False),
        (None, False),
    ],
)
def test_only_a_whole_key_is_admitted(header, admitted, keys):
    assert keys.admit(None if header is None else header.encode("latin-1")) is admitted


def test_without_the_variable_everyone_is(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    open_ = Keys.from_environment()
    assert not open_
    assert open_.admit(None)
    assert open_.admit(b"whatever")


@pytest.mark.parametrize("text", ["", " , ", "short", f"{FIRST},short"])
def test_keys_that_can_be_guessed_are_refused_and_not_repeated(text, monkeypatch):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ConfigError, match="at least 16") as caught:
        Keys.from_environment()
    assert FIRST not in str(caught.value)


@pytest.mark.parametrize(
    "odd", ["sixteen and a space", "schlüssel-schlüssel", "tab\tin-the-middle-of"]
)
def test_keys_that_no_client_can_send_are_refused_and_not_repeated(odd, monkeypatch):
    monkeypatch.setenv(VARIABLE, f"{FIRST},{odd}")
    with pytest.raises(ConfigError, match="cannot send") as caught:
        Keys.from_environment()
    assert odd not in str(caught.value)


def test_every_key_is_compared_in_constant_time_whichever_fits(keys, monkeypatch):
    compared = []
    real = hmac.compare_digest

    def counting(one, other):
        compared.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr("coterie.serving.keys.hmac.compare_digest", counting)
    for key in (FIRST, SECOND, "nothing"):
        keys.admit(f"Bearer {key}".encode())
    assert compared == [(32, 32)] * 6, "digests, whose length tells nothing of the key's"


def test_no_key_is_kept(keys):
    assert FIRST not in repr(vars(keys))
