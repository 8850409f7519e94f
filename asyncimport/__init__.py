"""Move large DICOM collections from disk into an XNAT archive, fast, and with proof that nothing was lost."""

__version__ = "0.1.0"
