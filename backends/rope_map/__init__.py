"""The RoPE memory map: attention heads of a local model find stored chunks, and all its layers attend to them."""

from memagent.backends.rope_map.backend import RopeMap, RopeMapConfig

__all__ = ["RopeMap", "RopeMapConfig"]
