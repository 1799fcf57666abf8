"""Pretrained backbones of every library: their networks, weights, keys and images."""
