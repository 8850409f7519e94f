"""What the process imports that workers of this machine are forked from: once for all of them."""

try:
    import distributed.worker  # noqa: F401 - see above

    import asyncimport.cluster.local_worker
    import asyncimport.cluster.scanning_actor
    import asyncimport.cluster.sending_actor  # noqa: F401 - see above
except Exception as error:
    # `multiprocessing` passes over an ImportError here. The command itself then says what is wrong, and what to do.
    raise ImportError from error
