"""From what is on disk to what is in the archive: images, attachments, demographics of subjects."""
