"""The published data sets, as data: a new one of a known format is an entry of ten lines.

MD5 sums are those that the authors publish or torchvision pins; None where neither does. Means and standard
deviations are those that everyone uses and can be traced to them; else they are computed from the images.
Licences are in the authors' words, or "unstated".
"""

from ssl_cls.data.entries.photographs import PHOTOGRAPHS
from ssl_cls.data.entries.small_images import SMALL_IMAGES
from ssl_cls.data.entry import Entry

ENTRIES: dict[str, Entry] = SMALL_IMAGES | PHOTOGRAPHS
