"""Calibration data: what is accepted, how it is cut into batches, what is refused and how that reads."""

from __future__ import annotations

import numpy as np
import pytest

from getac.data.calibration import CalibrationData, InputSpec, generate_inputs
from getac.errors import CalibrationError

IMAGE = InputSpec("image", np.dtype(np.float32), ("N", 3, 4, 4))
FIXED = InputSpec("image", np.dtype(np.float32), (4, 3, 4, 4))
TOKENS = InputSpec("ids", np.dtype(np.int64), ("N", "T"))
MASK = InputSpec("mask", np.dtype(bool), ("N", "T"))


def images(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3, 4, 4)).astype(np.float32)


def save(path, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def refused(source, *signature, **options):
    with pytest.raises(CalibrationError) as caught:
        CalibrationData.open(source, signature, **options)
    return caught.value


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_in_batches_again_and_again(tmp_path, compressed):
    array = images(19)
    data = CalibrationData.open(save(tmp_path / "c.npz", compressed, image=array), [IMAGE])
    assert (data.samples, len(data)) == (19, 3)
    for _ in range(2):
        batches = [batch["image"] for batch in data]
        assert [len(batch) for batch in batches] == [8, 8, 3]
        assert np.array_equal(np.concatenate(batches), array)


def test_npz_is_read_a_few_rows_at_a_time(tmp_path, monkeypatch):
    path = save(tmp_path / "c.npz", image=images(64))
    sizes = []
    original = np.frombuffer
    monkeypatch.setattr(
        np, "frombuffer", lambda data, dtype: sizes.append(len(data)) or original(data, dtype)
    )
    list(CalibrationData.open(path, [IMAGE], batch_size=2))
    assert max(sizes) == 2 * 3 * 4 * 4 * 4


def test_fortran_order(tmp_path):
    array = images(5)
    data = CalibrationData.open(
        save(tmp_path / "c.npz", image=np.asfortranarray(array)), [IMAGE], batch_size=2
    )
    assert np.array_equal(np.concatenate([batch["image"] for batch in data]), array)


def test_folder_sorted_by_name_and_one_file_a_batch(tmp_path):
    save(tmp_path / "b.npz", image=images(2, seed=2))
    save(tmp_path / "a.npz", image=images(9, seed=1))
    data = CalibrationData.open(tmp_path, [IMAGE])
    assert data.samples == 11
    assert [len(batch["image"]) for batch in data] == [8, 1, 2]
    assert np.array_equal(next(iter(data))["image"], images(9, seed=1)[:8])


def test_in_memory():
    data = CalibrationData.open({"image": images(10)}, [IMAGE])
    assert [len(batch["image"]) for batch in data] == [8, 2]
    data = CalibrationData.open(({"image": images(3, seed)} for seed in range(2)), [IMAGE])
    assert (data.samples, len(data), len(list(data)), len(list(data))) == (6, 2, 2, 2)


def test_fixed_batch_drops_the_rest():
    data = CalibrationData.open({"image": images(11)}, [FIXED])
    assert (data.samples, len(data)) == (8, 2)
    assert [batch["image"].shape for batch in data] == [(4, 3, 4, 4)] * 2


def test_static_first_dimensions_of_different_size():
    state = InputSpec("state", np.dtype(np.float32), (2, 5))
    data = CalibrationData.open({"image": images(8), "state": np.ones((4, 5), np.float32)}, [FIXED, state])
    assert [(len(batch["image"]), len(batch["state"])) for batch in data] == [(4, 2), (4, 2)]


def test_mixed_first_dimensions_take_a_mapping_as_one_batch():
    scale = InputSpec("scale", np.dtype(np.float32), ())
    source = [{"image": images(10), "scale": np.float32(2)}, {"image": images(3), "scale": np.float32(1)}]
    data = CalibrationData.open(source, [IMAGE, scale])
    assert [(len(batch["image"]), float(batch["scale"])) for batch in data] == [(10, 2.0), (3, 1.0)]
    assert len(data) == data.samples == 2


def test_settle_reads_symbols_from_the_data(tmp_path):
    unnamed = InputSpec("x", np.dtype(np.float32), (None, None, 2))
    arrays = {
        "ids": np.zeros((6, 7), np.int64),
        "mask": np.ones((6, 7), bool),
        "x": np.zeros((6, 9, 2), np.float32),
    }
    data = CalibrationData.open(save(tmp_path / "c.npz", **arrays), [TOKENS, MASK, unnamed])
    assert data.settle() == {"T": 7, "x[1]": 9}


def test_what_varies_between_files_is_not_settled(tmp_path):
    for length in (5, 6):
        save(tmp_path / f"{length}.npz", ids=np.zeros((2, length), np.int64))
    data = CalibrationData.open(tmp_path, [TOKENS])
    assert data.settle() == {}
    assert [batch["ids"].shape for batch in data] == [(2, 5), (2, 6)]


class TestRefuses:
    def test_names(self, tmp_path):
        error = refused(save(tmp_path / "c.npz", input=images(2), label=images(2)), IMAGE)
        assert error.found == "missing: image; extra: input, label"
        assert error.required == "one array for each of: image"
        assert "'image': array" in error.hint
        assert error.where == str(tmp_path / "c.npz")

    def test_dtype(self):
        error = refused({"image": images(2).astype(np.float64)}, IMAGE)
        assert (error.required, error.found) == ("float32", "float64")
        assert error.hint == "array.astype(np.float32)"

    @pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 4, 1), ()])
    def test_shape(self, shape):
        error = refused({"image": np.zeros(shape, np.float32)}, IMAGE)
        assert error.required == "image: float32[N, 3, 4, 4]"
        assert error.found == str(list(shape))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_are_not_finite(self, tmp_path, value):
        array = images(20)
        array[17, 0, 0, 0] = value
        error = refused(save(tmp_path / "c.npz", image=array), IMAGE)
        assert "NaN or infinite" in error.message
        assert (error.where, error.found) == (f"{tmp_path / 'c.npz'}: image", "1 of 192 values of a batch")

    def test_empty(self, tmp_path):
        assert "is empty" in refused({"image": images(0)}, IMAGE).message
        assert "no calibration data" in refused(tmp_path, IMAGE).message
        assert "no calibration data" in refused([], IMAGE).message

    def test_different_counts(self):
        source = {"ids": np.zeros((3, 7), np.int64), "mask": np.ones((4, 7), bool)}
        assert refused(source, TOKENS, MASK).found == "ids: 3, mask: 4"

    def test_different_sizes_of_one_symbol(self):
        source = {"ids": np.zeros((3, 7), np.int64), "mask": np.ones((3, 8), bool)}
        error = refused(source, TOKENS, MASK)
        assert error.required.startswith("T = 7")
        assert error.found == "T = 8"

    def test_too_few_for_a_fixed_batch(self):
        error = refused({"image": images(3)}, FIXED)
        assert "too few samples" in error.message
        assert (error.required, error.found) == ("at least 4, the model's fixed batch size", "3")

    def test_pickled_content(self, tmp_path):
        error = refused(save(tmp_path / "c.npz", image=np.array([{}, None], dtype=object)), IMAGE)
        assert error.found == "pickled Python objects"

    def test_not_an_npz(self, tmp_path):
        (tmp_path / "c.npz").write_bytes(b"hello")
        assert refused(tmp_path / "c.npz", IMAGE).found == "a file of another format"
        assert refused(tmp_path / "nothing.npz", IMAGE).found == "no such file"
        np.save(tmp_path / "c.npy", images(2))
        assert refused(tmp_path / "c.npy", IMAGE).found == "a file of another format"

    @pytest.mark.parametrize("compressed", [False, True])
    def test_damaged(self, tmp_path, compressed):
        path = save(tmp_path / "c.npz", compressed, image=images(50))
        content = bytearray(path.read_bytes())
        content[3000:3100] = bytes(100)
        path.write_bytes(content)
        assert "cannot be read" in refused(path, IMAGE).message
        path.write_bytes(content[:4000])
        assert isinstance(refused(path, IMAGE), CalibrationError)

    def test_arrays_without_names(self):
        assert refused([images(2)], IMAGE).found == "ndarray"

    def test_a_model_without_inputs(self):
        assert "without inputs" in refused({}).message

    def test_other_members(self, tmp_path):
        import zipfile

        with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
            archive.writestr("image.npy", b"no array")
        assert "cannot be read" in refused(tmp_path / "c.npz", IMAGE).message


