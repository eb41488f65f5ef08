"""The algorithm of LangChain's two helpers, the baseline of the differential tests; the demo and the benchmarks have the same."""

from gatedcoro._demo_measure import langchain_gated as gated_coro, langchain_gather as gather_with_concurrency

__all__ = ["gated_coro", "gather_with_concurrency"]
