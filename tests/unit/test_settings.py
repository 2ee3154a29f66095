"""What the provider can do, and how long heartbeats are kept, as the settings say it."""

import re
from pathlib import Path
from typing import Any

import pytest

from app.settings import MIN_RETENTION_DAYS, BadSettings, Capability, load_settings, settings_of

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


RETENTION = "TALKTIME_TICK_RETENTION_DAYS"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tick_retention_days": 6}, "Input should be greater than or equal to 7"),
        ({"tick_retention_days": "7.5"}, "Input should be a valid integer"),
        (
            {"tick_retention_days": 7, "rerate_window_s": 5 * 86_400 + 1},
            "must be at least 8, because heartbeats are needed for as long as TALKTIME_EVIDENCE_WAIT_S, ",
        ),
        ({"review_after_s": 90 * 86_400}, "must be at least 94, because"),
    ],
)
def test_heartbeats_are_kept_for_as_long_as_they_may_be_needed(given: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSettings) as refused:
        load_settings(**given)
    assert str(refused.value).startswith(f"{RETENTION}: {says}")


def test_what_is_just_long_enough_is_taken() -> None:
    assert load_settings(tick_retention_days=7, rerate_window_s=5 * 86_400).tick_retention_days == 7
    assert load_settings().tick_retention_days == 90


def test_the_database_keeps_what_the_setting_cannot_go_below() -> None:
    migration = Path(__file__).parents[2] / "migrations" / "versions" / "0003_retention.py"
    ages = re.findall(r"clock_timestamp\(\) - interval '(\d+) days'", migration.read_text(encoding="utf-8"))
    assert ages == [str(MIN_RETENTION_DAYS)] * 2


CORS = "TALKTIME_CORS_ORIGINS"


def test_origins_are_taken_as_browsers_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CORS, " https://app.example , http://localhost:3000,http://[::1]:8080")
    assert load_settings().cors_origins == ("https://app.example", "http://localhost:3000", "http://[::1]:8080")
    monkeypatch.setenv(CORS, "")
    assert load_settings().cors_origins == ()


@pytest.mark.parametrize(
    "given",
    [
        "*", "null", "app.example", "https://app.example/", "https://app.example/path", "https://*.example", "ftp://x",
        "HTTPS://app.example", "https://App.example", "https://app.example:443", "http://app.example:80", "https://",
        "https://app.example:99999", "https://user@app.example", "https://app.example?x", "https://app.example#x",
        "https://ok.example,*", "https://\u00fc.example", "https://app.example:", "https://a b",
    ],
)  # fmt: skip
def test_what_no_browser_sends_as_an_origin_stops_the_start(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CORS, given)
    with pytest.raises(BadSettings) as refused:
        load_settings()
    assert str(refused.value).startswith(f"{CORS}: each must be an origin as browsers send it")


PROXIES = "TALKTIME_TRUSTED_PROXIES"


def test_proxies_are_addresses_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROXIES, "127.0.0.1, 10.0.0.0/8,fd00::/8,::ffff:10.0.0.1,::ffff:10.1.0.0/112")
    taken = ["127.0.0.1/32", "10.0.0.0/8", "fd00::/8", "10.0.0.1/32", "10.1.0.0/16"]
    assert [str(one) for one in load_settings().trusted_proxies] == taken
    monkeypatch.setenv(PROXIES, "")
    assert load_settings().trusted_proxies == ()


@pytest.mark.parametrize("given", ["proxy.example", "*", "10.0.0.1/8", "10.0.0.0/33", "1.2.3", "127.0.0.1:80"])
def test_what_is_no_address_of_a_proxy_stops_the_start(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROXIES, f"127.0.0.1,{given}")
    with pytest.raises(BadSettings, match=PROXIES):
        load_settings()


def test_what_is_given_alone_is_not_mixed_with_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("TALKTIME_GOODWILL_DAYS=3\n")
    monkeypatch.setenv(NAME, "end")
    monkeypatch.setenv("TALKTIME_PUBLIC_URL", "https://elsewhere.example")
    made = settings_of(public_url="http://127.0.0.1:1/")
    assert (made.public_url, made.gabber_capabilities, made.goodwill_days) == ("http://127.0.0.1:1", (), 30)
    assert (load_settings().goodwill_days, load_settings().gabber_capabilities) == (3, (Capability.END,))


RATES = "TALKTIME_STRIPE_CREDITS_PER_MINOR_UNIT"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("", ()),
        ("usd=0.1", (("usd", 100_000),)),
        (" USD = 0.000001 , jpy=12,", (("usd", 1), ("jpy", 12_000_000))),
    ],
)
def test_rates_are_credits_for_the_smallest_unit(
    given: str, read: tuple[tuple[str, int], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RATES, given)
    assert load_settings().stripe_credits_per_minor_unit == read


@pytest.mark.parametrize(
    "given", ["usd", "usd=", "usd=0", "usd=-1", "usd=0.0000001", "usd=1,usd=2", "dollar=1", "usd:1", "=1", "us1=1"]
)
def test_what_is_no_rate_stops_the_start(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RATES, given)
    with pytest.raises(BadSettings, match=RATES):
        load_settings()


def test_a_short_secret_of_stripe_stops_the_start() -> None:
    with pytest.raises(BadSettings, match="TALKTIME_STRIPE_WEBHOOK_SECRETS: each secret must have at least"):
        load_settings(stripe_webhook_secrets="whsec_short")
