"""What the provider can do, as the settings say it."""

import pytest

from app.settings import BadSettings, Capability, load_settings

NAME = "TALKTIME_GABBER_CAPABILITIES"


@pytest.mark.parametrize(
    ("given", "read"), [("", ()), (" , ", ()), ("end", (Capability.END,)), (" end ,", (Capability.END,))]
)
def test_capabilities_are_names_separated_by_commas(
    given: str, read: tuple[Capability, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, given)
    assert load_settings().gabber_capabilities == read


def test_the_provider_can_do_nothing_that_nobody_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert load_settings().gabber_capabilities == ()


@pytest.mark.parametrize("given", ["END", "end,fly", "end;fly", "true", "1"])
def test_another_name_stops_the_start(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, given)
    with pytest.raises(BadSettings) as refused:
        load_settings()
    assert str(refused.value) == f"{NAME}: Input should be 'end'"
