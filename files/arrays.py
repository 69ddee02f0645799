"""Arrays as images: what may stand for one in Python, and what the network is to see of it."""
from utils import UserError

import numpy as np
from PIL import Image


def to_pixels(image: np.ndarray | Image.Image) -> np.ndarray:
    """An array or PIL image as (H, W, C), C as in `images.read_image`, uint8 or uint16.

    Gray may be (H, W). bool becomes 8 bits, floats in [0, 1] become 16, Pillow's other modes RGB. Raises UserError for
    all else.
    """
    numbers = ("1", "L", "LA", "RGB", "RGBA", "F", "I", "I;16", "I;16B", "I;16L", "I;16N")
    if isinstance(image, Image.Image) and image.mode not in numbers:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    pixels = np.asarray(image)
    kind, is_image = pixels.dtype.kind, pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 2, 3, 4))
    if is_image and pixels.size:
        pixels = np.atleast_3d(pixels)
        if kind == "b":
            return pixels * np.uint8(255)
        if kind == "u" and pixels.itemsize <= 2:
            return pixels.astype(f"u{pixels.itemsize}", copy=False)  # in this machine's order of bytes
        if kind == "f" and pixels.min() >= 0 and pixels.max() <= 1:
            return np.rint(pixels * np.float32(65535)).astype(np.uint16)
    values = f" from {pixels.min():.6g} to {pixels.max():.6g}" if kind in "if" and pixels.size else ""
    raise UserError(f"An image is (H, W) or (H, W, C), C from 1 to 4, uint8, uint16, bool or floats in [0, 1]; this is "
                    f"{pixels.dtype} {pixels.shape}{values}.")


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """Round uint16 in [0, 65535] to uint8 in [0, 255]."""
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def stretch(colours: np.ndarray) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Colours of 16 bits that use 14 or fewer of these, as measurements do, over their whole range.

    Returns them, and which values black and white were. Others, and all of 8 bits, come back as they are, with None.
    """
    low, high = int(colours.min()), int(colours.max())
    if colours.dtype == np.uint8 or not 0 < high - low < 2 ** 14:
        return colours, None
    table = np.rint(np.linspace(0, 65535, high - low + 1)).astype(np.uint16)
    return table[colours - np.uint16(low)], (low, high)


def undo_stretch(colours: np.ndarray, low: int, high: int) -> np.ndarray:
    """The values that colours had before `stretch`."""
    return np.rint(low + colours * ((high - low) / 65535)).astype(np.uint16)


def spread_colours(colours: np.ndarray, alpha: np.ndarray, reach: int) -> np.ndarray:
    """Give fully transparent pixels the colour of the nearest visible one: the network must not mix in hidden ones.

    colours: (H, W, C); alpha: (H, W, 1); reach: as far as the network sees, in pixels.
    """
    if alpha.all() or not alpha.any():
        return colours
    import scipy.ndimage  # takes a moment, which few photos need
    spread = colours.copy()
    for top in range(0, len(alpha), 1024):  # the indices of all rows would take much memory
        begin = max(0, top - reach)
        hidden = alpha[begin:top + 1024 + reach, :, 0] == 0
        if not hidden.all():
            rows, columns = scipy.ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
            band = slice(top - begin, top - begin + 1024)
            spread[top:top + 1024] = colours[begin + rows[band], columns[band]]
    return spread
