"""The group of processes that train one model together."""

from __future__ import annotations

import gc

from torch import distributed


def leave_group() -> None:
    """Leave the group of processes, if there is one, so that none of its threads outlives the interpreter.

    A thread of gloo frees the tensors of its last collective operation when it is done with the next one. Where that
    falls into the end of the interpreter the process aborts (SIGABRT), and the launcher calls a finished training
    failed: https://github.com/pytorch/pytorch/issues/190489. Call it when no trainer is referred to any more: what is
    wrapped for several processes keeps the group, and with it the threads, alive.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()  # a trainer and its parts refer to each other
