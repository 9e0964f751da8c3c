"""The RoPE memory map."""

from memagent.backends.rope_map.backend import RopeMap, RopeMapConfig

__all__ = ["RopeMap", "RopeMapConfig"]
