"""Colours are sRGB whatever a file says that its numbers mean, by a profile or otherwise.

What is expected is computed from the specifications' formulas.
"""
import struct
import zlib

import imagecodecs
import numpy as np
import pictures
import pillow_heif
import pytest
import tifffile
from PIL import Image, ImageCms

from files import images

# ------------------------------------------------------------------------------------------------------- profiles


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
    Image.fromarray(pictures.RGB).save(tmp_path / name, icc_profile=pictures.ADOBE_RGB, **options)
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
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=pictures.ADOBE_RGB)
    ours = images.read_image(tmp_path / "a.png", native=True)
    assert np.abs(ours[:, :, :3] - 255 * adobe_to_srgb(pictures.RGB / 255)).max() < 2.5
    np.testing.assert_array_equal(ours[:, :, 3:], pictures.ALPHA)


def test_colours_of_another_profile_become_srgb_at_16_bits(tmp_path):
    photo = np.uint16(pictures.RGB) * 257 + np.uint16(pictures.RNG.integers(-128, 128, pictures.RGB.shape))
    expected = 65535 * adobe_to_srgb(photo / 65535)
    tifffile.imwrite(tmp_path / "a.tif", photo, photometric="rgb", iccprofile=pictures.ADOBE_RGB)
    chunk = pictures.chunk(b"iCCP", b"test\0\0" + zlib.compress(pictures.ADOBE_RGB))
    (tmp_path / "a.png").write_bytes(pictures.png_bytes(photo, chunks=chunk))
    for name in ("a.tif", "a.png"):
        ours = images.read_image(tmp_path / name, native=True)
        assert ours.dtype == np.uint16
        assert np.abs(ours - expected).mean() < 100  # 0.4 of a step of 8 bits: the rounding of published matrices
        assert len(np.unique(ours)) > 600  # as many shades as 16 bits have, not as 8


@pytest.mark.parametrize("space", ["sRGB", "gray"])
def test_srgb_at_16_bits_is_unchanged(tmp_path, space):
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
    profile = bytearray(pictures.ADOBE_RGB.replace(b"rTRC", b"kTRC").replace(b"RGB ", b"GRAY", 1))
    gray = pictures.GRAY / 255
    expected = 255 * adobe_to_srgb(np.concatenate([gray] * 3, axis=2))[:, :, 1:2]
    Image.fromarray(pictures.GRAY[:, :, 0]).save(tmp_path / "a.png", icc_profile=bytes(profile))
    ours = images.read_image(tmp_path / "a.png", native=True)
    assert ours.shape == pictures.GRAY.shape and np.abs(ours - expected).max() < 2


def test_a_photo_with_a_damaged_profile_is_read(tmp_path):
    profile = pictures.ADOBE_RGB
    for damaged in (b"rubbish", profile[:200], profile[:-30], profile.replace(b"rTRC", b"xxxx")):
        Image.fromarray(pictures.RGB).save(tmp_path / "a.png", icc_profile=damaged)
        tifffile.imwrite(tmp_path / "a.tif", pictures.RGB16, photometric="rgb", iccprofile=damaged)
        assert images.read_image(tmp_path / "a.png").shape == pictures.RGB.shape
        assert images.read_image(tmp_path / "a.tif", native=True).shape == pictures.RGB16.shape


# --------------------------------------------------------------------------------------- colours without a profile

