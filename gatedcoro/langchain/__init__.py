"""gatedcoro inside LangChain: its two concurrency helpers replaced, and an `abatch` that draws its inputs lazily.

    import gatedcoro.langchain

    gatedcoro.langchain.install()

From then on `langchain_core`'s `gated_coro` and `gather_with_concurrency` are gatedcoro's, in every module that has
imported them by name. Importing this package imports nothing of LangChain; `install()` does.

`python -m gatedcoro.langchain script.py` runs a program that way, without a change to it.
"""

from gatedcoro.langchain._batch import abatch
from gatedcoro.langchain._swap import install, installed, swapped, uninstall

__all__ = ["abatch", "install", "installed", "swapped", "uninstall"]
