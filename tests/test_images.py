"""Photos come from anywhere: whatever a user's folder holds is read right, or refused with one sentence."""
import os
import struct
import tempfile
import time
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pictures
import pytest
import skimage.io
import tensorflow as tf
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

import images
import utils

# -------------------------------------------------------------------------------------------------------- reading


def test_every_kind_of_picture_is_read_as_what_it_holds(good):
    wrong = []
    for path, pixels in good.items():
        image = images.read_image(path, native=True)
        if image.shape != pixels.shape or image.dtype != pixels.dtype or (image != pixels).any():
            wrong.append((path.name, image.shape, image.dtype))
    assert not wrong and len(good) == 54


def test_for_networks_every_kind_is_rgb_of_8_bits_without_alpha(good):
    for path, pixels in good.items():
        image = images.read_image(path)
        colours = pixels[:, :, :1 if pixels.shape[2] < 3 else 3]
        if pixels.dtype == np.uint16:
            colours = np.floor(colours / 257 + 0.5)
        assert image.dtype == np.uint8 and image.flags.c_contiguous, path
        np.testing.assert_array_equal(image, np.broadcast_to(colours, (*pixels.shape[:2], 3)), str(path))


def test_what_can_not_be_read_is_refused_with_one_sentence_and_nothing_else_on_the_screen(bad, capfd):
    for path, word in bad.items():
        with pytest.raises(utils.UserError) as error:
            images.read_image(path)
        sentence = str(error.value)
        assert sentence.startswith(str(path)) and word in sentence and sentence.endswith(".") and "\n" not in sentence
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["huge8.png", "huge16.png", "huge8.tif", "huge16.tif", "huge.bmp"])
def test_a_picture_that_claims_a_hundred_thousand_pixels_a_side_is_refused_before_it_is_decoded(bad, name):
    path = next(path for path in bad if path.name == name)
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(utils.UserError, match="million pixels"):
        images.read_image(path)
    assert time.perf_counter() - began < 1 and tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_a_file_that_may_not_be_read_is_named():
    with tempfile.TemporaryDirectory() as folder:  # not in pytest's folder, into which no other user may look
        os.chmod(folder, 0o755)
        path = Path(folder) / "secret.png"
        Image.fromarray(pictures.RGB).save(path)
        path.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # nobody; root may read everything
        try:
            with pytest.raises(utils.UserError, match=r"secret.png can't be read as an image .Permission denied."):
                images.read_image(path)
        finally:
            os.seteuid(user)


@pytest.mark.parametrize("source", ["chelsea.png", "brick.png"])
def test_jpeg_is_read_as_tensorflow_reads_it(tmp_path, source):
    path = tmp_path / "photo.jpg"
    Image.open(pictures.PHOTOS / source).save(path, quality=85)
    theirs = tf.io.decode_jpeg(path.read_bytes(), channels=3, dct_method="INTEGER_ACCURATE")
    assert np.abs(images.read_image(path).astype(int) - theirs.numpy()).max() <= 1


def test_packaged_photos_are_read_as_scikit_image_reads_them():
    for name in ("astronaut.png", "brick.png", "coffee.png", "motorcycle_left.png", "hubble_deep_field.jpg"):
        theirs = skimage.io.imread(pictures.PHOTOS / name)
        theirs = theirs[:, :, :3] if theirs.ndim == 3 else np.repeat(theirs[:, :, np.newaxis], 3, axis=2)
        np.testing.assert_array_equal(images.read_image(pictures.PHOTOS / name), theirs, name)


def test_a_cmyk_jpeg_has_the_colours_that_opencv_sees(tmp_path):
    Image.fromarray(pictures.RGB).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    ours = images.read_image(tmp_path / "print.jpg", native=True)
    assert np.abs(ours.astype(int) - cv2.imread(str(tmp_path / "print.jpg"))[:, :, ::-1]).max() <= 2
    assert np.abs(ours.astype(int) - pictures.RGB).mean() < 3


def test_jpegs_of_cameras_and_printers_are_read_as_what_they_show(lossy):
    for path, pixels in lossy.items():
        ours = images.read_image(path, native=True)
        assert ours.shape == pixels.shape and np.abs(ours.astype(int) - pixels).mean() < 3, path


