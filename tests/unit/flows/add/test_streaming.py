"""clean and smudge with tensors of many blocks, compared with what is stored: every way in which the two can part."""

from __future__ import annotations

import hashlib
import random
import struct
import tracemalloc
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest

from gittheta.errors import ObjectCorrupt, ObjectMissing, PayloadError, StoreError
from gittheta.flows.add.clean import clean
from gittheta.flows.checkout.smudge import smudge
from gittheta.model import digest_of
from gittheta.storage.frames import HEAD_LENGTH
from gittheta.storage.manifest import format_manifest, parse_manifest
from tests.support.repository import Repo
from tests.support.safetensors_file import safetensors
from tests.support.stores import object_file

pytestmark = pytest.mark.usefixtures("small_blocks")

BLOCK = 256  # bytes of 64 float32 elements


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def model(*sizes: int, seed: int = 0) -> bytes:
    return safetensors([(f"t{at}", "F32", [size // 4], noise(size, seed + at)) for at, size in enumerate(sizes)])


def changed(data: bytes, *positions: int) -> bytes:
    edited = bytearray(data)
    for at in positions:
        edited[at] ^= 1
    return bytes(edited)


@pytest.mark.parametrize(
    "sizes",
    [(4,), (BLOCK,), (BLOCK + 4,), (1024,), (1028,), (5000,), (20_000,), (5000, 8, 3000, 1024, 0, 700), (0,), ()],
)
def test_files_of_any_size_come_back_and_stay_quiet(repo: Repo, sizes: tuple[int, ...]) -> None:
    repo.check_fixed_point(model(*sizes))


@pytest.mark.parametrize("size", [BLOCK * 3 + 40, 5000])
def test_a_change_anywhere_is_seen_and_kept(repo: Repo, size: int) -> None:
    data = model(100, size, 300)
    before = repo.add(data)
    for at in range(len(data) - size - 300, len(data), 1 + size // 19):
        edited = changed(data, at)
        text = repo.clean(edited)
        assert text != before
        assert repo.smudge(text) == edited
    assert not repo.temporaries()


@pytest.mark.parametrize("size", [BLOCK * 3 + 40, 5000])
def test_changes_in_several_blocks(repo: Repo, size: int) -> None:
    data = model(100, size, 300)
    repo.add(data)
    start = len(data) - size - 300
    for blocks in ((0, 1), (1, 3), (2, 3), (0, 1, 2, 3)):
        edited = changed(data, *(start + block * BLOCK for block in blocks))
        assert repo.smudge(repo.clean(edited)) == edited


@pytest.mark.parametrize("size", [BLOCK * 3 + 40, 5000])
def test_truncated_anywhere_after_it_was_whole(repo: Repo, size: int) -> None:
    data = model(size, 500)
    repo.add(data)
    for cut in (*range(1, len(data), 1 + len(data) // 17), len(data) - 1, len(data) - 500, len(data) - 501):
        text = repo.check_fixed_point(data[:cut], f"cut-{cut}")
        assert repo.clean(data[:cut]) == text
    assert repo.clean(data) == repo.add(data)


def test_truncated_within_an_element(repo: Repo) -> None:
    data = model(5000)
    for size in range(len(data) - 9, len(data)):
        repo.check_fixed_point(data[:size])


def test_more_bytes_than_the_header_promises(repo: Repo) -> None:
    data = model(3000, 500)
    repo.add(data)
    for extra in (1, 255, 256, 257, 5000):
        repo.check_fixed_point(data + noise(extra))
    assert any("promises" in warning for warning in repo.warnings)


def test_an_opaque_file_that_grows_shrinks_and_changes(repo: Repo) -> None:
    data = b"log\n" + noise(6000, 5)
    for version in (data, data + b"x", data + noise(900), data[:3000], changed(data, 2500), data[:1024], data[:1023]):
        repo.check_fixed_point(version, "run.log")


@pytest.mark.parametrize("name", ["F4", "F6_E2M3", "F6_E3M2"])
@pytest.mark.parametrize("size", [48, 240, 3000])
def test_sub_byte_tensors_whole_and_cut(repo: Repo, name: str, size: int) -> None:
    elements = size * 8 // (4 if name == "F4" else 6)
    data = safetensors([("w", name, [elements], noise(size)), ("v", "U8", [9], noise(9))])
    for length in (len(data), len(data) - 9, len(data) - 10, len(data) - 11, len(data) - 13):
        repo.check_fixed_point(data[:length])


def test_a_large_tensor_known_from_another_file_is_not_stored_again(repo: Repo) -> None:
    repo.add(model(9000), "one")
    before = repo.objects()
    repo.check_fixed_point(safetensors([("head", "U8", [3], b"abc"), ("t0", "F32", [2250], noise(9000))]), "two")
    added = sum(path.stat().st_size for name, path in repo.objects().items() if name not in before)
    assert added < 1000


def test_a_large_tensor_that_only_begins_like_a_known_one(repo: Repo) -> None:
    repo.add(model(9000), "one")
    data = safetensors([("t", "F32", [2250], noise(9000)[:3000] + noise(6000, 99))])
    repo.check_fixed_point(data, "two")
    other_size = safetensors([("t", "F32", [1500], noise(9000)[:6000])])
    repo.check_fixed_point(other_size, "three")
    other_dtype = safetensors([("t", "BF16", [4500], noise(9000))])
    repo.check_fixed_point(other_dtype, "four")


def test_the_same_large_tensor_twice_in_one_file(repo: Repo) -> None:
    twice = safetensors([(name, "F32", [2000], noise(8000)) for name in ("a", "b")])
    once = len(twice) - 8000
    repo.check_fixed_point(twice)
    assert sum(path.stat().st_size for path in repo.objects().values()) < once * 1.3


def test_swapped_and_renamed_tensors(repo: Repo) -> None:
    one, two = noise(5000, 1), noise(5000, 2)
    for first, second in ((one, two), (two, one), (one, one), (two, two)):
        data = safetensors([("a", "F32", [1250], first), ("b", "F32", [1250], second)])
        repo.check_fixed_point(data)


def test_reshaped_tensors_keep_their_bytes_and_change_the_manifest(repo: Repo) -> None:
    texts = {
        repo.check_fixed_point(safetensors([("a", dtype, shape, noise(4800))]))
        for dtype, shape in (("F32", [1200]), ("F32", [30, 40]), ("BF16", [2400]), ("F4", [9600]), ("U8", [4800]))
    }
    assert len(texts) == 5


def first_frame(repo: Repo, text: bytes, number: int = 0) -> tuple[str, int]:
    """The object and the offset where a tensor's first frame lies."""
    place = parse_manifest(text).stanzas[number].recipe[0].places[0]
    return place.object, place.offset


def rewrite(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("size", [BLOCK * 3 + 40, 5000])
def test_a_damaged_object_never_gets_into_a_new_version(repo: Repo, size: int) -> None:
    """What agrees with a stored tensor is read back from the store when a later block differs: it must be checked."""
    data = model(size)
    name, at = first_frame(repo, repo.add(data))
    path = repo.objects()[name]
    body = struct.unpack_from("<I", path.read_bytes(), at)[0]
    rewrite(path, changed(path.read_bytes(), at + HEAD_LENGTH + body - 1))
    edited = changed(data, len(data) - 1)
    try:
        text = repo.clean(edited)
    except (PayloadError, StoreError):
        text = None
    assert text is None or parse_manifest(text).stanzas[0].digest == digest_of(edited[-size:])
    assert not repo.temporaries()


@pytest.mark.parametrize("size", [BLOCK * 3, 5120])
def test_frames_that_lie_about_their_blocks_never_hide_a_change(repo: Repo, size: int) -> None:
    """An object made by a stranger says in its frames that it holds X, but holds Y, as the manifest says."""
    header = len(model(size)) - size
    holds = model(size, seed=1)
    claims = model(size, seed=2)
    text, name = strangers_object(repo, repo.add(holds), claims[header:])
    try:
        assert repo.smudge(text) == holds
    except PayloadError:
        return
    repo.stage(text)
    assert repo.smudge(repo.clean(claims)) == claims, name


def test_a_strangers_recipe_is_not_trusted_where_a_tensor_begins_like_a_known_one(repo: Repo) -> None:
    """The tensor is known, its blocks were compared; then the index names another object for it, which lies."""
    size = 5120
    holds = model(size)
    header = len(holds) - size
    claims = holds[: header + BLOCK] + noise(size - BLOCK, 7)
    text, _ = strangers_object(repo, repo.add(holds), claims[header:])
    repo.stage(text)
    cleaned = repo.clean(claims)
    assert parse_manifest(cleaned).stanzas[0].digest == digest_of(claims[header:])
    assert repo.smudge(cleaned) == claims


def strangers_object(repo: Repo, text: bytes, claims: bytes) -> tuple[bytes, str]:
    """Replace the digests in the frames of the first tensor; returns the manifest that names the new object."""
    name, at = first_frame(repo, text)
    data = bytearray(repo.objects()[name].read_bytes())
    for start in range(0, len(claims), BLOCK):
        body = struct.unpack_from("<I", data, at)[0]
        data[at + 8 : at + HEAD_LENGTH] = digest_of(claims[start : start + BLOCK])
        at += HEAD_LENGTH + body
    made = hashlib.sha256(data).hexdigest()
    target = object_file(repo.theta, made)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return text.replace(name.encode(), made.encode()), made


@pytest.mark.parametrize("size", [100, BLOCK * 3 + 40, 5000])
def test_a_flipped_bit_in_an_object_is_an_error_that_names_the_tensor(repo: Repo, size: int) -> None:
    data = model(size, 48)
    text = repo.add(data)
    name, at = first_frame(repo, text)
    path = repo.objects()[name]
    whole = path.read_bytes()
    for position in (at, at + 4, at + HEAD_LENGTH, at + HEAD_LENGTH + 30, at + HEAD_LENGTH + 60):
        rewrite(path, changed(whole, position))
        with pytest.raises((PayloadError, ObjectCorrupt)) as caught:
            repo.smudge(text)
        assert caught.value.tensor == "t0"
        assert caught.value.path == "m.safetensors"
        assert caught.value.hint
    rewrite(path, whole)
    assert repo.smudge(text) == data


@pytest.mark.parametrize("size", [100, BLOCK * 3 + 40, 5000])
def test_no_wrong_byte_leaves_before_the_error(repo: Repo, size: int) -> None:
    """A tensor too large to be held is handed on block by block, each checked by itself."""
    data = model(40, size)
    text = repo.add(data)
    name, at = first_frame(repo, text, 1)
    path = repo.objects()[name]
    rewrite(path, changed(path.read_bytes(), at + HEAD_LENGTH + struct.unpack_from("<I", path.read_bytes(), at)[0] - 1))
    left = bytearray()
    with repo.open() as workspace, pytest.raises((PayloadError, StoreError)):
        deque(map(left.extend, smudge(workspace, "m.safetensors", parse_manifest(text))), maxlen=0)
    assert data.startswith(left)
    assert len(left) <= len(data) - size


@pytest.mark.parametrize("size", [100, 5000])
def test_a_truncated_object_is_an_error(repo: Repo, size: int) -> None:
    data = model(size, 48)
    text = repo.add(data)
    name, at = first_frame(repo, text)
    path = repo.objects()[name]
    rewrite(path, path.read_bytes()[: at + HEAD_LENGTH + 10])
    with pytest.raises(StoreError):
        repo.smudge(text)
    assert repo.clean(data) != b"", "adding the file again mends the store"
    assert repo.smudge(repo.clean(data)) == data


def test_the_wrong_tensors_of_the_right_size_are_an_error(repo: Repo) -> None:
    """A manifest put together by hand: the recipe of one tensor under the digest of another."""
    manifest = parse_manifest(repo.add(model(400, 400, 5000, 5000)))
    stanzas = list(manifest.stanzas)
    for one, other in ((0, 1), (2, 3)):
        swapped = list(stanzas)
        swapped[one] = replace(stanzas[one], recipe=stanzas[other].recipe)
        with pytest.raises(PayloadError, match=f"t{one}"):
            repo.smudge(format_manifest(replace(manifest, stanzas=tuple(swapped))))


def test_a_tensor_longer_or_shorter_than_its_payload_is_an_error(repo: Repo) -> None:
    manifest = parse_manifest(repo.add(model(400, 5000)))
    for number in (0, 1):
        for change in (-64, -1, 1, 64, 10**15):
            stanza = manifest.stanzas[number]
            spec = replace(stanza.spec, shape=(stanza.spec.elements + change,))
            stanzas = [*manifest.stanzas]
            stanzas[number] = replace(stanza, spec=spec)
            with pytest.raises(PayloadError):
                repo.smudge(format_manifest(replace(manifest, stanzas=tuple(stanzas))))


def test_a_frame_whose_body_claims_gigabytes(repo: Repo) -> None:
    text = repo.add(model(400))
    name, at = first_frame(repo, text)
    data = bytearray(repo.objects()[name].read_bytes())
    data[at : at + 4] = b"\xff\xff\xff\xff"
    rewrite(repo.objects()[name], bytes(data))
    tracemalloc.start()
    with pytest.raises((PayloadError, StoreError)):
        repo.smudge(text)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_nothing_is_stored_when_an_add_is_interrupted(repo: Repo) -> None:
    class Gone(Exception): ...

    class Pipe:
        left = memoryview(model(20_000, 300, 20_000))[:30_000]

        def readinto(self, buffer: memoryview, /) -> int:
            if not self.left:
                raise Gone
            size = min(len(buffer), 100, len(self.left))
            buffer[:size] = self.left[:size]
            self.left = self.left[size:]
            return size

    with repo.open() as workspace, pytest.raises(Gone):
        clean(workspace, "m.safetensors", Pipe())
    assert not repo.objects()
    assert not repo.temporaries()
    repo.check_fixed_point(model(20_000, 300, 20_000))


def test_a_missing_object_is_an_error_and_adding_again_mends_it(repo: Repo) -> None:
    data = model(300, 5000)
    text = repo.add(data)
    for path in repo.objects().values():
        path.unlink()
    with pytest.raises(ObjectMissing) as caught:
        repo.smudge(text)
    assert caught.value.tensor in ("t0", "t1")
    assert caught.value.path == "m.safetensors"
    assert caught.value.hint
    assert repo.clean(data) == text
    assert repo.smudge(text) == data


def test_each_tensor_of_a_strangers_manifest_is_tried_by_itself(repo: Repo) -> None:
    """Two tensors that name the same recipe: it is right for one of them alone."""
    one, two = noise(400, 1), noise(400, 2)
    data = safetensors([("a", "F32", [100], one), ("b", "F32", [100], two)])
    lines = repo.add(data).decode().split("\n")
    (repo.theta / "known.sqlite").unlink()
    first, second = (number + 2 for number, line in enumerate(lines) if line in ("[a]", "[b]"))
    lines[second] = lines[first]
    repo.stage("\n".join(lines).encode())
    assert repo.smudge(repo.clean(data)) == data
    assert any("stored anew" in warning for warning in repo.warnings)


def test_a_tensor_is_stored_again_where_the_object_of_its_recipe_is_gone(repo: Repo) -> None:
    data = model(BLOCK * 3 + 40)
    text = repo.add(data)
    for path in repo.objects().values():
        path.unlink()
    assert repo.smudge(repo.clean(data)) == data
    assert repo.clean(data) == text
