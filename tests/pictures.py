"""Pictures of every kind that users have: those that can be read, with the pixels they hold, and those that can't."""
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import skimage
import tensorflow as tf
import tifffile
from PIL import Image, ImageCms

PHOTOS = Path(skimage.__file__).parent / "data"
RNG = np.random.default_rng(0)
RGB = np.asarray(Image.open(PHOTOS / "chelsea.png"))[100:120, 100:128]
GRAY, ALPHA = RGB[:, :, :1], np.arange(RGB[:, :, :1].size, dtype=np.uint8).reshape(RGB.shape[0], -1, 1)
RGB16, GRAY16, ALPHA16 = (np.uint16(RNG.integers(0, 65536, (*RGB.shape[:2], n))) for n in (3, 1, 1))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bytes(pixels, bits=None, size=None, chunks=b""):
    """A PNG by the letter of its specification, independent of any library; uint8 or uint16, (H, W, 1 to 4)."""
    height, width, channels = pixels.shape
    width, height = size or (width, height)
    header = struct.pack(">IIBBBBB", width, height, bits or 8 * pixels.itemsize, (0, 4, 2, 6)[channels - 1], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(pixels.dtype.newbyteorder(">")))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


def read_png(path):
    """A PNG as TensorFlow reads it, at its depth."""
    data = path.read_bytes()
    return tf.io.decode_png(data, dtype=tf.uint16 if data[24] == 16 else tf.uint8).numpy()


