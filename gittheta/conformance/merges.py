"""The suite for merge methods."""

# ruff: noqa: S101 - assertions are what these modules are for
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch

from gittheta.api import DTYPES, MergeError, TensorSpec, Traits
from gittheta.conformance.common import check_plugin
from gittheta.conformance.sides import SEVERAL_BLOCKS, SHAPES, Shape, Twin, family, reordered, resident, same_bits
from gittheta.engine.arrays import TORCH, arithmetic_elements, arithmetic_shape
from gittheta.engine.blocks import TensorBlocks
from gittheta.engine.device import computing
from gittheta.engine.operands import ResidentOperand
from gittheta.engine.run import measure_all, merge_tensor
from gittheta.engine.task import Task, prepared

if TYPE_CHECKING:
    from gittheta.api import Merge


class MergeConformance:
    """Tests for every merge method. Set ``method``; ``variants`` may add the same method with other options.

    Everything is merged by the engine that Git's merges use, on the processor, with small tensors. The sides changed
    the base differently, but mostly in one direction, so that a method has no reason to raise MergeError.
    """

    method: Merge
    variants: Sequence[Merge] = ()
    #: The least number of sides that the method takes.
    fewest: int = 1
    #: Weights of the first sides, in tests that use different ones.
    weights: Sequence[float] = (0.5, 0.25, 0.4, 0.1, 0.7)
    #: The dtypes that the method is for.
    dtypes: Sequence[str] = ("bf16", "f16", "f32", "f64", "f8_e4m3", "f8_e5m2", "c64")

    def statistics(self, side: int, spec: TensorSpec) -> Mapping[str, torch.Tensor]:
        """Statistics of a side by kind, float32. Override it for a method that reads statistics (``kinds``)."""
        return {}

    # -- how the tests make what they merge ----------------------------------------------------------------------------

    def methods(self) -> Iterator[tuple[Merge, Traits]]:
        """The method and its variants, each with its traits."""
        for method in (self.method, *self.variants):
            yield method, Traits.of(method)

    def shapes(self, traits: Traits) -> Iterator[Shape]:
        """The shapes of tensors that reach the method: a method for matrices never sees others."""
        return (shape for shape in SHAPES if len(shape) == 2 or not traits.matrices)

    def types(self, traits: Traits) -> Iterator[str]:
        """The names of dtypes that reach the method: a method for matrices never sees complex ones."""
        return (name for name in self.dtypes if DTYPES[name].kind == "float" or not traits.matrices)

    def task(
        self, method: Merge, dtype: str = "f32", shape: Shape = (23, 11), count: int | None = None, scale: float = 1.0
    ) -> Task:
        """A task with some sides and their base."""
        number = count or Traits.of(method).side_count or max(3, self.fewest)
        spec = TensorSpec("layer.weight", DTYPES[dtype], shape)
        base, *sides = (resident(spec, values * scale) for values in family(arithmetic_shape(spec), number))
        return Task(
            name=spec.name,
            base=base,
            sides=tuple(sides),
            labels=tuple(f"side {side}" for side in range(1, number + 1)),
            weights=(1.0,) * number,
            method=method,
            statistics=tuple(self.known(side, spec) for side in range(number)),
        )

    def known(self, side: int, spec: TensorSpec) -> dict[str, ResidentOperand]:
        """The statistics of one side as operands, by kind."""
        return {
            kind: ResidentOperand(TensorSpec(spec.name, DTYPES["f32"], tuple(values.shape)), values)
            for kind, values in self.statistics(side, spec).items()
        }

    def weighted(self, task: Task) -> Task:
        """The task with the suite's weights."""
        return replace(task, weights=tuple(self.weights[: len(task.sides)]))

    def merged(self, task: Task, block: int = 1 << 18, threads: int = 1) -> torch.Tensor:
        """The result, flat. Raises MergeError."""
        with computing("cpu", threads, block=block) as compute:
            runs = [run.clone() for run in merge_tensor(task, compute)]
        result = torch.cat(runs)
        assert result.dtype == TORCH[task.spec.dtype.name], f"{result.dtype} for {task.spec}"
        assert result.numel() * result.element_size() == task.spec.nbytes, f"{result.numel()} elements for {task.spec}"
        return result

    def refused(self, task: Task, what: str) -> str:
        """The message of the MergeError that merging must raise."""
        try:
            self.merged(task)
        except MergeError as error:
            return str(error)
        raise AssertionError(f"{what} raised no MergeError")

    # -- the tests -----------------------------------------------------------------------------------------------------

    def test_is_a_plugin(self) -> None:
        """A frozen dataclass with a valid name, whose options are plain values that text can express."""
        for method, _ in self.methods():
            check_plugin(method)
            kind: Any = type(method)
            options = {each.name: getattr(method, each.name) for each in fields(kind) if each.init}
            for name, value in options.items():
                plain = value is None or isinstance(value, (bool, int, str))
                plain = plain or (isinstance(value, float) and math.isfinite(value))
                assert plain, f"the option {name} is {value!r}, which cannot be given as text"
            assert kind(**options) == method, f"{method} and {kind(**options)} differ"
            assert hash(kind(**options)) == hash(method), f"the hash of {method} is not that of its options"
        with suppress(MergeError):  # the only error allowed, for an option without a default
            type(self.method)()

    def test_traits_are_valid(self) -> None:
        """The traits have the types and values that ``gittheta.api.Traits`` allows."""
        for method, traits in self.methods():
            assert traits.unit in ("tensor", "row", "element"), f"unit is {traits.unit!r}"
            assert traits.scope in ("tensor", "global"), f"scope is {traits.scope!r}"
            assert traits.scope == "tensor" or hasattr(method, "measure"), "of global scope, and without `measure`"
            for name in ("needs_base", "ordered", "idempotent", "matrices"):
                assert isinstance(getattr(traits, name), bool), f"{name} is {getattr(traits, name)!r}"
            assert traits.side_count is None or traits.side_count >= 1, f"side_count is {traits.side_count!r}"
            assert isinstance(traits.kinds, tuple), f"kinds is {traits.kinds!r}"
            assert all(isinstance(kind, str) and kind for kind in traits.kinds), f"kinds is {traits.kinds!r}"

    def test_every_dtype_and_shape(self) -> None:
        """Every dtype and shape (empty, 0-d, one element, any number of dimensions) gives finite values of its own."""
        for method, traits in self.methods():
            everything = [("f32", shape) for shape in self.shapes(traits)]
            for dtype, shape in (*everything, *((dtype, (23, 11)) for dtype in self.types(traits))):
                task = self.weighted(self.task(method, dtype, shape))
                result = self.merged(task)
                assert torch.isfinite(result.double()).all(), f"{method} of {task.spec} gives {result}"

    def test_twice_the_same(self) -> None:
        """Merging again gives the same bits, whatever was merged before."""
        for method, traits in self.methods():
            tasks = [self.weighted(self.task(method, dtype)) for dtype in self.types(traits)]
            once = [self.merged(task) for task in tasks]
            again = [self.merged(task) for task in reversed(tasks)][::-1]
            for task, one, other in zip(tasks, once, again, strict=True):
                assert same_bits(one, other), f"{method} of {task.spec} differs from one run to the next"

    def test_any_number_of_sides(self) -> None:
        """Any number of sides can be merged; for a method of a fixed number, all others raise MergeError."""
        for method, traits in self.methods():
            for count in (*range(1, 6), 9):
                task = self.task(method, count=count)
                if count == traits.side_count or (traits.side_count is None and count >= self.fewest):
                    assert torch.isfinite(self.merged(task)).all(), f"{method} of {count} sides"
                else:
                    self.refused(task, f"{method} of {count} sides")

    def test_with_and_without_a_base(self) -> None:
        """Merging without a base gives a result, or MergeError if the method needs a base."""
        for method, traits in self.methods():
            task = replace(self.task(method), base=None)
            if traits.needs_base:
                self.refused(task, f"{method} without a base")
            else:
                assert torch.isfinite(self.merged(task)).all(), f"{method} without a base"

    def test_missing_statistics(self) -> None:
        """Without statistics, a method that reads some raises MergeError."""
        for method, traits in self.methods():
            task = replace(self.task(method), statistics=())
            if traits.kinds:
                self.refused(task, f"{method} without statistics")

    def test_nothing_is_written_to(self) -> None:
        """A method never writes to sides, base or statistics."""
        for method, _ in self.methods():
            for dtype in ("bf16", "f64"):
                with computing("cpu") as compute:
                    blocks = TensorBlocks(prepared(self.task(method, dtype)), compute)
                    measured = _measured(method, blocks)
                    group = replace(blocks.block(0), measured=measured)
                    inputs = [each for each in (group.base, *group.sides) if each is not None]
                    inputs += [values for side in group.statistics for values in side.values()]
                    before = [values.clone() for values in inputs]
                    method.merge(group)
                same = all(map(torch.equal, inputs, before))
                assert same, f"{method} wrote to its inputs"

    def test_neither_blocks_nor_threads_change_a_bit(self) -> None:
        """How a tensor is cut into blocks does not change the result, unless ``unit`` is ``tensor``."""
        for method, traits in self.methods():
            if traits.unit == "tensor":
                continue
            for dtype, shape in zip(("bf16", "f32"), SEVERAL_BLOCKS, strict=True):
                task = self.weighted(self.task(method, dtype, shape))
                whole = self.merged(task, block=1 << 30)
                pieces = self.merged(task, block=1 << 16, threads=3)
                assert same_bits(whole, pieces), f"{method} of {task.spec} depends on the blocks"

    def test_the_order_of_sides_does_not_change_a_bit(self) -> None:
        """The order of the sides does not change the result, unless the method is ``ordered``."""
        for method, traits in self.methods():
            task = self.weighted(self.task(method, count=None if traits.side_count else max(4, self.fewest)))
            order = list(range(len(task.sides)))
            for turned in () if traits.ordered else (order[::-1], order[1:] + order[:1]):
                assert same_bits(self.merged(task), self.merged(reordered(task, turned))), f"{method}: order matters"

    def test_identical_sides_give_just_that(self) -> None:
        """An ``idempotent`` method merges equal sides to that side, up to rounding in f32 and f64 and for matrices."""
        for method, traits in self.methods():
            for dtype in self.types(traits) if traits.idempotent else ():
                task = self.task(method, dtype)
                values = task.sides[0].read(0, arithmetic_elements(task.spec))
                equal = replace(task, sides=tuple(Twin(task.spec, values, other.digest()) for other in task.sides))
                for weighted in (equal, self.weighted(equal)):
                    self.check_equals_side(self.merged(weighted), weighted)

    def check_equals_side(self, result: torch.Tensor, task: Task) -> None:
        """The result equals the first side, up to rounding."""
        side = task.sides[0].read(0, result.numel())
        expected, actual = side.double(), result.double()
        precise = 0.0 if side.element_size() < 4 else 4 * torch.finfo(side.dtype).eps
        slack = precise * expected.abs()
        if task.traits.matrices:
            slack = 256 * torch.finfo(side.dtype).eps * expected.abs().max()
        assert ((actual - expected).abs() <= slack).all(), f"{task.method} does not merge equal sides to that side"

    def test_sides_that_are_the_base(self) -> None:
        """The result is finite if some or all task vectors are zero."""
        for method, _ in self.methods():
            task = self.task(method)
            assert task.base is not None
            for changed in range(len(task.sides)):
                some = replace(task, sides=(*task.sides[:changed], *[task.base] * (len(task.sides) - changed)))
                assert torch.isfinite(self.merged(some)).all(), f"{method}, {changed} sides changed"

    def test_zeros(self) -> None:
        """If base and sides are all zeros, so is the result."""
        for method, _ in self.methods():
            assert not self.merged(self.task(method, scale=0.0)).any(), f"{method} of zeros"

    def test_tiny_values(self) -> None:
        """Values near the smallest of a dtype give finite values: nothing is divided by zero."""
        for method, traits in self.methods():
            for dtype in self.types(traits):
                task = self.task(method, dtype, scale=torch.finfo(TORCH[dtype]).tiny * 4)
                assert torch.isfinite(self.merged(task).double()).all(), f"{method} of tiny values, {dtype}"

    def test_large_values(self) -> None:
        """Values near the largest of a dtype give finite values, or MergeError."""
        for method, traits in self.methods():
            for dtype in self.types(traits):
                task = self.task(method, dtype, scale=torch.finfo(TORCH[dtype]).max / 16)
                with suppress(MergeError):
                    assert torch.isfinite(self.merged(task).double()).all(), f"{method} of large values, {dtype}"

    def test_values_that_are_no_numbers(self) -> None:
        """NaN and infinite values are refused with the tensor's name; if let through, merging does not crash."""
        for method, _ in self.methods():
            for value in (math.nan, math.inf, -math.inf):
                task = self.task(method)
                broken = task.sides[0].read(0, 253).clone().reshape(task.spec.shape)
                broken[5, 7] = value
                task = replace(task, sides=(ResidentOperand(task.spec, broken), *task.sides[1:]))
                message = self.refused(task, f"{method} of {value}")
                assert task.name in message, message
                with suppress(MergeError):
                    self.merged(replace(task, propagate=True))

    def test_all_tensors_together(self) -> None:
        """For a method of global scope, one measurement serves all tensors, whatever their order."""
        for method, traits in self.methods():
            if traits.scope != "global":
                continue
            tasks = [
                replace(self.task(method, "bf16", shape), name=str(shape)) for shape in ((), (0,), *SEVERAL_BLOCKS)
            ]
            runs = []
            for order, block in ((tasks, 1 << 16), (tasks[::-1], 1 << 20)):
                with computing("cpu", 2, block=block) as compute:
                    measured = measure_all(order, compute)
                    runs.append({task.name: torch.cat(list(merge_tensor(task, compute, measured))) for task in tasks})
            assert all(same_bits(runs[0][name], runs[1][name]) for name in runs[0]), f"{method}: order matters"


def _measured(method: Any, blocks: TensorBlocks) -> Any:
    measure = getattr(method, "measure", None)
    return measure(blocks) if measure else None
