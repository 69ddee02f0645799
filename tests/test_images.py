"""Photos come from anywhere: whatever a user's folder holds is read right, or refused with one sentence."""
import io
import os
import struct
import tempfile
import time
import tracemalloc
import warnings
import zlib
from pathlib import Path

import utils

import cv2
import imagecodecs
import numpy as np
import pictures
import pillow_heif
import pytest
import skimage.io
import tensorflow as tf
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from files import images, metadata, photo_files


def nearest(image):
    """Stands in for the network."""
    return image.repeat(4, axis=0).repeat(4, axis=1)


# -------------------------------------------------------------------------------------------------------- reading


def test_pictures_of_every_kind_are_read_with_the_right_pixels(good):
    wrong = []
    for path, pixels in good.items():
        image = images.read_image(path, native=True)
        if image.shape != pixels.shape or image.dtype != pixels.dtype or (image != pixels).any():
            wrong.append((path.name, image.shape, image.dtype))
    assert not wrong and len(good) == 68


def test_networks_get_rgb_of_8_bits_without_alpha(good):
    for path, pixels in good.items():
        image = images.read_image(path)
        colours = pixels[:, :, :1 if pixels.shape[2] < 3 else 3]
        if pixels.dtype == np.uint16:
            colours = np.floor(colours / 257 + 0.5)
        assert image.dtype == np.uint8 and image.flags.c_contiguous, path
        np.testing.assert_array_equal(image, np.broadcast_to(colours, (*pixels.shape[:2], 3)), str(path))


def test_unreadable_files_are_refused_with_one_sentence_and_nothing_else(bad, capfd):
    for path, word in bad.items():
        with pytest.raises(utils.UserError) as error:
            images.read_image(path)
        sentence = str(error.value)
        assert sentence.startswith(str(path)) and word in sentence and sentence.endswith(".") and "\n" not in sentence
    assert capfd.readouterr() == ("", "")


def test_the_limit_of_pixels_is_a_setting_that_the_sentence_names(tmp_path):
    Image.new("L", (2000, 1000)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((1000, 2000), np.uint16))
    try:
        images.limit_pixels(1.5)
        for name in ("a.png", "a.tif"):
            with pytest.raises(utils.UserError, match=r"more than 1\.5 million pixels.* RESTORE\.max_megapixels .* 0"):
                images.read_image(tmp_path / name)
        for limit in (2, 0):
            images.limit_pixels(limit)
            assert images.read_image(tmp_path / "a.png").shape == images.read_image(tmp_path / "a.tif").shape
    finally:
        images.limit_pixels(250)


@pytest.mark.parametrize("name", ["huge8.png", "huge16.png", "huge8.tif", "huge16.tif", "huge.bmp"])
def test_a_file_that_claims_a_huge_size_is_refused_before_it_is_decoded(bad, name):
    path = next(path for path in bad if path.name == name)
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(utils.UserError, match="million pixels"):
        images.read_image(path)
    assert time.perf_counter() - began < 1 and tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_the_size_of_a_picture_is_known_by_the_head_of_its_file(good, lossy, bad):
    for path, pixels in (good | lossy).items():
        assert images.image_size(path) == pixels.shape[:2], path
    assert {path.stem for path in bad if images.image_size(path)} >= {"cut", "cut16"}  # and no error


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("quality", [8, 20, 49, 51, 75, 95])
def test_the_quality_of_a_jpeg_is_the_one_that_it_was_saved_with(tmp_path, mode, quality):
    Image.fromarray(pictures.RGB).convert(mode).save(tmp_path / "a", "JPEG", quality=quality, progressive=mode == "L")
    assert images.lossy_quality(tmp_path / "a") == pytest.approx(quality, abs=1)


def test_a_file_without_permission_is_named():
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


def test_lossy_photos_of_phones_cameras_and_printers_are_read(lossy):
    for path, pixels in lossy.items():
        ours = images.read_image(path, native=True)
        assert ours.shape == pixels.shape and np.abs(ours.astype(int) - pixels).mean() < 3, path


@pytest.mark.parametrize("orientation", pictures.UPRIGHT)
def test_photos_are_rotated_by_their_exif_orientation(tmp_path, orientation):
    exif = pictures.exif(orientation)
    expected = pictures.UPRIGHT[orientation](pictures.RGB)
    for name, options in (("a.png", {}), ("a.tif", {}), ("a.webp", {"lossless": True})):
        Image.fromarray(pictures.RGB).save(tmp_path / name, exif=exif, **options)
        np.testing.assert_array_equal(images.read_image(tmp_path / name), expected, name)
    deep = pictures.png_bytes(pictures.RGB16, chunks=pictures.chunk(b"eXIf", exif.tobytes()[6:]))
    (tmp_path / "deep.png").write_bytes(deep)
    tifffile.imwrite(tmp_path / "deep.tif", pictures.RGB16, photometric="rgb",
                     extratags=[(274, "H", 1, orientation, True)])
    for name in ("deep.png", "deep.tif"):
        np.testing.assert_array_equal(
            images.read_image(tmp_path / name, native=True), pictures.UPRIGHT[orientation](pictures.RGB16))


