"""A model's vector: order, digests and files that are complete or refused."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from secfed.errors import RunFolderError
from secfed.parameters import ParameterLayout, TensorSpec, load_vector, model_digest, save_vector

LAYOUT = ParameterLayout(
    (
        TensorSpec("conv.weight", (2, 3), "parameter"),
        TensorSpec("act.weight", (), "parameter"),
        TensorSpec("norm.running_mean", (2,), "buffer"),
    )
)
VECTOR = np.arange(9, dtype=np.float32) - 4.5


def with_spec(**change):
    first = {"name": "conv.weight", "shape": (2, 3), "kind": "parameter", **change}
    return ParameterLayout((TensorSpec(**first), *LAYOUT.tensors[1:]))


def test_sizes_count_parameters_and_buffers():
    assert (LAYOUT.num_parameters, LAYOUT.num_buffers, LAYOUT.size) == (7, 2, 9)
    assert [(spec.name, place) for spec, place in LAYOUT.slices()] == [
        ("conv.weight", slice(0, 6)),
        ("act.weight", slice(6, 7)),
        ("norm.running_mean", slice(7, 9)),
    ]


def test_json_round_trip_keeps_the_layout():
    assert ParameterLayout.from_json(LAYOUT.to_json()) == LAYOUT
    assert LAYOUT.to_json() == (
        '[["conv.weight",[2,3],"parameter"],["act.weight",[],"parameter"],["norm.running_mean",[2],"buffer"]]'
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}x",
        "3",
        "[3]",
        '[["a",[1],"weight"]]',
        '[["a",[1.0],"parameter"]]',
        '[["a",[true],"parameter"]]',
        '[["a",[-1],"parameter"]]',
        '[["",[1],"parameter"]]',
        '[[3,[1],"parameter"]]',
        '[["a",[1],"parameter"],["a",[2],"parameter"]]',
        '[["a",[1],"buffer"],["b",[2],"parameter"]]',
        '[["a",3,"parameter"]]',
        "[" * 100_000,
    ],
)
def test_a_text_that_is_no_layout_is_refused(text):
    with pytest.raises(ValueError, match="not a parameter layout"):
        ParameterLayout.from_json(text)


def test_the_layout_digest_binds_names_shapes_kinds_and_order():
    others = [
        with_spec(name="conv.bias"),
        with_spec(shape=(3, 2)),
        with_spec(shape=(6,)),
        ParameterLayout((LAYOUT.tensors[1], LAYOUT.tensors[0], LAYOUT.tensors[2])),
        ParameterLayout((*LAYOUT.tensors[:2], TensorSpec("norm.running_mean", (2,), "parameter"))),
        ParameterLayout(LAYOUT.tensors[:2]),
    ]
    assert len({layout.digest() for layout in [LAYOUT, *others]}) == 7


def test_the_model_digest_binds_layout_and_every_bit():
    digest = model_digest(VECTOR, LAYOUT)
    assert digest == hashlib.sha256(b"secfed/model/v1\0" + LAYOUT.digest() + VECTOR.astype("<f4").tobytes()).digest()
    other = VECTOR.copy()
    other[3] = np.nextafter(other[3], np.float32(9))
    assert model_digest(other, LAYOUT) != digest
    assert model_digest(VECTOR, with_spec(shape=(3, 2))) != digest


@pytest.mark.parametrize("vector", [VECTOR.astype(np.float64), VECTOR[:-1], VECTOR[None]])
def test_a_vector_that_does_not_fit_is_refused(vector, tmp_path):
    with pytest.raises(ValueError, match=r"must be float32 of shape \(9,\)"):
        model_digest(vector, LAYOUT)
    with pytest.raises(ValueError, match=r"must be float32 of shape \(9,\)"):
        save_vector(tmp_path / "m.safetensors", vector, LAYOUT, {})
    assert not any(tmp_path.iterdir())


def test_a_saved_model_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    vector = VECTOR.copy()
    vector[:3] = [np.nan, -0.0, np.inf]
    save_vector(path, vector, LAYOUT, {"round": "12"})
    loaded, layout, metadata = load_vector(path)
    assert loaded.tobytes() == vector.tobytes()
    assert loaded.dtype == np.float32
    assert loaded.flags.writeable
    assert (layout, metadata) == (LAYOUT, {"round": "12"})
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_other_programs_see_one_named_tensor_each(tmp_path):
    from safetensors.numpy import load_file

    path = tmp_path / "model.safetensors"
    save_vector(path, VECTOR, LAYOUT, {})
    tensors = load_file(path)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "conv.weight": (2, 3),
        "act.weight": (),
        "norm.running_mean": (2,),
    }
    np.testing.assert_array_equal(tensors["norm.running_mean"], VECTOR[7:])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_vector(path, VECTOR, LAYOUT, {})
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_vector(path, VECTOR + 1, LAYOUT, {})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_layout_key_is_reserved(tmp_path):
    with pytest.raises(ValueError, match="taken by the layout"):
        save_vector(tmp_path / "m", VECTOR, LAYOUT, {"secfed.layout": "[]"})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"gone\.safetensors: no such model file"):
        load_vector(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:20], lambda b: b"", lambda b: b"\xff" * len(b)])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    save_vector(path, VECTOR, LAYOUT, {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunFolderError, match="not a readable model file"):
        load_vector(path)


@pytest.mark.parametrize(
    ("tensors", "layout", "message"),
    [
        ({"a": np.zeros(2, np.float32)}, None, "has no 'secfed.layout'"),
        ({"a": np.zeros(2, np.float32)}, '[["b",[2],"parameter"]]', "not those of its layout"),
        ({"a": np.zeros(3, np.float32)}, '[["a",[2],"parameter"]]', r"a must be float32 \(2,\)"),
        ({"a": np.zeros(2, np.float64)}, '[["a",[2],"parameter"]]', r"a must be float32 \(2,\)"),
        ({"a": np.zeros(2, np.float32)}, "nonsense", "not a parameter layout"),
    ],
)
def test_a_file_that_contradicts_its_layout_is_refused(tmp_path, tensors, layout, message):
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata=None if layout is None else {"secfed.layout": layout})
    with pytest.raises(RunFolderError, match=message):
        load_vector(path)


def test_the_module_does_not_import_torch():
    code = "import sys, secfed.parameters; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
