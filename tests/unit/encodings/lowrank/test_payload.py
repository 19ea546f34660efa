"""Payloads of ``lowrank``: their size, and that hostile ones do no harm."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest

from gittheta.api import Finding, PayloadError, TensorSpec
from gittheta.encodings.lowrank.factors import Product, WeightChange
from gittheta.encodings.lowrank.predictor import LowRank, describe
from tests.support.lowrank import CHANGES, HeldReader, bfloats, factors, folded, spec_of, weights

# Bytes


@pytest.mark.parametrize(("kind", "most"), [("bf16", 2.0), (np.float16, 2.0), (np.float32, 4.0), (np.float64, 8.0)])
def test_a_given_adapter_costs_about_its_own_bytes(kind: npt.DTypeLike, most: float) -> None:
    rng = np.random.default_rng(8)
    product = factors(rng, (512, 16), (16, 512), dtype=np.float32 if kind == "bf16" else kind)
    if kind == "bf16":
        product = bfloats(product)
    finding = describe(WeightChange(product), spec_of("f32", 512, 512))
    assert len(finding.payload) <= 1.05 * most * 2 * 16 * 512


def test_changes_that_do_not_fit_are_refused() -> None:
    rng = np.random.default_rng(9)
    good = factors(rng, (8, 2), (2, 6))
    spec = spec_of("f32", 8, 6)
    describe(WeightChange(good), spec)
    infinite = good.left.copy()
    infinite[3, 1] = np.inf
    refused: list[tuple[WeightChange, TensorSpec]] = [
        (WeightChange(good), spec_of("f32", 6, 8)),
        (WeightChange(good), spec_of("i32", 8, 6)),
        (WeightChange(good), spec_of("f32", 48)),
        (WeightChange(good), spec_of("f32", 8, 0)),
        (WeightChange(Product(good.left, good.left)), spec),
        (WeightChange(Product(good.left[0], good.right)), spec),
        (WeightChange(Product(good.left[:, :0], np.zeros((0, 6), np.float32))), spec),
        (WeightChange(Product(infinite, good.right)), spec),
        (WeightChange(good, scaling=float("nan")), spec),
        (WeightChange(good, good), spec),
        (WeightChange(good, combination="hadamard"), spec),
        (WeightChange(good, factors(rng, (8, 2), (2, 5)), "hadamard"), spec),
        (WeightChange(good, factors(rng, (2, 2)), "kronecker"), spec),
        (WeightChange(good, gain=np.ones(6, np.float32)), spec),
        (WeightChange(good, gain=np.ones(8, np.float32), gain_axis=1), spec),
        (WeightChange(good, gain=np.full(8, np.nan, np.float32)), spec),
        (WeightChange(Product(np.ones((8, 4000), np.float32), np.ones((4000, 6), np.float32))), spec),
    ]
    for change, its_spec in refused:
        with pytest.raises(PayloadError):
            describe(change, its_spec)


# Hostile input


def check_hostile(payload: bytes, spec: TensorSpec, parameters: dict[str, str]) -> bool:
    """Opened and read, or refused with PayloadError; in bounded memory. Says whether it was refused."""
    base = HeldReader(spec, memoryview(bytes(spec.nbytes)))
    tracemalloc.start()
    try:
        prediction = LowRank().open(memoryview(payload), spec, parameters)
        assert len(prediction.read(0, spec.nbytes, base)) == spec.nbytes
        return False
    except PayloadError:
        return True
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 * spec.nbytes + (4 << 20), peak


def _samples() -> list[tuple[Finding, TensorSpec]]:
    rng = np.random.default_rng(10)
    samples = []
    for name in CHANGES:
        change, shape = CHANGES[name](rng)
        samples.append((describe(change, spec_of("bf16", *shape)), spec_of("bf16", *shape)))
    base = weights(rng, 64, 96)
    finding = LowRank().find(folded(base, 2, 5e-4), base)
    assert finding is not None
    samples.append((finding, base.spec))
    return samples


def test_payloads_that_are_cut_or_too_long_are_refused() -> None:
    for finding, spec in _samples():
        parameters = dict(finding.parameters)
        assert not check_hostile(finding.payload, spec, parameters)
        for size in range(0, len(finding.payload), 7):
            assert check_hostile(finding.payload[:size], spec, parameters), size
        assert check_hostile(finding.payload + b"\0", spec, parameters)
        assert check_hostile(finding.payload * 2, spec, parameters)


def test_damaged_payloads_do_no_harm() -> None:
    for finding, spec in _samples():
        for at in (*range(min(60, len(finding.payload))), *range(60, len(finding.payload), 97)):
            for change in (b"\1", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0"):
                damaged = bytearray(finding.payload)
                for offset, bits in enumerate(change[: len(damaged) - at]):
                    damaged[at + offset] = bits if len(change) > 1 else damaged[at + offset] ^ bits
                check_hostile(bytes(damaged), spec, dict(finding.parameters))


def _payload(
    kinds: tuple[int, int] = (1, 1),
    exponent: int = 0,
    extra: int = 0,
    shape: tuple[int, int, int] = (4, 4, 1),
    shifts: tuple[int, ...] = (0,),
    planes: tuple[bytes, ...] = (bytes(4), bytes(4), bytes(4), bytes(4)),
    head: tuple[int, int, float] = (0, 0, 1.0),
) -> bytes:
    parts = [struct.pack("<BBd", *head), struct.pack("<BBhB3I", *kinds, exponent, extra, *shape)]
    parts += [struct.pack(f"<{len(shifts)}h", *shifts), struct.pack(f"<{len(planes)}I", *map(len, planes)), *planes]
    return b"".join(parts)


_WHOLE = {"kinds": (48, 48), "shifts": (), "planes": (b"\x7f" * 4, *[b"\xff" * 4] * 3) * 2}
HOSTILE = {
    "an unknown combination": _payload(head=(3, 0, 1.0)),
    "an unknown gain": _payload(head=(0, 3, 1.0)),
    "scaled by what is no number": _payload(head=(0, 0, float("nan"))),
    "a gain that is missing": _payload(head=(0, 1, 1.0)),
    "a second product that is missing": _payload(head=(1, 0, 1.0)),
    "an unknown kind": _payload(kinds=(5, 1)),
    "integers and floats": _payload(kinds=(24, 1)),
    "integers without bits": _payload(kinds=(17, 17), shifts=()),
    "integers of 33 bits": _payload(kinds=(49, 49), shifts=()),
    "no rank": _payload(shape=(4, 4, 0), shifts=()),
    "a lone matrix with a rank": _payload(kinds=(1, 0)),
    "a rank far too high": _payload(shape=(4, 4, 0xFFFFFFFF)),
    "a rank that would take memory": _payload(shape=(4, 4, 1 << 14), shifts=(0,) * (1 << 14)),
    "other rows": _payload(shape=(5, 4, 1)),
    "other columns": _payload(shape=(4, 0xFFFFFFFF, 1)),
    "an exponent out of range": _payload(exponent=385),
    "a negative exponent out of range": _payload(exponent=-32768),
    "a shift out of range": _payload(shifts=(601,)),
    "too many extra bits": _payload(extra=33),
    "values that are no numbers": _payload(planes=(b"\xff" * 4, b"\xff" * 4, bytes(4), bytes(4))),
    "floats that overflow as integers": _payload(exponent=100, shifts=(50,), planes=(b"\x7f" * 4, bytes(4)) * 2),
    "integers whose products overflow": _payload(**_WHOLE),  # type: ignore[arg-type]
    "planes that are too long": _payload(planes=(bytes(5), bytes(4), bytes(4), bytes(4))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_payloads_are_refused(name: str) -> None:
    spec = spec_of("bf16", 4, 4)
    assert not check_hostile(_payload(), spec, {"rank": "1"}), "what the others are made of is valid"
    assert check_hostile(HOSTILE[name], spec, {"rank": "1"})


def test_integers_that_stay_below_the_bound_are_read() -> None:
    payload = _payload(**{**_WHOLE, "extra": 8})  # type: ignore[arg-type]
    assert not check_hostile(payload, spec_of("bf16", 4, 4), {"rank": "1"})


def test_small_payloads_do_not_grow_large() -> None:
    rows = np.zeros((1 << 11, 4), np.float32)
    payload = describe(
        WeightChange(Product(rows, np.zeros((4, 1 << 11), np.float32))), spec_of("bf16", 1 << 11, 1 << 11)
    )
    assert len(payload.payload) < 400
    for shape in ((2, 2), (1 << 11, 1), (1 << 10, 1 << 11)):
        assert check_hostile(payload.payload, spec_of("bf16", *shape), {"rank": "4"})


@pytest.mark.parametrize("parameters", [{}, {"rank": "4"}, {"rank": "03"}, {"rank": "3", "gain": "rows"}, {"r": "3"}])
def test_parameters_must_agree_with_the_payload(parameters: dict[str, str]) -> None:
    finding = describe(WeightChange(factors(np.random.default_rng(0), (8, 3), (3, 8))), spec_of("f32", 8, 8))
    with pytest.raises(PayloadError):
        LowRank().open(memoryview(finding.payload), spec_of("f32", 8, 8), parameters)


def test_the_base_is_of_the_same_dtype_and_shape() -> None:
    spec = spec_of("bf16", 3, 4)
    assert LowRank().base_spec(spec, {"rank": "1"}) == spec
