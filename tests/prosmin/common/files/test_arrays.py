"""Arrays come back as written, and damaged files of arrays are one sentence."""

import numpy as np
import pytest

from prosmin.common import files
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


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("read", [files.read_arrays, files.read_tensors])
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