@pytest.mark.parametrize("orientation", pictures.UPRIGHT)
def test_a_photo_is_turned_as_its_camera_was_held(tmp_path, orientation):
    exif = pictures.exif(orientation)
    expected = pictures.UPRIGHT[orientation](pictures.RGB)
    for name, options in (("a.png", {}), ("a.tif", {}), ("a.webp", {"lossless": True})):
        Image.fromarray(pictures.RGB).save(tmp_path / name, exif=exif, **options)
        np.testing.assert_array_equal(images.read_image(tmp_path / name), expected, name)
    deep = pictures.png_bytes(pictures.RGB16, chunks=pictures.chunk(b"eXIf", exif.tobytes()[6:]))
    (tmp_path / "deep.png").write_bytes(deep)
    tifffile.imwrite(tmp_path / "deep.tif", pictures.RGB16, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    for name in ("deep.png", "deep.tif"):
        np.testing.assert_array_equal(
            images.read_image(tmp_path / name, native=True), pictures.UPRIGHT[orientation](pictures.RGB16))


def test_damaged_exif_does_not_lose_the_photo(tmp_path):
    for exif in (b"Exif\0\0rubbish", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\1\x12", b"Exif\0\0MM\0*\xff\xff\xff\xff"):
        for name, options in (("a.png", {}), ("a.webp", {"lossless": True}), ("a.jpg", {"quality": 95})):
            Image.fromarray(pictures.RGB).save(tmp_path / name, exif=exif, **options)
            assert np.abs(images.read_image(tmp_path / name).astype(int) - pictures.RGB).mean() < 3


def test_float_pixels_without_a_number_or_beyond_white_are_read_quietly(tmp_path, recwarn):
    pixels = np.float32(pictures.RGB16 / 65535)
    pixels[0, :4, 0] = np.nan, np.inf, -3e38, 3
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    ours = images.read_image(tmp_path / "a.tif", native=True)
    assert ours[0, :4, 0].tolist() == [0, 0, 0, 65535]
    np.testing.assert_array_equal(ours[1:], pictures.RGB16[1:])
    assert not recwarn.list


# ------------------------------------------------------------------------------------------------------- profiles


def profile_of(red, green, blue, gamma):
    """An ICC profile of a matrix and a power, as Adobe RGB's, from primaries in XYZ relative to D50."""
    def number(values):
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78), b"cprt": b"text" + bytes(4) + b"none\0",
            b"wtpt": b"XYZ " + bytes(4) + number((0.9642, 1, 0.8249))}
    for letter, colour in ((b"r", red), (b"g", green), (b"b", blue)):
        tags[letter + b"XYZ"] = b"XYZ " + bytes(4) + number(colour)
        tags[letter + b"TRC"] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4sI4s4s4s12x4s", 128 + len(table) + len(body), bytes(4), 0x02400000, b"mntr", b"RGB ", b"XYZ ",
                         b"acsp").ljust(68, b"\0") + number((0.9642, 1, 0.8249))
    return header.ljust(128, b"\0") + table + body


ADOBE_RGB = profile_of((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446), 2.2)


def adobe_to_srgb(pixels):
    """Adobe RGB (1998) in [0, 1] to sRGB in [0, 1], by its specification, through XYZ of D65."""
    linear = pixels.astype(float) ** (563 / 256)
    xyz = linear @ np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]).T
    srgb = xyz @ np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]).T
    srgb = srgb.clip(0, 1)
    return np.where(srgb <= 0.0031308, 12.92 * srgb, 1.055 * srgb ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("name, options", [
    ("a.png", {}), ("a.tif", {}), ("a.webp", {"lossless": True}), ("a.jpg", {"quality": 98, "subsampling": 0})])
def test_colours_of_another_profile_become_srgb(tmp_path, name, options):
    Image.fromarray(pictures.RGB).save(tmp_path / name, icc_profile=ADOBE_RGB, **options)
    expected = 255 * adobe_to_srgb(pictures.RGB / 255)
    difference = np.abs(images.read_image(tmp_path / name) - expected)
    assert np.abs(pictures.RGB - expected).max() > 10  # or the test would show nothing
    assert difference.max() < (12 if name == "a.jpg" else 2.5) and difference.mean() < 1.5


def test_a_photo_in_adobe_rgb_becomes_srgb():
    path = pictures.PHOTOS / "rocket.jpg"
    raw = np.asarray(Image.open(path))
    difference = np.abs(images.read_image(path) - 255 * adobe_to_srgb(raw / 255))
    assert np.abs(images.read_image(path).astype(int) - raw).max() > 50 and np.percentile(difference, 99) < 2.5


def test_alpha_survives_a_profile(tmp_path):
    pixels = np.dstack([pictures.RGB, pictures.ALPHA])
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=ADOBE_RGB)
    ours = images.read_image(tmp_path / "a.png", native=True)
    assert np.abs(ours[:, :, :3] - 255 * adobe_to_srgb(pictures.RGB / 255)).max() < 2.5
    np.testing.assert_array_equal(ours[:, :, 3:], pictures.ALPHA)


