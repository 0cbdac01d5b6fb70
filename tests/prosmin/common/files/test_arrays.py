"""Arrays come back as written, and damaged files of arrays are one sentence."""

import sys
from functools import partial

import numpy as np
import pytest
import safetensors.numpy

from prosmin.common import files
from prosmin.common.compute.stacked import Stack
from prosmin.common.errors import UserError

HARM = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[:-1],
    "a length that lies": lambda content: (2**63).to_bytes(8, "little") + content[8:],
    "no JSON": lambda content: content[:8] + b"[" + content[9:],
    "no such type": lambda content: content.replace(b'"F32"', b'"F3x"'),
    "a type that NumPy lacks": lambda content: content.replace(
        b'"I64","shape":[3],', b'"F8_E4M3","shape":[24],'
    ).replace(content[:8], (int.from_bytes(content[:8], "little") + 6).to_bytes(8, "little"), 1),
    "a shape that lies": lambda content: content.replace(b"[3,2]", b"[3,9]"),
    "a shape past memory": lambda content: content.replace(b"[3,2]", b"[9e9]"),
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def arrays(tmp_path):
    files.write_arrays(
        tmp_path / "a.safetensors", {"x": np.zeros((3, 2), np.float32), "y": np.zeros(3, np.int64)}
    )
    return tmp_path / "a.safetensors"


def test_arrays_return_with_shape_and_type_and_equal_bytes(tmp_path):
    arrays = {"b": np.arange(6, dtype=np.int64).reshape(2, 3).T, "a": np.array(2.5, np.float32)}
    files.write_arrays(tmp_path / "one", arrays)
    files.write_arrays(tmp_path / "two", dict(reversed(arrays.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    back = files.read_arrays(tmp_path / "one")
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].shape == array.shape and back[name].dtype == array.dtype


def various(rng):
    """Arrays of all types and of odd shapes, whose names JSON has to escape."""
    kinds = "?", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "f4", "i8", "u8", "f8"
    arrays = {f'{kind} é\n"\x7f': rng.integers(0, 2, (3, 5)).astype(kind) for kind in kinds}
    return arrays | {"none": np.zeros((0, 4), np.float32), "one": np.array(2.5)}


def test_the_bytes_are_those_of_safetensors(tmp_path, rng):
    for arrays in (various(rng), {"none": np.zeros(0, np.int64)}, {}):
        files.write_arrays(tmp_path / "ours", arrays)
        head = {files.CHECKSUM: files.checksum(arrays, {})}
        assert (tmp_path / "ours").read_bytes() == safetensors.numpy.save(arrays, head)


def test_facts_in_any_order_give_equal_bytes(tmp_path):
    facts, arrays = {"b": '\t"é', "a": "1", "z": "2"}, {"x": np.zeros(3)}
    for order in (facts, dict(reversed(facts.items()))):
        files.write_arrays(tmp_path / "a", arrays, order)
        content = (tmp_path / "a").read_bytes()
        assert content.count(b'{"a":"1","b":"\\t\\"\xc3\xa9","crc32":"') == 1
        assert files.read_arrays(tmp_path / "a").keys() == {"x"}


def test_a_table_is_written_as_the_array_that_it_stands_for(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("prosmin.common.compute.backend.BLOCK", 20)  # values
    first, second = rng.random((7, 3), np.float32), rng.random((5, 3), np.float32)
    whole, some = np.concatenate([first, second]), np.array([11, 0, 6, 7, 7])
    for table, array in (
        (Stack((first, second)), whole),
        (Stack((first, second)).rows(some), whole[some]),
    ):
        files.write_arrays(tmp_path / "table", {"a": np.arange(3), "x": table})
        files.write_arrays(tmp_path / "array", {"a": np.arange(3), "x": array})
        assert (tmp_path / "table").read_bytes() == (tmp_path / "array").read_bytes()
        assert files.checksum({"x": table}, {}) == files.checksum({"x": array}, {})


def test_mapped_arrays_are_those_of_the_file_which_stays_as_it_is(tmp_path, rng):
    arrays = various(rng)
    files.write_arrays(tmp_path / "a", arrays)
    before = (tmp_path / "a").read_bytes()
    back = files.read_arrays(tmp_path / "a", mapped=True)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].shape == array.shape and back[name].dtype == array.dtype
    back["one"][...] = 7
    files.write_arrays(tmp_path / "a", {"other": np.zeros(9)})  # a new file in its place
    assert back["one"] == 7
    np.testing.assert_array_equal(back['f4 é\n"\x7f'], arrays['f4 é\n"\x7f'])
    files.write_arrays(tmp_path / "a", arrays)
    assert (tmp_path / "a").read_bytes() == before


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by /proc, which Linux has")
def test_large_arrays_are_written_and_mapped_without_a_copy(tmp_path, rng):
    from stages.common.memory import held, numbers

    def more(work):
        """MiB that this process holds more at its peak than before ``work``."""
        with open("/proc/self/clear_refs", "w") as handle:
            handle.write("5")  # the kernel's peak begins anew
        before = numbers("/proc/self/status")
        kept = work()
        after = numbers("/proc/self/status")
        assert kept is None or held(after) - held(before) < 2**23
        return (after["VmHWM"] - before["VmRSS"]) / 2**20

    part = rng.random((65_536, 256), np.float32)  # 64 MiB
    path = tmp_path / "large"
    assert more(lambda: files.write_arrays(path, {"x": Stack((part, part))})) < 24
    assert more(lambda: files.read_arrays(path, mapped=True)) < 128 + 24  # the file, once


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize(
    "read", [files.read_arrays, partial(files.read_arrays, mapped=True), files.read_tensors]
)
def test_damaged_arrays_are_one_sentence(arrays, harm, read):
    arrays.write_bytes(HARM[harm](arrays.read_bytes()))
    if read is files.read_tensors and "NumPy" in harm:
        return  # which torch has
    with pytest.raises(UserError, match=r"a.safetensors .*; remove it and make it again$") as error:
        read(arrays)
    assert "\n" not in str(error.value)


def test_arrays_of_other_names_types_and_shapes_are_one_sentence(arrays):
    read = files.read_arrays(arrays)
    read.check({"x": ("float32", "NF"), "y": ("int64", "N")})
    for wanted, why in [
        ({"z": ("float32", "N")}, "it has no 'z'"),
        ({"x": ("float64", "NF")}, r"'x' is float32 \[3, 2\] where float64 \[N, F\] is needed"),
        ({"x": ("float32", "N")}, r"'x' is float32 \[3, 2\] where float32 \[N\] is needed"),
        (
            {"x": ("float32", "FN"), "y": ("int64", "N")},
            r"'y' is int64 \[3\] where int64 \[N\] is needed",
        ),
        ({"x": ("float32", "N1")}, r"'x' is float32 \[3, 2\] where float32 \[N, 1\] is needed"),
    ]:
        with pytest.raises(UserError, match=rf"a.safetensors cannot be read \({why}\)"):
            read.check(wanted)
