"""CHAOS's masks: which grey is which organ, and which mask belongs to which slice."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from dicom_slices import COLUMNS, ROWS, write_mask, write_series

from secfed.data.dicom.chaos_masks import mask_files, read_masks
from secfed.data.dicom.series import Stack, read_stack
from secfed.errors import FileError


def series(folder: Path, *, modality: str = "MR", places: tuple[float, ...] = (0, 5, 10), **changes) -> Stack:
    write_series(folder, places, Modality=modality, **changes)
    return read_stack(folder)


def grey(*values: int) -> np.ndarray:
    mask = np.zeros(ROWS * COLUMNS, np.uint8)
    mask[: len(values)] = values
    return mask.reshape(ROWS, COLUMNS)


def write_masks(folder: Path, masks: list[np.ndarray], name: str = "liver_GT_{:03d}.png") -> list[Path]:
    return [write_mask(folder / name.format(index), mask) for index, mask in enumerate(masks)]


@pytest.mark.parametrize("places", [(0, 5, 10), (10, 5, 0), (5, 10, 0)])
def test_the_first_mask_by_name_belongs_to_the_first_slice_by_name(tmp_path, places):
    """Whichever way the slices' names go along the body: the data set counts them by their names."""
    stack = series(tmp_path / "s", places=places)
    masks = [grey(*[63] * (index + 1)) for index in range(3)]
    label = read_masks(write_masks(tmp_path / "g", masks), stack)
    assert label.shape == (COLUMNS, ROWS, 3)
    for index, place in enumerate(sorted(range(3), key=lambda index: places[index])):
        np.testing.assert_array_equal(label[:, :, index], masks[place].T)


def test_the_greys_of_mri_are_the_documented_ranges_and_no_others(tmp_path):
    stack = series(tmp_path / "s", places=(0,))
    ranges = {63: range(55, 71), 126: range(110, 136), 189: range(175, 201), 252: range(240, 256), 0: range(1)}
    known = {value: organ for organ, values in ranges.items() for value in values}
    for value in range(256):
        masks = write_masks(tmp_path / "g", [grey(value)])
        if value in known:
            assert read_masks(masks, stack)[0, 0, 0] == known[value]
        else:
            with pytest.raises(FileError, match=rf"liver_GT_000\.png: holds the grey {value}, .* no organ in MR"):
                read_masks(masks, stack)


def test_in_ct_white_is_the_liver_and_nothing_else_is_anything(tmp_path):
    stack = series(tmp_path / "s", modality="CT", places=(0,))
    assert set(np.unique(read_masks(write_masks(tmp_path / "g", [grey(255)]), stack))) == {0, 255}
    for value in (1, 63, 254):
        with pytest.raises(FileError, match=rf"holds the grey {value}, which stands for no organ in CT"):
            read_masks(write_masks(tmp_path / "g", [grey(255, value)]), stack)


def test_masks_of_one_bit_are_black_and_white(tmp_path):
    stack = series(tmp_path / "s", modality="CT", places=(0,))
    mask = write_mask(tmp_path / "m.png", grey(255, 255), mode="1")
    with PIL.Image.open(mask) as image:
        assert image.mode == "1"
    np.testing.assert_array_equal(read_masks([mask], stack)[:, :, 0], grey(255, 255).T)


def test_a_missing_mask_is_refused(tmp_path):
    stack = series(tmp_path / "s")
    masks = write_masks(tmp_path / "g", [grey(63)] * 2)
    with pytest.raises(FileError, match=r"g: holds 2 masks, but there are 3 slices in .*s"):
        read_masks(masks, stack)


def test_a_mask_that_is_called_like_another_slice_is_refused(tmp_path):
    """As where the first slice's mask is lost, and one too many is at the end."""
    stack = series(tmp_path / "s", names=[f"IMG-{index}.dcm" for index in (1, 2, 3)])
    same = [write_mask(tmp_path / "same" / f"IMG-{index}.png", grey(63)) for index in (1, 2, 3)]
    assert read_masks(same, stack).any()
    # Numbers between those of the slices, as the masks of T1DUAL have for one of the phases.
    between = [write_mask(tmp_path / "between" / f"IMG-{index}.png", grey(63)) for index in (10, 11, 12)]
    assert read_masks(between, stack).any()
    moved = [write_mask(tmp_path / "moved" / f"IMG-{index}.png", grey(63)) for index in (2, 3, 4)]
    with pytest.raises(FileError, match=r"IMG-2\.png: is called like another slice than IMG-1\.dcm"):
        read_masks(moved, stack)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: PIL.Image.new("L", (ROWS, COLUMNS)).save(path), r"is \(4, 5\) pixels large, but its slice is"),
        (lambda path: PIL.Image.new("RGB", (COLUMNS, ROWS)).save(path), "pixels of mode 'RGB'; a mask is grey"),
        (lambda path: PIL.Image.new("P", (COLUMNS, ROWS)).save(path), "pixels of mode 'P'"),
        (lambda path: PIL.Image.new("L", (COLUMNS, ROWS)).save(path, "BMP"), "not a readable PNG"),
        (lambda path: path.write_bytes(b""), "not a readable PNG"),
        (lambda path: path.write_bytes(write_mask(path, grey(63)).read_bytes()[:-20]), "not a readable PNG"),
        (lambda path: path.write_bytes(write_mask(path, grey(63)).read_bytes()[:30]), "not a readable PNG"),
    ],
)
def test_what_is_no_mask_of_its_slice_is_refused_by_name(tmp_path, write, reason):
    stack = series(tmp_path / "s", places=(0,))
    write(tmp_path / "odd.png")
    with pytest.raises(FileError, match=rf"odd\.png: .*{reason}"):
        read_masks([tmp_path / "odd.png"], stack)


def test_masks_are_found_by_their_ending(tmp_path):
    assert mask_files(tmp_path / "absent") == []
    for name in ("b.png", "A.PNG", ".c.png", "label.nii.gz"):
        (tmp_path / name).touch()
    assert [path.name for path in mask_files(tmp_path)] == ["A.PNG", "b.png"]
