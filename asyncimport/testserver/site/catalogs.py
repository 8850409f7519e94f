"""Catalog documents, and what catalogs say about their entries."""

import html
from functools import lru_cache

from .names import resource_content
from .resources import FileMetadata, Resource, StoredFile


def digest_of(file: StoredFile) -> str:
    """Return a file's digest as replies show it: empty if it has none."""
    return file.digest.hex() if file.digest else ""


def metadata_of(file: StoredFile, resource: Resource) -> FileMetadata:
    """Return format, content and tags of an entry."""
    return file.metadata or dicom_metadata(resource.label)


@lru_cache(maxsize=64)
def dicom_metadata(label: str) -> FileMetadata:
    """Return what archiving says about a resource and its files."""
    return FileMetadata("DICOM", resource_content(label))


def is_hidden(name: str) -> bool:
    """Return whether a file looks like a catalog, and so is not an entry of one."""
    return name.endswith("_catalog.xml")


def catalog(resource: Resource, series_uid: str) -> str:
    """Return a resource's catalog document: a digest for each entry, and a UID for each imported instance.

    `series_uid` is that of the resource's scan, or empty.
    """
    is_dicom = series_uid and (
        resource.metadata is None or any(file.metadata is None for file in resource.files.values())
    )
    name = "cat:DCMCatalog" if is_dicom else "cat:Catalog"
    uid = f' UID="{html.escape(series_uid)}"' if is_dicom else ""
    entries = "".join(_entry(file, resource) for file in resource.files.values() if not is_hidden(file.name))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<{name}{uid} xmlns:cat="http://nrg.wustl.edu/catalog" '
        f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n'
        f"<cat:entries>\n{entries}</cat:entries>\n</{name}>\n"
    )


def _entry(file: StoredFile, resource: Resource) -> str:
    metadata = metadata_of(file, resource)
    values = {
        "ID": file.name,
        "URI": file.name,
        "UID": file.sop_uid,
        "content": metadata.content,
        "format": metadata.format,
        "description": metadata.description,
        "digest": digest_of(file),
        "createdBy": "xnat",
        "xsi:type": "cat:dcmEntry" if file.sop_uid else "cat:entry",
    }
    # XNAT writes an empty digest, but no other empty attribute.
    attributes = "".join(
        f' {name}="{html.escape(value)}"' for name, value in values.items() if value or name == "digest"
    )
    tags = "".join(f"<cat:tag>{html.escape(tag)}</cat:tag>" for tag in metadata.tags)
    end = f"><cat:tags>{tags}</cat:tags></cat:entry>" if tags else "/>"
    return f"<cat:entry{attributes}{end}\n"
