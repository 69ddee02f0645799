"""Colours: what a file says that its numbers mean, as an ICC profile, and their conversion to sRGB."""
import contextlib
import io
import struct
from typing import Any, BinaryIO

import utils

import imagecodecs
import numpy as np
from imagecodecs import CMS
from PIL import Image, ImageCms

from files.metadata import COLOUR_SPACE, EXIF, GAMMA, SRGB_PROFILE, exif_of_tiff, names_adobe_rgb

WHITE_POINT, PRIMARIES = 0x013E, 0x013F  # tags of EXIF, and of TIFF
D65 = (0.3127, 0.329)
SRGB = (*D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
CHROMATICITIES = {  # of white, red, green and blue, by their code in ITU-T H.273, where it is not sRGB's 1
    4: (0.31, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08), 5: (*D65, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    6: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07), 7: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (*D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),  # BT.2020
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06), 12: (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)}  # P3
POWERS = {4: 2.2, 5: 2.8, 8: 1, 17: 2.6}  # by the code of transfer characteristics
HDR = PQ, HLG = 16, 18
_srgb = ImageCms.createProfile("sRGB")


# ----------------------------------------------------------------------------------------------- what a file declares


def declared_profile(image: Image.Image, info: dict[str, Any], file: BinaryIO) -> bytes | None:
    """The ICC profile of a picture, or one of what its file says otherwise; None where that is sRGB or nothing.

    image: its EXIF and mode, for a PNG after it was decoded. info: its properties by Pillow or pillow_heif.
    Of a PNG counts the first of cICP, ICC, sRGB, gAMA with cHRM, and EXIF: https://www.w3.org/TR/png-3/#11sRGB
    """
    is_gray = image.mode[0] in "1LI"
    cicp = _find_chunk(file, b"cICP") if image.format == "PNG" else None
    codes = None
    if cicp and len(cicp) == 4 and cicp[2:] == b"\0\1":  # RGB of the full range
        codes = cicp[0], cicp[1]
    elif info.get("icc_profile") or "srgb" in info:
        return info.get("icc_profile")
    elif "gamma" in info or "chromaticity" in info:
        return build_profile(info.get("chromaticity", SRGB), _power(1 / (info.get("gamma") or 1 / 2.2)), is_gray)
    elif "nclx_profile" in info:
        codes = info["nclx_profile"]["color_primaries"], info["nclx_profile"]["transfer_characteristics"]
    if codes:
        if codes[1] in HDR:
            utils.say_once(f"{file.name} holds a high dynamic range; its highlights are brought into that of sRGB.")
        return _profile_of_codes(*codes, is_gray)
    if image.mode not in ("CMYK", "LAB"):
        with contextlib.suppress(Exception):  # damaged EXIF is no reason to lose the photo
            return profile_of_exif(exif_of_tiff(file) if image.format == "TIFF" else image.getexif(), is_gray)
    return None


def profile_of_exif(exif: Image.Exif, is_gray: bool) -> bytes | None:
    """The profile of Adobe RGB, which cameras name in EXIF only, or of the primaries and gamma that stand there."""
    if names_adobe_rgb(exif):
        return imagecodecs.cms_profile("gray", gamma=2.2) if is_gray else imagecodecs.cms_profile("adobergb")
    shot = exif.get_ifd(EXIF)
    if shot.get(COLOUR_SPACE) == 1:
        return None
    if PRIMARIES in exif or GAMMA in shot:
        chromaticities = *exif.get(WHITE_POINT, D65), *exif.get(PRIMARIES, SRGB[2:])
        return build_profile([float(value) for value in chromaticities], _power(float(shot.get(GAMMA, 2.2))), is_gray)
    return None


