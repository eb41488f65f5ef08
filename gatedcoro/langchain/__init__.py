"""gatedcoro inside LangChain: what runs its batches replaced, and batches that draw their inputs lazily.

    import gatedcoro.langchain

    gatedcoro.langchain.install()

From then on `langchain_core`'s `gated_coro` and `gather_with_concurrency` are gatedcoro's, in every module that has
imported them by name, and so is `Runnable.abatch_as_completed`. Importing this package imports nothing of LangChain;
`install()` does.

`abatch` and `abatch_as_completed` take any iterable of inputs, with or without the swap.

`python -m gatedcoro.langchain script.py` runs a program that way, without a change to it.
"""

from gatedcoro.langchain._batch import abatch, abatch_as_completed
from gatedcoro.langchain._swap import install, installed, swapped, uninstall

__all__ = ["abatch", "abatch_as_completed", "install", "installed", "swapped", "uninstall"]
