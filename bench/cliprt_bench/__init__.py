"""Measurement: how long calls take, told as percentiles with the number of samples behind them."""

from cliprt_bench._latency import Latency, measure_latency

__all__ = ["Latency", "measure_latency"]
