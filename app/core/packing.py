"""Heartbeats in little space: the instants in order, each as its distance from the one before, in base 128."""

from collections.abc import Iterable

from app.core.units import Instant


def pack_instants(instants: Iterable[Instant]) -> bytes:
    """Pack instants (≥ 0); order is lost, duplicates stay."""
    packed = bytearray()
    before = 0
    for instant in sorted(instants):
        distance = instant - before
        before = instant
        while distance >= 0x80:
            packed.append(distance & 0x7F | 0x80)
            distance >>= 7
        packed.append(distance)
    return bytes(packed)


def unpack_instants(packed: bytes) -> list[Instant]:
    """What :func:`pack_instants` packed, in order."""
    instants: list[Instant] = []
    before = distance = shift = 0
    for byte in packed:
        distance |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            before += distance
            instants.append(Instant(before))
            distance = shift = 0
    return instants
