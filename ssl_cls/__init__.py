"""Self-supervised image pretraining. Importing it registers the small-image models with timm."""

from ssl_cls import small_resnet as small_resnet

__version__ = "0.1.0"
