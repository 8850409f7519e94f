"""The nouns of the pipeline, and every legal change of their states.

A `File` is found on disk. If it is DICOM it holds an `Instance` of a `Session`; otherwise it is `Ignored` with a
reason. A `Claim` is an instance handed out to be sent; it ends in an `Outcome`. A session reaches XNAT in one or more
deliveries, each a prearchive row; a `SealedDelivery` ends in a `Verdict`. Other files are `Attachment`s: they go into a
`Resource`, and end as `AttachmentResult`.
"""
