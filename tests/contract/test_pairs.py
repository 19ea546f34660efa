"""Whatever a tensor came of and by whatever way it is stored: it comes back bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gittheta.conformance.common import special_values
from gittheta.model import DTYPES, Dtype
from gittheta.numerics.floats import from_float64, has_arithmetic, to_float64
from gittheta.registry import BUILT_IN
from gittheta.storage.manifest import parse_manifest
from gittheta.testing import block_values
from tests.support.command import git
from tests.support.limits import SMALL
from tests.support.repository import Repo
from tests.support.safetensors_file import safetensors

pytestmark = pytest.mark.once
FEW = settings(derandomize=True, max_examples=12, deadline=None)
Random = np.random.Generator
#: The bytes of each row, a row each; and the dtype they are of.
Rows = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Matrix:
    """A tensor of rows of whole bytes; ``flat``: it is stored as one dimension."""

    dtype: Dtype
    rows: Rows
    flat: bool = False

    @property
    def shape(self) -> list[int]:
        columns = self.rows.shape[1] * 8 // self.dtype.bits
        return [len(self.rows) * columns] if self.flat else [len(self.rows), columns]

    def with_rows(self, rows: Rows) -> Matrix:
        return Matrix(self.dtype, rows, self.flat)

    def computed(self, change: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Matrix:
        """Changed as numbers, or not at all if it has none."""
        if not has_arithmetic(self.dtype) or not self.rows.size:
            return self
        values = to_float64(memoryview(self.rows.tobytes()), self.dtype).reshape(len(self.rows), -1)
        with np.errstate(all="ignore"):
            data = from_float64(np.ascontiguousarray(change(values)).ravel(), self.dtype)
        return self.with_rows(np.frombuffer(data, np.uint8).reshape(self.rows.shape))

    @property
    def size(self) -> float:
        """About how large its values are."""
        return 0.5 if self.dtype.bits == 8 else 0.02


def fresh(dtype: Dtype, rows: int, columns: int, random: Random, flat: bool = False) -> Matrix:
    """Values as in a trained layer, where the dtype has any; columns in eights, so that rows are whole bytes."""
    if dtype.bits == 8 and has_arithmetic(dtype):
        data = bytes(from_float64(random.standard_normal(rows * 8 * columns) / 2, dtype))
    else:
        data = block_values(dtype, rows * 8 * columns, int(random.integers(1 << 30)))
    return Matrix(dtype, np.frombuffer(data, np.uint8).reshape(rows, columns * dtype.bits), flat)


def unrelated(old: Matrix, random: Random) -> Matrix:
    return fresh(old.dtype, len(old.rows), old.rows.shape[1] // old.dtype.bits, random, old.flat)


def equal(old: Matrix, random: Random) -> Matrix:
    return old


def few(old: Matrix, random: Random) -> Matrix:
    rows = old.rows.copy()
    rows[random.random(rows.shape) < 0.005] ^= np.uint8(random.integers(1, 256))
    return old.with_rows(rows)


def tuned(old: Matrix, random: Random) -> Matrix:
    return old.computed(lambda values: values + old.size / 100 * random.standard_normal(values.shape))


def one_step(old: Matrix, random: Random) -> Matrix:
    step = float(np.float32(old.size / 7))
    return old.computed(lambda values: values + step * random.choice([-1, 0, 0, 0, 0, 1], values.shape))


def row_scaled(old: Matrix, random: Random) -> Matrix:
    factors = (1 + random.standard_normal((len(old.rows), 1)) / 5).astype(np.float32)
    return old.computed(lambda values: values * factors)


def column_scaled(old: Matrix, random: Random) -> Matrix:
    return old.computed(lambda values: values * (1 + random.standard_normal((values.shape[1],)) / 5).astype(np.float32))


def low_rank(old: Matrix, random: Random) -> Matrix:
    def change(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        left, right = (random.standard_normal((size, 2)) for size in values.shape)
        return values + old.size / 2 * left @ right.T

    return old.computed(change)


def grown(old: Matrix, random: Random) -> Matrix:
    more = unrelated(old, random).rows[: 1 + len(old.rows) // 4]
    return old.with_rows(np.concatenate([old.rows, more]))


def trimmed(old: Matrix, random: Random) -> Matrix:
    return old.with_rows(old.rows[: max(1, len(old.rows) * 3 // 4)])


def permuted(old: Matrix, random: Random) -> Matrix:
    return old.with_rows(old.rows[random.permutation(len(old.rows))])


def fewer_columns(old: Matrix, random: Random) -> Matrix:
    half = max(1, old.rows.shape[1] // old.dtype.bits // 2) * old.dtype.bits
    return old.with_rows(np.ascontiguousarray(old.rows[:, :half]))


WAYS = (
    *(unrelated, equal, few, tuned, one_step, row_scaled, column_scaled),
    *(low_rank, grown, trimmed, permuted, fewer_columns),
)


def sprinkled(one: Matrix, random: Random) -> Matrix:
    """NaNs, infinities, zeros of both signs, subnormals and largest values among the others."""
    size = one.dtype.itemsize
    special = np.frombuffer(special_values(one.dtype), np.uint8).reshape(-1, size)
    rows = one.rows.copy()
    elements = rows.reshape(-1, size)
    some = random.random(len(elements)) < 0.01
    elements[some] = special[random.integers(0, len(special), np.count_nonzero(some))]
    return one.with_rows(rows)


def file_of(tensors: Sequence[Matrix]) -> bytes:
    named = enumerate(tensors)
    return safetensors([(str(at), one.dtype.name.upper(), one.shape, one.rows.tobytes()) for at, one in named])


def encodings_in(text: bytes) -> set[str]:
    return {link.encoding for recipe in parse_manifest(text).recipes() for link in recipe}


def commit(repo: Repo, data: bytes, check: bool = True) -> bytes:
    text = repo.check_fixed_point(data) if check else repo.add(data)
    git(repo.top, "commit", "-q", "--allow-empty", "-m", "next")
    return text


@pytest.fixture(scope="module", params=[pytest.param("usual blocks", marks=pytest.mark.slow), "small blocks"])
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Repo:
    """One repository for all examples."""
    top = tmp_path_factory.mktemp("pairs")
    git(top, "init", "-q")
    return Repo(top, limits=SMALL if request.param == "small blocks" else None)


BEGINNINGS = st.lists(
    st.tuples(
        st.sampled_from([dtype for name, dtype in DTYPES.items() if name != "raw"]),
        st.sampled_from([1, 2, 5, 33, 64]),
        st.sampled_from([1, 3, 8]),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)
#: What happens to each tensor in turn, and whether odd values come in.
CHANGES = st.lists(st.tuples(st.sampled_from(WAYS), st.booleans()), min_size=1, max_size=7)


@FEW
@given(BEGINNINGS, CHANGES, st.integers(0, 1 << 20), st.integers(1, 3))
def test_versions_come_back(
    shared: Repo,
    beginnings: list[tuple[Dtype, int, int, bool]],
    changes: list[tuple[Callable[[Matrix, Random], Matrix], bool]],
    seed: int,
    versions: int,
) -> None:
    random = np.random.default_rng(seed)
    tensors = [fresh(dtype, rows, columns, random, flat) for dtype, rows, columns, flat in beginnings]
    commit(shared, file_of(tensors), check=False)
    turn = 0
    for _ in range(versions):
        for at, one in enumerate(tensors):
            change, odd = changes[turn % len(changes)]
            tensors[at] = sprinkled(change(one, random), random) if odd else change(one, random)
            turn += 1
        commit(shared, file_of(tensors))


#: Of these every run tries all ways; of the others the slow one does.
USUAL = ("bf16", "f32", "u8", "f4")
EVERY = [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in DTYPES if name != "raw"]


@pytest.mark.parametrize("dtype", EVERY)
def test_every_way_of_every_dtype(shared: Repo, dtype: str) -> None:
    """Each way from a base of its own, then the same with odd values in the base, in the new tensor, or in both."""
    random = np.random.default_rng(len(dtype))
    bases = [fresh(DTYPES[dtype], 40, 6, random, flat=at == 3) for at in range(len(WAYS))]
    odd = [sprinkled(base, random) for base in bases]
    news = [way(base, random) for way, base in zip(WAYS, bases, strict=True)]
    odder = [sprinkled(way(base, random), random) for way, base in zip(WAYS, odd, strict=True)]
    commit(shared, file_of([*bases, *odd, *bases]), check=False)
    commit(shared, file_of([*news, *odder, *(sprinkled(new, random) for new in news)]))


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_every_encoding_has_its_turn(shared: Repo, dtype: str) -> None:
    """So that the tests above are about all of them."""
    random = np.random.default_rng(3)
    bases = [fresh(DTYPES[dtype], 96, 12, random) for _ in WAYS]
    commit(shared, file_of(bases), check=False)
    text = commit(shared, file_of([way(base, random) for way, base in zip(WAYS, bases, strict=True)]))
    assert encodings_in(text) == set(BUILT_IN["encodings"])
