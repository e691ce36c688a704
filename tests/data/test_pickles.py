"""The reader of pickles: what it reads, what it refuses by name, and that a few bytes cost no more than a few bytes."""

from __future__ import annotations

import contextlib
import os
import pickle
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import Attack
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg_cli.data.sources import pickles, plain_pickles
from refseg_cli.errors import RefsegError


@pytest.fixture(autouse=True, params=[0, plain_pickles.LEAST_BYTES])
def _small_files_are_looked_through_or_not(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickles, "LEAST_BYTES", request.param)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_back_from_every_protocol(tmp_path: Path, protocol: int) -> None:
    value = [{"a": 1, "b": (2.5, None, True), "c": {3, 4}, "d": OrderedDict(x=b"\xff"), "e": "é", "f": 1 << 80}]
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    assert pickles.read(path) == value


def test_strings_of_python_2_are_text(tmp_path: Path) -> None:
    # pickle.dumps([{'sent': 'caf\xc3\xa9'}], 0 and 2) of Python 2.7: its str is bytes, here of UTF-8
    lines = b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xc3\\xa9'\np3\nsa."
    binary = b"\x80\x02]q\x00}q\x01U\x04sentq\x02U\x05caf\xc3\xa9q\x03sa."
    for number, data in enumerate([lines, binary]):
        path = tmp_path / f"{number}.p"
        path.write_bytes(data)
        [row] = pickles.read(path)
        assert pickles.text(row["sent"]) == "café"
    assert pickles.text("caf\xe9") == "café"  # latin-1 that is no UTF-8
    assert pickles.text(b"cat") == "cat"


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_calls_a_function_is_refused_by_name_and_runs_nothing(tmp_path: Path, protocol: int) -> None:
    path, trace = tmp_path / "refs(unc).p", tmp_path / "trace"
    path.write_bytes(pickle.dumps([Attack(f"touch {trace}")], protocol=protocol))
    with pytest.raises(RefsegError, match=rf"refused: the pickle asks for {os.system.__module__}\.system"):
        pickles.read(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__builtin__\ngetattr\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.",
        b"cnumpy.core.multiarray\n_reconstruct\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x0cset.__init__\x93.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
    ],
)
def test_no_other_name_is_let_through(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(data)
    with pytest.raises(RefsegError, match="refused"):
        pickles.read(path)


@pytest.mark.parametrize(
    "data",
    [
        b"]r\xff\xff\x3f\x00.",  # the 4,194,303rd thing to remember
        b"]p4194303\n.",
        b"\x80\x05\x96" + (1 << 24).to_bytes(8, "little") + b".",  # so many bytes follow
        b"cbuiltins\nbytearray\n(I16777216\ntR.",
        b"\x80\x05\x8e" + (1 << 24).to_bytes(8, "little") + b".",
        b"\x80\x04\x95" + (1 << 24).to_bytes(8, "little") + b".",
    ],
)
def test_a_few_bytes_do_not_take_all_memory(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with contextlib.suppress(RefsegError):
            pickles.read(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def shared(depth: int) -> Any:
    """A tuple that holds itself twice, so to speak: 2**depth things in a few bytes."""
    value: Any = ()
    for _ in range(depth):
        value = (value, value)
    return value


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)
NO_PLAIN_DATA = [
    ({shared(6): 1}, "a tuple as a key"),
    ([{shared(6)}], "a tuple as a key or as a member of a set"),
    ([frozenset([shared(6)])], "a tuple as a key"),
    ([frozenset([frozenset([1])])], "a frozenset as a key"),
    ([OrderedDict({shared(6): 1})], "a tuple as a key"),
    (dict.fromkeys(range(101)), "among more than 100"),
    ({*range(101)}, "among more than 100"),
    ({float(number): 0 for number in range(101)}, "among more than 100"),
    ([shared(14)], "makes more than it holds"),
    ([[["a"] * 100] * 100] * 100, "makes more than it holds"),
    (nested(33), "nests more than 32 containers"),
    (ENDLESS, "nests more than 32 containers"),
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(("value", "message"), NO_PLAIN_DATA)
def test_what_would_keep_the_reader_busy_is_refused(tmp_path: Path, protocol: int, value: Any, message: str) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    with pytest.raises(RefsegError, match=f"refused: the pickle .*{message}"):
        pickles.read(path)


@pytest.mark.parametrize("protocol", range(6))
def test_what_the_bounds_allow_is_read(tmp_path: Path, protocol: int) -> None:
    names = {str(number): number for number in range(3000)}
    few = range(100)
    value = [nested(30), dict.fromkeys(few), {*few}, frozenset(few), names, {*names}, OrderedDict(names)]
    path = tmp_path / "x.p"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    assert pickles.read(path) == value
    row = {"tokens": ["a", "b"]}
    path.write_bytes(pickle.dumps([row] * 100, protocol=protocol))
    assert pickles.read(path) == [row] * 100


def test_a_call_does_not_multiply_what_the_file_holds(tmp_path: Path) -> None:
    path, many = tmp_path / "x.p", pickle.dumps(["a"] * 1000, protocol=2)[2:-1]  # which ends as q\x00, memo 0
    call = b"cbuiltins\nset\nh\x00\x85R"
    path.write_bytes(b"(" + many + call + b"l.")
    assert pickles.read(path)[1] == {"a"}
    path.write_bytes(b"(" + many + 50 * call + b"l.")
    with pytest.raises(RefsegError, match="refused: the pickle makes more than it holds"):
        pickles.read(path)


@pytest.mark.parametrize(
    "data",
    [
        b"c_codecs\nencode\n}S'a'\nI1\nsb.",  # an attribute for a function of ours
        b"c_codecs\nencode\n)}S'a'\nI1\ns\x86b.",
        b"]}b.",
        b"cbuiltins\nset\n)\x81.",
        b"(cbuiltins\nset\no.",
        b"(ibuiltins\nset\n.",
        b"Pname\n.",
        b"K\x01Q.",
        b"\x82\x01.",
    ],
)
def test_objects_and_their_states_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(data)
    with pytest.raises(RefsegError, match="refused: the pickle"):
        pickles.read(path)


def test_what_was_never_remembered_is_not_made_up(tmp_path: Path) -> None:
    path = tmp_path / "x.p"
    for data in (b"]q\x02h\x01a.", b"]p2\ng1\na."):
        path.write_bytes(data)
        with contextlib.suppress(RefsegError):
            assert pickles.read(path) not in ([None], [[]])
    for data in (b"]h\x07a.", b"]g-1\na.", b"]p-1\n."):
        path.write_bytes(data)
        with pytest.raises(RefsegError, match="damaged pickle"):
            pickles.read(path)


NUMBERS = [
    *(kind(-3) for kind in (np.int8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64)),
    *(kind(200) for kind in (np.uint8, np.uint16, np.uint32, np.uint64)),
    np.bool_(True),
    np.float64("inf"),
]


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_numbers_are_plain_numbers(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(pickle.dumps(({"a": NUMBERS, NUMBERS[0]: 1},), protocol=protocol))
    ([found],) = [pickles.read(path)]
    assert found == {"a": [number.item() for number in NUMBERS], -3: 1}
    assert [type(value) for value in found["a"]] == [type(number.item()) for number in NUMBERS]


def test_numpy_numbers_of_other_versions_and_machines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.p"
    state = b"(I3\nS'>'\nNNNI-1\nI-1\nI0\ntb"
    path.write_bytes(
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'i4'\nI0\nI1\ntR" + state + b"U\x04\0\0\1\xfetR."
    )
    assert pickles.read(path) == 510


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.arange(3), r"numpy\.\S+\._reconstruct"),
        (np.complex64(1), "numpy.dtype c8, which is no number"),
        (np.str_("a"), "numpy.dtype U1, which is no number"),
        (np.datetime64("2020"), "numpy.dtype M8, which is no number"),
    ],
)
def test_other_things_of_numpy_are_refused_by_name(tmp_path: Path, value: Any, named: str) -> None:
    path = tmp_path / "x.p"
    path.write_bytes(pickle.dumps([value], protocol=2))
    with pytest.raises(RefsegError, match=f"refused: the pickle asks for {named}"):
        pickles.read(path)


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_a_damaged_pickle_is_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.p"
    path.write_bytes(pickle.dumps([{"a": "b"}], protocol=2)[:-2] + data)
    with contextlib.suppress(RefsegError):  # any other exception fails the test
        pickles.read(path)


ROW = {"ref_id": 7, "split": "val", "sent_ids": [1, 2], "box": [1.5, -2e-7], "whole": None, "big": 1 << 30, "of": False}
ROWS = [{**ROW, "sentences": [{"sent": f"caf\xe9 {i}", "raw": 'man\'s "hat"', "tokens": ["a"] * i}]} for i in range(3)]
OF_PYTHON_2 = (
    b"(lp0\n(dp1\nS'sent'\np2\nS'a'\np3\nsS'ids'\np4\n(lp5\nI-12\naI01\nasa.",
    b'(l(dS"man\'s"\ng1\nsa.',
    b"\x80\x02]q\x00(}q\x01(U\x04sentq\x02U\x01aU\x03idsq\x03]q\x04(K\x01M\x00\x01J\xff\xff\xff\xffeu}(h\x02h\x03ue.",
)


@pytest.mark.parametrize("protocol", range(4))
def test_plain_rows_are_known_and_read_as_otherwise(monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    monkeypatch.setattr(plain_pickles, "LEAST_BYTES", 0)
    assert plain_pickles.load(pickle.dumps(ROWS, protocol=protocol)) == ROWS


def test_plain_rows_of_python_2_are_known_and_read_as_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickles, "LEAST_BYTES", 0)
    assert plain_pickles.load(OF_PYTHON_2[0]) == [{"sent": "a", "ids": [-12, True]}]
    assert plain_pickles.load(OF_PYTHON_2[2]) == [{"sent": "a", "ids": [1, 256, -1]}, {"sent": "ids"}]
    with pytest.raises(pickle.UnpicklingError):
        plain_pickles.load(OF_PYTHON_2[1])  # nothing was remembered


@pytest.mark.parametrize(
    "data",
    [
        b"(l(dI1\nI2\nsa.",  # a number as a key
        b"(l(d(lI1\nsa.",
        b"(l(dp9999999\nS'a'\nI1\nsa.",  # more to remember than there is
        b"(l(dS'a'\n(I1\nI2\ntsa.",
        b"(l(dS'a'\ncos\nsystem\nsa.",
        b"(l(dS'a\\x00'\nI1\nsa.",  # an escape, which the other reader knows
        b"\x80\x02](}(K\x01K\x02ue.",
        b"\x80\x02](}(U\x01aK\x01K\x02U\x01bue.",  # a value too many, so that a number becomes a key
        b"\x80\x02](}(U\x01a](K\x01K\x02ue.",  # a list that is not closed, likewise
        b"\x80\x02](}(U\x01a]}(U\x01bK\x01uue.",
        b"\x80\x02](}(U\x01aK\x01\x85ue.",
        b"\x80\x02](}r\xff\xff\xff\x7f(U\x01aK\x01ue.",
        b"\x80\x02](}r\x00\x00\x01\x00(U\x01aK\x01ue.",
        b"\x80\x02](}(U\x09aK\x01ue.",  # a text that ends behind the file
        b"\x80\x02](}(cos\nsystem\nK\x01ue.",
        b"\x80\x04](}(U\x01aK\x01ue.",
        *(pickle.dumps(value, protocol=protocol) for value, _ in NO_PLAIN_DATA[:8] for protocol in range(6)),
    ],
)
def test_whatever_else_is_left_to_the_reader_in_python(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(plain_pickles, "LEAST_BYTES", 0)
    monkeypatch.setattr(pickle, "loads", lambda *_, **__: pytest.fail("the unpickler in C has it"))
    assert plain_pickles.load(data) is None


def test_a_missing_or_enormous_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefsegError, match="No such file"):
        pickles.read(tmp_path / "x.p")
    (tmp_path / "x.p").write_bytes(pickle.dumps([0] * 100))
    monkeypatch.setattr(pickles, "MAX_BYTES", 10)
    with pytest.raises(RefsegError, match="at most 10 are read"):
        pickles.read(tmp_path / "x.p")
