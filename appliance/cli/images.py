"""Images that a prompt names by their paths."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from appliance.errors import ApplianceError

MAX_IMAGE_BYTES = 100 * 2**20

# A word with its spaces escaped, or a text in quotes, that ends like an image's name.
_NAME = re.compile(
    r"""(?<!\S)(?:"([^"\n]+?\.(?:jpe?g|png|webp))"|'([^'\n]+?\.(?:jpe?g|png|webp))'"""
    r"""|((?:\\.|[^\s\\"'])+?\.(?:jpe?g|png|webp))(?=[\s,;:!?)]|\.?(?:\s|$)))""",
    re.IGNORECASE,
)


def take_images(text: str) -> tuple[str, dict[Path, str]]:
    """The text without the paths of images that exist, and these images in base64.

    A path stands alone, with its spaces escaped, or in quotes. Raises ApplianceError for a file that is no image.
    """
    images: dict[Path, str] = {}

    def take(found: re.Match[str]) -> str:
        quoted = found[1] or found[2]
        path = Path(quoted or re.sub(r"\\(.)", r"\1", found[3])).expanduser()
        if not path.is_file():
            return found[0]
        images[path] = _encoded(path)
        return ""

    rest = _NAME.sub(take, text)
    return (rest.strip() if images else text), images


def _encoded(path: Path) -> str:
    if (size := path.stat().st_size) > MAX_IMAGE_BYTES:
        raise ApplianceError(f"{path}: the image has {size:,} bytes, the limit is {MAX_IMAGE_BYTES:,}")
    data = path.read_bytes()
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    if not webp and not data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        raise ApplianceError(f"{path}: not a JPEG, PNG or WebP image")
    return base64.b64encode(data).decode()
