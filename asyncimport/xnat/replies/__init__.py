"""What XNAT's answers mean. Pure: a status, headers and a body in, a value or a typed error out.

All raise TransientError. XNAT answers 200 to much that it did not do, 400 to its own disk being full, 500 to a conflict
of labels. That is judged here and nowhere else. Each function names the XNAT class whose answers it reads. Reasons name
statuses and XNAT's own words, never an address: addresses carry labels, and labels are patients.
"""