def test_colours_of_another_profile_become_srgb_at_16_bits(tmp_path):
    photo = np.uint16(pictures.RGB) * 257 + np.uint16(pictures.RNG.integers(-128, 128, pictures.RGB.shape))
    expected = 65535 * adobe_to_srgb(photo / 65535)
    tifffile.imwrite(tmp_path / "a.tif", photo, photometric="rgb", iccprofile=ADOBE_RGB)
    chunk = pictures.chunk(b"iCCP", b"test\0\0" + zlib.compress(ADOBE_RGB))
    (tmp_path / "a.png").write_bytes(pictures.png_bytes(photo, chunks=chunk))
    for name in ("a.tif", "a.png"):
        ours = images.read_image(tmp_path / name, native=True)
        assert ours.dtype == np.uint16
        assert np.abs(ours - expected).mean() < 100  # 0.4 of a step of 8 bits: the rounding of published matrices
        assert len(np.unique(ours)) > 600  # as many shades as 16 bits have, not as 8


@pytest.mark.parametrize("space", ["sRGB", "gray"])
def test_srgb_at_16_bits_stays_as_it_is(tmp_path, space):
    # LittleCMS's sRGB has its curve as parameters of type 3.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = pictures.RGB16
    if space == "gray":
        profile, pixels = profile.replace(b"rTRC", b"kTRC").replace(b"RGB ", b"GRAY", 1), pictures.GRAY16
    tifffile.imwrite(tmp_path / "a.tif", pixels.squeeze(), photometric="rgb" if space == "sRGB" else "minisblack",
                     iccprofile=profile)
    ours = images.read_image(tmp_path / "a.tif", native=True)
    assert np.abs(ours.astype(int) - pixels).max() <= 32  # an eighth of a step of 8 bits


def test_gray_of_another_gamma_becomes_that_of_srgb(tmp_path):
    profile = bytearray(ADOBE_RGB.replace(b"rTRC", b"kTRC").replace(b"RGB ", b"GRAY", 1))
    gray = pictures.GRAY / 255
    expected = 255 * adobe_to_srgb(np.concatenate([gray] * 3, axis=2))[:, :, 1:2]
    Image.fromarray(pictures.GRAY[:, :, 0]).save(tmp_path / "a.png", icc_profile=bytes(profile))
    ours = images.read_image(tmp_path / "a.png", native=True)
    assert ours.shape == pictures.GRAY.shape and np.abs(ours - expected).max() < 2


def test_a_damaged_profile_does_not_lose_the_photo(tmp_path):
    for profile in (b"rubbish", ADOBE_RGB[:200], ADOBE_RGB[:-30], ADOBE_RGB.replace(b"rTRC", b"xxxx")):
        Image.fromarray(pictures.RGB).save(tmp_path / "a.png", icc_profile=profile)
        tifffile.imwrite(tmp_path / "a.tif", pictures.RGB16, photometric="rgb", iccprofile=profile)
        assert images.read_image(tmp_path / "a.png").shape == pictures.RGB.shape
        assert images.read_image(tmp_path / "a.tif", native=True).shape == pictures.RGB16.shape


# ----------------------------------------------------------------------------------------------- names and writing


def test_of_several_frames_the_first_is_taken_and_said_once(good, capsys):
    for path in good:
        if path.stem in ("moving", "pages"):
            images.read_image(path)
            images.read_image(path)
            assert capsys.readouterr().out == f"{path} holds several frames; the first is taken.\n"


def test_images_of_a_folder_are_listed_in_natural_order_with_what_is_none_for_all_that(tmp_path):
    for name in ("im10.png", "im2.JPG", "im1.tiff", "²3.png", "notes.txt", ".hidden.png", "._im2.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nothing")
    names = [path.name for path in images.list_images(tmp_path)]
    assert names == ["folder.png", "im1.tiff", "im2.JPG", "im10.png", "link.png", "²3.png"]


@given(st.lists(st.tuples(st.sampled_from(["a", "A", "b", "a_png", "a.png", "a_png_"]),
                          st.sampled_from([".png", ".PNG", ".jpg", ".tif"])), unique=True))
def test_results_of_different_images_never_have_one_name(names):
    results = images.output_names([stem + ending for stem, ending in names])
    assert len({result.lower() for result in results}) == len(names)
    if len({stem.lower() for stem, _ in names}) == len(names):
        assert results == [stem for stem, _ in names]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_what_is_written_is_what_other_programs_read(tmp_path, dtype, channels):
    image = pictures.RNG.integers(0, np.iinfo(dtype).max, (7, 9, channels), dtype, endpoint=True)
    images.write_image(tmp_path / "a.png", image)
    written = pictures.read_png(tmp_path / "a.png")
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, image)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png", native=True), image)


def test_of_an_image_that_can_not_be_written_nothing_is_left(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(utils.UserError, match="can't be written"):
        images.write_image(tmp_path / "file" / "a.png", pictures.RGB)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
