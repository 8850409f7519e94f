"""Catalog documents, and what they say of their entries."""

import html
from functools import lru_cache

from .names import content
from .places import Place
from .state import Described, Resource, StoredFile

__all__ = ["catalog", "digest_of", "imported", "is_hidden", "said_of"]


def digest_of(file: StoredFile) -> str:
    """Return a file's digest as it is told: empty where there is none."""
    return file.digest.hex() if file.digest else ""


def said_of(file: StoredFile, resource: Resource) -> Described:
    """Return format, content and tags of an entry."""
    return file.said or imported(resource.label)


@lru_cache(maxsize=64)
def imported(label: str) -> Described:
    """Return what an archiving says of a resource, and of its files."""
    return Described("DICOM", content(label))


def is_hidden(name: str) -> bool:
    """Tell whether a file is taken for a catalog itself, and so for no entry of one."""
    return name.endswith("_catalog.xml")


def catalog(place: Place, resource: Resource) -> str:
    """Return a resource's catalog document: a digest for each entry, and a UID for each that came as DICOM."""
    as_dicom = place.series_uid and (
        resource.said is None or any(file.said is None for file in resource.files.values())
    )
    name = "cat:DCMCatalog" if as_dicom else "cat:Catalog"
    uid = f' UID="{html.escape(place.series_uid)}"' if as_dicom else ""
    entries = "".join(_entry(file, resource) for file in resource.files.values() if not is_hidden(file.name))
    return (
        f'<{name}{uid} xmlns:cat="http://nrg.wustl.edu/catalog" '
        f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n'
        f"<cat:entries>\n{entries}</cat:entries>\n</{name}>\n"
    )


def _entry(file: StoredFile, resource: Resource) -> str:
    said = said_of(file, resource)
    values = {
        "ID": file.name,
        "URI": file.name,
        "UID": file.sop_uid,
        "content": said.content,
        "format": said.format,
        "description": said.description,
        "digest": digest_of(file),
        "createdBy": "xnat",
        "xsi:type": "cat:dcmEntry" if file.sop_uid else "cat:entry",
    }
    # An empty digest is written all the same.
    attributes = "".join(
        f' {name}="{html.escape(value)}"' for name, value in values.items() if value or name == "digest"
    )
    tags = "".join(f"<cat:tag>{html.escape(tag)}</cat:tag>" for tag in said.tags)
    end = f"><cat:tags>{tags}</cat:tags></cat:entry>" if tags else "/>"
    return f"<cat:entry{attributes}{end}\n"
