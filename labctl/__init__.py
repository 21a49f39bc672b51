"""Virtual lab orchestration: declare a lab, bring it up, break it on purpose, get a measured verdict."""

__all__ = ["__version__"]

__version__ = "0.1.0"
