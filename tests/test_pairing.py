"""LR images are found by the names that datasets and tools give them, and are never taken for HR."""
import utils

import numpy as np
import pictures
import pytest
import tifffile
from PIL import Image

from files import pairing


def make_files(folder, *names):
    """Empty files of these names, in natural order."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return sorted((folder / name for name in names), key=utils.natural_key)


def pair_files(folder, lr_folder, scale=4):
    files, lr_files = (sorted(path.rglob("*.*"), key=utils.natural_key) for path in (folder, lr_folder))
    return pairing.pair_files(files, folder, scale, lr_files, lr_folder)


def names_of(pairs):
    return {hr.name: lr and lr.name for hr, lr in pairs}


@pytest.mark.parametrize("hr, lr", [
    ("0001.png", "0001x4.png"), ("0001.png", "0001.png"), ("0001.png", "0001x4.jpg"),  # DIV2K
    ("0001.png", "0001x4m.png"), ("0001.png", "0001x4w1.png"), ("0001.png", "0001x4d.png"),  # its mild, wild, difficult
    ("0001.png", "0001_bicLRx4.png"), ("0001.png", "0001_LRBI_x4.png"), ("0001.png", "0001_LRBIx4.png"),
    ("0001.png", "0001_x4.png"), ("0001.png", "0001-X4.PNG"), ("0001.png", "0001_4x.png"),
    ("0001.png", "0001_bicubic_x4.png"), ("baby_HR.png", "baby_LR.png"), ("baby.png", "baby_LR.png"),
    ("baby_GT.png", "baby_LRx4.png"), ("baby_hq.png", "baby_lq.png"),
    ("baby_HR.png", "baby.png"), ("HR_baby.png", "LR_baby.png"), ("Canon_001_HR.png", "Canon_001_LR4.png"),
    ("img_001_SRF_4_HR.png", "img_001_SRF_4_LR.png"), ("panasonic_1_x1.png", "panasonic_1_x4.png")])
def test_lr_is_found_by_the_names_of_every_tool(tmp_path, hr, lr, capsys):
    other = hr.replace("1", "2").replace("baby", "bird")
    make_files(tmp_path / "hr", hr, other)
    make_files(tmp_path / "lr", lr, lr.replace("0001", "00010").replace("_001", "_0011").replace("baby", "babyface"))
    assert names_of(pair_files(tmp_path / "hr", tmp_path / "lr")) == {hr: lr, other: None}
    sentence = f"1 of 2 photos have no partner in {tmp_path}/lr, so their LR is made from them: {other}"
    assert sentence in capsys.readouterr().out


def test_lr_without_a_folder_is_made_and_nothing_is_said(tmp_path, capsys):
    files = make_files(tmp_path, "photo.png", "photo_2.png", "a low wall.jpg", "x4.png", "all_LR.png", "LR/one.png")
    assert pairing.pair_files(files, tmp_path, 4) == [(path, None) for path in files]
    assert capsys.readouterr().out == ""


def test_of_several_lr_the_closest_name_is_taken_and_it_is_said(tmp_path, capsys):
    make_files(tmp_path / "hr", "0001.png", "0002.png")
    make_files(tmp_path / "lr", *(f"000{i}{tag}.png" for i in (1, 2) for tag in ("_bicubic", "x2", "x4", "x4m")))
    pairs = pair_files(tmp_path / "hr", tmp_path / "lr")
    assert names_of(pairs) == {"0001.png": "0001x4.png", "0002.png": "0002x4.png"}
    sentence = "2 of 2 photos have several LR images; the first is used, such as 0001x4.png for 0001.png"
    assert sentence in capsys.readouterr().out


def test_a_name_that_fits_two_photos_is_given_to_neither(tmp_path):
    make_files(tmp_path / "hr", "a_high.png", "a_low.png")
    make_files(tmp_path / "lr", "a_x4.png")
    assert set(names_of(pair_files(tmp_path / "hr", tmp_path / "lr")).values()) == {None}
    make_files(tmp_path / "lr", "a_low_x4.png")
    pairs = pair_files(tmp_path / "hr", tmp_path / "lr")
    assert names_of(pairs) == {"a_high.png": None, "a_low.png": "a_low_x4.png"}


def test_equal_names_in_subfolders_keep_their_own_lr(tmp_path):
    files = make_files(tmp_path / "hr", "a/1.png", "b/1.png", "1.png")
    make_files(tmp_path / "lr", "a/1x4.png", "1x4.png")
    found, _ = pairing.match_names(files, tmp_path / "hr", (tmp_path / "lr").rglob("*.png"), tmp_path / "lr", 4)
    assert found == {tmp_path / "hr" / "a" / "1.png": [tmp_path / "lr" / "a" / "1x4.png"],
                     tmp_path / "hr" / "1.png": [tmp_path / "lr" / "1x4.png"]}


@pytest.mark.parametrize("hr, lr, others", [
    ("HR/baby.png", "LR_bicubic/X4/babyx4.png", ("LR_bicubic/X2/babyx2.png", "LR_bicubic/X3/babyx3.png")),
    ("GTmod12/baby.png", "LRbicx4/baby.png", ("LRbicx2/baby.png", "LRbicx3/baby.png")),  # as BasicSR has Set5
    ("DIV2K_train_HR/0001.png", "DIV2K_train_LR_bicubic/X4/0001x4.png", ("DIV2K_train_LR_bicubic/X2/0001x2.png",)),
    ("image_SRF_4/img_001_SRF_4_HR.png", "image_SRF_4/img_001_SRF_4_LR.png", ("image_SRF_2/img_001_SRF_2_LR.png",))])
def test_lr_in_subfolders_beside_the_hr_is_not_taken_for_hr(tmp_path, hr, lr, others, capsys):
    files = make_files(tmp_path, hr, lr, *others, "more/photo.png")
    pairs = [(tmp_path / hr, tmp_path / lr), (tmp_path / "more" / "photo.png", None)]
    assert pairing.pair_files(files, tmp_path, 4) == pairs
    assert f"{1 + len(others)} of {len(files)} files are not used as HR" in capsys.readouterr().out


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_of_lr_of_several_scales_that_of_the_scale_is_found_in_subfolders_of_its_folder(tmp_path, scale):
    files = make_files(tmp_path / "hr", "0001.png", "0002.png")
    make_files(tmp_path / "lr", *(f"X{scale}/000{i}x{scale}.png" for scale in (2, 3, 4, 8) for i in (1, 2)))
    lr_files = sorted((tmp_path / "lr").rglob("*.png"))
    found, _ = pairing.match_names(files, tmp_path / "hr", lr_files, tmp_path / "lr", scale)
    assert found == {path: [tmp_path / "lr" / f"X{scale}" / f"{path.stem}x{scale}.png"] for path in files}


@pytest.mark.parametrize("lr", ["0001x2.png", "0001_LR2.png", "0001_2x.png", "0001_SRF_2_LR.png", "0001_down2.png",
                                "0001_sub2.png"])
def test_lr_of_another_scale_belongs_to_nothing(tmp_path, lr):
    make_files(tmp_path / "hr", "0001.png")
    make_files(tmp_path / "lr", lr)
    assert names_of(pair_files(tmp_path / "hr", tmp_path / "lr", 4)) == {"0001.png": None}
    assert names_of(pair_files(tmp_path / "hr", tmp_path / "lr", 2)) == {"0001.png": lr}


@pytest.mark.parametrize("lr_folder", [False, True])
def test_lr_and_other_methods_results_beside_the_hr_are_not_taken_for_hr(tmp_path, lr_folder, capsys):
    """Set5 as many download it: image_SRF_4/ with img_001_SRF_4_HR.png, ..._LR.png and the results of ten methods."""
    files = make_files(tmp_path, *(f"img_00{i}_SRF_4_{what}.png" for i in (1, 2)
                                   for what in ("HR", "LR", "bicubic", "nearest", "SRCNN", "A+")), "other.png")
    pairs = pairing.pair_files(files, tmp_path, 4, files if lr_folder else [], tmp_path if lr_folder else "")
    assert names_of(pairs) == {"img_001_SRF_4_HR.png": "img_001_SRF_4_LR.png",
                               "img_002_SRF_4_HR.png": "img_002_SRF_4_LR.png", "other.png": None}
    assert "holds LR images of its photos: 10 of 13 files are not used as HR" in capsys.readouterr().out


def write(folder, **sizes):
    """Pictures of these widths and heights, by stem."""
    for stem, size in sizes.items():
        Image.new("L", size).save(folder / f"{stem}.png")
    return sorted(folder.glob("*.png"), key=utils.natural_key)


def test_what_is_named_as_lr_but_has_another_size_is_a_photo_of_its_own(tmp_path, capsys):
    files = write(tmp_path, **{"IMG_1": (64, 48), "IMG_1-LR": (64, 48), "a0": (64, 48), "a0_x4": (90, 70),  # Lightroom
                               "b": (67, 50), "b_LR": (16, 12), "c": (67, 50), "cx4": (17, 13),  # LR, rounded
                               "d": (64, 48), "d_x2": (32, 24),
                               "e": (20, 20), "e_x4": (80, 80)})  # of another scale, and enlarged
    pairs = pairing.pair_files(files, tmp_path, 4)
    assert names_of(pairs) == {"IMG_1.png": None, "IMG_1-LR.png": None, "a0.png": None, "a0_x4.png": None,
                               "b.png": "b_LR.png", "c.png": "cx4.png", "d.png": None, "e.png": None}
    said = capsys.readouterr().out
    assert (f"2 files of {tmp_path} named as LR images, but not of their size, count as photos: a0_x4.png, IMG_1-LR.png"
            in said) and "4 of 12 files are not used as HR" in said


def test_the_size_is_that_of_the_photo_as_it_is_shown(tmp_path):
    write(tmp_path, a_LR=(12, 16))
    Image.new("L", (64, 48)).save(tmp_path / "a.png", exif=pictures.exif(6))
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((48, 64, 3), np.uint16), photometric="rgb")
    tifffile.imwrite(tmp_path / "b_LR.tif", np.zeros((12, 16, 3), np.uint16), photometric="rgb")
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((48, 64, 3), np.uint16), photometric="rgb")
    tifffile.imwrite(tmp_path / "c_LR.tif", np.zeros((13, 19, 3), np.uint16), photometric="rgb")
    files = sorted(tmp_path.iterdir())
    assert names_of(pairing.pair_files(files, tmp_path, 4)) == {
        "a.png": "a_LR.png", "b.tif": "b_LR.tif", "c.tif": None, "c_LR.tif": None}
