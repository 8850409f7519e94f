"""The state of an XNAT site and XNAT's work on it, without HTTP.

Nouns: `projects`, `subjects`, `prearchive`, `archive`, `resources`; `site` holds them all, with the `settings`.
Work: `building` a session document, `archiving` it (`conflicts`, `merging`), and XNAT's background `workers`.
"""