def _find_chunk(file, name):
    """The content of a PNG's chunk that stands before its pixels, None if there is none."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (name, b"IDAT"):
            return file.read(length) if kind == name else None
        file.seek(length + 4, 1)
    return None


# ----------------------------------------------------------------------------------------------- profiles of numbers


def build_profile(chromaticities: Any, curve: np.ndarray | None, is_gray: bool) -> bytes | None:
    """An ICC profile of x and y of white, red, green and blue, and of light by signal in equal steps from 0 to 1.

    curve: None for sRGB's. Returns None for sRGB, and for numbers that are no colours.
    """
    is_srgb = np.allclose(chromaticities, SRGB, atol=0.002)
    if curve is None and (is_srgb or is_gray):
        return None
    signal = np.linspace(0, 1, 4096)
    if curve is None:
        curve = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    table = np.rint(65535 * curve).astype(np.uint16)
    with contextlib.suppress(imagecodecs.CmsError, ValueError):
        if is_gray:
            return imagecodecs.cms_profile("gray", transferfunction=table)
        return imagecodecs.cms_profile("rgb", whitepoint=chromaticities[:2], primaries=chromaticities[2:],
                                       transferfunction=table)
    return None


def _power(exponent):
    """The curve of a power; None for one that is as good as sRGB's, as what writes sRGB says 2.2."""
    if not 0.1 <= exponent <= 10 or abs(exponent / 2.2 - 1) < 0.05:
        return None
    return np.linspace(0, 1, 4096) ** exponent


def _profile_of_codes(primaries, transfer, is_gray):
    """The profile of the codes of ITU-T H.273. The curves of video count as sRGB's, by which all show them."""
    signal = np.linspace(0, 1, 4096)
    if transfer in HDR:
        pq = signal if transfer == PQ else _pq_of(1000 * _hlg_scene(signal) ** 1.2)  # on a screen of 1,000 nits
        curve = _compress_highlights(pq)
    else:
        curve = signal ** POWERS[transfer] if transfer in POWERS else None
    return build_profile(CHROMATICITIES.get(primaries, SRGB), curve, is_gray)


# SMPTE ST 2084, the perceptual quantizer.
M1, M2, C1, C2, C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128


def _pq_of(nits):
    power = (nits / 10_000) ** M1
    return ((C1 + C2 * power) / (1 + C3 * power)) ** M2


def _nits_of(pq):
    power = pq ** (1 / M2)
    return 10_000 * (np.maximum(power - C1, 0) / (C2 - C3 * power)) ** (1 / M1)


def _hlg_scene(signal):
    """Light of the scene in [0, 1] by ITU-R BT.2100's hybrid log-gamma."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal ** 2 / 3, (np.exp((signal - c) / a) + b) / 12)


def _compress_highlights(pq):
    """Light in [0, 1] of PQ, its range up to 1,000 nits brought into that of a white of 203: ITU-R BT.2390, 5.4.1."""
    peak, white = _pq_of(1000.0), _pq_of(203.0) / _pq_of(1000.0)
    signal, knee = np.minimum(pq / peak, 1), 1.5 * white - 0.5
    t = np.maximum(signal - knee, 0) / (1 - knee)
    spline = ((2 * t + 1) * knee + t * (1 - knee)) * (1 - t) ** 2 + (3 - 2 * t) * t ** 2 * white
    return np.clip(_nits_of(peak * np.where(signal < knee, signal, spline)) / 203, 0, 1)


# --------------------------------------------------------------------------------------------------------- conversion


def to_srgb(colours: np.ndarray, profile: bytes | None) -> np.ndarray:
    """Convert gray, RGB or CMYK (H, W, 1, 3 or 4), uint8 or uint16, to gray or RGB in sRGB.

    A damaged profile is ignored: it is no reason to lose the photo.
    """
    channels, converted = colours.shape[2], None
    flat = np.ascontiguousarray(colours[:, :, 0] if channels == 1 else colours)
    with contextlib.suppress(ImageCms.PyCMSError, imagecodecs.CmsError, OSError):
        if profile and flat.dtype == np.uint8:
            image = Image.fromarray(flat, "CMYK" if channels == 4 else None)
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = np.asarray(ImageCms.profileToProfile(image, source, _srgb, outputMode="RGB"))
        elif profile:  # Pillow converts 8 bits only; LittleCMS's own short cut is up to 15 of their levels off
            converted = imagecodecs.cms_transform(flat, profile, SRGB_PROFILE, flags=CMS.FLAGS.NOOPTIMIZE,
                                                  colorspace={1: "gray", 3: "rgb", 4: "cmyk"}[channels],
                                                  outcolorspace="rgb")
    if converted is not None:
        return converted[:, :, 1:2] if channels == 1 else converted
    if channels < 4:
        return colours
    white = np.iinfo(colours.dtype).max
    ink, black = colours[:, :, :3], colours[:, :, 3:]
    return np.rint((white - ink) * ((white - black) / white)).astype(colours.dtype)
