"""Which SOP classes are images, and so must have pixel data (PS3.4 B.5)."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."

# Suffixes of storage classes, retired ones included. Other classes are judged by their own description of pixels:
# private ones, and for example RT Dose, which may have none.
IMAGE_CLASSES = frozenset(
    _STORAGE + suffix
    for suffix in (
        # radiography, mammography, intra-oral
        *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1"),
        # CT and MR, enhanced and converted ones
        *("2", "2.1", "2.2", "4", "4.1", "4.3", "4.4"),
        # ultrasound, secondary capture
        *("3", "3.1", "6", "6.1", "6.2", "6.3", "7", "7.1", "7.2", "7.3", "7.4"),
        # angiography, fluoroscopy, tomosynthesis, optical coherence tomography
        *("12.1", "12.1.1", "12.2", "12.2.1", "12.3", "13.1.1", "13.1.2", "13.1.3", "13.1.4", "13.1.5"),
        *("14.1", "14.2"),
        # nuclear medicine and PET
        *("5", "20", "128", "128.1", "130"),
        # parametric map, segmentation, label map segmentation
        *("30", "66.4", "66.7"),
        # visible light, video, ophthalmology
        *("77.1", "77.2", "77.1.1", "77.1.1.1", "77.1.2", "77.1.2.1", "77.1.3", "77.1.4", "77.1.4.1"),
        *("77.1.5.1", "77.1.5.2", "77.1.5.4", "77.1.5.5", "77.1.5.6", "77.1.5.7", "77.1.5.8"),
        *("77.1.6", "77.1.7", "77.1.8", "77.1.9", "81.1", "82.1"),
        # RT; security and material testing
        *("481.1", "501.1", "501.2.1", "501.2.2", "601.1", "601.2"),
    )
)
# Spectroscopy has rows and columns of spectra; raw data may have any attribute.
NEVER_IMAGES = frozenset({_STORAGE + "4.2", _STORAGE + "66"})
