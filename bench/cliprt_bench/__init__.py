"""Measurement: how long calls take, told as percentiles with the number of samples behind them."""

from cliprt_bench._latency import Latency, measure_latency
from cliprt_bench._photos import drawn, jpeg, photo

__all__ = ["Latency", "drawn", "jpeg", "measure_latency", "photo"]
