"""Layers and recipes for networks that are trained to be converted."""