def good(folder):
    """{path: the pixels that it holds, (H, W, C), uint8 or uint16}"""
    made = {}

    def pillow(name, pixels, mode=None, **options):
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        (image.convert(mode) if mode else image).save(folder / name, **options)
        made[folder / name] = pixels

    def tiff(name, written, pixels, **options):
        tifffile.imwrite(folder / name, written, photometric="minisblack" if pixels.shape[2] == 1 else "rgb", **options)
        made[folder / name] = pixels

    for name in ("rgb.png", "rgb.bmp", "rgb.tif", "name with spaces.png", "Фото.png", "\N{GRINNING FACE}.png",
                 "UPPER.PNG"):
        pillow(name, RGB)
    pillow("rgb_lzw.tiff", RGB, compression="tiff_lzw")
    pillow("rgb.webp", RGB, lossless=True)
    for name in ("gray.png", "gray.bmp", "gray.tif"):
        pillow(name, GRAY)
    pillow("gray_alpha.png", np.dstack([GRAY, ALPHA]))
    pillow("rgba.png", np.dstack([RGB, ALPHA]))
    pillow("rgba.tif", np.dstack([RGB, ALPHA]))
    pillow("rgba.webp", np.dstack([RGB, ALPHA]), lossless=True, exact=True)
    for name in ("bit.png", "bit.tif", "bit.gif"):
        pillow(name, np.uint8(255) * (GRAY > 128), mode="1")

    palette = Image.fromarray(RGB).quantize(16)
    colours = np.array(palette.getpalette()[:48], np.uint8).reshape(16, 3)
    indices = np.asarray(palette)
    for name in ("palette.png", "palette.gif", "palette.bmp", "palette.tif"):
        palette.save(folder / name)
        made[folder / name] = colours[indices]
    clear = np.dstack([colours[indices], np.uint8(255) * (indices != 3)])
    for name in ("palette_clear.png", "palette_clear.gif"):
        palette.save(folder / name, transparency=3)
        made[folder / name] = clear
    shades = np.arange(16, dtype=np.uint8) * 17  # an alpha for each colour
    palette.save(folder / "palette_shades.png", transparency=bytes(shades))
    made[folder / "palette_shades.png"] = np.dstack([colours[indices], shades[indices]])

    for name, pixels in {"gray16.png": GRAY16, "gray_alpha16.png": np.dstack([GRAY16, ALPHA16]), "rgb16.png": RGB16,
                         "rgba16.png": np.dstack([RGB16, ALPHA16])}.items():
        (folder / name).write_bytes(png_bytes(pixels))
        made[folder / name] = pixels
    for name, pixels in {"gray_clear.png": GRAY, "rgb_clear.png": RGB, "gray_clear16.png": GRAY16,
                         "rgb_clear16.png": RGB16}.items():
        colour = pixels[3, 4]  # one that is transparent (tRNS)
        (folder / name).write_bytes(png_bytes(pixels, chunks=chunk(b"tRNS", colour.astype(">u2").tobytes())))
        clear = (pixels != colour).any(axis=2, keepdims=True) * np.iinfo(pixels.dtype).max
        made[folder / name] = np.dstack([pixels, clear.astype(pixels.dtype)])
    for bits in (1, 2, 4):  # shades of gray, one of them transparent (tRNS)
        values = GRAY[:, :, 0] >> (8 - bits)
        single = np.unpackbits(values[:, :, np.newaxis], axis=2)[:, :, -bits:]
        packed = np.packbits(single.reshape(len(values), -1), axis=1)
        (folder / f"gray_clear{bits}.png").write_bytes(png_bytes(
            packed[:, :, np.newaxis], bits, values.shape[::-1], chunk(b"tRNS", struct.pack(">H", values[3, 4]))))
        made[folder / f"gray_clear{bits}.png"] = np.dstack(
            [values * (255 // (2 ** bits - 1)), np.uint8(255) * (values != values[3, 4])])
    tiff("gray16.tif", GRAY16[:, :, 0], GRAY16)
    tiff("rgb16.tif", RGB16, RGB16)
    tiff("rgb16_big_endian.tif", RGB16, RGB16, byteorder=">")
    tiff("rgb16_bigtiff.tif", RGB16, RGB16, bigtiff=True)
    tiff("rgb16_tiled.tif", RGB16, RGB16, tile=(16, 16))
    tiff("rgb16_zip.tif", RGB16, RGB16, compression="zlib", predictor=True)
    tiff("rgba16.tif", np.dstack([RGB16, ALPHA16]), np.dstack([RGB16, ALPHA16]), extrasamples=["unassalpha"])
    tiff("gray_float.tif", GRAY16[:, :, 0] / np.float32(65535), GRAY16)
    tiff("rgb_float.tif", RGB16 / np.float32(65535), RGB16)
    tiff("rgb_float64.tif", RGB16 / 65535, RGB16)
    tiff("rgb_float_to_255.tif", np.float32(RGB), np.uint16(257) * RGB)
    tiff("rgb_float_to_65535.tif", np.float32(RGB16), RGB16)

    tiff("planes.tif", np.moveaxis(RGB, 2, 0), RGB, planarconfig="separate")
    tiff("planes16.tif", np.moveaxis(RGB16, 2, 0), RGB16, planarconfig="separate")
    half = np.float16(RGB / 256)
    tiff("half_float.tif", half, np.uint16(np.rint(np.float64(half) * 65535)))
    for bits in (9, 10, 12, 14):
        coarse = RGB16 >> (16 - bits)
        tiff(f"rgb{bits}.tif", coarse, np.uint16(np.rint(coarse / (2 ** bits - 1) * 65535)), bitspersample=bits)
    tiff("rgb24.tif", RGB16 * np.uint32(256) + 77, RGB16, bitspersample=24)
    for name, byteorder in (("white_is_zero", "<"), ("white_is_zero_big_endian", ">")):
        tifffile.imwrite(folder / f"{name}.tif", 65535 - GRAY16[:, :, 0], photometric="miniswhite", byteorder=byteorder,
                         bigtiff=True)
        made[folder / f"{name}.tif"] = GRAY16
    tifffile.imwrite(folder / "palette16.tif", GRAY16[:, :, 0], photometric="palette",
                     colormap=np.stack([np.arange(65536), np.arange(65536)[::-1], np.full(65536, 7)]).astype(np.uint16))
    made[folder / "palette16.tif"] = np.dstack([GRAY16, 65535 - GRAY16, np.full_like(GRAY16, 7)])

    frames = [Image.fromarray(np.roll(RGB, shift, 1)) for shift in (0, 5, 10)]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    made[folder / "moving.webp"] = np.dstack([RGB, np.full_like(ALPHA, 255)])
    frames[0].save(folder / "moving.png", save_all=True, append_images=frames[1:])
    made[folder / "moving.png"] = RGB
    palettes = [palette, palette.transpose(Image.Transpose.ROTATE_180)]
    palettes[0].save(folder / "moving.gif", save_all=True, append_images=palettes[1:])
    made[folder / "moving.gif"] = colours[indices]
    tifffile.imwrite(folder / "pages.tif", np.stack([RGB, 255 - RGB]), photometric="rgb")
    made[folder / "pages.tif"] = RGB

    for height, width in ((1, 1), (1, 500), (500, 1), (3, 5)):
        pillow(f"size_{width}x{height}.png", np.uint8(RNG.integers(0, 256, (height, width, 3))))
    return made


# What each EXIF orientation asks for, by the words of the standard: where the stored rows and columns are seen.
UPRIGHT = {1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: np.rot90(p, 2), 4: lambda p: p[::-1],
           5: lambda p: p.transpose(1, 0, 2), 6: lambda p: np.rot90(p, -1),
           7: lambda p: np.rot90(p, 2).transpose(1, 0, 2), 8: lambda p: np.rot90(p, 1)}


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def lossy(folder):
    """JPEGs as cameras and printers make them: {path: pixels (H, W, C), within 3 of which they are to be read}."""
    made = {}
    for orientation, turn in UPRIGHT.items():
        Image.fromarray(RGB).save(folder / f"turned{orientation}.jpg", quality=95, exif=exif(orientation))
        made[folder / f"turned{orientation}.jpg"] = turn(RGB)
    Image.fromarray(RGB).convert("CMYK").save(folder / "print.jpg", quality=95)
    made[folder / "print.jpg"] = RGB
    Image.fromarray(GRAY[:, :, 0]).save(folder / "gray.jpeg", quality=95)
    made[folder / "gray.jpeg"] = GRAY
    pillow_heif.register_heif_opener()
    for name, form in (("edge.jfif", "jpeg"), ("old.jpe", "jpeg"), ("web.avif", "avif"), ("avif_inside.HEIC", "avif"),
                       ("phone.heic", "heif"), ("camera.hif", "heif")):
        Image.fromarray(np.tile(RGB, (4, 4, 1))).save(folder / name, form, quality=95, exif=exif(6).tobytes())
        made[folder / name] = UPRIGHT[6](np.tile(RGB, (4, 4, 1)))
    rocket = Image.open(PHOTOS / "rocket.jpg").crop((300, 200, 340, 240))  # in Adobe RGB, by its profile
    rocket.save(folder / "profile.jpg", quality=100, subsampling=0, icc_profile=rocket.info["icc_profile"])
    made[folder / "profile.jpg"] = np.asarray(ImageCms.profileToProfile(
        rocket, io.BytesIO(rocket.info["icc_profile"]), ImageCms.createProfile("sRGB")))
    return made


def profile_of(red, green, blue, gamma):
    """An ICC profile of a matrix and a power, as Adobe RGB's, from primaries in XYZ relative to D50."""
    def number(values):
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
            b"cprt": b"text" + bytes(4) + b"none\0",
            b"wtpt": b"XYZ " + bytes(4) + number((0.9642, 1, 0.8249))}
    for letter, colour in ((b"r", red), (b"g", green), (b"b", blue)):
        tags[letter + b"XYZ"] = b"XYZ " + bytes(4) + number(colour)
        tags[letter + b"TRC"] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s12x4s", 128 + len(table) + len(body), bytes(4), 0x02400000, b"mntr", b"RGB ",
                         b"XYZ ", b"acsp").ljust(68, b"\0") + number((0.9642, 1, 0.8249))
    return header.ljust(128, b"\0") + table + body


ADOBE_RGB = profile_of((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446), 2.2)


def dng():
    """The bytes of a raw photo: a small preview first, then the sensor's values."""
    data = io.BytesIO()
    with tifffile.TiffWriter(data) as tiff:
        tiff.write(RGB[::4, ::4], photometric="rgb", subfiletype=1, subifds=1)
        tiff.write(GRAY16[:, :, 0], photometric="cfa")
    return data.getvalue()


def bad(folder):
    """{path: a word of the sentence that a user gets}"""
    words = {}

    def put(name, data, word):
        (folder / name).write_bytes(data)
        words[folder / name] = word

    put("empty.png", b"", "none of PNG")
    put("text.png", b"This is a letter, not a picture.\n" * 20, "none of PNG")
    put("program.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of PNG")
    source = Image.fromarray(np.tile(RGB, (8, 8, 1)))
    for name, options in (("cut.png", {}), ("cut.jpg", {}), ("cut.webp", {}), ("cut.bmp", {}), ("cut.gif", {}),
                          ("cut.tif", {}), ("cut_lzw.tif", {"compression": "tiff_lzw"})):
        source.save(folder / name, **options)
        data = (folder / name).read_bytes()
        put(name, data[:len(data) * 2 // 3], "can't be read")
    data = png_bytes(RGB16)
    put("cut16.png", data[:len(data) // 2], "can't be read")
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 255
    put("damaged16.png", damaged, "can't be read")
    tifffile.imwrite(folder / "cut16.tif", np.tile(RGB16, (8, 8, 1)), photometric="rgb", compression="zlib",
                     rowsperstrip=8)
    data = (folder / "cut16.tif").read_bytes()
    put("cut16.tif", data[:len(data) * 2 // 3], "TIFF")
    tifffile.imwrite(folder / "complex.tif", np.complex64(GRAY16[:, :, 0]))
    words[folder / "complex.tif"] = "complex64"
    for bits in (8, 16):
        put(f"huge{bits}.png", png_bytes(RGB, bits, (100_000, 100_000)), "million pixels")
        tifffile.imwrite(folder / f"huge{bits}.tif", np.zeros((8, 8, 3), f"uint{bits}"), photometric="rgb")
        data = bytearray((folder / f"huge{bits}.tif").read_bytes())
        for tag in (256, 257):  # width and height, which tifffile writes as LONG or SHORT
            entry = data.index(struct.pack("<H", tag), 8)
            data[entry:entry + 12] = struct.pack("<HHII", tag, 4, 1, 100_000)
        put(f"huge{bits}.tif", data, "million pixels")
    Image.fromarray(RGB).save(folder / "huge.bmp")
    data = (folder / "huge.bmp").read_bytes()
    put("huge.bmp", data[:18] + struct.pack("<ii", 100_000, 100_000) + data[26:], "million pixels")
    put("photo.dng.tif", dng(), "a raw photo")
    (folder / "link.png").symlink_to(folder / "nothing.png")
    words[folder / "link.png"] = "No such file"
    (folder / "unreadable.png").symlink_to("/proc/self/mem")  # root may read all files, but not this one's beginning
    words[folder / "unreadable.png"] = "Input/output error"
    os.mkfifo(folder / "pipe.png")
    words[folder / "pipe.png"] = "a device"
    return words