def test_a_photo_with_damaged_exif_is_read(tmp_path):
    for exif in (b"Exif\0\0rubbish", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\1\x12", b"Exif\0\0MM\0*\xff\xff\xff\xff"):
        for name, options in (("a.png", {}), ("a.webp", {"lossless": True}), ("a.jpg", {"quality": 95})):
            Image.fromarray(pictures.RGB).save(tmp_path / name, exif=exif, **options)
            assert np.abs(images.read_image(tmp_path / name).astype(int) - pictures.RGB).mean() < 3


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"])
@pytest.mark.parametrize("byteorder", "<>")
def test_integers_of_a_tiff_are_scaled_by_the_range_of_their_type(tmp_path, dtype, byteorder):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    pixels = np.array([low + (high - low) * i // 255 for i in range(256)], dtype).reshape(8, 32)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", byteorder=byteorder)
    ours = images.read_image(tmp_path / "a.tif", native=True)
    assert ours.dtype == (np.uint8 if dtype.endswith("int8") else np.uint16)
    np.testing.assert_allclose(ours.ravel() / np.iinfo(ours.dtype).max, np.arange(256) / 255, atol=1 / 65535)


@pytest.mark.parametrize("dtype", ["uint32", "uint64", "int32", "int64"])
@pytest.mark.parametrize("pixels", [pictures.RGB, pictures.RGB16], ids=["8 bits", "16 bits"])
def test_wide_integers_that_use_8_or_16_bits_are_scaled_by_these(tmp_path, dtype, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels.astype(dtype), photometric="rgb")
    ours = images.read_image(tmp_path / "a.tif", native=True)
    assert ours.dtype == pixels.dtype
    np.testing.assert_array_equal(ours, pixels)


@pytest.mark.parametrize("dtype, low, high, expected", [
    ("int16", 0, 10_000, (0, 10_000)), ("int8", 0, 100, (0, 100)), ("uint16", 0, 231, (0, 231)),  # values stay values
    ("int16", -1000, 3000, (31_768, 35_768)), ("int32", -1000, 3000, (31_768, 35_768)), ("int64", -9, 99, (119, 227)),
    ("int32", 0, 32_000, (0, 32_000)), ("uint32", 0, 100_000, (0, 50_000)), ("int64", 0, 2 ** 40, (0, 32_768)),
    ("int32", -100_000, 100_000, (7768, 57_768))])
def test_integers_that_use_a_part_of_their_range_keep_values_or_highest_bits(tmp_path, dtype, low, high, expected):
    pixels = np.linspace(low, high, 64).astype(dtype).reshape(8, 8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    ours = images.read_image(tmp_path / "a.tif", native=True)
    shown = expected[0] + (pixels - float(low)) * ((expected[1] - expected[0]) / (high - low))
    assert np.abs(ours[:, :, 0] - shown).max() <= 1


@pytest.mark.parametrize("colours, alpha, photometric", [
    (pictures.RGB, pictures.ALPHA, "rgb"), (pictures.RGB16, pictures.ALPHA16, "rgb"),
    (pictures.GRAY, pictures.ALPHA, "minisblack"), (pictures.GRAY16, pictures.ALPHA16, "minisblack")])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_only_what_a_tiff_calls_alpha_is_alpha(tmp_path, capsys, colours, alpha, photometric, planar):
    def read(bands, extrasamples):
        pixels = np.dstack([colours, *bands])
        tifffile.imwrite(path, pixels if planar == "contig" else np.moveaxis(pixels, 2, 0), photometric=photometric,
                         planarconfig=planar, extrasamples=extrasamples)
        return images.read_image(path, native=True)

    other = alpha[::-1]
    for number, (bands, extrasamples, expected) in enumerate([
            ([alpha], ["unassalpha"], np.dstack([colours, alpha])),
            ([other], ["unspecified"], colours),
            ([other, alpha], ["unspecified", "unassalpha"], np.dstack([colours, alpha])),
            ([alpha, other, other], ["unassalpha", "unspecified", "unspecified"], np.dstack([colours, alpha]))]):
        path = tmp_path / f"{number}.tif"
        ours = read(bands, extrasamples)
        assert ours.dtype == colours.dtype
        np.testing.assert_array_equal(ours, expected)
        said = f"{path} holds {utils.plural(len(bands), 'band')} besides its colours; what is not alpha is left out.\n"
        assert capsys.readouterr().out == (said if "unspecified" in extrasamples else "")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_three_or_four_bands_that_gdal_calls_gray_are_rgb(tmp_path, capsys, dtype, planar, bigtiff):
    def to_range(pixels):
        return (pixels / 255 if np.dtype(dtype).kind == "f" else pixels).astype(dtype)

    def read(*bands, extrasamples):
        pixels = to_range(np.dstack(bands))
        tifffile.imwrite(path, pixels if planar == "contig" else np.moveaxis(pixels, 2, 0), photometric="minisblack",
                         planarconfig=planar, extrasamples=extrasamples, bigtiff=bigtiff)
        return images.read_image(path, native=True)

    path = tmp_path / "a.tif"
    tifffile.imwrite(path, to_range(pictures.RGB), photometric="rgb")
    rgb = images.read_image(path, native=True)
    np.testing.assert_array_equal(read(pictures.RGB, extrasamples=["unspecified"] * 2), rgb)
    assert capsys.readouterr().out == ""
    with_alpha = read(pictures.RGB, pictures.ALPHA, extrasamples=["unspecified"] * 2 + ["unassalpha"])
    assert with_alpha.shape[2] == 4
    np.testing.assert_array_equal(with_alpha[:, :, :3], rgb)
    path = tmp_path / "nir.tif"
    np.testing.assert_array_equal(read(pictures.RGB, pictures.ALPHA, extrasamples=["unspecified"] * 3), rgb)
    assert capsys.readouterr().out == f"{path} holds 1 band besides its colours; what is not alpha is left out.\n"
    path = tmp_path / "bands.tif"
    assert read(pictures.RGB, pictures.RGB, extrasamples=["unspecified"] * 5).shape[2] == 1


@pytest.mark.parametrize("colours, alpha", [(pictures.RGB, pictures.ALPHA), (pictures.RGB16, pictures.ALPHA16)])
def test_premultiplied_colours_are_divided_by_their_alpha(tmp_path, colours, alpha):
    white = np.iinfo(colours.dtype).max
    multiplied = np.rint(colours * (alpha / white)).astype(colours.dtype)
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([multiplied, alpha]), photometric="rgb", extrasamples=["assocalpha"])
    ours = images.read_image(tmp_path / "a.tif", native=True)
    np.testing.assert_array_equal(ours[:, :, 3:], alpha)
    assert (np.abs(ours[:, :, :3].astype(int) - colours) * (alpha / white) <= 1).all()  # what rounding left of them


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_tiffs_of_rare_depths_are_read_as_opencv_reads_them(tmp_path, bits):
    tifffile.imwrite(tmp_path / "a.tif", pictures.RGB16 >> (16 - bits), photometric="rgb", bitspersample=bits)
    theirs = cv2.imread(str(tmp_path / "a.tif"), cv2.IMREAD_UNCHANGED)[:, :, ::-1]  # the bits are shifted up
    assert np.abs(images.read_image(tmp_path / "a.tif", native=True).astype(int) - theirs).max() < 1 << (16 - bits)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_for_printers_has_the_colours_that_its_inks_leave_of_white(tmp_path, dtype):
    white = np.iinfo(dtype).max
    inks = pictures.RNG.integers(0, white, (9, 7, 4), dtype, endpoint=True)
    tifffile.imwrite(tmp_path / "a.tif", inks, photometric="separated", compression="lzw")
    inks = inks / white
    expected = white * (1 - inks[:, :, :3]) * (1 - inks[:, :, 3:])
    np.testing.assert_allclose(images.read_image(tmp_path / "a.tif", native=True), expected, atol=0.51)


def test_lab_tiffs_are_converted_as_littlecms_does(tmp_path):
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.fromarray(pictures.RGB), srgb, lab, outputMode="LAB")
    image.save(tmp_path / "a.tif")
    expected = np.asarray(ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")).astype(int)
    assert np.abs(images.read_image(tmp_path / "a.tif", native=True) - expected).max() <= 1
    assert np.abs(expected - pictures.RGB).mean() < 1
    values = np.asarray(image)
    deep = np.dstack([values[:, :, 0].astype(np.uint16) * 257, values[:, :, 1:].view(np.int8).astype(np.int16) * 256])
    tifffile.imwrite(tmp_path / "deep.tif", deep.astype(np.uint16), photometric="cielab")
    ours = images.read_image(tmp_path / "deep.tif", native=True)
    assert ours.dtype == np.uint16 and np.abs(ours / 257 - expected).max() <= 1


@pytest.mark.parametrize("bits, photometric, extrasamples", [
    (2, "rgb", ()), (4, "rgb", ()), (6, "rgb", ()), (8, "separated", (2,))])
def test_layouts_that_pillow_does_not_know_are_read(tmp_path, bits, photometric, extrasamples):
    bands = {"rgb": 3, "separated": 4}[photometric] + len(extrasamples)
    pixels = pictures.RNG.integers(0, 2 ** bits, (20, 28, bands), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, bitspersample=bits, extrasamples=extrasamples)
    ours = images.read_image(tmp_path / "a.tif", native=True)
    expected = pixels * (255 / (2 ** bits - 1))
    if photometric == "separated":
        expected = np.dstack([(255 - expected[:, :, :3]) * (255 - expected[:, :, 3:4]) / 255, expected[:, :, 4:]])
    assert ours.dtype == np.uint8 and np.abs(ours - expected).max() <= 0.51


def write_deep(path, pixels, bits):
    """Write (H, W, C) of `bits` bits losslessly as HEIC or AVIF."""
    channels = pixels.shape[2]
    if path.suffix == ".avif":
        matrix = {"matrix": 0} if channels > 2 else {}  # RGB as it is
        path.write_bytes(imagecodecs.avif_encode(np.squeeze(pixels), level=100, bitspersample=bits, **matrix))
        return
    mode = {1: "I;16L", 3: "RGB;16", 4: "RGBA;16"}[channels]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
        pillow_heif.from_bytes(mode, pixels.shape[1::-1], (pixels << (16 - bits)).tobytes()).save(
            path, quality=-1, chroma=444, matrix_coefficients=0)


@pytest.mark.parametrize("kind", ["heic", "avif"])
@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_heic_and_avif_keep_more_than_8_bits(tmp_path, kind, bits, channels):
    if (kind, channels) == ("heic", 2):
        pytest.skip("pillow_heif writes no gray with alpha")
    pixels = pictures.RNG.integers(0, 2 ** bits, (64, 72, channels), np.uint16)
    pixels[0, :2] = [[0], [2 ** bits - 1]]
    write_deep(tmp_path / f"a.{kind}", pixels, bits)
    ours = images.read_image(tmp_path / f"a.{kind}", native=True)
    assert ours.dtype == np.uint16 and ours.shape == pixels.shape
    steps = np.abs(ours / 65535 - pixels / (2 ** bits - 1)) * (2 ** bits - 1)
    assert steps.max() <= (2.1 if (kind, channels) == ("heic", 1) else 0.1)  # x265's gray is of the narrow range
    shallow = images.read_image(tmp_path / f"a.{kind}")
    expected = pixels[:, :, :1] * (255 / (2 ** bits - 1))
    assert shallow.dtype == np.uint8 and np.abs(shallow[:, :, :1] - expected).max() < 1.1


def test_a_moving_avif_is_read(tmp_path):
    frames = [Image.fromarray(np.roll(np.tile(pictures.RGB, (4, 4, 1)), shift, 1)) for shift in (0, 40)]
    frames[0].save(tmp_path / "a.avif", quality=95, save_all=True, append_images=frames[1:])
    assert np.abs(images.read_image(tmp_path / "a.avif").astype(int) - np.asarray(frames[0])).mean() < 3


def test_a_deep_photo_of_a_phone_is_turned(tmp_path):
    pixels = pictures.RNG.integers(0, 1024, (64, 72, 3), np.uint16)
    write_deep(tmp_path / "a.heic", pixels, 10)
    plain = images.read_image(tmp_path / "a.heic", native=True)
    heif = pillow_heif.open_heif(tmp_path / "a.heic", convert_hdr_to_8bit=False)
    heif.info["exif"] = pictures.exif(6).tobytes()
    heif.save(tmp_path / "b.heic", quality=-1, chroma=444, matrix_coefficients=0)
    np.testing.assert_array_equal(images.read_image(tmp_path / "b.heic", native=True), np.rot90(plain, -1))


@pytest.mark.parametrize("pixels", [pictures.RGB, pictures.RGB16], ids=["8 bits", "16 bits"])
def test_a_png_with_much_text_or_a_large_profile_is_read(tmp_path, pixels):
    text = b"workflow " * 500_000  # 4.5 MB, as ComfyUI writes
    profile = zlib.compress(pictures.ADOBE_RGB + bytes(3_000_000))
    for chunk in (pictures.chunk(b"zTXt", b"prompt\0\0" + zlib.compress(text)), pictures.chunk(b"tEXt", b"a\0" + text),
                  pictures.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(text)),
                  pictures.chunk(b"iCCP", b"a\0\0" + profile)):
        (tmp_path / "a.png").write_bytes(pictures.png_bytes(pixels, chunks=chunk))
        assert images.read_image(tmp_path / "a.png", native=True).shape == pixels.shape


def test_text_of_a_png_that_unpacks_to_gigabytes_takes_no_memory(tmp_path):
    packed = zlib.compressobj()
    bomb = b"".join(packed.compress(bytes(2 ** 24)) for _ in range(64)) + packed.flush()
    for kind, head in ((b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")):
        (tmp_path / "a.png").write_bytes(pictures.png_bytes(pictures.RGB, chunks=3 * pictures.chunk(kind, head + bomb)))
        tracemalloc.start()
        with pytest.raises(utils.UserError, match="too large"):
            images.read_image(tmp_path / "a.png")
        assert tracemalloc.get_traced_memory()[1] < 200e6
        tracemalloc.stop()


RAW = {"dng": {"extratags": [(50706, "B", 4, (1, 4, 0, 0), True)]}, "tif": {}}  # DNGVersion


@pytest.mark.parametrize("photometric", ["cfa", "linear_raw"])
@pytest.mark.parametrize("suffix", ["dng", "tif"])
def test_a_raw_photo_is_refused_though_it_begins_with_a_preview(tmp_path, suffix, photometric):
    sensor = pictures.GRAY16[:, :, 0] if photometric == "cfa" else pictures.RGB16
    with tifffile.TiffWriter(tmp_path / f"a.{suffix}") as tiff:
        tiff.write(pictures.RGB[::4, ::4], photometric="rgb", subfiletype=1, subifds=1, **RAW[suffix])
        tiff.write(sensor, photometric=photometric, planarconfig="contig")
    with pytest.raises(utils.UserError, match="a raw photo; develop it first"):
        images.read_image(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("beginning", [b"II*\0\x10\0\0\0CR\2\0", b"IIRO\x08\0\0\0", b"FUJIFILMCCD-RAW 0201"])
def test_a_raw_photo_is_known_whatever_it_is_called(tmp_path, beginning):
    (tmp_path / "a.tif").write_bytes(beginning + bytes(1000))
    with pytest.raises(utils.UserError, match="a raw photo; develop it first"):
        images.read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("inside", [True, False])
def test_the_photo_is_read_and_not_its_preview(tmp_path, capsys, inside):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(pictures.RGB[::4, ::4], photometric="rgb", subfiletype=1, subifds=int(inside))
        tiff.write(pictures.RGB, photometric="rgb")
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.tif"), pictures.RGB)
    assert capsys.readouterr().out == ""


def test_floats_that_are_infinite_or_no_number_are_read_quietly(tmp_path):
    pixels = np.float32(pictures.RGB16 / 65535)
    pixels[0, :4, 0] = np.nan, np.inf, -3e38, 3
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # others may come from what earlier tests left
        ours = images.read_image(tmp_path / "a.tif", native=True)
    assert ours[0, :4, 0].tolist() == [0, 0, 0, 65535]
    np.testing.assert_array_equal(ours[1:], pictures.RGB16[1:])


# ----------------------------------------------------------------------------------------------- names and writing


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_first_of_several_pages_is_read_at_any_depth_and_that_is_said(tmp_path, capsys, dtype):
    pages = pictures.RNG.random((4, 9, 7)) * (1 if dtype == np.float32 else np.iinfo(dtype).max)
    tifffile.imwrite(tmp_path / "a.tif", pages.astype(dtype), photometric="minisblack")
    ours = images.read_image(tmp_path / "a.tif", native=True)[:, :, 0]
    np.testing.assert_allclose(ours, pages[0] * (65535 if dtype == np.float32 else 1), atol=1)
    assert capsys.readouterr().out == f"{tmp_path / 'a.tif'} holds several pages; the first is taken.\n"


def test_the_first_of_several_frames_is_read_and_that_is_said_once(good, capsys):
    for path in good:
        if path.stem in ("moving", "pages"):
            images.read_image(path)
            images.read_image(path)
            said = ("pages; the first is taken" if path.stem == "pages" else
                    "frames; the first is taken (to restore all of them: --frames)")
            assert capsys.readouterr().out == f"{path} holds several {said}.\n"


def test_images_of_a_folder_and_its_subfolders_are_listed_in_natural_order(tmp_path):
    for name in ("im10.png", "im2.JPG", "im1.tiff", "²3.png", "notes.txt", ".hidden.png", "._im2.jpg", "day 10/b.jfif",
                 "day 2/a.heic", "day 2/deep/er/a.avif", ".trash/a.png", "named.png/a.jpe"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.png").symlink_to("nothing")
    listed = [path.relative_to(tmp_path).as_posix() for path in photo_files.list_images(tmp_path)]
    assert listed == ["day 2/a.heic", "day 2/deep/er/a.avif", "day 10/b.jfif", "im1.tiff", "im2.JPG", "im10.png",
                      "link.png", "named.png/a.jpe", "²3.png"]
    assert [path.name for path in photo_files.list_images(tmp_path, recursive=False)] == [
        "im1.tiff", "im2.JPG", "im10.png", "link.png", "²3.png"]


@pytest.mark.parametrize("folder", [
    "@eaDir/a.jpg", "#recycle", "#snapshot", "@Recycle", "$RECYCLE.BIN/S-1-5-21", ".Trash-1000/files", ".thumbnails",
    ".@__thumb", "System Volume Information", "RECYCLER", "__MACOSX", "lost+found", "2019 Previews.lrdata/a"])
def test_thumbnails_and_deleted_files_of_systems_are_no_photos(tmp_path, folder):
    for name in ("a.jpg", "sub/b.jpg", f"{folder}/SYNOPHOTO_THUMB_XL.jpg", f"sub/{folder}/b.jpg", "Thumbs.db",
                 "@ home/c.jpg", "recycled bottles/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [path.name for path in photo_files.find_photos(tmp_path)[0]]
    assert names == [path.name for path in photo_files.list_images(tmp_path)] == ["c.jpg", "a.jpg", "d.jpg", "b.jpg"]
    assert len(photo_files.list_images(tmp_path / folder)) == 1  # where it is named


def test_linked_folders_are_read_once_and_never_those_above(tmp_path):
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for name in ("private.png", "photos/a.png", "photos/sub/b.png", "other/c.png"):
        (tmp_path / name).touch()
    for name, target in (("loop", "."), ("sub/loop", ".."), ("above", "../.."), ("other", "../other"),
                         ("twice", "sub")):
        (tmp_path / "photos" / name).symlink_to(target, target_is_directory=True)
    names = [path.name for path in photo_files.list_images(tmp_path / "photos")]
    assert sorted(names) == ["a.png", "b.png", "c.png"]


def test_photos_of_other_kinds_are_found_apart(tmp_path):
    for name in ("a.jpg", "b.CR2", "c.nef", "d.jxl", "e.psd", "sub/f.svg", "notes.txt", "metrics.json", ".g.cr2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    photos, results, unread = photo_files.find_photos(tmp_path)
    assert [path.name for path in photos] == ["a.jpg"] and not results
    assert [path.name for path in unread] == ["b.CR2", "c.nef", "d.jxl", "e.psd", "f.svg"]
    with pytest.raises(utils.UserError, match=r"b\.CR2 can't be read as an image \(a raw photo; develop it first"):
        images.read_image(tmp_path / "b.CR2")


@pytest.mark.parametrize("suffix", metadata.OUTPUT_SUFFIXES)
def test_pictures_that_this_program_wrote_are_not_photos(tmp_path, suffix):
    photo = np.tile(pictures.RGB, (8, 8, 1))
    Image.fromarray(photo).save(tmp_path / f"me_hr{suffix}", exif=pictures.exif(6))  # a name of ours, a user's photo
    images.write_image(tmp_path / f"holiday{suffix}", photo)
    images.write_image(tmp_path / f"with exif{suffix}", photo, images.read_metadata(tmp_path / f"me_hr{suffix}"))
    photos, results, _ = photo_files.find_photos(tmp_path)
    assert [path.stem for path in photos] == ["me_hr"] and [path.stem for path in results] == ["holiday", "with exif"]


def test_a_name_alone_does_not_make_a_result(tmp_path):
    for name in ("me_hr.png", "me_lr.png", "comparison.png", "c_gen.png", "c.png", "d_gen.png", "train_g_10.png"):
        Image.new("RGB", (28, 20)).save(tmp_path / name)
    assert len(photo_files.find_photos(tmp_path)[0]) == 7


def test_results_mirror_the_subfolders_of_the_photos():
    paths = [Path(name) for name in ("in/a.png", "in/sub/a.png", "in/sub/a.jpg", "in/sub/b.c.png", "elsewhere/a.png")]
    names = photo_files.output_names(paths, "in", "elsewhere")
    assert names == ["in_a", "sub/a_png", "sub/a_jpg", "sub/b.c", "elsewhere_a"]
    assert photo_files.output_names(paths[1:2]) == ["a"]


def test_names_of_results_tell_the_folders_of_photos_that_are_called_alike():
    def names(*paths):
        return photo_files.output_names(map(Path, paths))

    assert names("rome/1.jpg", "paris/1.jpg", "paris/2.jpg") == ["rome_1", "paris_1", "2"]
    assert names("a/day/1.jpg", "b/day/1.jpg", "c/1.jpg") == ["a_day_1", "b_day_1", "c_1"]
    assert names("a/1.jpg", "a/1.png", "b/1.jpg") == ["a_1_jpg", "a_1_png", "b_1"]
    assert names("/x/1.jpg", "/y/x/1.jpg") == ["x_1", "y_x_1"]
    assert names("x_1.png", "/x/1.jpg", "/y/1.jpg") == ["x_1", "x_1_", "y_1"]


@pytest.mark.parametrize("letter", ["a", "ü", "写", "\N{GRINNING FACE}", "\udcff"])
@pytest.mark.parametrize("length", [150, 245, 250])
def test_names_of_results_fit_file_systems_which_count_bytes(tmp_path, letter, length):
    stem = letter * (length // len(os.fsencode(letter)))
    paths = [Path(stem + ending) for ending in (".jpg", "b.jpg", ".png")]
    names = photo_files.output_names(paths)
    assert len(set(names)) == 3 and names == photo_files.output_names(paths)  # the same in each run
    for name in names:
        assert name.startswith(letter * 20) or letter == "\udcff"  # bytes that are no text are cut out
        (tmp_path / f"{name}_blend_0.123456.png").touch()
    assert photo_files.output_names([Path("short.jpg")]) == ["short"]


@given(st.lists(st.tuples(st.sampled_from(["a", "A", "b", "a_png", "a.png", "a_png_"]),
                          st.sampled_from([".png", ".PNG", ".jpg", ".tif"])), unique=True))
def test_output_names_are_unique(names):
    results = photo_files.output_names([stem + ending for stem, ending in names])
    assert len({result.lower() for result in results}) == len(names)
    if len({stem.lower() for stem, _ in names}) == len(names):
        assert results == [stem for stem, _ in names]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_written_files_are_read_by_other_programs(tmp_path, dtype, channels):
    image = pictures.RNG.integers(0, np.iinfo(dtype).max, (7, 9, channels), dtype, endpoint=True)
    for name in ("a.png", "a.tif"):
        images.write_image(tmp_path / name, image)
        np.testing.assert_array_equal(images.read_image(tmp_path / name, native=True), image)
    written = pictures.read_png(tmp_path / "a.png")
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, image)
    if dtype == np.uint8:
        np.testing.assert_array_equal(np.atleast_3d(Image.open(tmp_path / "a.tif")), image)
    elif channels != 2:  # OpenCV reads no gray with alpha
        theirs = np.atleast_3d(cv2.imread(str(tmp_path / "a.tif"), cv2.IMREAD_UNCHANGED))
        np.testing.assert_array_equal(theirs[:, :, [2, 1, 0, 3][:channels]] if channels > 1 else theirs, image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", ["jpg", "webp", "avif"])
def test_lossy_files_show_the_picture_and_say_what_they_can_not_hold(tmp_path, capsys, dtype, channels, suffix):
    colours = np.tile(pictures.GRAY if channels < 3 else pictures.RGB, (4, 4, 1)).astype(int)
    alpha = np.full_like(colours[:, :, :1], 51)
    image = np.dstack([colours, alpha]) if channels % 2 == 0 else colours
    images.write_image(tmp_path / f"a.{suffix}", (image * (np.iinfo(dtype).max // 255)).astype(dtype))
    with Image.open(tmp_path / f"a.{suffix}") as written:
        modes = {"jpg": "L" if channels < 3 else "RGB", "webp": "RGBA" if channels % 2 == 0 else "RGB",
                 "avif": "L" if channels == 1 else "RGBA" if channels % 2 == 0 else "RGB"}
        assert written.mode == modes[suffix]
        theirs = np.asarray(written)
    expected = colours if suffix != "jpg" or channels % 2 else colours / 5 + 255 * 4 / 5
    shown = np.atleast_3d(theirs)[:, :, :3]
    assert np.abs(shown - expected).mean() < 3
    if suffix != "jpg" and channels % 2 == 0:
        assert np.abs(theirs[:, :, 3].astype(int) - 51).max() <= (suffix == "avif")
    said = capsys.readouterr().out
    assert ("16 bits" in said) == (dtype == np.uint16)
    assert ("transparency" in said) == (suffix == "jpg" and channels % 2 == 0)


@pytest.mark.parametrize("name", ["a.bmp", "a.GIF", "a.heic", "a.jfif", "a.psd", "a.nef", "a.txt", "a"])
def test_kinds_of_files_that_are_not_written_are_refused_by_name(tmp_path, name):
    with pytest.raises(utils.UserError, match=rf"{name} can't be written .* name a \.png, \.jpg, .* or \.tiff\.$"):
        images.write_image(tmp_path / name, pictures.RGB)
    assert not any(tmp_path.iterdir())


def test_a_picture_too_large_for_its_kind_of_file_is_refused_by_name(tmp_path):
    wide = np.zeros((1, 20_000, 3), np.uint8)
    with pytest.raises(utils.UserError, match=r"a\.webp can't hold 20000x1 pixels, 16383 a side at most"):
        images.write_image(tmp_path / "a.webp", wide)
    with pytest.raises(utils.UserError, match=r"a\.png can't hold 4x1000001 pixels, 1000000 a side .* name a \.tif\."):
        images.write_image(tmp_path / "a.png", np.zeros((1_000_001, 4, 1), np.uint8))
    images.write_image(tmp_path / "a.jpg", wide)
    assert Image.open(tmp_path / "a.jpg").size == (20_000, 1)


# ------------------------------------------------------------------------------------------------------ animations


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("form", ["gif", "webp", "png"])
def test_moving_pictures_keep_their_frames_times_and_loops(tmp_path, form, channels):
    """Written by Pillow, read, written and read by Pillow again."""
    y, x = np.mgrid[:24, :30]
    shown = [np.dstack([np.where((x // 6 + y // 8 + step) % 2, 230, 40), 8 * y, np.full_like(x, 40 * step),
                        np.where((x - 15) ** 2 + (y - 12) ** 2 < 30 + 20 * step, 255, 0)])[:, :, :channels]
             for step in range(4)]
    frames = [Image.fromarray(np.uint8(frame)) for frame in shown]
    frames[0].save(tmp_path / f"a.{form}", save_all=True, append_images=frames[1:], duration=[100, 250, 40, 1000],
                   loop=3, disposal=2, **({"lossless": True} if form == "webp" else {}))
    assert images.moving_suffix(tmp_path / f"a.{form}") == f".{form}"
    animation = images.read_frames(tmp_path / f"a.{form}")
    images.write_frames(tmp_path / f"b.{form}", animation, quality=100)
    assert metadata.has_mark(tmp_path / f"b.{form}")
    with Image.open(tmp_path / f"b.{form}") as written:
        assert written.format == form.upper() and written.n_frames == 4 and written.info["loop"] == 3
        for step, duration in enumerate([100, 250, 40, 1000]):
            written.seek(step)
            theirs = np.asarray(written.convert("RGBA")).astype(int)
            assert written.info["duration"] == duration
            visible = shown[step][:, :, 3] > 0 if channels == 4 else np.full((24, 30), True)
            error = np.abs(theirs - np.dstack([shown[step], 255 * visible])[:, :, :4])[visible].mean()
            assert error < (12 if form == "webp" else 6)
            assert (theirs[:, :, 3] == 255 * visible).all()


def test_what_does_not_move_has_no_frames(tmp_path):
    for name in ("a.gif", "a.webp", "a.png", "a.jpg"):
        Image.fromarray(pictures.RGB).save(tmp_path / name)
        assert images.moving_suffix(tmp_path / name) is None
    (tmp_path / "b.gif").write_bytes((tmp_path / "a.gif").read_bytes()[:40])
    with pytest.raises(utils.UserError, match=r"b\.gif can't be read as an image"):
        images.read_frames(tmp_path / "b.gif")


# ------------------------------------------------------------------------------------------------------ metadata


CAMERA = {0x010F: "Canon", 0x0110: "EOS R5", 0x0132: "2020:02:03 04:05:06", 0x013B: "José".encode(), 0x8298: "me"}
SHOT = {0x9003: "2020:02:03 04:05:06", 0x829D: 2.8, 0x8827: 400, 0xA002: 28, 0xA003: 20, 0xA001: 65535,
        0x927C: b"secret"}
PLACE = {1: "N", 2: (48.0, 51.0, 29.5), 3: "E", 4: (2.0, 17.0, 40.0)}


@pytest.fixture(params=["jpg", "png", "webp", "tif", "avif", "heic"])
def photo_with_exif(request, tmp_path):
    """A photo in Adobe RGB that was taken with the camera held upright."""
    pillow_heif.register_heif_opener()
    exif = pictures.exif(6)
    for tag, value in CAMERA.items():
        exif[tag] = value
    exif.get_ifd(0x8769).update(SHOT)
    exif.get_ifd(0x8825).update(PLACE)
    path = tmp_path / f"photo.{request.param}"
    Image.fromarray(pictures.RGB).save(path, exif=exif.tobytes(), dpi=(300, 300), icc_profile=pictures.ADOBE_RGB)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_result_keeps_the_metadata_of_its_photo(photo_with_exif, tmp_path, suffix, dtype):
    photo = images.read_image(photo_with_exif, native=True)
    sr = nearest(photo).astype(dtype)
    images.write_image(tmp_path / f"a.{suffix}", sr, images.read_metadata(photo_with_exif))
    assert images.read_image(tmp_path / f"a.{suffix}").shape == (112, 80, 3)  # not turned a second time
    if (suffix, dtype) == ("tif", np.uint16):  # which Pillow does not open
        exif = Image.Exif()
        with open(tmp_path / "a.tif", "rb") as file:
            exif.load_from_fp(file)
            tags, shot, place = dict(exif), exif.get_ifd(0x8769), exif.get_ifd(0x8825)
        profile = tags[0x8773]
    else:
        with Image.open(tmp_path / f"a.{suffix}") as result:
            exif, profile = result.getexif(), result.info["icc_profile"]
            tags, shot, place = dict(exif), exif.get_ifd(0x8769), exif.get_ifd(0x8825)
            if suffix not in ("webp", "avif") and photo_with_exif.suffix in (".jpg", ".png", ".tif"):
                assert result.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    for tag, value in CAMERA.items():
        if isinstance(value, str):
            assert tags[tag] == value
        elif photo_with_exif.suffix not in (".avif", ".tif"):  # Pillow loses the accent as it writes the photo
            assert tags[tag] == value.decode("latin-1")
    assert tags.get(0x0112, 1) == 1
    assert {tag: shot[tag] for tag in (0x9003, 0x829D, 0x8827)} == {tag: SHOT[tag] for tag in (0x9003, 0x829D, 0x8827)}
    assert (shot[0xA002], shot[0xA003], shot[0xA001]) == (80, 112, 1) and 0x927C not in shot
    assert {tag: place[tag] for tag in PLACE} == PLACE
    assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))


def test_a_photo_without_metadata_gets_none_and_a_gray_one_no_profile_of_colours(tmp_path):
    Image.fromarray(pictures.RGB).save(tmp_path / "a.png")
    gray = pictures.profile_of((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446), 2.2)
    Image.fromarray(pictures.GRAY[:, :, 0]).save(
        tmp_path / "b.png", icc_profile=gray.replace(b"rTRC", b"kTRC").replace(b"RGB ", b"GRAY", 1))
    for name in ("a.png", "b.png"):
        about = images.read_metadata(tmp_path / name)
        images.write_image(tmp_path / "result.png", images.read_image(tmp_path / name, native=True), about)
        with Image.open(tmp_path / "result.png") as result:
            assert set(result.info) == {"Software"} and not result.getexif()


@pytest.mark.parametrize("space, interoperability, profile, claim", [
    (65535, None, None, 65535), (65535, "R03", None, 1), (2, None, None, 1), (1, None, None, 1), (None, None, None, 1),
    (65535, None, pictures.ADOBE_RGB, 1)])
def test_a_result_claims_to_be_srgb_only_if_it_may_be(tmp_path, space, interoperability, profile, claim):
    exif = pictures.exif(1)
    shot = {0x829D: 2.8, 0xA001: space, 0xA005: interoperability and {1: interoperability}}
    exif.get_ifd(0x8769).update({tag: value for tag, value in shot.items() if value})
    Image.fromarray(pictures.RGB).save(tmp_path / "a.jpg", exif=exif.tobytes(), icc_profile=profile)
    images.write_image(tmp_path / "result.jpg", pictures.RGB, images.read_metadata(tmp_path / "a.jpg"))
    with Image.open(tmp_path / "result.jpg") as result:
        written = result.getexif().get_ifd(0x8769)
        assert written[0xA001] == claim and 0xA005 not in written


def test_damaged_metadata_does_not_lose_the_rest(tmp_path):
    exif = pictures.exif(6)
    exif[0x010F] = "Canon"
    damaged = exif.tobytes().replace(struct.pack(">H", 0x0112), struct.pack(">H", 0x8769))  # EXIF at no place
    for block in (damaged, b"Exif\0\0rubbish", b"Exif\0\0MM\0*\xff\xff\xff\xff"):
        Image.fromarray(pictures.RGB).save(tmp_path / "a.jpg", exif=block)
        about = images.read_metadata(tmp_path / "a.jpg")
        assert about.tags == ({0x010F: "Canon"} if block == damaged else {})
        images.write_image(tmp_path / "result.jpg", pictures.RGB, about)
    assert images.read_metadata(tmp_path / "no such file.jpg") == images.Metadata()


def test_a_jpeg_is_written_without_exif_that_is_too_long_for_it(tmp_path):
    images.write_image(tmp_path / "a.jpg", pictures.RGB, images.Metadata(exif={0x9286: bytes(100_000)}))
    assert metadata.has_mark(tmp_path / "a.jpg")


# ------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("kind", ["tif", "png", "avif", "heic"])
def test_cut_and_flipped_files_are_read_or_refused(tmp_path, kind):
    pillow_heif.register_heif_opener()
    big, big16 = np.tile(pictures.RGB, (3, 3, 1)), np.tile(pictures.RGB16, (3, 3, 1))
    path, originals = tmp_path / f"a.{kind}", []
    if kind == "tif":
        for options in ({}, {"compression": "lzw"}, {"compression": "zlib", "predictor": True, "tile": (32, 32)},
                        {"compression": "zstd"}, {"planarconfig": "separate"}, {"iccprofile": pictures.ADOBE_RGB}):
            pixels = np.moveaxis(big16, 2, 0) if "planarconfig" in options else big16
            tifffile.imwrite(path, pixels, photometric="rgb", **options)
            originals.append(path.read_bytes())
    elif kind == "png":
        originals = [pictures.png_bytes(big16), pictures.png_bytes(np.dstack([big16, big16[:, :, :1]]))]
    else:
        for image in (big, np.dstack([big, big[:, :, :1]])):
            Image.fromarray(image).save(path, quality=80)
            originals.append(path.read_bytes())
    rng = np.random.default_rng(0)
    outcomes = []
    for number in range(150):
        data = bytearray(originals[number % len(originals)])
        for place in rng.integers(0, len(data) if number % 2 else min(len(data), 600), rng.integers(1, 4)):
            data[place] ^= 1 << rng.integers(8)
        path.write_bytes(data[:rng.integers(len(data))] if number % 4 == 0 else data)
        try:
            images.read_metadata(path)
            outcomes.append(images.read_image(path, native=True).ndim == 3)
        except utils.UserError as error:
            assert str(path) in str(error)
            outcomes.append(False)
    assert False in outcomes and (True in outcomes or kind == "png")  # whose checksums notice everything


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(utils.UserError, match="can't be written"):
        images.write_image(tmp_path / "file" / "a.png", pictures.RGB)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_picture_of_16_bits_beyond_44_million_pixels_is_written_whole(tmp_path):
    """tf.io.encode_png, which wrote these before, takes 2^31 bits."""
    row = np.arange(8256 * 3, dtype=np.uint16).reshape(1, 8256, 3)
    images.write_image(tmp_path / "large.png", np.broadcast_to(row, (5504, 8256, 3)))
    read = cv2.imread(str(tmp_path / "large.png"), cv2.IMREAD_UNCHANGED)
    assert read.shape == (5504, 8256, 3) and (read == row[:, :, ::-1]).all()
