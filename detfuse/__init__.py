"""detfuse: which feature fusion should this detector use, on this data, at this cost, and how sure are we?"""

__version__ = "0.1.0"
