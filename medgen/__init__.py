"""medgen: Unix-style tools for generative models of medical images."""

__version__ = "0.2.0"
