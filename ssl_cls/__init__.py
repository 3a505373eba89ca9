"""Self-supervised image pretraining. Importing it registers the small-image models with timm."""

import os

# GNU OpenMP, which torch brings along, reads this when torch is first imported. Its threads spin while they wait for
# the slowest one; on cores that others use too, the usual 300,000 turns make a step several times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

from ssl_cls import small_resnet as small_resnet

__version__ = "0.1.0"