def test_generate_is_seeded_and_typed():
    first = generate_inputs([IMAGE, TOKENS, MASK], {"T": 6}, seed=1, batch=2)
    again = generate_inputs([IMAGE, TOKENS, MASK], {"T": 6}, seed=1, batch=2)
    assert {name: (array.dtype, array.shape) for name, array in first.items()} == {
        "image": (np.float32, (2, 3, 4, 4)),
        "ids": (np.int64, (2, 6)),
        "mask": (bool, (2, 6)),
    }
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert set(np.unique(first["ids"])) == {0, 1}
    assert 0.7 < first["image"].std() < 1.3


def test_generate_uses_the_batch_wherever_its_symbol_occurs():
    square = InputSpec("m", np.dtype(np.float16), ("N", "N"))
    assert generate_inputs([square], {}, seed=0, batch=3)["m"].shape == (3, 3)


def test_generate_refuses_what_is_not_settled():
    unnamed = InputSpec("x", np.dtype(np.float32), (None, None))
    with pytest.raises(CalibrationError) as caught:
        generate_inputs([TOKENS, unnamed], {}, seed=0)
    assert caught.value.found == "none for T, x[1]"
    assert "calibration data" in caught.value.hint


def test_generate_refuses_strings():
    with pytest.raises(CalibrationError, match="cannot be generated"):
        generate_inputs([InputSpec("s", np.dtype(object), ("N",))], {}, seed=0)


GRAPH = (InputSpec("x", np.dtype(np.float32), ("N", 2)), InputSpec("z", np.dtype(np.float32), ("N", "N")))


def test_a_first_dimension_that_is_an_inner_one_too():
    """Cutting the rows of z would leave its columns: the mapping is one batch."""
    arrays = {"x": np.ones((20, 2), np.float32), "z": np.ones((20, 20), np.float32)}
    data = CalibrationData.open(arrays, GRAPH)
    assert (data.samples, len(data)) == (1, 1) and data.settle() == {}
    (batch,) = data
    assert batch["z"].shape == (20, 20) and data.samples_in(batch) == 1
    assert list(data.batch_sizes()) == [{"N": 20}]
    error = refused({**arrays, "z": arrays["z"][:, :19]}, *GRAPH)
    assert "two sizes" in error.message


def test_fixed_batches():
    data = CalibrationData.open({"image": images(19)}, [IMAGE])
    assert [sizes["N"] for sizes in data.batch_sizes()] == [*range(8, 0, -1), *range(9, 20)]
    fixed = data.with_batches({"N": 6})
    assert [len(batch["image"]) for batch in fixed] == [6, 6, 6]
    assert (fixed.samples, len(fixed), fixed.settle()) == (18, 3, {"N": 6})
    assert data.settle() == {} and data.samples == 19
    with pytest.raises(CalibrationError, match="too few"):
        data.with_batches({"N": 20})
