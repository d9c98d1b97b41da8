from __future__ import annotations

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from memory_defense.data.decode import DamagedDataError
from memory_defense.data.limits import Limits
from memory_defense.data.npz import Npz

LIMITS = Limits()
TYPES = ["u1", "<i2", ">i4", "i8", ">f4", "<f8", "f2", "<U3", ">U2", "?"]


@settings(max_examples=60, deadline=None)
@given(
    values=arrays.arrays(
        st.sampled_from(TYPES), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    ),
    backwards=st.booleans(),
    packed=st.booleans(),
)
def test_what_numpy_wrote_comes_back(tmp_path_factory, values, backwards, packed):
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    (np.savez_compressed if packed else np.savez)(path, x=np.array(values, order="F") if backwards else values)
    found = Npz(path, LIMITS).read("x")
    assert found.shape == values.shape
    assert found.dtype == values.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, values)


def test_arrays_may_be_written_to_and_names_keep_their_order(tmp_path):
    np.savez(tmp_path / "x.npz", b=np.arange(3), a=np.arange(4))
    archive = Npz(tmp_path / "x.npz", LIMITS)
    assert archive.names == ("b", "a")
    archive.read("a")[0] = 7
    assert archive.read("a")[0] == 0


def test_python_objects_are_refused_unread(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([print, None], dtype=object))
    with pytest.raises(ValueError, match=r"x\.npz: x holds Python objects, which can run code"):
        Npz(tmp_path / "x.npz", LIMITS).read("x")


def test_records_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros(3, dtype=[("a", "u1")]))
    with pytest.raises(ValueError, match=r"x\.npz: x announces"):
        Npz(tmp_path / "x.npz", LIMITS).read("x")


def _member(path, header: str, body: bytes, name: str = "x.npy"):
    """Write an array file by hand, whatever its header claims."""
    stream = io.BytesIO()
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    stream.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, stream.getvalue())
    return path


def _header(shape: str, kind: str = "|u1") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


def test_hand_written_header_is_read_when_it_is_true(tmp_path):
    path = _member(tmp_path / "x.npz", _header("(2, 3)"), bytes(range(6)))
    assert Npz(path, LIMITS).read("x").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("shape", ["(2, 4)", "(5,)", "(-2, -3)", "(2, 2**3)", "'x'", "(2.0, 3)", "()"])
def test_header_that_does_not_fit_the_bytes_is_damage(tmp_path, shape):
    path = _member(tmp_path / "x.npz", _header(shape), bytes(6))
    with pytest.raises(DamagedDataError, match=r"x\.npz: x (announces|is not a complete array)"):
        Npz(path, LIMITS).read("x")


def test_header_that_claims_gigabytes_takes_no_memory(tmp_path):
    path = _member(tmp_path / "x.npz", _header("(3000000000,)"), bytes(6))
    tracemalloc.start()
    try:
        with pytest.raises(DamagedDataError, match="announces"):
            Npz(path, LIMITS).read("x")
        path = _member(tmp_path / "x.npz", _header("(9000000000000,)"), bytes(6))
        with pytest.raises(ValueError, match=r"x takes 9000000000000 bytes, at most 4294967296"):
            Npz(path, LIMITS).read("x")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_bomb_is_refused_by_its_size(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros(1 << 22, np.uint8))
    assert (tmp_path / "x.npz").stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"x takes 4194304 bytes, at most 4194303"):
        Npz(tmp_path / "x.npz", Limits(memory=(1 << 22) - 1)).read("x")


@pytest.mark.parametrize("packed", [True, False])
def test_truncation_and_flipped_bits_are_damage_that_names_the_file(tmp_path, packed):
    path = tmp_path / "x.npz"
    values = np.random.default_rng(0).integers(0, 256, 400, dtype=np.uint8)
    (np.savez_compressed if packed else np.savez)(path, x=values)
    content = path.read_bytes()
    for kept in range(0, len(content), 23):
        path.write_bytes(content[:kept])
        with pytest.raises(DamagedDataError, match=r"x\.npz.* is not a complete array file.*fetch it again"):
            Npz(path, LIMITS).read("x")
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 0x04
        path.write_bytes(damaged)
        try:
            found = Npz(path, LIMITS)
            if found.names == ("x",):
                assert np.array_equal(found.read("x"), values), "only what zip ignores may go unnoticed"
        except ValueError as error:
            assert "x.npz" in str(error)  # noqa: PT017


def test_foreign_members_doubles_and_crowds_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("run.py", "print()")
    with pytest.raises(ValueError, match=r"x\.npz holds 'run\.py', which is not an array"):
        Npz(path, LIMITS)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", "2")
    with pytest.raises(ValueError, match="one name twice"):
        Npz(path, LIMITS)
    np.savez(path, **{f"a{n}": np.zeros(1) for n in range(101)})
    with pytest.raises(ValueError, match="more than 100 arrays"):
        Npz(path, LIMITS)