D65 = (0.3127, 0.329)
SRGB = (*D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # white, red, green, blue
P3 = (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
BT2020 = (*D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046)


def srgb_light(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def to_srgb(light, chromaticities):
    """Linear light of primaries around D65 to sRGB in [0, 1], through XYZ."""
    def to_xyz(white, *primaries):
        columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
        x, y = white
        return columns * np.linalg.solve(columns, (x / y, 1, (1 - x - y) / y))

    matrices = [to_xyz(*zip(c[::2], c[1::2], strict=True)) for c in (chromaticities, SRGB)]
    light = (light @ (np.linalg.inv(matrices[1]) @ matrices[0]).T).clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def gama(value):
    return pictures.chunk(b"gAMA", struct.pack(">I", round(100_000 * value)))


def chrm(chromaticities):
    return pictures.chunk(b"cHRM", struct.pack(">8I", *(round(100_000 * value) for value in chromaticities)))


def cicp(primaries, transfer):
    return pictures.chunk(b"cICP", bytes([primaries, transfer, 0, 1]))


ICC = pictures.chunk(b"iCCP", b"test\0\0" + zlib.compress(pictures.ADOBE_RGB))
SAYS_SRGB = pictures.chunk(b"sRGB", b"\0")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("chunks, light, chromaticities", [
    (gama(1), lambda values: values, SRGB), (gama(1 / 1.8), lambda values: values ** 1.8, SRGB),
    (chrm(BT2020), srgb_light, BT2020), (gama(1) + chrm(P3), lambda values: values, P3),
    (cicp(12, 13), srgb_light, P3), (cicp(9, 14), srgb_light, BT2020), (cicp(1, 8), lambda values: values, SRGB),
    # https://www.w3.org/TR/png-3/: of several the first of cICP, iCCP, sRGB, gAMA and cHRM counts
    (cicp(12, 13) + ICC + gama(1), srgb_light, P3), (SAYS_SRGB + gama(1) + chrm(P3), srgb_light, SRGB),
    (gama(0.45455) + chrm(SRGB), srgb_light, SRGB), (gama(0), srgb_light, SRGB)])
def test_a_png_that_says_its_colours_without_a_profile(tmp_path, dtype, chunks, light, chromaticities):
    white = np.iinfo(dtype).max
    pixels = np.tile(pictures.RGB, (2, 2, 1)).astype(dtype) * dtype(white // 255)
    (tmp_path / "a.png").write_bytes(pictures.png_bytes(pixels, chunks=chunks))
    expected = white * to_srgb(light(pixels / white), chromaticities)
    ours = images.read_image(tmp_path / "a.png", native=True)
    assert ours.dtype == dtype and np.abs(ours - expected).max() <= white / 255


def test_a_profile_counts_more_than_gamma(tmp_path):
    (tmp_path / "a.png").write_bytes(pictures.png_bytes(pictures.RGB, chunks=ICC + gama(1) + chrm(P3)))
    expected = 255 * adobe_to_srgb(pictures.RGB / 255)
    assert np.abs(images.read_image(tmp_path / "a.png") - expected).max() < 2.5


@pytest.mark.parametrize("pixels", [pictures.GRAY, pictures.GRAY16, np.dstack([pictures.GRAY, pictures.ALPHA])])
def test_gray_that_says_its_gamma_stays_gray(tmp_path, pixels):
    (tmp_path / "a.png").write_bytes(pictures.png_bytes(pixels, chunks=gama(1) + chrm(P3)))
    ours, white = images.read_image(tmp_path / "a.png", native=True), np.iinfo(pixels.dtype).max
    assert ours.shape == pixels.shape
    expected = white * to_srgb(np.repeat(pixels[:, :, :1] / white, 3, axis=2), SRGB)[:, :, :1]
    assert np.abs(ours[:, :, :1] - expected).max() <= white / 255
    np.testing.assert_array_equal(ours[:, :, 1:], pixels[:, :, 1:])


@pytest.mark.parametrize("kind", ["heic", "avif"])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_heic_and_avif_that_say_their_colours_by_codes(tmp_path, kind, bits):
    pixels = np.tile(pictures.RGB, (4, 4, 1))
    deep = pixels if bits == 8 else np.rint(pixels * (65535 / 255)).astype(np.uint16)
    path = tmp_path / f"a.{kind}"
    if kind == "avif":
        path.write_bytes(imagecodecs.avif_encode(deep >> (max(8, 16 - bits) - 8 if bits == 8 else 16 - bits), level=100,
                                                 bitspersample=bits, primaries=12, transfer=13, matrix=0))
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
            mode = "RGB" if bits == 8 else "RGB;16"
            pillow_heif.from_bytes(mode, pixels.shape[1::-1], deep.tobytes()).save(
                path, quality=-1, chroma=444, color_primaries=12, transfer_characteristics=13, matrix_coefficients=0)
    ours = images.read_image(path, native=True)
    assert ours.dtype == (np.uint8 if bits == 8 else np.uint16)
    expected = np.iinfo(ours.dtype).max * to_srgb(srgb_light(pixels / 255), P3)
    assert np.abs(ours - expected).max() <= np.iinfo(ours.dtype).max / 2 ** bits * 4


def test_colours_of_high_dynamic_range_are_brought_into_srgb(tmp_path, capsys):
    """ITU-R BT.2408: white is 203 nits, 58 % of PQ and 75 % of HLG, and 18 % gray 26 nits, 38 % of both."""
    for transfer, gray, white in ((16, 0.38, 0.58), (18, 0.38, 0.75)):
        ramp = np.array([0, gray, white, *np.linspace(0, 1, 64)]).reshape(1, -1, 1)
        ramp = np.rint(65535 * ramp).astype(np.uint16).repeat(3, 2)
        (tmp_path / "a.png").write_bytes(pictures.png_bytes(ramp, chunks=cicp(9, transfer)))
        shown = images.read_image(tmp_path / "a.png", native=True)[0] / 65535
        assert np.ptp(shown, axis=1).max() < 0.001 and (np.diff(shown[3:, 0]) > -0.001).all()
        black, gray, white = shown[:3, 0]
        assert black == 0 and shown[-1, 0] > 0.9999
        assert gray == pytest.approx(to_srgb(np.full(3, 26 / 203), SRGB)[0], abs=0.02) and 0.85 < white < 0.95
    assert capsys.readouterr().out == (
        f"{tmp_path / 'a.png'} holds a high dynamic range; its highlights are brought into that of sRGB.\n")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("says", ["R03", "space", "neither", "contradicts"])
def test_adobe_rgb_that_only_exif_names(tmp_path, name, says):
    exif = pictures.exif(1)
    exif.get_ifd(0x8769)[0xA001] = {"space": 2, "contradicts": 1}.get(says, 65535)
    if says in ("R03", "contradicts"):
        exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    if (name, says) == ("a.tif", "R03"):
        pytest.skip("Pillow writes no such TIFF")
    pixels = np.tile(pictures.RGB, (2, 2, 1))
    Image.fromarray(pixels).save(tmp_path / name, exif=exif.tobytes(), **{
        "a.jpg": {"quality": 100, "subsampling": 0}, "a.webp": {"lossless": True}}.get(name, {}))
    expected = 255 * adobe_to_srgb(pixels / 255) if says in ("R03", "space") else pixels.astype(float)
    assert np.abs(images.read_image(tmp_path / name) - expected).max() < (12 if name == "a.jpg" else 2.5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_that_says_its_primaries_without_a_profile(tmp_path, dtype):
    pixels = np.tile(pictures.RGB, (2, 2, 1)).astype(dtype) * dtype(np.iinfo(dtype).max // 255)
    tags = [(code, 5, len(values) // 2, values, True) for code, values in (
        (318, (3127, 10000, 3290, 10000)), (319, (680, 1000, 320, 1000, 265, 1000, 690, 1000, 150, 1000, 60, 1000)))]
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=tags)
    white = np.iinfo(dtype).max
    ours = images.read_image(tmp_path / "a.tif", native=True)
    assert np.abs(ours - white * to_srgb(srgb_light(pixels / white), P3)).max() <= white / 255
