"""Demographics of subjects: XNAT's fields, tables, values of headers, and comparison. Pure.

Values are patients' data. They are sent to XNAT, and appear nowhere else: no repr, error or issue holds more than one
character of them.
"""
